//! Watches every coupon that should be open, four times a second. Whatever closes one (another
//! server, a lost gate, an era that nobody finished), the urgent lane gets it at once and without a
//! schedule. The watch itself closes a coupon, by compare-and-set and without MySQL, if under the
//! same open gate a drop's counter went back: an older state was restored into a running Redis.
//!
//! Twice a second it also looks for slots that are left beside users who wait or are owed one, and
//! for lost keys of an open coupon: the urgent lane promotes, or writes again, whatever the
//! schedule.
//!
//! It needs a running reconciler, and as many claims in a quarter of a second as were lost hide a
//! counter that went back; the next sweep finds it then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::reads::DropState;
use firstcome_shared::redis::refusing::text_of;
use firstcome_shared::redis::{Redis, RedisError};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::context::Stores;
use crate::gate::close_in_redis;
use crate::ledger;
use crate::notify::{Notifier, SeenGate};
use crate::passes::note_end;
use crate::reconcile::Wanted;
use crate::record;
use crate::report::{ActionKind, FailureCause, Finding, Outcome, StoreRefusal};
use crate::run::Reconciler;
use crate::urgent::{AFTER_FAILURE, pause_after};

/// Interval of looks at the gates.
const EVERY: Duration = Duration::from_millis(250);

/// Interval between reads of the catalogue.
const LISTED_EVERY: Duration = Duration::from_secs(1);

/// Looks for which a coupon must be closed on the same server. An API that creates a coupon opens
/// it itself within moments.
const LOOKS: u32 = 3;

/// Looks for which a coupon must be open in an era above MySQL's: longer than the catalogue is old.
const LOOKS_AHEAD: u32 = 8;

/// Looks between two of those for slots that are left.
const LOOKS_FOR_SLOTS: u32 = 2;

/// Pause of such looks at a coupon in which the urgent lane could give nobody a slot.
const NOTHING_GIVEN: Duration = Duration::from_secs(10);

/// The live coupons, and the drops with users who are owed a slot.
struct Live {
    coupons: Vec<(Coupon, Vec<Drop>)>,
    owed: HashSet<DropId>,
}

type Catalogue = Arc<Live>;

/// What a look wants of the urgent lane.
#[derive(Debug, Clone, Default)]
struct Wants {
    /// Coupons that are closed, or that lack keys.
    closed: Wanted,
    /// Open coupons in which users wait or are owed a slot, and slots are left.
    with_slots: HashSet<CouponId>,
}

/// What the watch sees of admission: nothing before its first look. A daemon that still waits for
/// its stores must not count as one that sees open coupons.
pub(super) type SeenAdmission = Option<SeenGate>;

/// Watches until `stop`, and reopens coupons.
pub(super) async fn watch(
    reconciler: Reconciler,
    notifier: Notifier,
    gate: watch::Sender<SeenAdmission>,
    stop: CancellationToken,
) {
    let stores = &reconciler.stores;
    let catalogue = watch::Sender::new(None);
    let wanted = watch::Sender::new(Wants::default());
    let looks = async {
        tokio::select! {
            () = stop.cancelled() => {}
            // Concurrently, because MySQL may hang while Redis loses data.
            () = list(&stores.db, &catalogue) => {}
            () = watch_gates(stores, &catalogue, &wanted, &gate) => {}
        }
    };
    // The urgent lane is not cut off: it ends between two repairs.
    let reopens = reopen(&reconciler, &notifier, wanted.subscribe(), &stop);
    tokio::join!(looks, reopens);
}

async fn list(db: &Db, catalogue: &watch::Sender<Option<Catalogue>>) {
    loop {
        let read = async {
            Ok::<_, DbError>(Live {
                coupons: db.coupons_by_id(db.open_coupons_now().await?).await?,
                owed: db.drops_with_broken_promises().await?,
            })
        };
        match read.await {
            Ok(now) => drop(catalogue.send_replace(Some(Arc::new(now)))),
            Err(error) => tracing::debug!(%error, "the catalogue cannot be read"),
        }
        tokio::time::sleep(LISTED_EVERY).await;
    }
}

async fn watch_gates(
    stores: &Stores,
    catalogue: &watch::Sender<Option<Catalogue>>,
    wanted: &watch::Sender<Wants>,
    gate: &watch::Sender<SeenAdmission>,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Known::default();
    loop {
        ticks.tick().await;
        let Some(coupons) = catalogue.borrow().clone() else {
            continue;
        };
        let looked = known.check_gates(stores, &coupons).await;
        let written = stores.redis.check_writes().await;
        let error = looked.as_ref().err().or(written.as_ref().err());
        let refused = error.and_then(refusal);
        let (now, seen) = match looked {
            Ok((wanted, true)) => (wanted, SeenGate::Open),
            Ok((wanted, false)) => (wanted, SeenGate::Closed),
            Err(_) => (Wants::default(), SeenGate::Unreachable),
        };
        let seen = refused.unwrap_or(seen);
        gate.send_replace(Some(seen));
        wanted.send_replace(now);
    }
}

