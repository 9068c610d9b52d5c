//! Redis with replicas, and sentinels that promote one of them when the master is down.

use std::collections::HashMap;
use std::iter;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::redis::{RedisOptions, RedisServer};
use crate::redis_group::{FENCE, LIMIT, ask, field, logs, replicates, together, urls, words};
use crate::sentinel::{SentinelOptions, SentinelServer};
use crate::wait::within;

const SENTINELS: usize = 3;
const MASTER: &str = "firstcome";

/// How a Redis with sentinels is started.
#[derive(Debug, Clone)]
pub struct RedisSentinelsOptions {
    /// Replicas of the master, at least 1. Default 2, so that the promoted one has one for its
    /// writes.
    pub replicas: usize,
    /// Sentinels that must agree that the master is down. Default 2.
    pub quorum: usize,
    /// Time without an answer after which a sentinel considers the master down. Default 1 s, while
    /// Redis's default is 30 s. The product requires that it is longer than `min-replicas-max-lag`,
    /// which is 10 s here. A killed or frozen master accepts no writes meanwhile; for one that is
    /// cut off from the others but not from clients, set both.
    pub down_after: Duration,
    /// A failover is aborted after this time, and retried after twice this time. Default 3 s, while
    /// Redis's default is 180 s.
    pub failover_timeout: Duration,
    /// Interval at which sentinels query roles and exchange information. Default 500 ms, while
    /// Redis's defaults are 10 s and 2 s. A former master that returns as a master is made a
    /// replica after four times this.
    pub pace: Duration,
    /// How each Redis is started. Its `extra_args` override those of the group.
    pub redis: RedisOptions,
}

impl Default for RedisSentinelsOptions {
    fn default() -> Self {
        Self {
            replicas: 2,
            quorum: 2,
            down_after: Duration::from_secs(1),
            failover_timeout: Duration::from_secs(3),
            pace: Duration::from_millis(500),
            redis: RedisOptions::default(),
        }
    }
}

/// A private Redis with replicas and three sentinels. Kill, freeze and restart each separately.
///
/// A replaced master that is restarted is a master at first. It refuses writes because no replica
/// follows it (`NOREPLICAS`), and the sentinels make it a replica of the new master.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<SentinelServer>,
}

impl RedisSentinels {
    /// Starts all and waits until the sentinels know each other and every replica.
    pub async fn start(options: RedisSentinelsOptions) -> Result<Self> {
        let mut redis = options.redis;
        redis.extra_args.splice(..0, FENCE.map(str::to_owned));
        let servers =
            together(iter::repeat_n(redis, 1 + options.replicas).map(RedisServer::start)).await?;
        let master = servers.first().context("there is no master")?.port();
        for replica in servers.iter().skip(1) {
            // Not as an argument, which would override the configuration that sentinels rewrite.
            for command in [
                format!("REPLICAOF 127.0.0.1 {master}"),
                "CONFIG REWRITE".to_owned(),
            ] {
                let () = ask(replica.port(), &words(&command)).await?;
            }
        }
        // A sentinel looks for replicas when it starts, and then only occasionally.
        for server in &servers {
            within(LIMIT, async || replicates(server, true).await).await?;
        }
        let sentinel = SentinelOptions {
            master: (MASTER, master),
            quorum: options.quorum,
            down_after: options.down_after,
            failover_timeout: options.failover_timeout,
            pace: options.pace,
        };
        let sentinels =
            together(iter::repeat_n(sentinel, SENTINELS).map(SentinelServer::start)).await?;
        let group = Self { servers, sentinels };
        group
            .wait_until_whole()
            .await
            .context("Redis and its sentinels do not find each other")?;
        Ok(group)
    }

    /// Waits until everything runs and has its place: the sentinels agree on the master, know each
    /// other and every replica, and every replica has the master's data.
    pub async fn wait_until_whole(&self) -> Result<()> {
        within(LIMIT, async || self.is_whole().await)
            .await
            .map_err(|error| self.explain(&error))
    }

