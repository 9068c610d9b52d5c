//! The state that the requests of one process share.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::process_state::SeenState;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::servers::Clocks;
use tokio_util::sync::CancellationToken;

use super::auth::UserIdentity;
use super::bulkheads::{Bulkheads, InFlightLimit};
use super::catalogue::Catalogue;
use super::catalogue::remaining::RemainingCache;
use super::claim::pending::PendingClaim;
use super::claim::queue::Queues;
use super::claim::second_store::SecondStore;
use super::wrong_codes::WrongCodes;

pub(crate) struct Services {
    pub(crate) identity: UserIdentity,
    pub(crate) catalogue: Catalogue,
    pub(crate) remaining: RemainingCache,
    pub(crate) in_flight: InFlightLimit,
    /// Claims on live coupons need it only if Kafka does not acknowledge them.
    pub(crate) mysql: Bulkheads,
    pub(crate) redis: Redis,
    pub(crate) clock: RedisClock,
    pub(crate) second_store: SecondStore,
    /// Claims that wait for the next call to Redis.
    pub(crate) queues: Queues<PendingClaim>,
    /// Maximum wait of a claim for its call to Redis. A claim that waits longer is refused.
    pub(crate) max_wait: Duration,
    /// Maximum time until a response begins.
    pub(crate) request_timeout: Duration,
    /// Limits the log lines about requests that were answered 503, and about wrong codes.
    pub(crate) refused: LineLimit,
    pub(crate) wrong_codes: WrongCodes,
    pub(crate) coupon_page: bool,
    /// Whether claims are answered before the router.
    pub(crate) has_fast_path: bool,
    /// The problems of stores that this process reports to the reconciler.
    pub(crate) seen: SeenState,
    /// Cancelled when shutdown begins, while the listener is still open.
    pub(crate) stopping: CancellationToken,
}

pub(crate) type App = Arc<Services>;

/// How many milliseconds the clock of each of Redis's servers is ahead of this host's. Drops open and
/// close by the clock of their server, which [`RedisClock::now`] derives from this host's by this
/// offset alone.
#[derive(Default)]
pub(crate) struct RedisClock(ArcSwap<Clocks>);

impl RedisClock {
    /// Reads Redis's clocks. Without an answer, the last offsets stay.
    pub(crate) async fn read(&self, redis: &Redis) {
        let before = Utc::now();
        let Ok(theirs) = redis.clocks().await else {
            return;
        };
        let between = before + (Utc::now() - before) / 2;
        let offsets = theirs.since(between.timestamp_millis());
        self.0.store(Arc::new(offsets));
    }

    /// Returns Redis's time for a coupon, in whole milliseconds: Redis truncates a finer time, and
    /// MySQL rounds it.
    pub(crate) fn now(&self, coupon: CouponId) -> DateTime<Utc> {
        after(self.0.load().at(coupon))
    }

    /// Returns the earliest of the servers' times.
    pub(crate) fn earliest(&self) -> DateTime<Utc> {
        after(self.0.load().earliest())
    }
}

fn after(offset_ms: i64) -> DateTime<Utc> {
    (Utc::now() + TimeDelta::milliseconds(offset_ms)).trunc_subsecs(3)
}
