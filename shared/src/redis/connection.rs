//! The shared connection to Redis. It comes back by itself, also from a host that died without a
//! word or was demoted: to redis-rs a time-out and `READONLY` are answers, after which it goes on
//! asking the same server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, Value};

/// Errors of a server that is no master, or not one yet: the address may lead to another by now.
const WRONG_SERVER: [&str; 3] = ["READONLY", "LOADING", "MASTERDOWN"];

/// The least time between two replacements, so that a server that goes on refusing is not flooded
/// with connections.
const SETTLED: Duration = Duration::from_secs(1);

/// A connection that all callers share. No command is sent twice by itself.
#[derive(Clone)]
pub struct SharedConnection(Kind);

#[derive(Clone)]
enum Kind {
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
        Ok(Self(Kind::Lasting(Arc::new(Shared { client, config, current: ArcSwap::from_pointee(current), begun }))))
    }

    pub(super) fn pinned(conn: MultiplexedConnection) -> Self {
        Self(Kind::Pinned(conn))
    }

    /// Goes on with a new connection: the address may lead to another server by now.
    pub(super) fn replace(&self) {
        if let Kind::Lasting(shared) = &self.0 {
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

    /// Draws the conclusion from what came of a command. An error without a code is the client's own:
    /// it sees by itself that a connection is lost, but not that one is silent.
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
                Kind::Lasting(shared) => shared,
                Kind::Pinned(conn) => return conn.send_packed_command(cmd).await,
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
                Kind::Lasting(shared) => shared,
                Kind::Pinned(conn) => return conn.send_packed_commands(pipeline, offset, count).await,
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
            Kind::Lasting(shared) => shared.client.get_connection_info().redis_settings().db(),
            Kind::Pinned(conn) => conn.get_db(),
        }
    }
}