    async fn is_whole(&self) -> Result<()> {
        let master = self.current_master().await?;
        for sentinel in &self.sentinels {
            let port = sentinel.port();
            ensure!(
                master_of(sentinel).await? == master.port(),
                "the sentinel at port {port} names another master"
            );
            let () = ask(port, &words(&format!("SENTINEL CKQUORUM {MASTER}"))).await?;
            let info: String = ask(port, &words("INFO sentinel")).await?;
            let known = format!("slaves={},sentinels={SENTINELS}", self.servers.len() - 1);
            let seen = field(&info, "master0").unwrap_or_default();
            ensure!(
                seen.contains("status=ok") && seen.ends_with(&known),
                "the sentinel at port {port} knows {seen:?}"
            );
        }
        for server in &self.servers {
            let is_master = server.port() == master.port();
            replicates(server, true).await?;
            let info: String = ask(server.port(), &words("INFO replication")).await?;
            let role = field(&info, "role").unwrap_or_default();
            ensure!(
                (role == "master") == is_master,
                "port {} is a {role}",
                server.port()
            );
            let follows =
                is_master || field(&info, "master_port") == Some(&master.port().to_string());
            ensure!(follows, "port {} follows another master", server.port());
        }
        Ok(())
    }

    /// The sentinels, in the form of `REDIS_URL`.
    pub fn urls(&self) -> String {
        urls(&self.sentinels)
    }

    /// The sentinels' name of the master.
    pub fn master_name(&self) -> &'static str {
        MASTER
    }

    /// The product's settings to find it.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("REDIS_MODE", "sentinel".to_owned()),
            ("REDIS_URL", self.urls()),
            ("REDIS_SENTINEL_MASTER", MASTER.to_owned()),
        ]
    }

    /// The initial master, then its replicas.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.servers
    }

    /// Counted from 0.
    pub fn node(&self, at: usize) -> Result<&RedisServer> {
        self.servers
            .get(at)
            .with_context(|| format!("there is no node {at}"))
    }

    pub fn sentinels(&self) -> &[SentinelServer] {
        &self.sentinels
    }

    /// The master according to a majority of the sentinels, even while it is down.
    pub async fn current_master(&self) -> Result<&RedisServer> {
        let mut named = Vec::with_capacity(SENTINELS);
        for sentinel in &self.sentinels {
            // A sentinel that is down has no vote.
            if let Ok(master) = master_of(sentinel).await {
                named.push(master);
            }
        }
        let by_most = |server: &&RedisServer| {
            let voices = named.iter().filter(|port| **port == server.port()).count();
            voices > SENTINELS / 2
        };
        self.servers
            .iter()
            .find(by_most)
            .context("no majority of the sentinels agrees on a master")
    }

    /// Waits until a majority of the sentinels names another master than this one, and returns it.
    pub async fn master_after(&self, old: &RedisServer) -> Result<&RedisServer> {
        within(LIMIT, async || self.is_replaced(old).await)
            .await
            .map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{error:#}\n{}\n{}",
            logs(&self.sentinels),
            logs(&self.servers)
        )
    }

    /// Makes the sentinels promote a replica while the master is healthy (`SENTINEL FAILOVER`), and
    /// returns the new master. Data that the replica lacks is lost.
    pub async fn fail_over(&self) -> Result<&RedisServer> {
        let old = self.current_master().await?;
        let sentinel = self.sentinels.first().context("there is no sentinel")?;
        within(LIMIT, async || {
            let port = sentinel.port();
            let seen: HashMap<String, String> =
                ask(port, &words(&format!("SENTINEL MASTER {MASTER}"))).await?;
            let is_under_way = seen
                .get("flags")
                .is_some_and(|flags| flags.contains("failover_in_progress"));
            // It aborts if it has not heard from a suitable replica for a moment.
            if !is_under_way && master_of(sentinel).await? == old.port() {
                let () = ask(port, &words(&format!("SENTINEL FAILOVER {MASTER}"))).await?;
            }
            self.is_replaced(old).await
        })
        .await
        .map_err(|error| self.explain(&error))
    }

    async fn is_replaced(&self, old: &RedisServer) -> Result<&RedisServer> {
        let master = self.current_master().await?;
        ensure!(
            master.port() != old.port(),
            "port {} is still the master",
            old.port()
        );
        Ok(master)
    }
}

async fn master_of(sentinel: &SentinelServer) -> Result<u16> {
    let (_, port): (String, u16) = ask(
        sentinel.port(),
        &words(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {MASTER}")),
    )
    .await?;
    Ok(port)
}
