//! The connection that every use of Redis goes through, and the scripts' texts and hashes. Each
//! script stands in a `.lua` file of its own with its KEYS, ARGV, replies and invariant.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::aio::ConnectionLike;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, RedisError, ServerErrorKind};
use secrecy::{ExposeSecret as _, SecretString};

use super::connection::SharedConnection;
use super::gate::KnownGate;
use super::keys::DropKeys;
use crate::domain::{CouponId, DropId};

#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[:password@]host:port[/database]`
    pub url: SecretString,
    /// Prefix of every key; `fc` unless several installations share one Redis.
    pub prefix: String,
    /// Longest wait for an answer. A call that timed out may have run.
    pub timeout: Duration,
}

/// A host that acknowledges nothing for this long is left by the kernel. Its default is a quarter
/// of an hour.
const SILENT: Duration = Duration::from_secs(3);

/// One installation's Redis: a connection shared by all callers that comes back by itself, and the
/// names and scripts that go with it. No command is sent twice by itself.
#[derive(Clone)]
pub struct Redis {
    pub(super) conn: SharedConnection,
    client: Client,
    timeout: Duration,
    pub(super) prefix: Arc<str>,
    pub(super) database: i64,
    pub(super) known_gate: Arc<ArcSwap<KnownGate>>,
}

impl Redis {
    /// Makes the handle; the connection is made at first use.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisError> {
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(TcpKeepalive::new().with_time(SILENT).with_interval(SILENT / 3).with_retries(3))
            .set_user_timeout(SILENT);
        let client = Client::open(settings.url.expose_secret().into_connection_info()?.set_tcp_settings(tcp))?;
        let conn = SharedConnection::new(client.clone(), settings.timeout)?;
        let database = client.get_connection_info().redis_settings().db();
        Ok(Self {
            conn,
            client,
            timeout: settings.timeout,
            prefix: settings.prefix.as_str().into(),
            database,
            known_gate: Arc::default(),
        })
    }

    /// The shared connection, for plain commands.
    pub fn connection(&self) -> SharedConnection {
        self.conn.clone()
    }

    /// The same on a connection of its own, to one server process and no other: it does not come
    /// back by itself. A pass uses one, so that what it read and what it writes to are the same life.
    pub async fn pinned(&self) -> Result<Self, RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.timeout))
            .set_connection_timeout(Some(self.timeout));
        let conn = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { conn: SharedConnection::pinned(conn), ..self.clone() })
    }

    /// The names of a drop's keys.
    pub fn keys(&self, coupon: CouponId, drop: DropId) -> DropKeys {
        DropKeys::new(&self.prefix, coupon, drop)
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Redis's own time, Unix milliseconds.
    pub async fn time_ms(&self) -> Result<i64, RedisError> {
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut self.connection()).await?;
        Ok(seconds * 1_000 + micros / 1_000)
    }

    /// Asks Redis for a sign of life.
    pub async fn ping(&self) -> Result<(), RedisError> {
        redis::cmd("PING").query_async(&mut self.connection()).await
    }
}

/// A script that may load itself: everything but admission.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    /// Runs it by hash, and by text where this Redis has not seen it yet. Sending it twice is safe:
    /// `NOSCRIPT` means that it did not run.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        conn: &mut impl ConnectionLike,
        keys: &[&str],
        args: &[String],
    ) -> Result<T, RedisError> {
        match self.command("EVALSHA", &self.hash, keys, args).query_async(conn).await {
            Err(error) if is_noscript(&error) => self.command("EVAL", self.text, keys, args).query_async(conn).await,
            other => other,
        }
    }

    #[allow(clippy::unused_self)]
    fn command(&self, verb: &str, script: &str, keys: &[&str], args: &[String]) -> Cmd {
        let mut cmd = redis::cmd(verb);
        cmd.arg(script).arg(keys.len()).arg(keys).arg(args);
        cmd
    }
}

pub(super) fn is_noscript(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
