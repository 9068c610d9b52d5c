//! Settings that several processes share, one struct per concern. Each is a flag and an environment
//! variable; `--help` shows both with the default. Exceptions are `SSL_CERT_FILE`, which is only a
//! variable, and settings that only tests change. Secrets are never printed.

mod kafka;
mod logs;
mod mysql;
mod parse;
mod redis;
mod secret;
mod start;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::tuning::Tuning;

pub use self::redis::RedisArgs;
pub use kafka::KafkaArgs;
pub use logs::LogArgs;
pub use mysql::MysqlArgs;
pub use parse::parse;
pub use secret::{SecretParser, secret};
pub use start::{StartError, wait_for};
pub use tls::TlsArgs;

/// How long an admission may take to reach Kafka. API and reconciler must have the same value.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Publishing")]
pub struct PublishArgs {
    /// Maximum wait for Kafka's acknowledgement of a claim, in milliseconds. After it the API
    /// writes the coupon to MySQL itself, and the response says `"queued": false`. Give the API
    /// and the reconciler the same value
    #[arg(long, env = "PUBLISH_DEADLINE_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub publish_deadline_ms: u64,
    /// Maximum wait for MySQL to store a claim that Kafka has not acknowledged. If it is exceeded,
    /// the response is 503.
    #[arg(skip = Tuning::BackupDeadlineMs.or(1_000_u64))]
    pub backup_deadline_ms: u64,
}

impl PublishArgs {
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.publish_deadline_ms)
    }

    pub fn backup_deadline(&self) -> Duration {
        Duration::from_millis(self.backup_deadline_ms)
    }

    /// Returns the maximum time that a claim is in flight between Redis and a second store.
    pub fn longest_in_flight(&self) -> Duration {
        self.deadline() + self.backup_deadline()
    }
}

/// The pace of rows. All consumers and the reconciler must have the same value.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rows")]
pub struct PaceArgs {
    /// Maximum number of rows and dead letters that all consumers together insert in a second, so
    /// that a drop does not slow down other users of the database (default: no limit). Give the consumers and the
    /// reconciler the same value
    #[arg(long, env = "ROWS_PER_SECOND", value_name = "ROWS", default_value = "", hide_default_value = true, value_parser = number_or_unset::<1, 1_000_000>)]
    pub rows_per_second: NumberOrUnset,
}

/// A number that need not be set. As with other settings, an empty value does not set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberOrUnset(pub Option<u32>);

/// Parses a number within these limits, or an empty value.
pub fn number_or_unset<const LEAST: u32, const MOST: u32>(
    text: &str,
) -> Result<NumberOrUnset, String> {
    if text.is_empty() {
        return Ok(NumberOrUnset(None));
    }
    match text.parse() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(NumberOrUnset(Some(number))),
        _ => Err(format!("give a whole number from {LEAST} to {MOST}")),
    }
}

/// How long to wait for stores at start-up.
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Maximum wait at start-up for a store that does not answer. After this time, the process logs
    /// the store's name and exits. Exceptions: `serve` starts without Kafka, and without MySQL if
    /// Redis has a copy of the coupons; the reconciler's daemon keeps waiting and sends an alert
    /// mail.
    #[arg(skip = Tuning::StartupWaitSeconds.or(30_u64))]
    pub startup_wait_seconds: u64,
}

impl StartArgs {
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.startup_wait_seconds)
    }
}

/// File of certificate authorities to trust: instead of the public ones for Redis, MySQL and Kafka,
/// and in addition to them for other servers (the issuer of tokens, the API, webhooks, mail servers,
/// the collector of traces). The variable is OpenSSL's own, so one value also serves other programs.
pub fn ssl_cert_file() -> Option<PathBuf> {
    std::env::var_os("SSL_CERT_FILE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Parses an address to listen on. The standard library's error does not name the missing part.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let example = "127.0.0.1:8080, or 0.0.0.0:8080 for all networks";
    text.parse()
        .map_err(|_| format!("give an IP address and a port, such as {example}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_may_be_empty_or_a_number_within_its_bounds() {
        let read = number_or_unset::<1, 50>;
        assert_eq!(read(""), Ok(NumberOrUnset(None)));
        assert_eq!(read("50"), Ok(NumberOrUnset(Some(50))));
        for text in ["0", "51", "-1", "1.5", " 5", "a"] {
            assert_eq!(read(text).unwrap_err(), "give a whole number from 1 to 50");
        }
    }
}
