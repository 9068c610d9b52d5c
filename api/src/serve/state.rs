//! The state that the requests of one process share.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::seats::Seats;
use firstcome_shared::redis::Redis;
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::args::CouponPage;
use super::auth::Identity;
use super::bulkheads::Bulkheads;
use super::catalogue::Catalogue;
use super::catalogue::coupon_with_drops::instant;
use super::catalogue::listed::ListedPages;
use super::catalogue::remaining::RemainingCache;
use super::claim::admit::ClaimService;
use super::claim::in_flight::InFlightLimit;

pub(crate) struct Services {
    pub(crate) identity: Identity,
    pub(crate) claims: Arc<ClaimService>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) remaining: RemainingCache,
    pub(crate) listed: ListedPages,
    pub(crate) change_locks: ChangeLocks,
    /// Limits concurrent CSVs of holders.
    pub(crate) exports: Seats,
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

/// Striped locks that serialize the changes of a coupon within this process. Revisions order the
/// changes of several processes.
pub(crate) struct ChangeLocks([Mutex<()>; 256]);

impl Default for ChangeLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl ChangeLocks {
    pub(crate) async fn lock(&self, coupon: CouponId) -> MutexGuard<'_, ()> {
        let at = usize::try_from(coupon.0.rem_euclid(256)).unwrap_or_default();
        self.0[at].lock().await
    }
}
