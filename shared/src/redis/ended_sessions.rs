//! A denylist of operators' sessions that were ended early, with expiry. Session cookies are signed
//! and stored nowhere, so nothing else marks a session as ended. If Redis loses the list, ended
//! sessions are valid again until they expire.

use std::time::Duration;

use redis::{AsyncCommands as _, RedisResult};

use super::Redis;
use super::keys;

impl Redis {
    /// Ends a session, and keeps the entry for the given time.
    pub async fn end_session(&self, session: &str, remembered: Duration) -> RedisResult<()> {
        let key = keys::ended_session(self.prefix(), session);
        let mut conn = self.connection();
        conn.set_ex(key, "", remembered.as_secs()).await
    }

    pub async fn session_was_ended(&self, session: &str) -> RedisResult<bool> {
        let key = keys::ended_session(self.prefix(), session);
        self.connection().exists(key).await
    }
}
