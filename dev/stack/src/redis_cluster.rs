//! Redis Cluster: three primaries that share the slots, each with a replica.

use std::process::Stdio;
use std::time::Duration;

use ::redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, ToRedisArgs, cmd};
use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::ports::ReservedPort;
use crate::redis::{RedisOptions, RedisServer};
use crate::wait::within;

const NODES: usize = 6;

/// Time limit until the cluster reaches its desired state.
const LIMIT: Duration = Duration::from_secs(60);
/// Time limit of a response. A frozen server accepts connections and never responds.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Number of keys that one `MIGRATE` moves. The source serves no client meanwhile.
const MOVED_AT_ONCE: usize = 100;
const MOVE_LIMIT: Duration = Duration::from_secs(30);

/// Node timeout, after which a silent node counts as failed (Redis's default: 15 s). A failover
/// ends one to two seconds after it. The product requires that a failover takes longer than
/// `min-replicas-max-lag`, which is not the case here. This does not matter for a killed or frozen
/// primary, because it accepts no writes.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// Arguments of a node: the product's requirement for a Redis with replicas (docs/decisions).
const NODE: [&str; 4] = [
    "--cluster-enabled yes",
    "--cluster-announce-ip 127.0.0.1",
    "--min-replicas-to-write 1",
    "--min-replicas-max-lag 10",
];

/// A private Redis Cluster. Its nodes are [`RedisServer`]s that can be killed, frozen and restarted
/// separately and keep their place in the cluster.
///
/// A node keeps its number, whether it is a primary or a replica. [`RedisCluster::primary_of`]
/// returns the node that currently serves a key.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    _buses: Vec<ReservedPort>,
}

impl RedisCluster {
    /// Starts all nodes and waits until the cluster is complete. The first three are the primaries,
    /// with a third of the slots each, in order.
    pub async fn start() -> Result<Self> {
        Self::with_node_timeout(NODE_TIMEOUT).await
    }

    /// Starts a cluster in which a node counts as failed after this time.
    pub async fn with_node_timeout(node_timeout: Duration) -> Result<Self> {
        let node_timeout = format!("--cluster-node-timeout {}", node_timeout.as_millis());
        let mut nodes = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..NODES {
            let bus = ReservedPort::find()?;
            let port = format!("--cluster-port {}", bus.number());
            let words = NODE.into_iter().chain([port.as_str(), &node_timeout]);
            let words = words.flat_map(|option| option.split(' '));
            let options = RedisOptions {
                extra_args: words.map(str::to_owned).collect(),
                ..RedisOptions::default()
            };
            nodes.push(RedisServer::start(options).await?);
            buses.push(bus);
        }
        let mut create = Command::new("redis-cli");
        create.args("--cluster create --cluster-replicas 1 --cluster-yes".split(' '));
        create.args(
            nodes
                .iter()
                .map(|node| format!("127.0.0.1:{}", node.port())),
        );
        let created = create.stdin(Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&created.stdout);
        ensure!(
            created.status.success(),
            "the nodes form no cluster: {said}"
        );
        let cluster = Self {
            nodes,
            _buses: buses,
        };
        cluster.wait_until_whole().await?;
        Ok(cluster)
    }

    /// Waits until every node runs and has its place: all slots are served, all nodes agree on the
    /// roles, no node counts as failed, every replica has its primary's data, and every primary
    /// accepts writes.
    pub async fn wait_until_whole(&self) -> Result<()> {
        within(LIMIT, async || self.is_whole().await).await
    }

    async fn is_whole(&self) -> Result<()> {
        let mut agreed = None;
        for node in &self.nodes {
            let port = node.port();
            let info: String = send(port, &words("CLUSTER INFO")).await?;
            let served = field(&info, "cluster_state") == Some("ok")
                && field(&info, "cluster_slots_ok") == Some("16384");
            ensure!(served, "not all slots are served as port {port} sees it");
            let seen: String = send(port, &words("CLUSTER NODES")).await?;
            ensure!(!seen.contains("fail"), "port {port} reports a failed node");
            let roles = roles(&seen);
            // A primary ignores a failover to a replica that it does not know yet.
            ensure!(
                agreed.get_or_insert_with(|| roles.clone()) == &roles,
                "port {port} sees another cluster"
            );
            let info: String = send(port, &words("INFO replication")).await?;
            let is_linked = field(&info, "master_link_status") == Some("up");
            let has_replica = field(&info, "min_slaves_good_slaves").is_some_and(|n| n != "0");
            ensure!(is_linked || has_replica, "port {port} does not replicate");
        }
        Ok(())
    }

