//! The connection that every use of Redis goes through, and the scripts' texts and hashes. Each
//! script stands in a `.lua` file of its own with its KEYS, ARGV, replies and invariant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline, RedisError, RedisFuture,
    ServerErrorKind, Value,
};

use super::keys::DropKeys;
use super::known_gate::KnownGate;
use super::server::ServerFacts;
use crate::domain::{CouponId, DropId};
use crate::tls::{StoreAddress, Tls};

#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://[[user]:password@]host:port[/database]`, or `rediss://…` and how it is encrypted.
    pub url: StoreAddress,
    /// Prefix of every key; `fc` unless several installations share one Redis.
    pub prefix: String,
    /// Longest wait for an answer. A call that timed out may have run.
    pub timeout: Duration,
    pub durability: RedisDurability,
}

/// Who says that Redis keeps what it promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RedisDurability {
    /// Its settings, which are read
    #[default]
    Checked,
    /// The operator: where a provider runs it and does not let them be read
    Managed,
}

/// A host that acknowledges nothing for this long is left by the kernel. Its default is a quarter
/// of an hour.
const SILENT: Duration = Duration::from_secs(3);

/// One installation's Redis: a connection shared by all callers that comes back by itself, and the
/// names and scripts that go with it. No command is sent twice by itself.
#[derive(Clone)]
pub struct Redis {
    pub(super) conn: SharedConnection,
    pub(super) client: Client,
    pub(super) tls: Option<Tls>,
    pub(super) durability: RedisDurability,
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
        let address = settings.url.url().into_connection_info()?.set_tcp_settings(tcp);
        let client = match settings.url.tls() {
            Some(tls) => Client::build_with_tls(address, tls.for_redis())?,
            None => Client::open(address)?,
        };
        let conn = SharedConnection::new(client.clone(), settings.timeout)?;
        let database = client.get_connection_info().redis_settings().db();
        Ok(Self {
            conn,
            client,
            tls: settings.url.tls().cloned(),
            durability: settings.durability,
            timeout: settings.timeout,
            prefix: settings.prefix.as_str().into(),
            database,
            known_gate: Arc::default(),
        })
    }

    /// Where it is, without user and password.
    pub fn host_and_port(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// The shared connection, for plain commands.
    pub fn connection(&self) -> SharedConnection {
        self.conn.clone()
    }

    /// The same on a connection of its own, to one server process and no other: it does not come
    /// back by itself. A pass uses one, so what it read and what it writes to are the same life.
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

    /// Whether the operator vouches that this Redis keeps what it promised.
    pub fn is_managed(&self) -> bool {
        self.durability == RedisDurability::Managed
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Redis's own time, Unix milliseconds.
    pub async fn time_ms(&self) -> Result<i64, RedisError> {
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut self.connection()).await?;
        Ok(seconds * 1_000 + micros / 1_000)
    }

    /// What the server behind `conn` says of itself.
    pub async fn facts(&self, conn: &mut impl redis::aio::ConnectionLike) -> Result<ServerFacts, RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        Ok(ServerFacts::of(&pipe.query_async::<[String; 2]>(conn).await?.concat()))
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

/// Errors of a server that is no master, or not one yet: the address may lead to another by now.
const WRONG_SERVER: [&str; 3] = ["READONLY", "LOADING", "MASTERDOWN"];

/// The least time between two replacements, so that a server that goes on refusing is not flooded
/// with connections.
const SETTLED: Duration = Duration::from_secs(1);

/// A connection that all callers share. It comes back by itself, also from a host that died without
/// a word or was demoted: to redis-rs a time-out and `READONLY` are answers, after which it goes on
/// asking the same server. No command is sent twice by itself.
#[derive(Clone)]
pub struct SharedConnection(ConnectionKind);

#[derive(Clone)]
enum ConnectionKind {
    Lasting(Arc<Shared>),
    /// To one server process; it ends with it.
    Pinned(MultiplexedConnection),
}

struct Shared {
    client: Client,
    config: ConnectionManagerConfig,
    current: ArcSwap<Current>,
    begun: Instant,
}

/// One connection to one server.
struct Current {
    manager: ConnectionManager,
    made_at: Instant,
    /// When the last reply came, in milliseconds since [`Shared::begun`].
    heard_at_ms: AtomicU64,
}

impl SharedConnection {
    /// The connection is made at first use.
    pub(super) fn new(client: Client, timeout: Duration) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(timeout))
            .set_connection_timeout(Some(timeout))
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(500))
            .set_number_of_retries(1);
        let begun = Instant::now();
        let current = Current::new(&client, &config)?;
        Ok(Self(ConnectionKind::Lasting(Arc::new(Shared {
            client,
            config,
            current: ArcSwap::from_pointee(current),
            begun,
        }))))
    }

    pub(super) fn pinned(conn: MultiplexedConnection) -> Self {
        Self(ConnectionKind::Pinned(conn))
    }

    /// Goes on with a new connection: the address may lead to another server by now.
    pub(super) fn replace(&self) {
        if let ConnectionKind::Lasting(shared) = &self.0 {
            shared.replace(&shared.current.load_full());
        }
    }
}

