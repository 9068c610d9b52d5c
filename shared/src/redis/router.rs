//! Routes each command to the server that has its key, without retries.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::future::try_join_all;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, Value};

use super::link::{ServerLink, WRONG_SERVER};
use super::servers::{HASH_SLOTS, HashSlots, Primary, Seeds, has_hash_slot, hash_slot};

/// Errors that trigger a new lookup of the primaries: a hash slot moved, or another server is about
/// to take over.
const MOVED: [&str; 5] = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS"];

/// Minimum interval between two lookups of the primaries.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// How long known primaries stay valid without a new lookup.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// A server that holds data, with its hash slots in order.
pub(super) struct Shard {
    pub(super) server: Arc<ServerLink>,
    pub(super) hash_slots: Vec<HashSlots>,
}

impl Shard {
    fn new(server: ServerLink, hash_slots: Vec<HashSlots>) -> Arc<Self> {
        Self::of(Arc::new(server), hash_slots)
    }

    fn of(server: Arc<ServerLink>, hash_slots: Vec<HashSlots>) -> Arc<Self> {
        Arc::new(Self { server, hash_slots })
    }
}

/// Maps keys to servers.
pub(super) struct Router {
    seeds: Arc<Seeds>,
    timeout: Duration,
    /// Sorted by their hash slots.
    shards: ArcSwapOption<Shards>,
    /// Time of the last lookup of the primaries. Locked during a lookup.
    asked_at: tokio::sync::Mutex<Option<Instant>>,
    told_at: ArcSwapOption<Instant>,
    is_asking: AtomicBool,
    /// Whether the router is bound to specific server processes. It becomes unusable once they end.
    is_pinned: bool,
}

type Shards = Arc<[Arc<Shard>]>;

impl Router {
    pub(super) fn new(seeds: Arc<Seeds>, timeout: Duration) -> Result<Self, RedisError> {
        let single = match seeds.single() {
            None => None,
            Some(client) => {
                let server = ServerLink::lasting(seeds.hosts_and_ports(), client?, timeout)?;
                Some([Shard::new(server, vec![(0, HASH_SLOTS - 1)])].into())
            }
        };
        Ok(Self::with(seeds, timeout, single, false))
    }

    fn with(seeds: Arc<Seeds>, timeout: Duration, shards: Option<Shards>, is_pinned: bool) -> Self {
        Self {
            seeds,
            timeout,
            shards: ArcSwapOption::from(shards.map(Arc::new)),
            asked_at: tokio::sync::Mutex::default(),
            told_at: ArcSwapOption::empty(),
            is_asking: AtomicBool::new(false),
            is_pinned,
        }
    }

    /// Creates a router with separate connections to the processes of these servers.
    pub(super) async fn pinned(
        self: &Arc<Self>,
        shards: &[Arc<Shard>],
    ) -> Result<Self, RedisError> {
        let pin = async |shard: &Arc<Shard>| {
            let server = shard.server.pinned(self.timeout).await?;
            Ok::<_, RedisError>(Shard::new(server, shard.hash_slots.clone()))
        };
        let pinned = try_join_all(shards.iter().map(pin))
            .await
            .inspect_err(|_| self.ask_soon())?;
        Ok(Self::with(
            Arc::clone(&self.seeds),
            self.timeout,
            Some(pinned.into()),
            true,
        ))
    }

    pub(super) fn database(&self) -> i64 {
        self.seeds.database()
    }

    fn may_change(&self) -> bool {
        !self.is_pinned && self.seeds.may_change()
    }

    async fn known(self: &Arc<Self>) -> Result<Shards, RedisError> {
        match self.shards.load_full() {
            Some(shards) => Ok(Shards::clone(&shards)),
            None => self.ask().await,
        }
    }

    /// Returns all servers. If they can change, the list is at most a second old.
    pub(super) async fn fresh(self: &Arc<Self>) -> Result<Shards, RedisError> {
        let is_old = || {
            self.told_at
                .load()
                .as_ref()
                .is_none_or(|at| at.elapsed() > KNOWN_FOR)
        };
        if self.may_change() && is_old() {
            self.ask().await
        } else {
            self.known().await
        }
    }

