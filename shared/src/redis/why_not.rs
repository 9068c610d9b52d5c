//! Finds out which setting prevents Redis from answering at start-up.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::deployment::SentinelSettings;
use super::safety::Unsafe;
use super::{Redis, RedisMode};

/// What rustls says if one side does not trust the other, or the server does not speak TLS.
const TLS_ERRORS: [&str; 3] = [
    "invalid peer certificate",
    "received fatal alert",
    "received corrupt message",
];

impl Redis {
    /// Calls [`Redis::check_settings`] at start-up. If retrying cannot help, the error names a
    /// setting.
    pub async fn check_at_start(&self) -> Result<(), Unsafe> {
        metrics::gauge!("firstcome_redis_managed").set(f64::from(u8::from(self.is_managed())));
        match self.check_settings().await {
            Err(Unsafe::Unreachable(error)) => Err(match self.why_not(&error).await {
                Some(sentence) => Unsafe::Setting(sentence),
                None => Unsafe::Unreachable(error),
            }),
            Ok(()) if self.is_managed() => {
                tracing::warn!("REDIS_DURABILITY=managed: the durability of Redis is not checked");
                Ok(())
            }
            other => other,
        }
    }

    async fn why_not(&self, error: &RedisError) -> Option<String> {
        if let RedisMode::Sentinel(settings) = &self.deployment.mode
            && let Some(why) = self.why_no_sentinel(settings).await
        {
            return Some(format!("Redis can't be used: {why}"));
        }
        if error.to_string().contains("cluster support disabled") {
            return Some("this Redis is no cluster: leave REDIS_MODE=cluster out".into());
        }
        if error.kind() == ErrorKind::InvalidClientConfig {
            return Some(format!("Redis can't be used: {error}"));
        }
        if does_not_let_in(error) {
            return Some(format!(
                "Redis does not let this process in: {error}; see the user and the password in REDIS_URL"
            ));
        }
        if error.code().is_some() {
            return None;
        }
        // redis-rs keeps only the text of rustls's errors.
        let text = error.to_string();
        let is_tls = TLS_ERRORS.iter().any(|word| text.contains(word));
        let tls = self.tls.as_ref().filter(|_| is_tls)?;
        let at = self.host_and_port();
        Some(format!(
            "Redis at {at} can't be used: {}",
            tls.sentence(text)
        ))
    }

    /// Asks the Sentinels for the master: redis-rs reports an unknown name and a master that is
    /// down as the same error.
    async fn why_no_sentinel(&self, settings: &SentinelSettings) -> Option<String> {
        let name = &settings.master;
        for info in &self.deployment.addresses {
            let ask = async {
                let client = self.deployment.sentinel(info, settings)?;
                let mut conn = client.get_multiplexed_async_connection().await?;
                let mut asked = redis::cmd("SENTINEL");
                asked.arg("MASTER").arg(name);
                asked.query_async::<redis::Value>(&mut conn).await
            };
            let Err(error) = ask.await else {
                return None;
            };
            let detail = error.detail().unwrap_or_default();
            if detail.contains("No such master") {
                return Some(format!(
                    "Sentinel watches no master of that name: REDIS_SENTINEL_MASTER is {name}, and `SENTINEL MASTERS` lists the names"
                ));
            }
            if detail.contains("unknown command") {
                return Some(
                    "REDIS_URL leads to no Sentinel: name the Sentinels in it, by default on port 26379, or leave \
                     REDIS_MODE=sentinel out"
                        .into(),
                );
            }
        }
        None
    }
}

/// Whether Redis denies access: wrong user or password, missing login, or insufficient permissions.
fn does_not_let_in(error: &RedisError) -> bool {
    // A cluster's client keeps only the text of the nodes' errors.
    ["NOAUTH", "WRONGPASS", "AuthenticationFailed"]
        .iter()
        .any(|word| error.to_string().contains(word))
        || error.kind() == ErrorKind::AuthenticationFailed
        || error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}
