//! Settings every process shares, one struct a concern. Each is a flag and an environment variable;
//! `--help` shows both with the default. Secrets are never printed.

mod logs;
mod secret;
mod start;

use std::time::Duration;

use clap::Args;
use mysql_async::UrlError;
use secrecy::SecretString;

use crate::kafka::KafkaSettings;
use crate::mysql::DbSettings;
use crate::redis::{RedisSettings, keys};

pub use logs::{LogArgs, LogFormat};
pub use secret::{Secret, secret};
pub use start::{StartError, wait_for};

/// Where MySQL is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "MySQL")]
pub struct MysqlArgs {
    /// MySQL, as `mysql://user:password@host:port/database`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret(mysql_url))]
    pub database_url: SecretString,
    /// Most connections of this process to MySQL
    #[arg(long, env = "DATABASE_POOL_SIZE", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub database_pool_size: u16,
    /// Longest that one MySQL call may take, in milliseconds
    #[arg(long, env = "DATABASE_TIMEOUT_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub database_timeout_ms: u64,
}

impl MysqlArgs {
    /// In the form the pool takes.
    pub fn settings(&self) -> DbSettings {
        DbSettings {
            url: self.database_url.clone(),
            pool_size: usize::from(self.database_pool_size),
            limit: Duration::from_millis(self.database_timeout_ms),
        }
    }
}

/// Where Redis is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisArgs {
    /// Redis, as `redis://[:password@]host:port[/database]`
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_parser = secret(redis_url))]
    pub redis_url: SecretString,
    /// Prefix of every key; change it only where several installations share one Redis
    #[arg(long, env = "REDIS_KEY_PREFIX", default_value = keys::DEFAULT_PREFIX, value_parser = key_prefix)]
    pub redis_key_prefix: String,
    /// Longest wait for an answer of Redis, in milliseconds
    #[arg(long, env = "REDIS_TIMEOUT_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub redis_timeout_ms: u64,
}

impl RedisArgs {
    /// In the form the client takes.
    pub fn settings(&self) -> RedisSettings {
        RedisSettings {
            url: self.redis_url.clone(),
            prefix: self.redis_key_prefix.clone(),
            timeout: Duration::from_millis(self.redis_timeout_ms),
        }
    }
}

/// Where Kafka is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
    /// Kafka brokers as `host:port`, several by commas
    #[arg(long, env = "KAFKA_BROKERS", value_parser = brokers)]
    pub kafka_brokers: String,
    /// Topic of claims
    #[arg(long, env = "KAFKA_TOPIC", default_value = "coupon-claims")]
    pub kafka_topic: String,
    /// Consumer group that writes rows
    #[arg(long, env = "KAFKA_GROUP", default_value = "firstcome-issuer")]
    pub kafka_group: String,
}

impl KafkaArgs {
    /// In the form the clients take.
    pub fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            brokers: self.kafka_brokers.clone(),
            topic: self.kafka_topic.clone(),
            group: self.kafka_group.clone(),
        }
    }
}

/// How long an admission may take to reach Kafka. API and reconciler must be given the same.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Publishing")]
pub struct PublishArgs {
    /// Longest wait for Kafka's acknowledgement of a claim, in milliseconds; after it the claim is
    /// kept in the dead-letter table, answered with `"queued": false`, and issued by the
    /// reconciler. Give the API and the reconciler the same value
    #[arg(long, env = "PUBLISH_DEADLINE_MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub publish_deadline_ms: u64,
    /// Longest wait for the dead-letter table to keep a claim that Kafka has not acknowledged, in
    /// milliseconds; after it the answer is 503. Give the API and the reconciler the same value
    #[arg(long, env = "BACKUP_DEADLINE_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub backup_deadline_ms: u64,
}

impl PublishArgs {
    /// The deadline.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.publish_deadline_ms)
    }

    /// The deadline of the dead-letter table.
    pub fn backup_deadline(&self) -> Duration {
        Duration::from_millis(self.backup_deadline_ms)
    }

    /// Longest time that a claim is in flight between Redis and a second store.
    pub fn longest_in_flight(&self) -> Duration {
        self.deadline() + self.backup_deadline()
    }
}