impl Current {
    fn new(client: &Client, config: &ConnectionManagerConfig) -> Result<Self, RedisError> {
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Self { manager, made_at: Instant::now(), heard_at_ms: AtomicU64::new(0) })
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Draws the conclusion from what came of a command. An error without a code is the client's
    /// own: it sees by itself that a connection is lost, but not that one is silent.
    fn heed(&self, used: &Arc<Current>, sent_at_ms: u64, answer: Result<&[Value], &RedisError>) {
        let wrong = |code: &str| WRONG_SERVER.contains(&code);
        let (came, server_is_wrong) = match answer {
            Ok(replies) => (true, replies.iter().any(|r| matches!(r, Value::ServerError(e) if wrong(e.code())))),
            Err(error) => (error.code().is_some(), error.code().is_some_and(wrong)),
        };
        let is_silent = || used.heard_at_ms.load(Ordering::Relaxed) < sent_at_ms;
        if server_is_wrong || answer.is_err_and(|error| !came && error.is_timeout() && is_silent()) {
            self.replace(used);
        } else if came {
            used.heard_at_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    fn replace(&self, used: &Arc<Current>) {
        if used.made_at.elapsed() < SETTLED {
            return;
        }
        match Current::new(&self.client, &self.config) {
            Ok(fresh) => {
                let before = self.current.compare_and_swap(used, Arc::new(fresh));
                if Arc::ptr_eq(&before, used) {
                    tracing::warn!("Redis is silent or no master: connecting anew");
                }
            }
            Err(error) => tracing::error!(%error, "no new connection to Redis can be made"),
        }
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let shared = match &mut self.0 {
                ConnectionKind::Lasting(shared) => shared,
                ConnectionKind::Pinned(conn) => return conn.send_packed_command(cmd).await,
            };
            let (used, sent_at_ms) = (shared.current.load_full(), shared.now_ms());
            let result = used.manager.clone().send_packed_command(cmd).await;
            shared.heed(&used, sent_at_ms, result.as_ref().map(std::slice::from_ref));
            result
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let shared = match &mut self.0 {
                ConnectionKind::Lasting(shared) => shared,
                ConnectionKind::Pinned(conn) => return conn.send_packed_commands(pipeline, offset, count).await,
            };
            let (used, sent_at_ms) = (shared.current.load_full(), shared.now_ms());
            let result = used.manager.clone().send_packed_commands(pipeline, offset, count).await;
            shared.heed(&used, sent_at_ms, result.as_deref());
            result
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            ConnectionKind::Lasting(shared) => shared.client.get_connection_info().redis_settings().db(),
            ConnectionKind::Pinned(conn) => conn.get_db(),
        }
    }
}
