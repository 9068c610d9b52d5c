//! How much is left of drops, for showing. Asked of Redis in one round trip and kept for a moment, so that a page that
//! everybody reloads costs Redis a few questions a second.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::reads::Stock;
use firstcome_shared::redis::{Redis, RedisError};
use tokio::time::Instant;

/// How long an answer is shown.
const KEEP: Duration = Duration::from_millis(200);

/// Most drops asked for in one round trip.
const AT_ONCE: usize = 500;

const MOST_KEPT: usize = 10_000;

/// What Redis said of drops a moment ago.
#[derive(Default)]
pub(crate) struct Stocks {
    kept: Mutex<HashMap<DropId, (Instant, Option<Stock>)>>,
    asking: tokio::sync::Mutex<()>,
}

impl Stocks {
    /// What is left of each drop; one that admission does not know is missing in the answer.
    pub(crate) async fn of(
        &self,
        redis: &Redis,
        drops: &[(DropId, &DropKeys)],
    ) -> Result<HashMap<DropId, Stock>, RedisError> {
        if self.not_kept(drops).is_empty() {
            return Ok(self.known(drops));
        }
        // One asks, the others wait and find the answer kept.
        let _turn = self.asking.lock().await;
        let wanted = self.not_kept(drops);
        for part in wanted.chunks(AT_ONCE) {
            let keys: Vec<&DropKeys> = part.iter().map(|(_, keys)| *keys).collect();
            let stocks = redis.stock(&keys).await?;
            let now = Instant::now();
            let mut kept = self.kept.lock();
            if kept.len() > MOST_KEPT {
                kept.retain(|_, (at, _)| now - *at < KEEP);
            }
            kept.extend(part.iter().zip(stocks).map(|((drop, _), stock)| (*drop, (now, stock))));
        }
        Ok(self.known(drops))
    }

    /// Forgets a coupon's drops: they were changed.
    pub(crate) fn forget(&self, drops: impl Iterator<Item = DropId>) {
        let mut kept = self.kept.lock();
        for drop in drops {
            kept.remove(&drop);
        }
    }

    fn not_kept<'a>(&self, drops: &[(DropId, &'a DropKeys)]) -> Vec<(DropId, &'a DropKeys)> {
        let kept = self.kept.lock();
        let fresh = |drop: &DropId| kept.get(drop).is_some_and(|(at, _)| at.elapsed() < KEEP);
        drops.iter().filter(|(drop, _)| !fresh(drop)).copied().collect()
    }

    fn known(&self, drops: &[(DropId, &DropKeys)]) -> HashMap<DropId, Stock> {
        let kept = self.kept.lock();
        drops.iter().filter_map(|(drop, _)| Some((*drop, kept.get(drop)?.1?))).collect()
    }
}
