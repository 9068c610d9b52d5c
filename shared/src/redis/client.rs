//! One installation's Redis, with the scripts and their hashes. Each script is in its own `.lua`
//! file, which documents its KEYS, ARGV, replies and invariant.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use futures_util::future::join_all;
use redis::{
    ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, ToRedisArgs,
    Value, from_redis_value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::SharedConnection;
use super::deployment::{Deployment, RedisDurability, RedisSettings, addresses};
use super::keys::DropKeys;
use super::refusing::Refusing;
use super::servers::{Clocks, HASH_SLOTS, HashSlots, Servers};
use crate::domain::{CouponId, DropId};

/// The result of this process's last check of writes, and when the check began. Locked during a
/// check.
pub(super) type LastWrite = Arc<Mutex<Option<(Instant, RedisResult<Refusing>)>>>;

/// One installation's Redis: a shared connection that reconnects automatically, with the key names
/// and scripts. Commands are not retried.
#[derive(Clone)]
pub struct Redis {
    pub(super) conn: SharedConnection,
    pub(super) deployment: Arc<Deployment>,
    /// The only servers from which this handle reads coupons and drops.
    pub(super) pinned: Option<Arc<Servers>>,
    /// Whether the last check of writes succeeded.
    pub(super) last_write: LastWrite,
}

/// A server that holds data.
pub(super) struct Master {
    /// Host and port, for messages.
    pub(super) address: String,
    /// The id of the cluster's node. `None` if there is no cluster.
    node: Option<String>,
    /// Its ranges of hash slots, in the order in which the cluster reports them.
    pub(super) hash_slots: Vec<HashSlots>,
    conn: SharedConnection,
}

impl Master {
    /// Sends commands to this server, without routing them by their keys. The errors of single
    /// commands are among the answers.
    pub(super) async fn send(&self, pipe: &mut Pipeline) -> RedisResult<Vec<Value>> {
        if self.node.is_some() {
            pipe.cmd("CLUSTER").arg("MYID");
        }
        let mut told = self.conn.send_keyless(self.hash_slots[0].0, pipe).await?;
        let Some(node) = &self.node else {
            return Ok(told);
        };
        let who: String = from_redis_value(told.pop().unwrap_or(Value::Nil))?;
        if who == *node {
            return Ok(told);
        }
        // While a node is not connected, redis-rs sends its commands to another one.
        self.leave();
        let why = "a server of the cluster is not connected";
        Err((ErrorKind::Io, why, self.address.clone()).into())
    }

    /// Starts to replace the connection in the background, unless it is new or is already being
    /// replaced: the address may lead to another server now, or another server may be master.
    pub(super) fn leave(&self) {
        self.conn.leave();
    }
}

impl Redis {
    /// Creates the handle. It connects on first use.
    pub fn new(settings: &RedisSettings) -> RedisResult<Self> {
        let addresses = addresses(settings.url.url()).map_err(|why| {
            let what = "REDIS_URL can't be used";
            RedisError::from((ErrorKind::InvalidClientConfig, what, why))
        })?;
        let deployment = Arc::new(Deployment {
            addresses,
            settings: settings.clone(),
        });
        Ok(Self {
            conn: SharedConnection::new(Arc::clone(&deployment)),
            deployment,
            pinned: None,
            last_write: LastWrite::default(),
        })
    }

    /// Returns all addresses, without user and password.
    pub fn host_and_port(&self) -> String {
        let addresses = self
            .deployment
            .addresses
            .iter()
            .map(|info| info.addr().to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Returns the shared connection, for commands with a key.
    pub fn connection(&self) -> SharedConnection {
        self.conn.clone()
    }

    /// Returns a handle that reads coupons and drops only from the present server processes, and
    /// fails if another one answers. A pass uses this handle, so that all it reads of a coupon comes
    /// from one process; the scripts that write check the process themselves.
    pub async fn pinned(&self) -> RedisResult<Self> {
        Ok(Self {
            pinned: Some(Arc::new(self.servers().await?)),
            ..self.clone()
        })
    }

    /// Returns the servers that hold data.
    pub(super) async fn masters(&self) -> RedisResult<Vec<Master>> {
        if !self.deployment.is_cluster() {
            return Ok(vec![Master {
                address: self.host_and_port(),
                node: None,
                hash_slots: vec![(0, HASH_SLOTS - 1)],
                conn: self.conn.clone(),
            }]);
        }
        let asked = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
        let ranges: Vec<Vec<Value>> = asked.query_async(&mut self.conn.clone()).await?;
        let unreadable = (
            ErrorKind::UnexpectedReturnType,
            "the cluster's answer to CLUSTER SLOTS can't be read",
        );
        let mut masters = BTreeMap::new();
        for range in &ranges {
            let [first, last, primary, ..] = range.as_slice() else {
                return Err(unreadable.into());
            };
            let first = u16::from_redis_value_ref(first)?;
            let last = u16::from_redis_value_ref(last)?;
            let (host, port, node, _): (Option<String>, u16, String, Value) =
                FromRedisValue::from_redis_value_ref(primary)?;
            let master = masters.entry(node.clone()).or_insert_with(|| Master {
                address: format!("{}:{port}", host.unwrap_or_default()),
                node: Some(node),
                hash_slots: Vec::new(),
                conn: self.conn.clone(),
            });
            master.hash_slots.push((first, last));
        }
        if masters.is_empty() {
            return Err(unreadable.into());
        }
        Ok(masters.into_values().collect())
    }

    pub fn keys(&self, coupon: CouponId, drop: DropId) -> DropKeys {
        DropKeys::new(self.prefix(), coupon, drop)
    }

    /// Whether the operator asserts that Redis is durable, so that an append-only file and fenced
    /// replicas are not required.
    pub fn is_managed(&self) -> bool {
        self.deployment.settings.durability == RedisDurability::Managed
    }

    pub fn prefix(&self) -> &str {
        &self.deployment.settings.prefix
    }

    /// Returns the earliest of the servers' [`Redis::clocks`].
    pub async fn time_ms(&self) -> RedisResult<i64> {
        Ok(self.clocks().await?.earliest())
    }

    /// Returns the Unix time of each server that answers, in milliseconds. For a pinned handle, each
    /// must answer, except those that were away when it was pinned, because it does not read their
    /// coupons.
    pub async fn clocks(&self) -> RedisResult<Clocks> {
        let mut masters = self.masters().await?;
        if let Some(pinned) = &self.pinned {
            masters.retain(|master| !pinned.lack(&master.hash_slots));
        }
        let told = join_all(masters.into_iter().map(async |master| {
            let told = master
                .send(redis::pipe().cmd("TIME"))
                .await?
                .pop()
                .unwrap_or(Value::Nil);
            let (seconds, micros): (i64, i64) = from_redis_value(told)?;
            Ok::<_, RedisError>((master.hash_slots, seconds * 1_000 + micros / 1_000))
        }))
        .await;
        let mut clocks = Vec::new();
        let mut silent = None;
        for one in told {
            match one {
                Ok(clock) => clocks.push(clock),
                Err(error) => silent = Some(error),
            }
        }
        match silent {
            Some(error) if self.pinned.is_some() || clocks.is_empty() => Err(error),
            _ => Ok(Clocks(clocks)),
        }
    }
}

/// A script. On first use, it gets the function that reads the server's identity.
pub(super) struct Script {
    own: &'static str,
    text_and_hash: OnceLock<(String, String)>,
}

impl Script {
    pub(super) const fn new(own: &'static str) -> Self {
        Self {
            own,
            text_and_hash: OnceLock::new(),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text_and_hash().0
    }

    fn text_and_hash(&self) -> &(String, String) {
        self.text_and_hash.get_or_init(|| {
            let text = format!("{}{}", include_str!("scripts/identity.lua"), self.own);
            let hash = redis::Script::new(&text).get_hash().to_owned();
            (text, hash)
        })
    }
}

impl Redis {
    /// Runs a script by hash, or by text if Redis does not have it yet. Sending it twice is safe,
    /// because `NOSCRIPT` means that it did not run.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
    ) -> RedisResult<T> {
        let run = async |verb, script| {
            let mut cmd = redis::cmd(verb);
            cmd.arg(script).arg(keys.len()).arg(keys).arg(args);
            cmd.query_async(&mut self.connection()).await
        };
        match run("EVALSHA", script.text_and_hash().1.as_str()).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                run("EVAL", script.text()).await
            }
            other => other,
        }
    }
}