/// Tells a Redis that refuses from one that does not answer.
fn refusal(error: &RedisError) -> Option<SeenGate> {
    let text = text_of(error);
    let refusal = StoreRefusal::from_error(FailureCause::Redis, &text)?;
    Some(SeenGate::Refuses(refusal, text))
}

/// What the watch remembers of the looks before.
#[derive(Default)]
struct Known {
    /// For how many looks each coupon was closed, or lacked a counter.
    closed: HashMap<CouponId, u32>,
    /// The highest counter of each drop under its gate.
    counts: HashMap<DropId, (Gate, i64)>,
    /// Number of looks.
    looks: u32,
}

impl Known {
    /// Returns the coupons for the urgent lane, and whether every coupon is open.
    async fn check_gates(
        &mut self,
        stores: &Stores,
        live: &Catalogue,
    ) -> Result<(Wants, bool), RedisError> {
        let redis = &stores.redis;
        let servers = redis.servers().await?;
        // Those of a cluster's server that does not answer are closed, and hide no others.
        let coupons: Vec<&(Coupon, Vec<Drop>)> = live
            .coupons
            .iter()
            .filter(|(coupon, _)| !servers.miss(coupon.id))
            .collect();
        let drops = coupons.iter().flat_map(|(_, drops)| unsealed(drops));
        let keys: Vec<DropKeys> = drops.map(|it| redis.keys(it.coupon_id, it.id)).collect();
        let mut watched = redis.watched(&keys).await?.into_iter();
        let listed: HashSet<CouponId> = coupons.iter().map(|(coupon, _)| coupon.id).collect();
        self.closed.retain(|coupon, _| listed.contains(coupon));
        let counted: HashSet<DropId> = keys.iter().map(|keys| keys.drop).collect();
        self.counts.retain(|drop, _| counted.contains(drop));
        self.looks = self.looks.wrapping_add(1);
        let mut wants = Wants::default();
        if self.looks.is_multiple_of(LOOKS_FOR_SLOTS) {
            wants = with_slots_or_losses(redis, live, keys).await?;
        }
        let wanted = &mut wants.closed;
        let mut all_open = coupons.len() == live.coupons.len();
        for (coupon, drops) in coupons {
            let own: Vec<_> = unsealed(drops).zip(watched.by_ref()).collect();
            let Some((_, (gate, _))) = own.first() else {
                continue;
            };
            let gate = gate.clone();
            let server = servers.holding(coupon.id);
            // The catalogue may be a second old, and the era may have gone on since.
            let era = gate.era().filter(|era| *era >= coupon.era);
            let is_open = era.is_some_and(|era| gate.is_open(server, era));
            // MySQL has lost this era, unless the catalogue is a second old.
            let is_ahead = is_open && era > Some(coupon.era);
            let went_back = is_open && self.went_back(&own);
            let lacks = own
                .iter()
                .any(|(drop, (_, count)): &(&Drop, (Gate, Option<i64>))| {
                    count.is_none() && drop.is_open_at(Utc::now())
                });
            if is_open && !went_back && !lacks && !is_ahead {
                self.closed.remove(&coupon.id);
                continue;
            }
            all_open &= is_open;
            let looks = self.closed.entry(coupon.id).or_default();
            *looks += 1;
            let is_other_server = gate.era().is_some() && gate.fence(server).is_none();
            if went_back {
                let id = coupon.id;
                // If it fails, the next look repeats it.
                let closed = close_in_redis(redis, &servers, id, &gate, coupon.era).await;
                tracing::error!(coupon_id = id.0, ?closed, "Redis has an older state");
                wanted.insert(id, None);
            } else if is_ahead && !lacks {
                if *looks > LOOKS_AHEAD {
                    *looks = 0;
                    wanted.insert(coupon.id, None);
                }
            } else if is_other_server || *looks >= LOOKS {
                // A coupon whose drop lost its counter is still open: it is closed if it still is
                // so.
                wanted.insert(coupon.id, is_open.then_some(gate));
            }
        }
        Ok((wants, all_open))
    }

    /// Whether a counter is lower than before under the same gate. A missing one is not.
    fn went_back(&mut self, drops: &[(&Drop, (Gate, Option<i64>))]) -> bool {
        let mut went_back = false;
        for (drop, (gate, count)) in drops {
            let Some(count) = *count else { continue };
            let known = self.counts.insert(drop.id, (gate.clone(), count));
            if let Some((_, highest)) = known.filter(|(of, highest)| of == gate && count < *highest)
            {
                went_back = true;
                self.counts.insert(drop.id, (gate.clone(), highest));
            }
        }
        went_back
    }
}

