//! The scripts' texts and hashes. Each stands in a `.lua` file of its own with its KEYS, ARGV, replies and invariant.

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};

/// A script that may load itself: everything but admission.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    /// Runs it by hash, and by text where this Redis has not seen it yet. Sending it twice is safe: `NOSCRIPT` means that
    /// it did not run.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        conn: &mut impl ConnectionLike,
        keys: &[&str],
        args: &[String],
    ) -> Result<T, RedisError> {
        match self.command("EVALSHA", &self.hash, keys, args).query_async(conn).await {
            Err(error) if is_noscript(&error) => self.command("EVAL", self.text, keys, args).query_async(conn).await,
            other => other,
        }
    }

    #[allow(clippy::unused_self)]
    fn command(&self, verb: &str, script: &str, keys: &[&str], args: &[String]) -> Cmd {
        let mut cmd = redis::cmd(verb);
        cmd.arg(script).arg(keys.len()).arg(keys).arg(args);
        cmd
    }
}

pub(super) fn is_noscript(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Admission's text and hash for one installation. The key prefix and database stand in the text, so that two installations
/// on one Redis have gates of their own.
pub(super) fn claim_script(prefix: &str, database: i64) -> (String, String) {
    let text = format!("-- admission gate of {prefix} in database {database}\n{}", include_str!("scripts/claim.lua"));
    let hash = redis::Script::new(&text).get_hash().to_owned();
    (text, hash)
}
