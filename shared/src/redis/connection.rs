//! The connection that all callers share. redis-rs finds the servers (one address, or the primaries
//! of a cluster). This type replaces redis-rs's connection when only that helps: redis-rs treats a
//! time-out, `READONLY`, `NOREPLICAS` and `CLUSTERDOWN` as ordinary answers, and stays with a server
//! that is frozen or cut off (docs/decisions/0009-replicas.md). Nothing is sent twice: a command
//! that timed out may have run, so only the caller can decide whether to retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use redis::aio::ConnectionLike;
use redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use redis::{Cmd, Pipeline, RedisError, RedisFuture, RedisResult, ServerError, Value};
use tokio::sync::OnceCell;

use super::deployment::{Deployment, Link};

/// Error codes of a server that is not a master, or is about to be replaced.
const LEFT_AFTER: [&str; 5] = [
    "READONLY",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "LOADING",
];

/// Minimum age of a connection before it is replaced, so that a server that keeps refusing is not
/// flooded with connections.
const SETTLED: Duration = Duration::from_millis(500);

/// Pause after a failed attempt to replace the connection.
const PAUSE: Duration = Duration::from_millis(100);

struct CurrentLink {
    link: Link,
    made_at: Instant,
}

/// A connection to the servers that hold the data, made on first use. In a cluster, each command
/// goes to the primary of its key.
#[derive(Clone)]
pub struct SharedConnection(Arc<SharedLink>);

struct SharedLink {
    deployment: Arc<Deployment>,
    current: OnceCell<ArcSwap<CurrentLink>>,
    is_replacing: AtomicBool,
}

impl SharedConnection {
    pub(super) fn new(deployment: Arc<Deployment>) -> Self {
        let shared = SharedLink {
            deployment,
            current: OnceCell::new(),
            is_replacing: AtomicBool::new(false),
        };
        Self(Arc::new(shared))
    }

    /// Starts to replace the connection in the background, unless it is new or is already being
    /// replaced.
    pub(super) fn leave(&self) {
        if let Some(current) = self.0.current.get() {
            self.0.leave(&current.load());
        }
    }

    /// Sends commands to the primary of a hash slot, without routing them by their keys. The errors
    /// of single commands are among the answers.
    pub(super) async fn send_keyless(
        &self,
        slot: u16,
        pipeline: &Pipeline,
    ) -> RedisResult<Vec<Value>> {
        let used = self.current().await?;
        let count = pipeline.len();
        let result = match used.link.clone() {
            Link::One(mut one) => one.send_packed_commands(pipeline, 0, count).await,
            Link::Cluster(mut cluster) => {
                let primary =
                    SingleNodeRoutingInfo::SpecificNode(Route::new(slot, SlotAddr::Master));
                let pipeline = pipeline.clone();
                cluster.route_pipeline(pipeline, 0, count, primary).await
            }
        };
        self.0.heed(&used, result.as_deref());
        result
    }

    async fn current(&self) -> RedisResult<Arc<CurrentLink>> {
        Ok(self
            .0
            .current
            .get_or_try_init(|| async { Ok::<_, RedisError>(ArcSwap::new(self.0.make().await?)) })
            .await?
            .load_full())
    }

    async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let used = self.current().await?;
        let result = used.link.connection().req_packed_command(cmd).await;
        let answer = result.as_ref().map(std::slice::from_ref);
        self.0.heed(&used, answer);
        result
    }

    async fn send_all(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let used = self.current().await?;
        let result = match &used.link {
            // The keys may be in several hash slots, which redis-rs refuses in one pipeline.
            Link::Cluster(cluster) if !pipeline.is_transaction() => {
                let sent = pipeline.cmd_iter().map(async |cmd| {
                    let answer = cluster.clone().req_packed_command(cmd).await;
                    // As from one server, the errors of single commands are among the answers.
                    answer.or_else(|error| ServerError::try_from(error).map(Value::ServerError))
                });
                try_join_all(sent).await
            }
            link => {
                let mut link = link.connection();
                link.req_packed_commands(pipeline, offset, count).await
            }
        };
        self.0.heed(&used, result.as_deref());
        result
    }
}

impl SharedLink {
    async fn make(&self) -> RedisResult<Arc<CurrentLink>> {
        let link = self.deployment.connect().await?;
        let made_at = Instant::now();
        Ok(Arc::new(CurrentLink { link, made_at }))
    }

    /// Reacts to the answer to a command. Errors without a code come from the client itself. A
    /// cluster's connection repairs lost connections to its nodes.
    fn heed(self: &Arc<Self>, used: &Arc<CurrentLink>, answer: Result<&[Value], &RedisError>) {
        let is_left = |code| LEFT_AFTER.contains(&code);
        let must_leave = match answer {
            Ok(replies) => replies
                .iter()
                .any(|it| matches!(it, Value::ServerError(error) if is_left(error.code()))),
            Err(error) => match (error.code(), &used.link) {
                (Some(code), _) => is_left(code),
                (None, Link::One(_)) => error.is_timeout() || error.is_unrecoverable_error(),
                (None, Link::Cluster(_)) => error.is_timeout(),
            },
        };
        if must_leave {
            self.leave(used);
        }
    }

    /// Replaces a connection. Commands continue to use it until the new one is ready, because the
    /// other nodes of a cluster may be working.
    fn leave(self: &Arc<Self>, used: &Arc<CurrentLink>) {
        let current = self.current.get();
        let is_current = current.is_some_and(|current| Arc::ptr_eq(&current.load(), used));
        let is_settled = is_current && used.made_at.elapsed() >= SETTLED;
        if !is_settled || self.is_replacing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            match (shared.make().await, shared.current.get()) {
                (Ok(fresh), Some(current)) => {
                    current.store(fresh);
                    tracing::warn!("the connection to Redis was replaced");
                }
                (Ok(_), None) => {}
                (Err(error), _) => {
                    tracing::debug!(%error, "cannot connect to Redis anew");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            shared.is_replacing.store(false, Ordering::Release);
        });
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.send(cmd).boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.send_all(pipeline, offset, count).boxed()
    }

    fn get_db(&self) -> i64 {
        self.0.deployment.addresses[0].redis_settings().db()
    }
}