    pub(super) async fn shard_of(self: &Arc<Self>, key: &[u8]) -> Result<Arc<Shard>, RedisError> {
        let shards = self.known().await?;
        if let [only] = &*shards {
            return Ok(Arc::clone(only));
        }
        let slot = hash_slot(key);
        shards
            .iter()
            .find(|shard| has_hash_slot(&shard.hash_slots, slot))
            .cloned()
            .ok_or_else(|| {
                self.ask_soon();
                (
                    ErrorKind::Io,
                    "no server of the cluster serves this hash slot",
                    slot.to_string(),
                )
                    .into()
            })
    }

    /// Looks up the primaries. Concurrent callers wait for one lookup and share its result. If no
    /// server answers, the known primaries stay.
    async fn ask(self: &Arc<Self>) -> Result<Shards, RedisError> {
        let mut asked_at = self.asked_at.lock().await;
        let known = self.shards.load_full().map(|known| Shards::clone(&known));
        if let Some(known) = &known
            && asked_at.is_some_and(|at| at.elapsed() < ASKED_EVERY)
        {
            return Ok(Arc::clone(known));
        }
        let before = known.as_deref().unwrap_or_default();
        let addresses: Vec<String> = before
            .iter()
            .map(|shard| shard.server.address.clone())
            .collect();
        let told = self.seeds.primaries(&addresses).await;
        *asked_at = Some(Instant::now());
        let shards: Shards = told?
            .into_iter()
            .map(|told| self.shard(told, before))
            .collect::<Result<_, _>>()?;
        self.told_at.store(Some(Arc::new(Instant::now())));
        let is_same = |(a, b): (&Arc<Shard>, &Arc<Shard>)| {
            a.server.address == b.server.address && a.hash_slots == b.hash_slots
        };
        if before.len() == shards.len() && before.iter().zip(&*shards).all(is_same) {
            return Ok(known.unwrap_or(shards));
        }
        let addresses: Vec<&str> = shards.iter().map(|shard| &*shard.server.address).collect();
        tracing::info!(
            servers = addresses.join(","),
            "found the Redis servers that hold the data"
        );
        self.shards.store(Some(Arc::new(Arc::clone(&shards))));
        Ok(shards)
    }

    /// Builds the shard of a primary. Reuses the connection if the server was already known.
    fn shard(&self, told: Primary, before: &[Arc<Shard>]) -> Result<Arc<Shard>, RedisError> {
        let address = told.address();
        let server = match before.iter().find(|shard| shard.server.address == address) {
            Some(shard) => Arc::clone(&shard.server),
            None => Arc::new(ServerLink::lasting(
                address,
                self.seeds.client_of(&told)?,
                self.timeout,
            )?),
        };
        Ok(Shard::of(server, told.hash_slots))
    }

