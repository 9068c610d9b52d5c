//! A denylist of operators' sessions that were ended early, with expiry. Session cookies are
//! signed, so nothing else marks a session as ended. If Redis loses the list, ended sessions become
//! valid again.

use std::time::Duration;

use redis::RedisResult;

use super::Redis;
use super::keys;

impl Redis {
    /// Ends a session, and keeps the entry for the given time.
    pub async fn end_session(&self, session: &str, remembered: Duration) -> RedisResult<()> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(keys::ended_session(&self.prefix, session))
            .arg("")
            .arg("EX")
            .arg(remembered.as_secs());
        cmd.query_async(&mut self.connection()).await
    }

    pub async fn session_was_ended(&self, session: &str) -> RedisResult<bool> {
        let key = keys::ended_session(&self.prefix, session);
        redis::cmd("EXISTS")
            .arg(key)
            .query_async(&mut self.connection())
            .await
    }
}
