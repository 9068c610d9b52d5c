//! A short-lived cache of the remaining slots of each drop, for display. One round trip to Redis
//! serves all requests of the next 200 ms.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::stock::Stock;
use firstcome_shared::redis::{Redis, RedisError};
use parking_lot::Mutex;
use tokio::time::Instant;

const TTL: Duration = Duration::from_millis(200);

/// Maximum number of drops per round trip.
const PAGE: usize = 500;

const MAX_CACHED: usize = 10_000;

#[derive(Default)]
pub(crate) struct RemainingCache {
    cached: Mutex<HashMap<DropId, (Instant, Option<Stock>)>>,
    refreshing: tokio::sync::Mutex<()>,
}

impl RemainingCache {
    /// Returns the stock of each drop that Redis has.
    pub(crate) async fn of(
        &self,
        redis: &Redis,
        drops: &[(DropId, &DropKeys)],
    ) -> Result<HashMap<DropId, Stock>, RedisError> {
        if self.stale(drops).is_empty() {
            return Ok(self.known(drops));
        }
        // One request asks Redis; the others wait here and then find its result.
        let _turn = self.refreshing.lock().await;
        for page in self.stale(drops).chunks(PAGE) {
            let keys: Vec<&DropKeys> = page.iter().map(|(_, keys)| *keys).collect();
            let stocks = redis.stock(&keys).await?;
            let now = Instant::now();
            let mut cached = self.cached.lock();
            if cached.len() > MAX_CACHED {
                cached.retain(|_, (at, _)| now - *at < TTL);
            }
            cached.extend(
                page.iter()
                    .zip(stocks)
                    .map(|((drop, _), stock)| (*drop, (now, stock))),
            );
        }
        Ok(self.known(drops))
    }

    pub(crate) fn forget(&self, drops: impl Iterator<Item = DropId>) {
        let mut cached = self.cached.lock();
        for drop in drops {
            cached.remove(&drop);
        }
    }

    fn stale<'a>(&self, drops: &[(DropId, &'a DropKeys)]) -> Vec<(DropId, &'a DropKeys)> {
        let cached = self.cached.lock();
        let fresh = |drop: &DropId| cached.get(drop).is_some_and(|(at, _)| at.elapsed() < TTL);
        drops
            .iter()
            .filter(|(drop, _)| !fresh(drop))
            .copied()
            .collect()
    }

    fn known(&self, drops: &[(DropId, &DropKeys)]) -> HashMap<DropId, Stock> {
        let cached = self.cached.lock();
        drops
            .iter()
            .filter_map(|(drop, _)| Some((*drop, cached.get(drop)?.1?)))
            .collect()
    }
}
