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
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::gate::close_in_redis;
use crate::notify::{Notifier, SeenGate};
use crate::passes::ended;
use crate::record;
use crate::report::{Finding, Outcome, Run};
use crate::run::{self, Reconciler, UrgentJob, Wanted, new_run_id};
use crate::stores::Stores;
use crate::urgent::{AFTER_FAILURE, is_left_closed};

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

/// What the watch shares with the urgent lane.
#[derive(Clone, Default)]
pub(super) struct InHand(Arc<Mutex<HashMap<CouponId, Option<Instant>>>>);

impl InHand {
    /// Whether the lane works on a coupon, or has failed with it a moment ago.
    fn is_busy(&self, coupon: CouponId) -> bool {
        match self.0.lock().get(&coupon) {
            None => false,
            Some(None) => true,
            Some(Some(until)) => Instant::now() < *until,
        }
    }
}

/// Watches until `stop`.
pub(super) async fn watch(
    stores: Stores,
    jobs: mpsc::Sender<UrgentJob>,
    in_hand: InHand,
    gate: watch::Sender<SeenAdmission>,
    stop: CancellationToken,
) {
    let catalogue = watch::Sender::new(None);
    tokio::select! {
        () = stop.cancelled() => {}
        // Concurrently, because MySQL may hang while Redis loses data.
        () = list(&stores.db, &catalogue) => {}
        () = look(&stores, &catalogue, &jobs, &in_hand, &gate) => {}
    }
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
    jobs: &mpsc::Sender<UrgentJob>,
    in_hand: &InHand,
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
        let Ok((mut wanted, is_open)) = looked else {
            gate.send_replace(Some(SeenGate::Unreachable));
            continue;
        };
        gate.send_replace(Some(if is_open {
            SeenGate::Open
        } else {
            SeenGate::Closed
        }));
        // Operators' changes that let users on a waiting list move up.
        let woken = stores.redis.take_woken().await.unwrap_or_default();
        wanted.extend(woken.into_iter().map(|coupon| (coupon, None)));
        wanted.retain(|coupon, _| !in_hand.is_busy(*coupon));
        if wanted.is_empty() {
            continue;
        }
        let coupons = wanted.keys().copied().collect::<Vec<_>>();
        let (answer, _) = oneshot::channel();
        let job = UrgentJob {
            wanted,
            asked_by: None,
            answer,
        };
        if jobs.try_send(job).is_ok() {
            in_hand
                .0
                .lock()
                .extend(coupons.into_iter().map(|coupon| (coupon, None)));
        }
    }
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
        let keys: Vec<DropKeys> = coupons
            .iter()
            .flat_map(|(coupon, drops)| unsealed(drops).map(|drop| redis.keys(coupon.id, drop.id)))
            .collect();
        let mut watched = redis.watched(&keys).await?.into_iter();
        let listed: HashSet<CouponId> = coupons.iter().map(|(coupon, _)| coupon.id).collect();
        self.closed.retain(|coupon, _| listed.contains(coupon));
        let mut wanted = Wanted::new();
        let mut all_open = true;
        for (coupon, drops) in coupons.iter() {
            let own: Vec<(&Drop, (Gate, Option<i64>))> =
                unsealed(drops).zip(watched.by_ref()).collect();
            let Some((_, (gate, _))) = own.first() else {
                continue;
            };
            let gate = gate.clone();
            let server = servers.of(coupon.id);
            // The catalogue may be a second old, and the era may have gone on since.
            let is_open = gate
                .era()
                .is_some_and(|era| era >= coupon.era && gate.is_open(server, era));
            // MySQL has lost this era, unless the catalogue is a second old.
            let is_ahead = is_open && gate.era() > Some(coupon.era);
            let went_back = is_open && self.went_back(&own);
            let lacks = own
                .iter()
                .any(|(drop, (_, count))| count.is_none() && drop.is_open_at(Utc::now()));
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
                tracing::error!(
                    coupon_id = id.0,
                    ?closed,
                    "Redis has an older state: the coupon is closed"
                );
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
            let known = self
                .counts
                .entry(drop.id)
                .or_insert_with(|| (gate.clone(), count));
            if known.0 != *gate {
                *known = (gate.clone(), count);
            }
            went_back |= count < known.1;
            known.1 = known.1.max(count);
        }
        went_back
    }
}

fn unsealed(drops: &[Drop]) -> impl Iterator<Item = &Drop> {
    drops.iter().filter(|drop| drop.sealed_at.is_none())
}

/// Runs the jobs of the urgent lane one after the other, until `stop`.
pub(super) async fn urgent_lane(
    reconciler: Reconciler,
    notifier: Notifier,
    mut jobs: mpsc::Receiver<UrgentJob>,
    in_hand: InHand,
    stop: CancellationToken,
) {
    let mut last = LastReopening::default();
    loop {
        let job = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            job = jobs.recv() => match job {
                Some(job) => job,
                None => return,
            },
        };
        let coupons: Vec<CouponId> = job.wanted.keys().copied().collect();
        let is_of_watch = job.asked_by.is_none();
        let started = Instant::now();
        let done = reconciler.urgent(job.wanted, job.asked_by, &stop).await;
        note(&in_hand, &coupons, &done);
        if !is_of_watch {
            if job.answer.send(done).is_err() {
                tracing::trace!("nobody waits for this answer");
            }
            continue;
        }
        let run = match done {
            Ok(done) => run::reopening(&new_run_id(), done.into_values().collect()),
            Err(error) => {
                let mut run = run::reopening(&new_run_id(), Vec::new());
                run::fail(&mut run, &error);
                run
            }
        };
        last.record(&reconciler, run, &notifier, started).await;
    }
}

fn note(in_hand: &InHand, coupons: &[CouponId], done: &run::Reopened) {
    let later = Instant::now() + AFTER_FAILURE;
    let mut in_hand = in_hand.0.lock();
    for coupon in coupons {
        let is_left = match done {
            Err(_) => true,
            // Another process works on it.
            Ok(done) => done.get(coupon).is_none_or(is_left_closed),
        };
        if is_left {
            in_hand.insert(*coupon, Some(later));
        } else {
            in_hand.remove(coupon);
        }
    }
}

/// What the last run of the urgent lane found. While a store is away, it is tried every few seconds
/// with the same result, which is recorded and mailed once.
#[derive(Default)]
struct LastReopening(Vec<i64>);

impl LastReopening {
    async fn record(
        &mut self,
        reconciler: &Reconciler,
        run: Run,
        notifier: &Notifier,
        started: Instant,
    ) {
        let mut content: Vec<i64> = run.all_findings().map(Finding::identity).collect();
        content.sort_unstable();
        let has_done = run.all_findings().any(|it| it.result == Outcome::Applied);
        let is_same = content == self.0 && !has_done;
        self.0 = content;
        if !self.0.is_empty() && !is_same {
            record::finish(&reconciler.stores.db, &run, false, true).await;
            ended(&run, started, notifier).await;
        }
    }
}
