//! The licence to admit: when it is gone, admission is closed until every drop that is not sealed was compared and made good.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firstcome_shared::redis::safety::ServerFacts;
use firstcome_shared::redis::{Redis, RedisError};
use tokio::time::Instant;

/// What the clock may be off, and what a message or a row may take on its way, beyond the deadlines.
const MARGIN: Duration = Duration::from_millis(250);

/// Remembers since when Redis is known to have lost something. Admissions made before that may still be on their way: to the
/// topic until the publishing deadline has passed, then to the backup table until its deadline has.
#[derive(Clone, Default)]
pub struct LossClock(Arc<Mutex<Option<Instant>>>);

impl LossClock {
    /// A loss was seen; the first sight counts.
    pub fn seen(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now)
    }

    /// Everything is whole again.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How long to wait until nothing from before the loss can still be on its way.
    pub fn wait_needed(&self, settled_after: Duration) -> Duration {
        (self.seen() + settled_after + MARGIN).saturating_duration_since(Instant::now())
    }
}

/// One server process of Redis, and whether it had the licence when it was first looked at. What is verified is verified
/// against this process; the licence is granted on the same connection, so that it can't go to another one.
pub struct Watched {
    conn: redis::aio::MultiplexedConnection,
    facts: ServerFacts,
    /// Whether admission was open.
    pub had_licence: bool,
}

impl Watched {
    /// Looks at the process that answers now.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub async fn new(redis: &Redis) -> Result<Self, RedisError> {
        let mut conn = redis.dedicated().await?;
        let facts = redis.facts(&mut conn).await?;
        let had_licence = redis.licence_on(&mut conn).await?;
        Ok(Self { conn, facts, had_licence })
    }

    /// Opens admission, unless the shared connection leads to another process by now; `false` then.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub async fn grant(&mut self, redis: &Redis) -> Result<bool, RedisError> {
        let now = redis.facts(&mut redis.connection()).await?;
        let here = redis.facts(&mut self.conn).await?;
        if now != self.facts || here != self.facts || !here.is_master {
            return Ok(false);
        }
        redis.grant_licence(&mut self.conn).await?;
        Ok(true)
    }
}
