//! Where Redis is.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};

use super::checked::checked;
use super::{path, secret};
use crate::redis::{RedisDurability, RedisSettings, keys};
use crate::tls::{Paths, Store, StoreAddress, Tls};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
struct RedisGiven {
    /// Redis, as `redis://[[user]:password@]host:port[/database]`; `rediss://` is encrypted
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_parser = secret(redis_url))]
    redis_url: SecretString,
    /// Prefix of every key; change it only where several installations share one Redis
    #[arg(long, env = "REDIS_KEY_PREFIX", default_value = keys::DEFAULT_PREFIX, value_parser = key_prefix)]
    redis_key_prefix: String,
    /// Longest wait for an answer of Redis, in milliseconds
    #[arg(long, env = "REDIS_TIMEOUT_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    redis_timeout_ms: u64,
    /// Who says that Redis keeps what it promised
    #[arg(long, env = "REDIS_DURABILITY", value_enum, default_value_t)]
    redis_durability: RedisDurability,
    /// Certificate authorities to trust for Redis instead of the public ones, as a PEM file
    #[arg(long, env = "REDIS_CA_FILE", value_name = "FILE", value_parser = path)]
    redis_ca_file: Option<PathBuf>,
    /// Certificate by which this process proves to Redis who it is, as a PEM file
    #[arg(long, env = "REDIS_CERT_FILE", value_name = "FILE", value_parser = path)]
    redis_cert_file: Option<PathBuf>,
    /// Private key to REDIS_CERT_FILE, as a PEM file
    #[arg(long, env = "REDIS_KEY_FILE", value_name = "FILE", value_parser = path)]
    redis_key_file: Option<PathBuf>,
}

/// Where Redis is.
#[derive(Debug, Clone)]
pub struct RedisArgs {
    pub redis_url: StoreAddress,
    pub redis_key_prefix: String,
    pub redis_timeout_ms: u64,
    pub redis_durability: RedisDurability,
}

checked!(RedisGiven => RedisArgs);

impl TryFrom<RedisGiven> for RedisArgs {
    type Error = String;

    fn try_from(given: RedisGiven) -> Result<Self, String> {
        let paths = Paths::new(given.redis_ca_file, given.redis_cert_file, given.redis_key_file);
        let tls = match (is_encrypted(given.redis_url.expose_secret()), paths.first()) {
            (true, _) => Some(Tls::new(Store::Redis, &paths)?),
            (false, None) => None,
            (false, Some(name)) => {
                return Err(format!(
                    "REDIS_{name} is set, but connections are not encrypted: write rediss:// in REDIS_URL, or leave the file out"
                ));
            }
        };
        Ok(Self {
            redis_url: StoreAddress::new(given.redis_url, tls),
            redis_key_prefix: given.redis_key_prefix,
            redis_timeout_ms: given.redis_timeout_ms,
            redis_durability: given.redis_durability,
        })
    }
}

impl RedisArgs {
    /// In the form the client takes.
    pub fn settings(&self) -> RedisSettings {
        RedisSettings {
            url: self.redis_url.clone(),
            prefix: self.redis_key_prefix.clone(),
            timeout: Duration::from_millis(self.redis_timeout_ms),
            durability: self.redis_durability,
        }
    }
}

fn is_encrypted(url: &str) -> bool {
    // As the client reads it.
    let url = url.trim_start().to_ascii_lowercase();
    url.starts_with("rediss://") || url.starts_with("valkeys://")
}

fn redis_url(text: &str) -> Result<(), String> {
    if text.contains("#insecure") {
        return Err("leave #insecure out: whose certificate it is, is always verified".into());
    }
    redis::Client::open(text).map(|_| ()).map_err(|_| "it must look like redis://host:6379/0".into())
}

fn key_prefix(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 characters of A-Z a-z 0-9 - _ . :".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_addresses_and_prefixes_are_refused() {
        assert!(redis_url("redis://127.0.0.1:6379/3").is_ok());
        assert!(redis_url("rediss://user:password@127.0.0.1:6379/3").is_ok());
        assert!(redis_url("rediss://127.0.0.1:6379/#insecure").unwrap_err().contains("always verified"));
        assert!(redis_url("127.0.0.1").is_err());
        assert!(key_prefix("fc-test").is_ok());
        assert!(key_prefix("a{b}").is_err() && key_prefix("").is_err());
    }
}
