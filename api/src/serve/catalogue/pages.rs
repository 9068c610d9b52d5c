//! Pages of all coupons, finished ones too, for listing. A short-lived cache: any number of
//! requests cost MySQL one page at a time, with a pause between two.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::coupon_with_drops::{CouponWithDrops, with_drops};
use super::lookup::{LookupError, TIMEOUT};
use crate::serve::bounded_cache::BoundedCache;

const FRESH_FOR: Duration = Duration::from_secs(1);

/// Shortest time from one page's reading to the next.
const PAUSE: Duration = Duration::from_millis(20);

/// Pages kept in memory; twice as many at most.
const KEPT: usize = 20;

type CachedPage = Arc<[Arc<CouponWithDrops>]>;

pub(super) struct PageCache {
    cached: Mutex<BoundedCache<(CouponId, usize), (Instant, CachedPage)>>,
    /// When the next page may be read.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

impl PageCache {
    pub(super) fn new() -> Self {
        Self { cached: BoundedCache::new(KEPT).into(), turn: tokio::sync::Mutex::default() }
    }

    /// The first `limit` coupons after a number. While MySQL is away, an old page is better than
    /// none.
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
        let read = tokio::time::timeout(TIMEOUT, self.read(db, redis, after, limit)).await;
        let known = || self.cached.lock().get(&(after, limit)).map(|(_, page)| Arc::clone(page));
        read.ok().flatten().or_else(known).ok_or(LookupError::Unavailable)
    }

    async fn read(&self, db: &Db, redis: &Redis, after: CouponId, limit: usize) -> Option<CachedPage> {
        let mut turn = self.turn.lock().await;
        if let Some(next) = *turn {
            tokio::time::sleep_until(next).await;
        }
        // Another request may have read this page meanwhile.
        if let Some(page) = self.fresh((after, limit)) {
            return Some(page);
        }
        let begun = Instant::now();
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = async { with_drops(db, redis, db.coupons_after(after, most).await?).await }.await;
        *turn = Some(Instant::now() + PAUSE);
        match read {
            Ok(page) => {
                let page: CachedPage = page.into();
                self.cached.lock().insert((after, limit), (begun, Arc::clone(&page)));
                Some(page)
            }
            Err(error) => {
                tracing::debug!(%error, "a page of coupons could not be read");
                None
            }
        }
    }

    fn fresh(&self, which: (CouponId, usize)) -> Option<CachedPage> {
        let mut cached = self.cached.lock();
        cached.get(&which).filter(|(read_at, _)| read_at.elapsed() < FRESH_FOR).map(|(_, page)| Arc::clone(page))
    }

    /// After a change by this process.
    pub(super) fn forget(&self) {
        self.cached.lock().clear();
    }
}
