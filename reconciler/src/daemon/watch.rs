//! Watches every coupon that should be open, four times a second. Whatever closes one (another
//! server, a lost gate, an era that nobody finished), the urgent lane gets it at once and without a
//! schedule. The watch itself closes a coupon, by compare-and-set and without MySQL, if under the
//! same open gate a drop's counter went back: an older state was restored into a running Redis.
//!
//! It needs a running reconciler, and as many claims in a quarter of a second as were lost hide a
//! counter that went back; the next sweep finds it then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::refusing::text_of;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::context::Stores;
use crate::gate::close_in_redis;
use crate::notify::{Notifier, SeenGate};
use crate::passes::note_end;
use crate::record;
use crate::report::{FailureCause, Finding, Outcome, StoreRefusal};
use crate::run::Reconciler;
use crate::urgent::{AFTER_FAILURE, Wanted, pause_after};

/// Interval of looks at the gates.
const EVERY: Duration = Duration::from_millis(250);

/// Interval between reads of the catalogue.
const LISTED_EVERY: Duration = Duration::from_secs(1);

/// Looks for which a coupon must be closed on the same server. An API that creates a coupon opens
/// it itself within moments.
const LOOKS: u32 = 3;

/// Looks for which a coupon must be open in an era above MySQL's: longer than the catalogue is old.
const LOOKS_AHEAD: u32 = 8;

type Catalogue = Arc<Vec<(Coupon, Vec<Drop>)>>;

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
    let wanted = watch::Sender::new(Wanted::new());
    let looks = async {
        tokio::select! {
            () = stop.cancelled() => {}
            // Concurrently, because MySQL may hang while Redis loses data.
            () = list(&stores.db, &catalogue) => {}
            () = look(stores, &catalogue, &wanted, &gate) => {}
        }
    };
    // The urgent lane is not cut off: it ends between two repairs.
    let reopens = reopen(&reconciler, &notifier, wanted.subscribe(), &stop);
    tokio::join!(looks, reopens);
}

async fn list(db: &Db, catalogue: &watch::Sender<Option<Catalogue>>) {
    loop {
        let read = async { db.coupons_by_id(db.open_coupons_now().await?).await };
        match read.await {
            Ok(now) => drop(catalogue.send_replace(Some(Arc::new(now)))),
            Err(error) => tracing::debug!(%error, "the catalogue cannot be read"),
        }
        tokio::time::sleep(LISTED_EVERY).await;
    }
}

async fn look(
    stores: &Stores,
    catalogue: &watch::Sender<Option<Catalogue>>,
    wanted: &watch::Sender<Wanted>,
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
        let looked = known.look(stores, &coupons).await;
        let written = stores.redis.check_writes().await;
        let error = looked.as_ref().err().or(written.as_ref().err());
        let refused = error.and_then(refusal);
        let (now, seen) = match looked {
            Ok((wanted, true)) => (wanted, SeenGate::Open),
            Ok((wanted, false)) => (wanted, SeenGate::Closed),
            Err(_) => (Wanted::new(), SeenGate::Unreachable),
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
}

impl Known {
    /// Returns the coupons for the urgent lane, and whether every coupon is open.
    async fn look(
        &mut self,
        stores: &Stores,
        coupons: &Catalogue,
    ) -> Result<(Wanted, bool), RedisError> {
        let redis = &stores.redis;
        let servers = redis.servers().await?;
        let drops = coupons.iter().flat_map(|(_, drops)| unsealed(drops));
        let keys: Vec<DropKeys> = drops.map(|it| redis.keys(it.coupon_id, it.id)).collect();
        let mut watched = redis.watched(&keys).await?.into_iter();
        let listed: HashSet<CouponId> = coupons.iter().map(|(coupon, _)| coupon.id).collect();
        self.closed.retain(|coupon, _| listed.contains(coupon));
        let counted: HashSet<DropId> = keys.iter().map(|keys| keys.drop).collect();
        self.counts.retain(|drop, _| counted.contains(drop));
        let mut wanted = Wanted::new();
        let mut all_open = true;
        for (coupon, drops) in coupons.iter() {
            let own: Vec<_> = unsealed(drops).zip(watched.by_ref()).collect();
            let Some((_, (gate, _))) = own.first() else {
                continue;
            };
            let (gate, server) = (gate.clone(), servers.of(coupon.id));
            // The catalogue may be a second old, and the era may have gone on since.
            let era = gate.era().filter(|era| *era >= coupon.era);
            let is_open = era.is_some_and(|era| gate.is_open(server, era));
            // MySQL has lost this era, unless the catalogue is a second old.
            let is_ahead = is_open && era > Some(coupon.era);
            let went_back = is_open && self.went_back(&own);
            let is_lost = |(drop, (_, count)): &(&Drop, (Gate, Option<i64>))| {
                count.is_none() && drop.is_open_at(Utc::now())
            };
            let lacks = own.iter().any(is_lost);
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
        Ok((wanted, all_open))
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

fn unsealed(drops: &[Drop]) -> impl Iterator<Item = &Drop> {
    drops.iter().filter(|drop| drop.sealed_at.is_none())
}

/// Has the urgent lane reopen what a look wants. While a store is away, it is tried every few
/// seconds with the same result, which is recorded and mailed once.
async fn reopen(
    reconciler: &Reconciler,
    notifier: &Notifier,
    mut wanted: watch::Receiver<Wanted>,
    stop: &CancellationToken,
) {
    // Coupons that were left closed, until when they are left alone.
    let mut later: HashMap<CouponId, Instant> = HashMap::new();
    // What the last run found.
    let mut last = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = wanted.changed() => {}
        }
        let mut now = wanted.borrow_and_update().clone();
        later.retain(|_, until| Instant::now() < *until);
        now.retain(|coupon, _| !later.contains_key(coupon));
        if now.is_empty() {
            continue;
        }
        let mut left: HashMap<CouponId, Duration> =
            now.keys().map(|id| (*id, AFTER_FAILURE)).collect();
        let started = Instant::now();
        let mut run = record::unasked();
        match reconciler.urgent(now, &run.run_id, false, stop).await {
            Ok(done) => {
                for (id, it) in done {
                    match pause_after(&it) {
                        Some(pause) => left.insert(id, pause),
                        None => left.remove(&id),
                    };
                    run.findings.extend(it.findings);
                    run.drops.extend(it.drops);
                }
                run.end();
            }
            Err(error) => record::fail(&mut run, &error),
        }
        let ended = Instant::now();
        later.extend(left.into_iter().map(|(id, pause)| (id, ended + pause)));
        // Another process does what was skipped, and records it.
        let is_own = |it: &&Finding| it.result != Outcome::Skipped || it.needs_person;
        let own = || run.all_findings().filter(is_own);
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
