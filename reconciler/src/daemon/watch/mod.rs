//! Watches every coupon that should be open, four times a second. Whatever closes one (another
//! server, a lost gate, an era that nobody finished), the urgent lane gets it within a second,
//! without a schedule. The watch itself closes a coupon, by compare-and-set and without MySQL, if
//! under the same open gate a drop's counter went back: an older state was restored into a running
//! Redis.
//!
//! Twice a second it also looks for lost keys of an open coupon, which the urgent lane writes
//! again, and for slots that are left while users wait or are owed one, which another lane gives to
//! them, whatever the schedule ([`lanes`]).
//!
//! The watch needs a running reconciler. It misses a counter that went back if, within a quarter of
//! a second, as many users claimed as were lost; then the next sweep finds it. docs/ARCHITECTURE.md
//! ("What closes admission") lists every cause and who sees it.

mod gates;
mod lanes;
mod slots;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::DbError;
use firstcome_shared::process_state::{SeenState, StoreState};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::refusing::text_of;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::context::Stores;
use crate::notify::Notifier;
use crate::promote::DropWithSlots;
use crate::queries;
use crate::reconcile::Wanted;
use crate::report::FailureCause;
use crate::run::Reconciler;

use gates::Known;
use lanes::Lanes;

/// Interval of looks at the gates.
const EVERY: Duration = Duration::from_millis(250);

/// Interval between reads of the catalogue.
const LISTED_EVERY: Duration = Duration::from_secs(1);

/// The live coupons, and the drops with users who are owed a slot.
struct Live {
    /// When they were listed.
    now: DateTime<Utc>,
    /// Before MySQL was asked for them.
    asked_at: Instant,
    coupons: Vec<(Coupon, Vec<Drop>)>,
    owed: HashSet<DropId>,
}

/// What a look hands to the lanes.
#[derive(Debug, Clone, Default)]
struct Wants {
    /// Coupons for the urgent lane: they are closed, or lack keys.
    closed: Wanted,
    /// Drops in which users wait or are owed a slot, and slots are left.
    with_slots: Vec<DropWithSlots>,
}

/// Watches until `stop`, and reopens coupons.
pub(super) async fn watch(
    reconciler: Reconciler,
    notifier: Notifier,
    seen: SeenState,
    stop: CancellationToken,
) {
    let stores = &reconciler.stores;
    let catalogue = watch::Sender::new(None);
    let wanted = watch::Sender::new(Wants::default());
    let looks = async {
        tokio::select! {
            () = stop.cancelled() => {}
            // Concurrently, because MySQL may hang while Redis loses data.
            () = list(stores, &catalogue) => {}
            () = watch_gates(stores, &catalogue, &wanted, &seen) => {}
        }
    };
    let lanes = Lanes {
        reconciler: &reconciler,
        notifier: &notifier,
        stop: &stop,
    };
    let (reopened, reopenings) = mpsc::unbounded_channel();
    let (promoted, promotions) = mpsc::unbounded_channel();
    // The lanes are not cut off: they end between two repairs.
    tokio::join!(
        looks,
        lanes.reopen(wanted.subscribe(), reopened),
        lanes.record(reopenings),
        lanes.promote(wanted.subscribe(), promoted),
        lanes.record(promotions)
    );
}

async fn list(stores: &Stores, catalogue: &watch::Sender<Option<Arc<Live>>>) {
    let db = &stores.db;
    loop {
        let read = async {
            let now = latest_time(&stores.redis).await;
            let asked_at = Instant::now();
            let open = queries::coupons::open_coupons(db, now).await?;
            Ok::<_, DbError>(Live {
                now,
                asked_at,
                coupons: db.coupons_by_id(open).await?,
                owed: queries::promises::drops_with_broken_promises(db).await?,
            })
        };
        match read.await {
            Ok(now) => drop(catalogue.send_replace(Some(Arc::new(now)))),
            Err(error) => tracing::debug!(%error, "the catalogue cannot be read"),
        }
        tokio::time::sleep(LISTED_EVERY).await;
    }
}

/// Returns the later of Redis's time and this machine's. A drop that has opened by either is
/// watched: one clock may be set back.
async fn latest_time(redis: &Redis) -> DateTime<Utc> {
    let own = Utc::now();
    let of_redis = redis.time_ms().await.ok();
    of_redis
        .and_then(DateTime::from_timestamp_millis)
        .map_or(own, |at| at.max(own))
}

async fn watch_gates(
    stores: &Stores,
    catalogue: &watch::Sender<Option<Arc<Live>>>,
    wanted: &watch::Sender<Wants>,
    seen: &SeenState,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Known::default();
    loop {
        ticks.tick().await;
        let Some(coupons) = catalogue.borrow().clone() else {
            continue;
        };
        seen.checks_redis(true);
        let looked = known.check_gates(stores, &coupons).await;
        let written = stores.redis.check_writes().await;
        seen.checks_redis(false);
        let error = looked.as_ref().err().or(written.as_ref().err());
        let is_partly = matches!(&looked, Ok(looked) if looked.is_partly);
        let redis = match error {
            Some(error) => StoreState::from_error(FailureCause::Redis, &text_of(error)),
            None if is_partly => StoreState::Partly(SERVER_AWAY.to_owned()),
            None => StoreState::Fine,
        };
        let (wants, closed) = match looked {
            Ok(looked) => (looked.wants, Some(looked.closed)),
            Err(_) => (Wants::default(), None),
        };
        seen.note(|state| {
            state.redis = Some(redis);
            state.closed = closed;
        });
        wanted.send_replace(wants);
    }
}

const SERVER_AWAY: &str = "a server of the Redis Cluster does not answer as a master";
