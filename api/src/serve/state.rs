//! What every request may use.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;

use crate::serve::auth::Identity;
use crate::serve::catalogue::Catalogue;
use crate::serve::catalogue::clock::Clock;
use crate::serve::catalogue::remaining::Stocks;
use crate::serve::claim::Claims;
use crate::serve::claim::in_flight::InHand;

/// The services of one process.
pub(crate) struct Services {
    pub(crate) db: Db,
    pub(crate) redis: Redis,
    pub(crate) claims: Arc<Claims>,
    pub(crate) catalogue: Catalogue,
    pub(crate) stocks: Stocks,
    pub(crate) clock: Arc<Clock>,
    pub(crate) identity: Identity,
    pub(crate) in_hand: Arc<InHand>,
    /// Longest time for the answer to one request.
    pub(crate) request_timeout: Duration,
    /// One operator's change of a coupon at a time in this process; revisions sort out those of several. Coupons share a lock where
    /// their numbers agree in the last bits.
    pub(crate) changing: [tokio::sync::Mutex<()>; 256],
}

impl Services {
    /// Holds up other changes of this coupon until it is dropped.
    pub(crate) async fn lock_for_change(&self, coupon: CouponId) -> tokio::sync::MutexGuard<'_, ()> {
        let at = usize::try_from(coupon.0.rem_euclid(256)).unwrap_or_default();
        self.changing[at].lock().await
    }
}

pub(crate) type App = Arc<Services>;