/// Waiting for stores at start-up.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Start-up")]
pub struct StartArgs {
    /// Longest wait at start-up for a store that does not answer yet, in seconds; then the process
    /// says which and stops
    #[arg(long, env = "STARTUP_WAIT_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub startup_wait_seconds: u64,
}

/// A wrong URL is refused here and not asked for until the start gives up.
fn mysql_url(text: &str) -> Result<(), String> {
    if !text.starts_with("mysql://") {
        return Err("it must begin with mysql://".into());
    }
    let opts = mysql_async::Opts::from_url(text).map_err(|error| match error {
        UrlError::UnknownParameter { param } => format!("it has a parameter that is not known here: {param:?}"),
        UrlError::InvalidParamValue { param, .. } => format!("its parameter {param:?} has a value that does not fit"),
        _ => "it must look like mysql://user:password@host:3306/database".into(),
    })?;
    if opts.ssl_opts().is_some() {
        return Err("connections to MySQL are not encrypted yet: leave require_ssl out, on a private network".into());
    }
    if opts.db_name().is_none_or(str::is_empty) {
        return Err("it must name a database: mysql://user:password@host:3306/database".into());
    }
    Ok(())
}

fn redis_url(text: &str) -> Result<(), String> {
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

fn brokers(text: &str) -> Result<String, String> {
    let fine = |broker: &str| {
        broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if text.split(',').all(|b| fine(b.trim())) {
        Ok(text.to_owned())
    } else {
        Err("give host:port, several by commas".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Both {
        #[command(flatten)]
        mysql: MysqlArgs,
        #[command(flatten)]
        redis: RedisArgs,
    }

    #[test]
    fn a_secret_that_is_refused_is_named_and_not_shown() {
        use clap::Parser as _;
        let refused = |mysql, redis| {
            Both::try_parse_from(["x", "--database-url", mysql, "--redis-url", redis]).unwrap_err().to_string()
        };
        let said = refused("mysql://root:hunter2@h", "redis://h");
        assert!(
            said.contains("--database-url") && said.contains("name a database") && !said.contains("hunter2"),
            "{said}"
        );
        let said = refused("mysql://root@h/d", "hunter2@h");
        assert!(said.contains("--redis-url") && said.contains("redis://host") && !said.contains("hunter2"), "{said}");
        assert!(Both::try_parse_from(["x", "--database-url", "mysql://r:p@h/d", "--redis-url", "redis://h"]).is_ok());
    }

    #[test]
    fn wrong_addresses_are_refused_with_what_is_wanted() {
        assert!(mysql_url("mysql://root@127.0.0.1:3306/firstcome").is_ok());
        assert!(mysql_url("postgres://x/y").unwrap_err().contains("mysql://"));
        for (bad, said) in [
            ("mysql://root@127.0.0.1:3306/", "name a database"),
            ("mysql://root@127.0.0.1/d?require_ssl=true", "require_ssl"),
            ("mysql://root@127.0.0.1/d?pool=3", "\"pool\""),
            ("mysql://root@127.0.0.1/d?tcp_nodelay=maybe", "\"tcp_nodelay\""),
            ("mysql://root@127.0.0.1:99999/d", "must look like"),
            ("mysql:///d", "must look like"),
        ] {
            assert!(mysql_url(bad).unwrap_err().contains(said), "{bad}: {:?}", mysql_url(bad));
        }
        assert!(redis_url("redis://127.0.0.1:6379/3").is_ok());
        assert!(redis_url("127.0.0.1").is_err());
        assert!(brokers("a:9092,b:9092").is_ok());
        assert!(brokers("a").is_err() && brokers("").is_err() && brokers(":1").is_err());
        assert!(key_prefix("fc-test").is_ok());
        assert!(key_prefix("a{b}").is_err() && key_prefix("").is_err());
    }
}