/// Returns the open coupons in which somebody waits or is owed a slot although slots are left, and
/// those that lack a whole key.
async fn with_slots_or_losses(
    redis: &Redis,
    live: &Live,
    mut keys: Vec<DropKeys>,
) -> Result<Wants, RedisError> {
    let found = redis.attention(&keys).await?;
    let mut lost = HashSet::new();
    let mut waits = HashSet::new();
    for (keys, (waiting, has_keys)) in keys.iter().zip(found) {
        if !has_keys {
            lost.insert(keys.coupon);
        }
        if waiting > 0 || live.owed.contains(&keys.drop) {
            waits.insert(keys.drop);
        }
    }
    keys.retain(|keys| waits.contains(&keys.drop) || lost.contains(&keys.coupon));
    let states = redis.drop_states(&keys).await?;
    let mut wants = Wants::default();
    for (keys, state) in keys.iter().zip(states) {
        if lost.contains(&keys.coupon) {
            // It is closed if it still has this gate, and if it is open.
            wants.closed.insert(keys.coupon, Some(state.gate));
        } else if has_slot_to_give(&state, live.owed.contains(&keys.drop)) {
            wants.with_slots.insert(keys.coupon);
        }
    }
    Ok(wants)
}

/// Whether the first of the waiting list may get a slot.
fn has_slot_to_give(state: &DropState, is_owed: bool) -> bool {
    let Some(meta) = &state.meta else {
        return false;
    };
    let is_left = state.free > 0
        || state
            .count
            .is_some_and(|count| count < meta.quantity.into());
    let may_be_served = !meta.closed_early || state.owed > 0 || is_owed;
    is_left && may_be_served && !meta.paused
}

fn unsealed(drops: &[Drop]) -> impl Iterator<Item = &Drop> {
    drops.iter().filter(|drop| drop.sealed_at.is_none())
}

/// Has the urgent lane reopen what a look wants. While a store is away, it is tried every few
/// seconds with the same result, which is recorded and mailed once.
async fn reopen(
    reconciler: &Reconciler,
    notifier: &Notifier,
    mut wanted: watch::Receiver<Wants>,
    stop: &CancellationToken,
) {
    // Coupons that were left closed, until when they are left alone.
    let mut later: HashMap<CouponId, Instant> = HashMap::new();
    // The same of those in which nobody got a slot.
    let mut in_vain: HashMap<CouponId, Instant> = HashMap::new();
    // What the last run found.
    let mut last = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = wanted.changed() => {}
        }
        let Wants {
            closed: mut now,
            mut with_slots,
        } = wanted.borrow_and_update().clone();
        later.retain(|_, until| Instant::now() < *until);
        in_vain.retain(|_, until| Instant::now() < *until);
        with_slots.retain(|coupon| !in_vain.contains_key(coupon) && !now.contains_key(coupon));
        now.extend(with_slots.iter().map(|coupon| (*coupon, None)));
        now.retain(|coupon, _| !later.contains_key(coupon));
        if now.is_empty() {
            continue;
        }
        let mut left: HashMap<CouponId, Duration> =
            now.keys().map(|id| (*id, AFTER_FAILURE)).collect();
        let started = Instant::now();
        let mut run = record::unasked();
        let mut looks = Vec::new();
        let reopened = reconciler.urgent(now, &run.run_id, false, stop, &mut looks);
        let ended = reopened.await;
        for (id, look) in ledger::sum(looks, false) {
            let of_drops = look.drops.iter().flat_map(|drop| &drop.findings);
            let mut promoted = of_drops.filter(|it| it.action == ActionKind::Promote);
            if with_slots.contains(&id) && promoted.next().is_none() {
                in_vain.insert(id, Instant::now() + NOTHING_GIVEN);
            }
            match pause_after(&look) {
                Some(pause) => left.insert(id, pause),
                None => left.remove(&id),
            };
            run.findings.extend(look.findings);
            run.drops.extend(look.drops);
        }
        match ended {
            Ok(()) => run.end(),
            Err(error) => record::fail(&mut run, &error),
        }
        let ended = Instant::now();
        later.extend(left.into_iter().map(|(id, pause)| (id, ended + pause)));
        // Another process does what was skipped, and records it.
        let own = || {
            run.all_findings()
                .filter(|it: &&Finding| it.result != Outcome::Skipped || it.needs_person)
        };
        let mut found: Vec<i64> = own().map(Finding::identity).collect();
        found.sort_unstable();
        let has_done = own().any(|it| it.result == Outcome::Applied);
        if !found.is_empty() && (has_done || found != last) {
            if let Err(error) = record::finish(&reconciler.stores.db, &run, false).await {
                tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded");
            }
            note_end(&run, started, notifier).await;
        }
        last = found;
        // A look from before is out of date.
        wanted.mark_unchanged();
    }
}
