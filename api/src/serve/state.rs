//! What every request may use.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;

use super::admit::Claims;
use super::catalogue::Catalogue;
use super::clock::Clock;
use super::identity::Identity;
use super::in_hand::InHand;
use super::stock::Stocks;

/// The services of one process.
pub(super) struct Services {
    pub(super) db: Db,
    pub(super) redis: Redis,
    pub(super) claims: Arc<Claims>,
    pub(super) catalogue: Catalogue,
    pub(super) stocks: Stocks,
    pub(super) clock: Arc<Clock>,
    pub(super) identity: Identity,
    pub(super) in_hand: Arc<InHand>,
    /// Longest time for the answer to one request.
    pub(super) request_timeout: Duration,
    /// One operator's change of a coupon at a time in this process; revisions sort out those of several. Coupons share a lock where
    /// their numbers agree in the last bits.
    pub(super) changing: [tokio::sync::Mutex<()>; 256],
}

impl Services {
    /// Holds up other changes of this coupon until it is dropped.
    pub(super) async fn lock_for_change(&self, coupon: CouponId) -> tokio::sync::MutexGuard<'_, ()> {
        let at = usize::try_from(coupon.0.rem_euclid(256)).unwrap_or_default();
        self.changing[at].lock().await
    }
}

pub(super) type App = Arc<Services>;
