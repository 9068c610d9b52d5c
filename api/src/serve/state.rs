//! The state that the requests of one process share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::Redis;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use super::args::CouponPage;
use super::auth::Identity;
use super::bulkheads::{Bulkheads, InFlightLimit};
use super::catalogue::Catalogue;
use super::catalogue::coupon_with_drops::instant;
use super::catalogue::remaining::RemainingCache;
use super::claim::admit::ClaimService;

pub(crate) struct Services {
    pub(crate) identity: Identity,
    pub(crate) claims: Arc<ClaimService>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) remaining: RemainingCache,
    pub(crate) change_locks: ChangeLocks,
    pub(crate) in_flight: Arc<InFlightLimit>,
    pub(crate) mysql: Bulkheads,
    pub(crate) redis: Redis,
    pub(crate) coupon_page: CouponPage,
    /// Cancelled when shutdown begins, while the listener is still open.
    pub(crate) stopping: CancellationToken,
}

pub(crate) type App = Arc<Services>;

/// Maximum wait for Redis's time, so that a silent Redis does not block operators' changes.
const TIME_TIMEOUT: Duration = Duration::from_millis(300);

impl Services {
    /// Returns Redis's time, by which drops open and close, or this host's time if Redis does not
    /// answer soon enough.
    pub(crate) async fn now(&self) -> DateTime<Utc> {
        match tokio::time::timeout(TIME_TIMEOUT, self.redis.time_ms()).await {
            Ok(Ok(ms)) => instant(ms),
            _ => Utc::now(),
        }
    }
}

/// A lock for each coupon that is being changed. While a row of a coupon is locked in MySQL, its
/// changes hold one connection, and leave the others to changes of other coupons. Revisions order
/// the changes of several processes.
#[derive(Default)]
pub(crate) struct ChangeLocks(parking_lot::Mutex<HashMap<CouponId, Arc<Mutex<()>>>>);

impl ChangeLocks {
    pub(crate) async fn lock(&self, coupon: CouponId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(coupon).or_default())
        };
        lock.lock_owned().await
    }
}
