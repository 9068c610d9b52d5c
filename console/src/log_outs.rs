//! The sessions that operators ended early. A signed session cookie would otherwise stay valid
//! until its end, unless its token is withdrawn.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::redis::{Redis, RedisError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::session::ENDED_FOR;

/// Maximum wait for Redis. It is short, because the page matters most while a store is unavailable.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) enum LogOuts {
    /// For all replicas.
    Redis(Redis),
    /// For this process only, if Redis is not ours: each ended session with the time at which it is
    /// forgotten.
    Process(Mutex<HashMap<String, Instant>>),
}

impl LogOuts {
    pub(crate) async fn end(&self, session: &str) -> Result<(), RedisError> {
        match self {
            Self::Redis(redis) => redis.end_session(session, ENDED_FOR).await,
            Self::Process(ended) => {
                let mut ended = ended.lock().await;
                let now = Instant::now();
                ended.retain(|_, until| *until > now);
                ended.insert(session.to_owned(), now + ENDED_FOR);
                Ok(())
            }
        }
    }

    /// Whether the session was ended. While Redis does not answer, no session counts as ended.
    pub(crate) async fn has(&self, session: &str) -> bool {
        match self {
            Self::Redis(redis) => {
                let ended = timeout(PATIENCE, redis.session_was_ended(session)).await;
                matches!(ended, Ok(Ok(true)))
            }
            Self::Process(ended) => ended.lock().await.contains_key(session),
        }
    }
}
