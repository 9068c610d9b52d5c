//! The connection to Redis.

use std::time::Duration;

use clap::Args;
use redis::{ConnectionAddr, ConnectionInfo};
use secrecy::{ExposeSecret as _, SecretString};

use super::{TlsArgs, secret};
use crate::redis::deployment::addresses;
use crate::redis::{RedisDurability, RedisMode, RedisSettings, keys};
use crate::tls::{StoreAddress, Tls, TlsServer};

/// The connection to Redis.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisArgs {
    /// Address of Redis, as `redis://[[user]:password@]host:port[/database]`; several nodes are
    /// separated by commas; `rediss://` is encrypted
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_parser = secret(redis_url))]
    redis_url: SecretString,
    /// Kind of Redis deployment
    #[arg(long, env = "REDIS_MODE", value_enum, default_value_t)]
    redis_mode: RedisMode,
    /// Prefix of every key; change it only if several installations share one Redis
    #[arg(long, env = "REDIS_KEY_PREFIX", default_value = keys::DEFAULT_PREFIX, value_parser = key_prefix)]
    pub redis_key_prefix: String,
    /// Whether this process checks that Redis is durable, or the operator guarantees it
    #[arg(long, env = "REDIS_DURABILITY", value_enum, default_value_t)]
    redis_durability: RedisDurability,
}

impl RedisArgs {
    /// Returns the settings for an attached system's Redis, whose address is not `REDIS_URL`.
    pub fn at(
        url: SecretString,
        is_cluster: bool,
        tls: &TlsArgs,
        timeout_ms: u64,
    ) -> anyhow::Result<RedisSettings> {
        redis_url(url.expose_secret()).map_err(anyhow::Error::msg)?;
        let args = Self {
            redis_url: url,
            redis_mode: if is_cluster {
                RedisMode::Cluster
            } else {
                RedisMode::Single
            },
            redis_key_prefix: keys::DEFAULT_PREFIX.to_owned(),
            redis_durability: RedisDurability::Managed,
        };
        args.settings(Duration::from_millis(timeout_ms), tls)
    }

    /// Returns the settings for the client. `timeout` is the maximum wait for one response.
    pub fn settings(&self, timeout: Duration, tls: &TlsArgs) -> anyhow::Result<RedisSettings> {
        let nodes = addresses(self.redis_url.expose_secret()).map_err(anyhow::Error::msg)?;
        validate(self.redis_mode, &nodes).map_err(anyhow::Error::msg)?;
        let tls = is_encrypted(&nodes[0])
            .then(|| Tls::new(TlsServer::Redis, &tls.files()))
            .transpose()
            .map_err(anyhow::Error::msg)?;
        Ok(RedisSettings {
            url: StoreAddress::new(self.redis_url.clone(), tls),
            prefix: self.redis_key_prefix.clone(),
            timeout,
            mode: self.redis_mode,
            durability: self.redis_durability,
        })
    }
}

/// Checks that the addresses fit the mode. Their form has been checked before.
fn validate(mode: RedisMode, nodes: &[ConnectionInfo]) -> Result<(), String> {
    match mode {
        RedisMode::Single if nodes.len() > 1 => Err(
            "REDIS_URL names several nodes: set REDIS_MODE=cluster (of attach, redis_cluster \
                = true); Redis Sentinel is not supported"
                .into(),
        ),
        RedisMode::Cluster if nodes[0].redis_settings().db() != 0 => {
            Err("a cluster has database 0 only: leave the database out of the address".into())
        }
        RedisMode::Single | RedisMode::Cluster => Ok(()),
    }
}

fn is_encrypted(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), ConnectionAddr::TcpTls { .. })
}

fn redis_url(text: &str) -> Result<(), String> {
    if text.contains("#insecure") {
        return Err("leave #insecure out: whose certificate it is, is always verified".into());
    }
    addresses(text).map(drop)
}

fn key_prefix(text: &str) -> Result<String, String> {
    if !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 characters of A-Z a-z 0-9 - _ . :".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_addresses_and_key_prefixes_are_refused() {
        assert!(redis_url("redis://127.0.0.1:6379/3").is_ok());
        assert!(redis_url("rediss://user:password@127.0.0.1:6379/3").is_ok());
        assert!(
            redis_url("rediss://127.0.0.1:6379/#insecure")
                .unwrap_err()
                .contains("always verified")
        );
        assert!(redis_url("127.0.0.1").is_err());
        assert!(
            redis_url("redis://a:1,redis://b:2").is_ok() && redis_url("redis://a:1,b:2").is_err()
        );
        assert!(key_prefix("fc-test").is_ok());
        assert!(key_prefix("a{b}").is_err() && key_prefix("").is_err());
    }
}