    /// Starts a lookup of the primaries in the background.
    pub(super) fn ask_soon(self: &Arc<Self>) {
        if !self.may_change() || self.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let router = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = router.ask().await {
                tracing::debug!(%error, "no node reported which servers hold the data");
            }
            router.is_asking.store(false, Ordering::Release);
        });
    }

    /// Looks up the primaries again if a reply suggests that they have changed.
    fn heed(self: &Arc<Self>, answer: Result<&[Value], &RedisError>) {
        let moved = |code: &str| MOVED.contains(&code) || WRONG_SERVER.contains(&code);
        let must_ask = match answer {
            Ok(replies) => replies
                .iter()
                .any(|r| matches!(r, Value::ServerError(e) if moved(e.code()))),
            // Errors without a code come from the client itself: the connection is lost or does not
            // answer.
            Err(error) => error.code().is_none_or(moved),
        };
        if must_ask {
            self.ask_soon();
        }
    }

    pub(super) async fn send(
        self: &Arc<Self>,
        shard: &Shard,
        cmd: &Cmd,
    ) -> Result<Value, RedisError> {
        let result = shard.server.send(cmd).await;
        if self.may_change() {
            self.heed(result.as_ref().map(std::slice::from_ref));
        }
        result
    }

    pub(super) async fn send_all(
        self: &Arc<Self>,
        shard: &Shard,
        pipeline: &Pipeline,
        replies: Range<usize>,
    ) -> Result<Vec<Value>, RedisError> {
        let result = shard.server.send_all(pipeline, replies).await;
        if self.may_change() {
            self.heed(result.as_deref());
        }
        result
    }

    /// Returns the server that must receive a command.
    pub(super) async fn of_command(self: &Arc<Self>, cmd: &Cmd) -> Result<Arc<Shard>, RedisError> {
        match key_of(cmd) {
            Some(key) => self.shard_of(key).await,
            None => match &*self.known().await? {
                [only] => Ok(Arc::clone(only)),
                _ => Err((
                    ErrorKind::Client,
                    "a command without a key must name its server",
                )
                    .into()),
            },
        }
    }

    /// Sends a pipeline's commands concurrently, each to its server. Transactions, and commands
    /// without a key, go to the server of the first key.
    pub(super) async fn send_anywhere(
        self: &Arc<Self>,
        pipeline: &Pipeline,
        replies: Range<usize>,
    ) -> Result<Vec<Value>, RedisError> {
        let first = match pipeline
            .cmd_iter()
            .find(|cmd| key_of(cmd).is_some())
            .or_else(|| pipeline.cmd_iter().next())
        {
            Some(cmd) => self.of_command(cmd).await?,
            None => return Ok(Vec::new()),
        };
        if pipeline.is_transaction() || self.known().await?.len() == 1 {
            return self.send_all(&first, pipeline, replies).await;
        }
        let mut parts: Vec<(Arc<Shard>, Pipeline, Vec<usize>)> = Vec::new();
        for (at, cmd) in pipeline.cmd_iter().enumerate() {
            let shard = match key_of(cmd) {
                Some(key) => self.shard_of(key).await?,
                None => Arc::clone(&first),
            };
            if !parts.iter().any(|(of, _, _)| Arc::ptr_eq(of, &shard)) {
                parts.push((Arc::clone(&shard), redis::pipe(), Vec::new()));
            }
            for (_, part, places) in parts
                .iter_mut()
                .filter(|(of, _, _)| Arc::ptr_eq(of, &shard))
            {
                part.add_command(cmd.clone());
                places.push(at);
            }
        }
        let send = async |(shard, part, places): (Arc<Shard>, Pipeline, Vec<usize>)| {
            let replies = self.send_all(&shard, &part, 0..places.len()).await?;
            Ok::<_, RedisError>(places.into_iter().zip(replies).collect::<Vec<_>>())
        };
        let mut replies = try_join_all(parts.into_iter().map(send)).await?.concat();
        replies.sort_by_key(|(at, _)| *at);
        Ok(replies.into_iter().map(|(_, reply)| reply).collect())
    }
}

/// Returns the first key of a command.
fn key_of(cmd: &Cmd) -> Option<&[u8]> {
    let mut words = cmd.args_iter().map(|arg| match arg {
        Arg::Simple(word) => word,
        _ => b"0",
    });
    match words.next()? {
        b"EVAL" | b"EVALSHA" => words.nth(2),
        b"INFO" | b"TIME" | b"PING" | b"SCRIPT" | b"CONFIG" | b"CLUSTER" | b"SENTINEL"
        | b"DBSIZE" => None,
        _ => words.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_routed_by_its_first_key() {
        let cmd = |words: &[&str]| {
            words[1..]
                .iter()
                .fold(redis::cmd(words[0]), |mut cmd, word| {
                    cmd.arg(word);
                    cmd
                })
        };
        for (words, key) in [
            (&["GET", "a"][..], Some("a")),
            (&["EVALSHA", "hash", "2", "k1", "k2", "x"], Some("k1")),
            (&["EVAL", "text", "0"], None),
            (&["INFO", "server"], None),
            (&["SCRIPT", "EXISTS", "x"], None),
            (&["HMGET", "h", "f"], Some("h")),
        ] {
            assert_eq!(
                key_of(&cmd(words)).map(|key| std::str::from_utf8(key).unwrap()),
                key,
                "{words:?}"
            );
        }
    }
}
