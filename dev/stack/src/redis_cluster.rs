//! Redis Cluster: three primaries that share the slots, each with replicas.

use std::time::Duration;

use ::redis::cmd;
use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cluster_place::{ClusterPlace, roles};
use crate::ports::ReservedPort;
use crate::redis::{RedisOptions, RedisServer};
use crate::redis_group::{
    FENCE, LIMIT, ask, ask_within, field, logs, replicates, together, urls, words,
};
use crate::wait::within;

const PRIMARIES: usize = 3;
const SLOTS: usize = 16_384;

/// Number of keys that one `MIGRATE` moves. The source serves no client meanwhile.
const MOVED_AT_ONCE: usize = 100;
const MOVE_LIMIT: Duration = Duration::from_secs(30);

/// Replicas per primary. A promoted replica has no replica and refuses writes (`NOREPLICAS`) until
/// the killed primary is restarted and follows it.
const REPLICAS: usize = 1;

/// Time without a response after which a node counts as failed. A failover ends one to two seconds
/// later. Redis's default is 15 s. The product requires that a failover takes longer than
/// `min-replicas-max-lag`, which is 10 s here. That does not matter for a killed or frozen primary,
/// which accepts no writes.
const NODE_TIMEOUT_MS: &str = "2000";

/// A private Redis Cluster. Its nodes are [`RedisServer`]s that can be killed, frozen and restarted
/// separately and keep their place in the cluster.
///
/// A node keeps its number, whether it is a primary or a replica. [`RedisCluster::primary_of`]
/// returns the node that currently serves a key.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    /// The IDs of the nodes in the cluster.
    ids: Vec<String>,
    buses: Vec<ReservedPort>,
}

impl RedisCluster {
    /// Starts all nodes and waits until the cluster is complete. The first three are the primaries,
    /// with a third of the slots each, in order.
    pub async fn start() -> Result<Self> {
        let count = PRIMARIES * (1 + REPLICAS);
        let started = together((0..count).map(|_| start_node())).await?;
        let (nodes, buses): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        let mut ids = Vec::with_capacity(count);
        for node in &nodes {
            ids.push(ask(node.port(), &words("CLUSTER MYID")).await?);
        }
        let cluster = Self { nodes, ids, buses };
        cluster
            .join()
            .await
            .context("the Redis nodes do not form a cluster")?;
        Ok(cluster)
    }

    async fn join(&self) -> Result<()> {
        let (primaries, replicas) = self.nodes.split_at(PRIMARIES);
        for (at, node) in primaries.iter().enumerate() {
            let first = at * SLOTS / PRIMARIES;
            let last = (at + 1) * SLOTS / PRIMARIES - 1;
            // With the same epoch, the nodes would have to resolve the conflict one after the
            // other.
            self.tell(node, &format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1))
                .await?;
            self.tell(node, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"))
                .await?;
        }
        for (node, bus) in self.nodes.iter().zip(&self.buses).skip(1) {
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", node.port(), bus.number());
            self.tell(&self.nodes[0], &meet).await?;
        }
        within(LIMIT, async || self.all_know_all().await).await?;
        for (at, node) in replicas.iter().enumerate() {
            self.tell(
                node,
                &format!("CLUSTER REPLICATE {}", self.ids[at % PRIMARIES]),
            )
            .await?;
        }
        self.wait_until_whole().await
    }

    async fn all_know_all(&self) -> Result<()> {
        for node in &self.nodes {
            let known: String = ask(node.port(), &words("CLUSTER NODES")).await?;
            ensure!(
                self.ids.iter().all(|id| known.contains(id)),
                "port {} does not know all nodes yet",
                node.port()
            );
        }
        Ok(())
    }

    /// Waits until every node runs and has its place: all slots are served, all nodes agree on the
    /// roles, no node counts as failed, every replica has its primary's data, and every primary
    /// accepts writes.
    pub async fn wait_until_whole(&self) -> Result<()> {
        within(LIMIT, async || self.is_whole().await)
            .await
            .map_err(|error| self.explain(&error))
    }

    async fn is_whole(&self) -> Result<()> {
        let mut agreed = None;
        for node in &self.nodes {
            let port = node.port();
            let info: String = ask(port, &words("CLUSTER INFO")).await?;
            let served = field(&info, "cluster_state") == Some("ok")
                && field(&info, "cluster_slots_ok") == Some("16384");
            ensure!(served, "not all slots are served as port {port} sees it");
            let seen: String = ask(port, &words("CLUSTER NODES")).await?;
            ensure!(!seen.contains("fail"), "port {port} reports a failed node");
            let roles = roles(&seen);
            // A primary ignores a failover to a replica that it does not know yet.
            ensure!(
                agreed.get_or_insert_with(|| roles.clone()) == &roles,
                "port {port} sees another cluster"
            );
            replicates(node).await?;
        }
        Ok(())
    }

