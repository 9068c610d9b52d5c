//! One installation's Redis, with the scripts and their hashes. Each script is in its own `.lua`
//! file, which documents its KEYS, ARGV, replies and invariant.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind};

use super::connection::SharedConnection;
use super::keys::DropKeys;
use super::router::Shard;
use super::server::ServerFacts;
use super::servers::{RedisMode, Seeds};
use crate::domain::{CouponId, DropId};
use crate::tls::{StoreAddress, Tls};

#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[[user]:password@]host:port[/database]`, or `rediss://…` with TLS settings; several
    /// nodes are separated by commas.
    pub url: StoreAddress,
    /// Prefix of every key; `fc` unless several installations share one Redis.
    pub prefix: String,
    /// Maximum wait for a reply. A call that timed out may have run.
    pub timeout: Duration,
    pub mode: RedisMode,
    pub durability: RedisDurability,
}

/// How this process ensures that Redis keeps acknowledged writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RedisDurability {
    /// By reading its settings
    #[default]
    Checked,
    /// The operator guarantees it: for a provider's Redis whose settings can't be read
    Managed,
}

/// One installation's Redis: a shared connection that reconnects automatically, with the key names
/// and scripts. Commands are not retried.
#[derive(Clone)]
pub struct Redis {
    pub(super) conn: SharedConnection,
    pub(super) seeds: Arc<Seeds>,
    pub(super) tls: Option<Tls>,
    pub(super) durability: RedisDurability,
    pub(super) prefix: Arc<str>,
}

impl Redis {
    /// Creates the handle. It connects on first use.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisError> {
        let tls = settings.url.tls().cloned();
        let seeds = Seeds::new(
            settings.url.url(),
            settings.mode.clone(),
            tls.clone(),
            settings.timeout,
        )?;
        let seeds = Arc::new(seeds);
        Ok(Self {
            conn: SharedConnection::new(Arc::clone(&seeds), settings.timeout)?,
            seeds,
            tls,
            durability: settings.durability,
            prefix: settings.prefix.as_str().into(),
        })
    }

    /// Returns the address, without user and password.
    pub fn host_and_port(&self) -> String {
        self.seeds.hosts_and_ports()
    }

    /// Returns the shared connection, for commands with a key.
    pub fn connection(&self) -> SharedConnection {
        self.conn.clone()
    }

    /// Returns a handle with dedicated connections to the current server processes. They never
    /// reconnect. A pass uses this handle, so that its reads and writes reach the same server
    /// process.
    pub async fn pinned(&self) -> Result<Self, RedisError> {
        Ok(Self {
            conn: self.conn.pinned().await?,
            ..self.clone()
        })
    }

    pub fn keys(&self, coupon: CouponId, drop: DropId) -> DropKeys {
        DropKeys::new(&self.prefix, coupon, drop)
    }

    /// Whether the operator asserts that Redis is durable, so that nothing is checked.
    pub fn is_managed(&self) -> bool {
        self.durability == RedisDurability::Managed
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns Redis's time in Unix milliseconds. With several servers, this is the earliest of the
    /// clocks that answer, so that nothing appears older than it is.
    pub async fn time_ms(&self) -> Result<i64, RedisError> {
        let time = async |shard: &Arc<Shard>| {
            let (seconds, micros): (i64, i64) = redis::cmd("TIME")
                .query_async(&mut self.conn.to(shard))
                .await?;
            Ok::<_, RedisError>(seconds * 1_000 + micros / 1_000)
        };
        let told = join_all(self.conn.shards().await?.iter().map(time)).await;
        let earliest = told
            .iter()
            .filter_map(|told| told.as_ref().ok())
            .min()
            .copied();
        let error = || told.into_iter().find_map(Result::err);
        earliest.ok_or_else(|| {
            error().unwrap_or_else(|| (ErrorKind::Io, "no Redis server is known").into())
        })
    }

    /// Reads the facts that the server behind `conn` reports about itself.
    pub(super) async fn facts(
        &self,
        conn: &mut impl ConnectionLike,
    ) -> Result<ServerFacts, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO")
            .arg("server")
            .cmd("INFO")
            .arg("replication");
        Ok(ServerFacts::of(
            &pipe.query_async::<[String; 2]>(conn).await?.concat(),
        ))
    }

    /// Checks that each server of Redis answers.
    pub async fn ping(&self) -> Result<(), RedisError> {
        let ping = async |shard| {
            redis::cmd("PING")
                .query_async::<()>(&mut self.conn.to(shard))
                .await
        };
        try_join_all(self.conn.shards().await?.iter().map(ping))
            .await
            .map(|_| ())
    }
}

/// A script and its hash.
pub(super) struct Script {
    text: String,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &str) -> Self {
        let text = format!("{}{text}", include_str!("scripts/identity.lua"));
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    /// Runs the script by hash, or by text if Redis does not have it yet. Sending it twice is safe,
    /// because `NOSCRIPT` means that it did not run.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        conn: &mut impl ConnectionLike,
        keys: &[&str],
        args: &[String],
    ) -> Result<T, RedisError> {
        self.run_with(conn, |cmd| {
            cmd.arg(keys.len()).arg(keys).arg(args);
        })
        .await
    }

    /// Like [`Self::run`]; `add` adds the number of keys, the keys and the arguments.
    pub(super) async fn run_with<T: FromRedisValue>(
        &self,
        conn: &mut impl ConnectionLike,
        add: impl Fn(&mut Cmd),
    ) -> Result<T, RedisError> {
        let command = |verb: &str, script: &str| {
            let mut cmd = redis::cmd(verb);
            add(cmd.arg(script));
            cmd
        };
        match command("EVALSHA", &self.hash).query_async(conn).await {
            Err(error) if is_noscript(&error) => {
                command("EVAL", &self.text).query_async(conn).await
            }
            other => other,
        }
    }
}

fn is_noscript(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
