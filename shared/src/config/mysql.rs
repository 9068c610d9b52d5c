//! The connection to MySQL.

use std::time::Duration;

use clap::Args;
use mysql_async::{Opts, UrlError};
use secrecy::{ExposeSecret as _, SecretString};

use super::{TlsArgs, secret};
use crate::mysql::DbSettings;
use crate::tls::{StoreAddress, Tls, TlsServer};
use crate::tuning::Tuning;

/// The connection to MySQL.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "MySQL")]
pub struct MysqlArgs {
    /// Address of MySQL, as `mysql://user:password@host:port/database`; it must lead to the
    /// primary. `?require_ssl=true` encrypts connections and verifies who answers
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret(mysql_url))]
    pub database_url: SecretString,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Maximum wait for one reply of Redis, in milliseconds; MySQL gets four times as long, because
    /// one call may write a whole batch
    #[arg(long, env = "STORE_TIMEOUT_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000), help_heading = "Stores")]
    pub store_timeout_ms: u64,
    #[arg(skip = Tuning::DatabasePoolSize.or(POOL_SIZE))]
    pool_size: usize,
    #[arg(skip = Tuning::DatabaseTimeoutMs.of_test())]
    timeout_ms: Option<u64>,
}

/// Maximum number of connections of one pool. An API has several pools, each with a part of this
/// number, and one of a fixed size for uses of codes.
const POOL_SIZE: usize = 8;

/// MySQL's timeout as a multiple of `STORE_TIMEOUT_MS`.
const MYSQL_FACTOR: u64 = 4;

impl MysqlArgs {
    /// Returns the settings for an address that is not `DATABASE_URL`.
    pub fn at(
        url: SecretString,
        tls: &TlsArgs,
        store_timeout_ms: u64,
    ) -> anyhow::Result<DbSettings> {
        mysql_url(url.expose_secret()).map_err(anyhow::Error::msg)?;
        let args = Self {
            database_url: url,
            tls: tls.clone(),
            store_timeout_ms,
            pool_size: POOL_SIZE,
            timeout_ms: None,
        };
        args.settings()
    }

    /// Returns the settings for the pool.
    pub fn settings(&self) -> anyhow::Result<DbSettings> {
        let url = self.database_url.expose_secret();
        let is_encrypted = Opts::from_url(url).is_ok_and(|opts| opts.ssl_opts().is_some());
        let tls = is_encrypted
            .then(|| Tls::new(TlsServer::Mysql, &self.tls.files()))
            .transpose()
            .map_err(anyhow::Error::msg)?;
        let limit = self
            .timeout_ms
            .unwrap_or(MYSQL_FACTOR * self.store_timeout_ms);
        Ok(DbSettings {
            url: StoreAddress::new(self.database_url.clone(), tls),
            pool_size: self.pool_size,
            limit: Duration::from_millis(limit),
        })
    }

    /// Returns the maximum wait for one reply of Redis.
    pub fn store_timeout(&self) -> Duration {
        Duration::from_millis(self.store_timeout_ms)
    }
}

/// Refuses an invalid URL here, because start-up would otherwise retry the connection until its
/// deadline.
fn mysql_url(text: &str) -> Result<(), String> {
    if !text.starts_with("mysql://") {
        return Err("it must begin with mysql://".into());
    }
    let form = "mysql://user:password@host:3306/database";
    let opts = Opts::from_url(text).map_err(|error| match error {
        UrlError::UnknownParameter { param } | UrlError::InvalidParamValue { param, .. } => {
            format!("its parameter {param:?} is not known here, or has a value that does not fit")
        }
        _ => format!("it must look like {form}"),
    })?;
    if opts.db_name().is_none_or(str::is_empty) {
        return Err(format!("it must name a database: {form}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_for_an_invalid_url_says_what_is_wrong() {
        assert!(mysql_url("mysql://root@127.0.0.1:3306/firstcome").is_ok());
        for (bad, said) in [
            ("postgres://x/y", "mysql://"),
            ("mysql://root@127.0.0.1:3306/", "name a database"),
            ("mysql://root@127.0.0.1/d?pool=3", "\"pool\""),
            ("mysql://root@h/d?tcp_nodelay=maybe", "\"tcp_nodelay\""),
            ("mysql://root@127.0.0.1:99999/d", "must look like"),
            ("mysql:///d", "must look like"),
        ] {
            let refused = mysql_url(bad).unwrap_err();
            assert!(refused.contains(said), "{bad}: {refused}");
        }
    }
}
