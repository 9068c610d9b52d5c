//! Pages of all coupons, including finished ones, for listing: a short-lived cache of MySQL's
//! answers. [`super::listed`] limits how many pages are read at a time.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::coupon_with_drops::{CouponWithDrops, with_drops};
use super::lookup::{LookupError, TIMEOUT};
use crate::bounded_cache::BoundedCache;

const FRESH_FOR: Duration = Duration::from_secs(1);

/// Pages kept in memory; at most twice as many.
const KEPT: usize = 20;

type CachedPage = Arc<[Arc<CouponWithDrops>]>;

pub(super) struct PageCache {
    cached: Mutex<BoundedCache<(CouponId, usize), (Instant, CachedPage)>>,
}

impl PageCache {
    pub(super) fn new() -> Self {
        Self {
            cached: BoundedCache::new(KEPT).into(),
        }
    }

    /// Returns the first `limit` coupons after an ID. While MySQL is unavailable, returns an old
    /// page.
    pub(super) async fn of(
        &self,
        db: &Db,
        redis: &Redis,
        after: CouponId,
        limit: usize,
    ) -> Result<CachedPage, LookupError> {
        if let Some(page) = self.fresh((after, limit)) {
            return Ok(page);
        }
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let begun = Instant::now();
        let read = async { with_drops(db, redis, db.coupons_after(after, most).await?).await };
        match tokio::time::timeout(TIMEOUT, read).await {
            Ok(Ok(page)) => {
                let page: CachedPage = page.into();
                self.cached
                    .lock()
                    .insert((after, limit), (begun, Arc::clone(&page)));
                return Ok(page);
            }
            Ok(Err(error)) => tracing::debug!(%error, "a page of coupons could not be read"),
            Err(_) => tracing::debug!("a page of coupons was not read in time"),
        }
        let known = self
            .cached
            .lock()
            .get(&(after, limit))
            .map(|(_, page)| Arc::clone(page));
        known.ok_or(LookupError::Unavailable)
    }

    fn fresh(&self, which: (CouponId, usize)) -> Option<CachedPage> {
        let mut cached = self.cached.lock();
        cached
            .get(&which)
            .filter(|(read_at, _)| read_at.elapsed() < FRESH_FOR)
            .map(|(_, page)| Arc::clone(page))
    }

    pub(super) fn forget(&self) {
        self.cached.lock().clear();
    }
}
