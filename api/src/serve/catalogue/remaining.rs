//! A short-lived cache of the remaining slots of each drop, for display. One round trip to Redis
//! serves all requests of the next 200 ms.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::reads::LoadedDrop;
use firstcome_shared::redis::refusing::unless_missed;
use firstcome_shared::redis::{Redis, RedisError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

const TTL: Duration = Duration::from_millis(200);

/// Maximum wait for Redis, after which the states are unknown.
const PATIENCE: Duration = Duration::from_millis(500);

/// The states of drops that were read from Redis within the last 200 ms. The lock is held while
/// Redis is queried: other requests wait and then find the result.
#[derive(Default)]
pub(crate) struct RemainingCache(Mutex<HashMap<DropId, (Instant, LoadedDrop)>>);

impl RemainingCache {
    /// Returns the states of drops, or none if Redis is unavailable. A drop whose hash slot is not
    /// served is missing.
    pub(crate) async fn states(
        &self,
        redis: &Redis,
        drops: &[(DropId, &DropKeys)],
    ) -> HashMap<DropId, LoadedDrop> {
        match timeout(PATIENCE, self.read(redis, drops)).await {
            Ok(Ok(states)) => states,
            unknown => {
                tracing::debug!(
                    ?unknown,
                    "the remaining slots of drops are shown as unknown"
                );
                HashMap::new()
            }
        }
    }

    async fn read(
        &self,
        redis: &Redis,
        drops: &[(DropId, &DropKeys)],
    ) -> Result<HashMap<DropId, LoadedDrop>, RedisError> {
        let mut cached = self.0.lock().await;
        cached.retain(|_, (read_at, _)| read_at.elapsed() < TTL);
        let mut stale = drops.to_vec();
        stale.retain(|(drop, _)| !cached.contains_key(drop));
        let keys = stale.iter().map(|(_, keys)| *keys);
        let states = redis.drop_states(keys).await;
        let now = Instant::now();
        for ((drop, _), state) in stale.iter().zip(states) {
            let known = unless_missed(state)?.map(|state| (*drop, (now, state)));
            cached.extend(known);
        }
        Ok(drops
            .iter()
            .filter_map(|(drop, _)| Some((*drop, cached.get(drop)?.1.clone())))
            .collect())
    }

    pub(crate) async fn forget(&self) {
        self.0.lock().await.clear();
    }
}