    /// Returns the addresses of all nodes in the format of `REDIS_URL`.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(RedisServer::url).collect();
        urls.join(",")
    }

    /// Returns the product's settings for this cluster.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [
            ("REDIS_MODE", "cluster".to_owned()),
            ("REDIS_URL", self.urls()),
        ]
    }

    /// Returns all nodes: initially three primaries, then their replicas.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Returns the slot of a key, from its hash tag if it has one.
    pub async fn slot_of(&self, key: &str) -> Result<u16> {
        for node in &self.nodes {
            if let Ok(slot) = send(node.port(), cmd("CLUSTER").arg("KEYSLOT").arg(key)).await {
                return Ok(slot);
            }
        }
        bail!("no node answers")
    }

    /// Returns the current primary of a key. Fails while there is none, because the primary is down
    /// or frozen and no replica has been promoted yet.
    pub async fn primary_of(&self, key: &str) -> Result<&RedisServer> {
        self.primary_of_slot(self.slot_of(key).await?).await
    }

    /// Returns the current primary of a slot. If two nodes claim it, the one with the higher epoch
    /// owns it.
    pub async fn primary_of_slot(&self, slot: u16) -> Result<&RedisServer> {
        let places = self.places().await;
        let claims = places.iter().filter(|(_, place)| place.serves(slot));
        let newest = claims.max_by_key(|(_, place)| place.epoch);
        let newest = newest.with_context(|| format!("no primary of slot {slot} answers"))?;
        Ok(newest.0)
    }

    /// Promotes a replica of a key's primary, so that the two change roles, and waits until every
    /// node has its place.
    pub async fn fail_over(&self, key: &str) -> Result<()> {
        let old = within(LIMIT, async || self.primary_of(key).await)
            .await?
            .port();
        let id = id(old).await?;
        let replica = within(LIMIT, async || {
            let mut places = self.places().await.into_iter();
            let replica = places.find(|(_, place)| place.primary == id);
            replica.context("no replica of the primary answers")
        });
        let (replica, _) = replica.await?;
        must_accept(replica, "CLUSTER FAILOVER").await?;
        within(LIMIT, async || {
            let is_replaced = self.primary_of(key).await?.port() != old;
            ensure!(is_replaced, "port {old} is still the primary");
            Ok(())
        })
        .await?;
        self.wait_until_whole().await
    }

    /// Moves a slot with its keys to another primary while clients continue. They are redirected
    /// for keys that have moved (`ASK`, then `MOVED`), and commands on several keys of which only
    /// some have moved are refused (`TRYAGAIN`). Can be called again after an error.
    pub async fn move_slot(&self, slot: u16, to: &RedisServer) -> Result<()> {
        let from = within(LIMIT, async || self.primary_of_slot(slot).await).await?;
        if from.port() != to.port() {
            self.begin_move(slot, to).await?;
            while move_some_keys(slot, from, to).await? {}
        }
        // The new owner is notified first. Otherwise the slot would have no owner for a moment.
        let target = id(to.port()).await?;
        for node in [to, from] {
            must_accept(node, &format!("CLUSTER SETSLOT {slot} NODE {target}")).await?;
        }
        Ok(())
    }

    /// Begins to move a slot, of which no key moves yet: commands on keys that do not exist are
    /// redirected (`ASK`) or refused (`TRYAGAIN`). [`Self::move_slot`] does the rest.
    pub async fn begin_move(&self, slot: u16, to: &RedisServer) -> Result<()> {
        let from = within(LIMIT, async || self.primary_of_slot(slot).await).await?;
        let source = id(from.port()).await?;
        let target = id(to.port()).await?;
        must_accept(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}")).await?;
        must_accept(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}")).await
    }

    /// Moves one key of a slot that is being moved.
    pub async fn move_key(&self, key: &str, to: &RedisServer) -> Result<()> {
        let from = self.primary_of(key).await?;
        migrate(from, to, &[key]).await
    }

    /// Returns the places of the nodes that answer.
    async fn places(&self) -> Vec<(&RedisServer, ClusterPlace)> {
        let asked: Vec<_> = self
            .nodes
            .iter()
            .map(|node: &RedisServer| {
                let port = node.port();
                let nodes = async move { send(port, &words("CLUSTER NODES")).await };
                (node, tokio::spawn(nodes))
            })
            .collect();
        let mut places = Vec::new();
        for (node, answer) in asked {
            let answer: Option<String> = answer.await.ok().and_then(Result::ok);
            let place = answer.as_deref().and_then(ClusterPlace::read);
            places.extend(place.map(|place| (node, place)));
        }
        places
    }
}

