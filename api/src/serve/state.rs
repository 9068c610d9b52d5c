//! The state that the requests of one process share.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::mysql::processes::SeenProblems;
use firstcome_shared::redis::Redis;
use tokio_util::sync::CancellationToken;

use super::auth::Identity;
use super::bulkheads::{Bulkheads, InFlightLimit};
use super::catalogue::Catalogue;
use super::catalogue::coupon_with_drops::instant;
use super::catalogue::remaining::RemainingCache;
use super::claim::batcher::{PendingClaim, Queues};
use super::claim::second_store::SecondStore;

pub(crate) struct Services {
    pub(crate) identity: Identity,
    pub(crate) catalogue: Catalogue,
    pub(crate) remaining: RemainingCache,
    pub(crate) in_flight: InFlightLimit,
    /// Claims on open drops do not depend on it.
    pub(crate) mysql: Bulkheads,
    pub(crate) redis: Redis,
    pub(crate) second_store: SecondStore,
    /// Claims that wait for the next call to Redis.
    pub(crate) queues: Queues<PendingClaim>,
    /// Claims that wait longer for it are refused.
    pub(crate) max_wait: Duration,
    /// Maximum time until a response begins.
    pub(crate) request_timeout: Duration,
    /// Log lines about requests that were answered 503.
    pub(crate) refused: LineLimit,
    pub(crate) coupon_page: bool,
    /// What the reconciler is told of stores that refuse this process.
    pub(crate) problems: SeenProblems,
    /// Cancelled when shutdown begins, while the listener is still open.
    pub(crate) stopping: CancellationToken,
}

pub(crate) type App = Arc<Services>;

impl Services {
    /// Returns Redis's time, by which drops open and close, or this host's time if Redis does not
    /// answer.
    pub(crate) async fn now(&self) -> DateTime<Utc> {
        let now = self.redis.time_ms().await;
        now.map_or_else(|_| Utc::now(), instant)
    }
}
