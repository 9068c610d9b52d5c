//! The connection to MySQL.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mysql_async::UrlError;
use secrecy::SecretString;

use super::checked::checked;
use super::{path, secret};
use crate::mysql::DbSettings;
use crate::tls::{Paths, Store, StoreAddress, Tls};
use crate::tuning::Tuning;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "MySQL")]
struct MysqlGiven {
    /// Address of MySQL, as `mysql://user:password@host:port/database`; it must lead to the primary
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret(mysql_url))]
    database_url: SecretString,
    /// Whether connections to MySQL are encrypted and its certificate is verified
    #[arg(long, env = "DATABASE_TLS", value_enum, default_value_t)]
    database_tls: DatabaseTls,
    /// PEM file of the certificate authorities to trust for MySQL instead of the public ones
    #[arg(long, env = "DATABASE_CA_FILE", value_name = "FILE", value_parser = path)]
    database_ca_file: Option<PathBuf>,
    /// PEM file of this process's client certificate for MySQL
    #[arg(long, env = "DATABASE_CERT_FILE", value_name = "FILE", value_parser = path)]
    database_cert_file: Option<PathBuf>,
    /// PEM file of the private key of DATABASE_CERT_FILE
    #[arg(long, env = "DATABASE_KEY_FILE", value_name = "FILE", value_parser = path)]
    database_key_file: Option<PathBuf>,
    /// Maximum wait for one reply of Redis, in milliseconds; MySQL gets four times as long, because
    /// one call may write a whole batch
    #[arg(long, env = "STORE_TIMEOUT_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000), help_heading = "Stores")]
    store_timeout_ms: u64,
}

/// Maximum number of connections of one process. An API divides them among claims, reads, operators
/// and the catalogue.
const POOL_SIZE: usize = 8;

/// MySQL's timeout as a multiple of `STORE_TIMEOUT_MS`.
const MYSQL_FACTOR: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum DatabaseTls {
    /// Plain text, for a private network
    #[default]
    Off,
    /// Encrypted, or not at all
    Required,
}

/// The connection to MySQL.
#[derive(Debug, Clone)]
pub struct MysqlArgs {
    pub database_url: StoreAddress,
    pub database_pool_size: usize,
    pub database_timeout: Duration,
    /// Maximum wait for one reply of Redis.
    pub store_timeout: Duration,
}

checked!(MysqlGiven => MysqlArgs);

impl TryFrom<MysqlGiven> for MysqlArgs {
    type Error = String;

    fn try_from(given: MysqlGiven) -> Result<Self, String> {
        let paths = Paths::new(
            given.database_ca_file,
            given.database_cert_file,
            given.database_key_file,
        );
        let tls = match (given.database_tls, paths.first()) {
            (DatabaseTls::Required, _) => Some(Tls::new(Store::Mysql, &paths)?),
            (DatabaseTls::Off, None) => None,
            (DatabaseTls::Off, Some(name)) => {
                return Err(format!(
                    "DATABASE_{name} is set and DATABASE_TLS is off: set it to required, or leave the file out"
                ));
            }
        };
        Ok(Self {
            database_url: StoreAddress::new(given.database_url, tls),
            database_pool_size: Tuning::DatabasePoolSize.or(POOL_SIZE),
            database_timeout: Duration::from_millis(
                Tuning::DatabaseTimeoutMs.or(MYSQL_FACTOR * given.store_timeout_ms),
            ),
            store_timeout: Duration::from_millis(given.store_timeout_ms),
        })
    }
}

impl MysqlArgs {
    /// Returns the settings for the pool.
    pub fn settings(&self) -> DbSettings {
        DbSettings {
            url: self.database_url.clone(),
            pool_size: self.database_pool_size,
            limit: self.database_timeout,
        }
    }
}

/// Refuses an invalid URL here, because start-up would otherwise retry the connection until its
/// deadline.
fn mysql_url(text: &str) -> Result<(), String> {
    if !text.starts_with("mysql://") {
        return Err("it must begin with mysql://".into());
    }
    let opts = mysql_async::Opts::from_url(text).map_err(|error| match error {
        UrlError::UnknownParameter { param } => {
            format!("it has a parameter that is not known here: {param:?}")
        }
        UrlError::InvalidParamValue { param, .. } => {
            format!("its parameter {param:?} has a value that does not fit")
        }
        _ => "it must look like mysql://user:password@host:3306/database".into(),
    })?;
    if opts.ssl_opts().is_some() {
        return Err(
            "leave require_ssl out and set DATABASE_TLS=required: it also verifies who answers"
                .into(),
        );
    }
    if opts.db_name().is_none_or(str::is_empty) {
        return Err("it must name a database: mysql://user:password@host:3306/database".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_for_an_invalid_url_shows_the_expected_form() {
        assert!(mysql_url("mysql://root@127.0.0.1:3306/firstcome").is_ok());
        assert!(
            mysql_url("postgres://x/y")
                .unwrap_err()
                .contains("mysql://")
        );
        for (bad, said) in [
            ("mysql://root@127.0.0.1:3306/", "name a database"),
            (
                "mysql://root@127.0.0.1/d?require_ssl=true",
                "DATABASE_TLS=required",
            ),
            ("mysql://root@127.0.0.1/d?pool=3", "\"pool\""),
            (
                "mysql://root@127.0.0.1/d?tcp_nodelay=maybe",
                "\"tcp_nodelay\"",
            ),
            ("mysql://root@127.0.0.1:99999/d", "must look like"),
            ("mysql:///d", "must look like"),
        ] {
            assert!(
                mysql_url(bad).unwrap_err().contains(said),
                "{bad}: {:?}",
                mysql_url(bad)
            );
        }
    }
}
