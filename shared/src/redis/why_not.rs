//! Finds out which setting prevents Redis from answering at start-up.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::Redis;
use super::safety::Unsafe;

impl Redis {
    /// Calls [`Redis::check_settings`] at start-up. If retrying cannot help, the error names a
    /// setting.
    pub async fn check_at_start(&self) -> Result<(), Unsafe> {
        metrics::gauge!("firstcome_redis_managed").set(f64::from(u8::from(self.is_managed())));
        let checked = self.check_settings().await;
        if checked.is_ok() && self.is_managed() {
            tracing::warn!("REDIS_DURABILITY=managed: the durability of Redis is not checked");
        }
        checked.map_err(|unsafe_| match unsafe_ {
            Unsafe::Unreachable(error) => self
                .why_not(&error)
                .map_or(Unsafe::Unreachable(error), Unsafe::Setting),
            setting @ Unsafe::Setting(_) => setting,
        })
    }

    fn why_not(&self, error: &RedisError) -> Option<String> {
        // redis-rs keeps only the text of rustls's errors and, in a cluster, of the nodes' errors.
        let text = error.to_string();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["cluster support disabled"]) {
            return Some("this Redis is no cluster: leave REDIS_MODE=cluster out".into());
        }
        if error.kind() == ErrorKind::InvalidClientConfig {
            return Some(format!("Redis can't be used: {error}"));
        }
        if says(&["NOAUTH", "WRONGPASS", "AuthenticationFailed"])
            || error.kind() == ErrorKind::AuthenticationFailed
            || error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        {
            return Some(format!(
                "Redis does not let this process in: {error}; see the user and the password in REDIS_URL"
            ));
        }
        // What rustls says if one side does not trust the other, or the server does not speak TLS.
        let is_tls = says(&[
            "invalid peer certificate",
            "received fatal alert",
            "received corrupt message",
        ]);
        let tls = self.deployment.tls.as_ref();
        let tls = tls.filter(|_| is_tls && error.code().is_none())?;
        let at = self.host_and_port();
        Some(format!(
            "Redis at {at} can't be used: {}",
            tls.sentence(text)
        ))
    }
}