    /// Returns the addresses of all nodes in the format of `REDIS_URL`.
    pub fn urls(&self) -> String {
        urls(&self.nodes)
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
            if let Ok(slot) = ask(node.port(), cmd("CLUSTER").arg("KEYSLOT").arg(key)).await {
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

    /// Returns the current primary of a slot.
    pub async fn primary_of_slot(&self, slot: u16) -> Result<&RedisServer> {
        let places = self.places().await;
        let claims = places.into_iter().filter(|(_, place)| place.serves(slot));
        let newest = claims.max_by_key(|(_, place)| place.epoch);
        newest
            .map(|(node, _)| node)
            .with_context(|| format!("no primary of slot {slot} answers"))
    }

    /// Promotes a replica of a key's primary, which becomes a replica, and waits until every node
    /// has its place.
    pub async fn fail_over(&self, key: &str) -> Result<()> {
        let old = self.primary_of(key).await?;
        let id = self.id(old)?;
        let places = self.places().await;
        let replica = places
            .iter()
            .find(|(_, place)| place.primary.as_deref() == Some(id));
        let (replica, _) = replica.context("the primary has no replica")?;
        self.tell(replica, "CLUSTER FAILOVER").await?;
        within(LIMIT, async || {
            let is_replaced = self.primary_of(key).await?.port() != old.port();
            ensure!(is_replaced, "port {} is still the primary", old.port());
            Ok(())
        })
        .await
        .map_err(|error| self.explain(&error))?;
        self.wait_until_whole().await
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", logs(&self.nodes))
    }

    /// Moves a slot with its keys to another primary while clients continue. They are redirected
    /// for keys that have moved (`ASK`, then `MOVED`), and commands on several keys of which only
    /// some have moved are refused (`TRYAGAIN`). Can be called again after an error.
    pub async fn move_slot(&self, slot: u16, to: &RedisServer) -> Result<()> {
        let from = self.primary_of_slot(slot).await?;
        let source = self.id(from)?;
        let target = self.id(to)?;
        if source != target {
            self.tell(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {source}"))
                .await?;
            self.tell(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {target}"))
                .await?;
            while self.move_some_keys(slot, from, to).await? {}
        }
        // The new owner is notified first. Otherwise the slot would have no owner for a moment.
        for node in [to, from] {
            self.tell(node, &format!("CLUSTER SETSLOT {slot} NODE {target}"))
                .await?;
        }
        Ok(())
    }

    /// Moves some keys of the slot. Returns false if there were none.
    async fn move_some_keys(
        &self,
        slot: u16,
        from: &RedisServer,
        to: &RedisServer,
    ) -> Result<bool> {
        let some = format!("CLUSTER GETKEYSINSLOT {slot} {MOVED_AT_ONCE}");
        let keys: Vec<Vec<u8>> = ask(from.port(), &words(&some)).await?;
        if !keys.is_empty() {
            let mut migrate = cmd("MIGRATE");
            let limit_ms = u64::try_from(MOVE_LIMIT.as_millis())?;
            migrate
                .arg("127.0.0.1")
                .arg(to.port())
                .arg("")
                .arg(0)
                .arg(limit_ms)
                .arg("KEYS")
                .arg(&keys);
            let () = ask_within(MOVE_LIMIT, from.port(), &migrate)
                .await
                .context("keys are not moved")?;
        }
        Ok(!keys.is_empty())
    }

    /// Returns the places of the nodes that answer.
    async fn places(&self) -> Vec<(&RedisServer, ClusterPlace)> {
        let asked: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node, tokio::spawn(ClusterPlace::of(node.port()))))
            .collect();
        let mut places = Vec::with_capacity(asked.len());
        for (node, place) in asked {
            if let Ok(Ok(place)) = place.await {
                places.push((node, place));
            }
        }
        places
    }

    fn id(&self, node: &RedisServer) -> Result<&str> {
        let at = self.nodes.iter().position(|one| one.port() == node.port());
        let id = at.and_then(|at| self.ids.get(at));
        id.map(String::as_str)
            .with_context(|| format!("port {} is no node of this cluster", node.port()))
    }

    async fn tell(&self, node: &RedisServer, command: &str) -> Result<()> {
        ask(node.port(), &words(command))
            .await
            .with_context(|| format!("to {command}"))
    }
}

/// Starts a node and reserves its cluster bus port.
async fn start_node() -> Result<(RedisServer, ReservedPort)> {
    let bus = ReservedPort::find()?;
    let bus_port = bus.number().to_string();
    let cluster = [
        ["--cluster-enabled", "yes"],
        ["--cluster-config-file", "nodes.conf"],
        ["--cluster-announce-ip", "127.0.0.1"],
        ["--cluster-port", &bus_port],
        ["--cluster-node-timeout", NODE_TIMEOUT_MS],
    ];
    let arguments = cluster.as_flattened().iter().chain(&FENCE);
    let options = RedisOptions {
        extra_args: arguments.map(|word| (*word).to_owned()).collect(),
        ..RedisOptions::default()
    };
    Ok((RedisServer::start(options).await?, bus))
}