/// Moves some keys of the slot. Returns false if there were none.
async fn move_some_keys(slot: u16, from: &RedisServer, to: &RedisServer) -> Result<bool> {
    let some = format!("CLUSTER GETKEYSINSLOT {slot} {MOVED_AT_ONCE}");
    let keys: Vec<Vec<u8>> = send_within(LIMIT, from.port(), &words(&some)).await?;
    if !keys.is_empty() {
        migrate(from, to, &keys).await?;
    }
    Ok(!keys.is_empty())
}

async fn migrate(from: &RedisServer, to: &RedisServer, keys: &[impl ToRedisArgs]) -> Result<()> {
    let mut migrate = cmd("MIGRATE");
    let limit_ms = u64::try_from(MOVE_LIMIT.as_millis())?;
    migrate.arg("127.0.0.1").arg(to.port()).arg("").arg(0);
    migrate.arg(limit_ms).arg("KEYS").arg(keys);
    send_within(MOVE_LIMIT, from.port(), &migrate).await
}

/// A node as it describes itself in `CLUSTER NODES`: `ID ADDRESS FLAGS PRIMARY PING PONG EPOCH LINK
/// SLOT…`
struct ClusterPlace {
    /// The ID of the node's primary, or `-` if the node is a primary.
    primary: String,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl ClusterPlace {
    fn read(nodes: &str) -> Option<Self> {
        let own = nodes.lines().find(|line| line.contains("myself"))?;
        let words: Vec<&str> = own.split(' ').collect();
        // `7` or `0-5460`. A migrating slot, in brackets, is also listed normally while the node
        // still owns it.
        let range = |word: &&str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Some(Self {
            primary: (*words.get(3)?).to_owned(),
            epoch: words.get(6)?.parse().ok()?,
            slots: words.iter().skip(8).filter_map(range).collect(),
        })
    }

    fn serves(&self, slot: u16) -> bool {
        let ranges = self.slots.iter();
        self.primary == "-"
            && ranges
                .copied()
                .any(|(first, last)| (first..=last).contains(&slot))
    }
}

/// Returns the IDs, roles and slots of all nodes. Nodes that agree return equal lists.
fn roles(nodes: &str) -> Vec<String> {
    let role = |line: &str| {
        let words = line.split(' ').enumerate();
        let words = words.filter(|(at, _)| matches!(at, 0 | 3 | 8..));
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    let mut roles: Vec<_> = nodes.lines().map(role).collect();
    roles.sort();
    roles
}

/// Returns a field of `INFO` or `CLUSTER INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim_end)
}

async fn id(port: u16) -> Result<String> {
    send_within(LIMIT, port, &words("CLUSTER MYID")).await
}

async fn must_accept(node: &RedisServer, command: &str) -> Result<()> {
    send_within(LIMIT, node.port(), &words(command))
        .await
        .with_context(|| format!("to {command}"))
}

/// Creates a command whose words contain no blanks.
fn words(text: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(text.split(' ').collect::<Vec<_>>());
    command
}

/// Sends one command on a new connection.
async fn send<T: FromRedisValue>(port: u16, command: &Cmd) -> Result<T> {
    send_within(ANSWER_LIMIT, port, command).await
}

/// Does the same as [`send`], with a different timeout.
async fn send_within<T: FromRedisValue>(limit: Duration, port: u16, command: &Cmd) -> Result<T> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let answer = async {
        let client = Client::open(("127.0.0.1", port))?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        command.query_async(&mut connection).await
    };
    answer
        .await
        .with_context(|| format!("Redis at port {port}"))
}
