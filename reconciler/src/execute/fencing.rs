//! The admission gate: `claim.lua` in the script cache of Redis. A restart or a fail-over of Redis closes it; a pass opens it
//! again once it has verified and repaired every drop that is not sealed.

use parking_lot::Mutex;
use std::sync::Arc;
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
        *self.0.lock().get_or_insert_with(Instant::now)
    }

    /// Everything is whole again.
    pub fn clear(&self) {
        *self.0.lock() = None;
    }

    /// How long to wait until nothing from before the loss can still be on its way.
    pub fn wait_needed(&self, settled_after: Duration) -> Duration {
        (self.seen() + settled_after + MARGIN).saturating_duration_since(Instant::now())
    }
}

/// One server process of Redis, and whether the gate was open at first. What is verified is verified
/// against this process; the gate is opened on the same connection, so that it can't go to another one.
pub struct Watched {
    conn: redis::aio::MultiplexedConnection,
    facts: ServerFacts,
    /// Whether admission was open.
    pub gate_was_open: bool,
}

impl Watched {
    /// Looks at the process that answers now.
    pub async fn new(redis: &Redis) -> Result<Self, RedisError> {
        let mut conn = redis.dedicated().await?;
        let facts = redis.facts(&mut conn).await?;
        let gate_was_open = redis.gate_is_open_on(&mut conn).await?;
        Ok(Self { conn, facts, gate_was_open })
    }

    /// Opens admission, unless the shared connection leads to another process by now; `false` then.
    pub async fn grant(&mut self, redis: &Redis) -> Result<bool, RedisError> {
        let now = redis.facts(&mut redis.connection()).await?;
        let here = redis.facts(&mut self.conn).await?;
        if now != self.facts || here != self.facts || !here.is_master {
            return Ok(false);
        }
        redis.open_gate(&mut self.conn).await?;
        Ok(true)
    }
}
