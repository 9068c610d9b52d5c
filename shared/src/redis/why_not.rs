//! Finds out which setting prevents Redis from answering at start-up.

use redis::{ConnectionAddr, ErrorKind, RedisError, ServerErrorKind};

use super::Redis;
use super::safety::Unsafe;
use crate::tls::{HandshakeAnswer, Store, Tls, speaks_plain_redis};

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
        let (host, port, encrypted) = match self.seeds.first() {
            ConnectionAddr::Tcp(host, port) => (host, *port, false),
            ConnectionAddr::TcpTls { host, port, .. } => (host, *port, true),
            _ => return None,
        };
        let tls = self
            .tls
            .clone()
            .unwrap_or_else(|| Tls::public(Store::Redis));
        let why = match (encrypted, tls.probe(host, port).await) {
            (true, HandshakeAnswer::Fault(why)) => why,
            (true, HandshakeAnswer::PlainText | HandshakeAnswer::Silent) if speaks_plain_redis(host, port).await => {
                "it answers in plain text: write redis:// in REDIS_URL, or the port on which it speaks TLS".to_owned()
            }
            (false, HandshakeAnswer::Fine | HandshakeAnswer::Fault(_)) => {
                "it speaks TLS: write rediss:// in REDIS_URL".to_owned()
            }
            _ => return None,
        };
        Some(format!("Redis at {host}:{port} can't be used: {why}"))
    }
}

/// Whether Redis denies access: wrong user or password, missing login, or insufficient permissions.
fn does_not_let_in(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
}
