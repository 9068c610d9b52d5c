//! The connection to one server. It reconnects automatically, even if a host died without closing
//! its connections or was demoted; redis-rs alone would treat timeouts and `READONLY` as replies
//! and keep using the same server. No command is retried automatically.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{Client, Cmd, Pipeline, RedisError, Value};

/// Errors of a server that is not a master, or not yet one. Its address may now lead to another
/// server.
pub(super) const WRONG_SERVER: [&str; 3] = ["READONLY", "LOADING", "MASTERDOWN"];

/// Minimum interval between two replacements of a connection, so that a server that keeps refusing
/// is not flooded with connections.
const SETTLED: Duration = Duration::from_secs(1);

/// A server with its connection.
pub(super) struct ServerLink {
    /// Host and port.
    pub(super) address: String,
    link: Link,
}

enum Link {
    Lasting(Box<Lasting>),
    /// A connection to one server process, which ends with that process.
    Pinned(MultiplexedConnection),
}

struct Lasting {
    client: Client,
    config: ConnectionManagerConfig,
    current: ArcSwap<Current>,
    begun: Instant,
}

/// One connection to one server.
struct Current {
    manager: ConnectionManager,
    made_at: Instant,
    /// When the last reply arrived, in milliseconds since [`Lasting::begun`].
    heard_at_ms: AtomicU64,
}

impl ServerLink {
    pub(super) fn lasting(
        address: String,
        client: Client,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(timeout))
            .set_connection_timeout(Some(timeout))
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(500))
            .set_number_of_retries(1);
        let current = ArcSwap::from_pointee(Current::new(&client, &config)?);
        let link = Link::Lasting(Box::new(Lasting {
            client,
            config,
            current,
            begun: Instant::now(),
        }));
        Ok(Self { address, link })
    }

    /// Returns a link with a dedicated connection to the current server process.
    pub(super) async fn pinned(&self, timeout: Duration) -> Result<Self, RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_response_timeout(Some(timeout))
            .set_connection_timeout(Some(timeout));
        let conn = match &self.link {
            Link::Lasting(lasting) => {
                lasting
                    .client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?
            }
            Link::Pinned(conn) => conn.clone(),
        };
        Ok(Self {
            address: self.address.clone(),
            link: Link::Pinned(conn),
        })
    }

    /// Replaces the connection, because the address may now lead to another server.
    pub(super) fn reconnect(&self) {
        if let Link::Lasting(lasting) = &self.link {
            lasting.replace(&lasting.current.load_full());
        }
    }

    pub(super) async fn send(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let lasting = match &self.link {
            Link::Lasting(lasting) => lasting,
            Link::Pinned(conn) => return conn.clone().send_packed_command(cmd).await,
        };
        let used = lasting.current.load_full();
        let sent_at_ms = lasting.now_ms();
        let result = used.manager.clone().send_packed_command(cmd).await;
        lasting.heed(&used, sent_at_ms, result.as_ref().map(std::slice::from_ref));
        result
    }

    pub(super) async fn send_all(
        &self,
        pipeline: &Pipeline,
        replies: Range<usize>,
    ) -> Result<Vec<Value>, RedisError> {
        let lasting = match &self.link {
            Link::Lasting(lasting) => lasting,
            Link::Pinned(conn) => {
                return conn
                    .clone()
                    .send_packed_commands(pipeline, replies.start, replies.len())
                    .await;
            }
        };
        let used = lasting.current.load_full();
        let sent_at_ms = lasting.now_ms();
        let result = used
            .manager
            .clone()
            .send_packed_commands(pipeline, replies.start, replies.len())
            .await;
        lasting.heed(&used, sent_at_ms, result.as_deref());
        result
    }
}

impl Current {
    fn new(client: &Client, config: &ConnectionManagerConfig) -> Result<Self, RedisError> {
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config.clone())?;
        Ok(Self {
            manager,
            made_at: Instant::now(),
            heard_at_ms: AtomicU64::new(0),
        })
    }
}

impl Lasting {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Reacts to the result of a command. Errors without a code come from the client itself, which
    /// detects a lost connection but not a silent one.
    fn heed(&self, used: &Arc<Current>, sent_at_ms: u64, answer: Result<&[Value], &RedisError>) {
        let wrong = |code: &str| WRONG_SERVER.contains(&code);
        let (came, server_is_wrong) = match answer {
            Ok(replies) => (
                true,
                replies
                    .iter()
                    .any(|r| matches!(r, Value::ServerError(e) if wrong(e.code()))),
            ),
            Err(error) => (error.code().is_some(), error.code().is_some_and(wrong)),
        };
        let is_silent = || used.heard_at_ms.load(Ordering::Relaxed) < sent_at_ms;
        if server_is_wrong || answer.is_err_and(|error| !came && error.is_timeout() && is_silent())
        {
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
                    tracing::warn!("Redis does not answer or is not a master; reconnecting");
                }
            }
            Err(error) => tracing::error!(%error, "cannot open a new connection to Redis"),
        }
    }
}
