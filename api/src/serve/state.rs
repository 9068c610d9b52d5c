//! The state that the requests of one process share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::mysql::processes::SeenProblems;
use firstcome_shared::redis::Redis;
use tokio_util::sync::CancellationToken;

use super::auth::Identity;
use super::bulkheads::{Bulkheads, InFlightLimit};
use super::catalogue::Catalogue;
use super::catalogue::remaining::RemainingCache;
use super::claim::pending::PendingClaim;
use super::claim::queue::Queues;
use super::claim::second_store::SecondStore;

pub(crate) struct Services {
    pub(crate) identity: Identity,
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
    pub(crate) coupon_page: bool,
    /// Whether claims are answered before the router.
    pub(crate) has_fast_path: bool,
    /// The problems of stores that this process reports to the reconciler.
    pub(crate) problems: SeenProblems,
    /// Cancelled when shutdown begins, while the listener is still open.
    pub(crate) stopping: CancellationToken,
}

pub(crate) type App = Arc<Services>;

/// How many milliseconds Redis's clock is ahead of this host's. Drops open and close by Redis's
/// clock, which [`RedisClock::now`] derives from this host's by this one offset.
#[derive(Default)]
pub(crate) struct RedisClock(AtomicI64);

impl RedisClock {
    /// Reads Redis's clock. Without an answer, the last offset stays.
    pub(crate) async fn read(&self, redis: &Redis) {
        let before = Utc::now();
        let Ok(theirs) = redis.time_ms().await else {
            return;
        };
        let between = before + (Utc::now() - before) / 2;
        let offset = theirs - between.timestamp_millis();
        self.0.store(offset, Ordering::Relaxed);
    }

    /// Returns Redis's time in whole milliseconds: Redis truncates a finer time, and MySQL rounds
    /// it.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        let now = Utc::now() + TimeDelta::milliseconds(self.0.load(Ordering::Relaxed));
        now.trunc_subsecs(3)
    }
}

impl Services {
    /// Returns Redis's time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}
