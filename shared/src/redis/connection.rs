//! Connections to the servers that hold the data. Each command is sent once, to the server that has
//! its key; no command is retried automatically.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::router::{Router, Shard};
use super::servers::Seeds;

/// A connection that all callers share. It reconnects automatically, even if a host died without
/// closing its connections or was demoted; redis-rs alone would treat timeouts and `READONLY` as
/// replies and keep using the same server.
#[derive(Clone)]
pub struct SharedConnection {
    router: Arc<Router>,
    /// The only server to use. If `None`, each command goes to the server that has its key.
    only: Option<Arc<Shard>>,
}

impl SharedConnection {
    /// Connects on first use.
    pub(super) fn new(seeds: Arc<Seeds>, timeout: Duration) -> Result<Self, RedisError> {
        Ok(Self {
            router: Arc::new(Router::new(seeds, timeout)?),
            only: None,
        })
    }

    /// Creates a copy with separate connections to the present server processes; it does not
    /// reconnect.
    pub(super) async fn pinned(&self) -> Result<Self, RedisError> {
        let shards = self.shards().await?;
        Ok(Self {
            router: Arc::new(self.router.pinned(&shards).await?),
            only: None,
        })
    }

    /// Returns the servers that hold data. If they can change, the list is at most a second old.
    pub(super) async fn shards(&self) -> Result<Arc<[Arc<Shard>]>, RedisError> {
        match &self.only {
            Some(only) => Ok([Arc::clone(only)].into()),
            None => self.router.fresh().await,
        }
    }

    /// Creates a connection to this server only.
    pub(super) fn to(&self, shard: &Arc<Shard>) -> Self {
        Self {
            router: Arc::clone(&self.router),
            only: Some(Arc::clone(shard)),
        }
    }

    /// Returns the server that has a key.
    pub(super) async fn shard_of(&self, key: &str) -> Result<Arc<Shard>, RedisError> {
        match &self.only {
            Some(only) => Ok(Arc::clone(only)),
            None => self.router.shard_of(key.as_bytes()).await,
        }
    }

    /// Starts a lookup of the primaries in the background.
    pub(super) fn ask_soon(&self) {
        self.router.ask_soon();
    }

    /// Disconnects from a server that is not a master: its address may now lead to another server,
    /// or another server may be primary.
    pub(super) fn leave(&self, shard: &Shard) {
        shard.server.reconnect();
        self.router.ask_soon();
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let shard = match &self.only {
                Some(only) => Arc::clone(only),
                None => self.router.of_command(cmd).await?,
            };
            self.router.send(&shard, cmd).await
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let replies = offset..offset + count;
        async move {
            match &self.only {
                Some(only) => self.router.send_all(only, pipeline, replies).await,
                None => self.router.send_anywhere(pipeline, replies).await,
            }
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.router.database()
    }
}
