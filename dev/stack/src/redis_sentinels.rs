//! Redis with replicas, and sentinels that promote one of them when the master is away.

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
    /// Of the master, at least 1. Default 2: one is left to write with when the other is promoted.
    pub replicas: usize,
    /// How many of the three sentinels must agree that the master is down. Default 2.
    pub quorum: usize,
    /// After how long without an answer a sentinel takes the master for down. Default 1 s; Redis's
    /// own is 30 s, and the product demands that it is longer than `min-replicas-max-lag`, which is
    /// 10 s here. A master that is killed or frozen does not write meanwhile; for one that is cut
    /// off from the others, but not from clients, set both.
    pub down_after: Duration,
    /// A fail-over that does not succeed is given up after this, and tried again after twice this.
    /// Default 3 s; Redis's own is 180 s.
    pub failover_timeout: Duration,
    /// How often sentinels ask servers for their role, and tell each other what they know. Default
    /// 500 ms; Redis's own are 10 s and 2 s. An old master that comes back as a master is made a
    /// replica after four times this.
    pub pace: Duration,
    /// How each Redis is started. Its `extra_args` win over those of the group.
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

/// A private Redis with replicas and three sentinels. Kill, freeze and start each again as such.
///
/// A master that was replaced and is started again is a master at first, which refuses writes since
/// no replica follows it (`NOREPLICAS`); the sentinels make it a replica of the new one.
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
            // Not as an argument: it would win over what sentinels have the server write down.
            for command in [
                format!("REPLICAOF 127.0.0.1 {master}"),
                "CONFIG REWRITE".to_owned(),
            ] {
                let () = ask(replica.port(), &words(&command)).await?;
            }
        }
        // A sentinel looks for replicas when it starts, and then only now and then.
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

    /// The sentinels, as `REDIS_URL` takes them.
    pub fn urls(&self) -> String {
        urls(&self.sentinels)
    }

    /// By which the sentinels know the master.
    pub fn master_name(&self) -> &'static str {
        MASTER
    }

    /// The settings by which the product finds it.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("REDIS_MODE", "sentinel".to_owned()),
            ("REDIS_URL", self.urls()),
            ("REDIS_SENTINEL_MASTER", MASTER.to_owned()),
        ]
    }

    /// The first master and then its replicas.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.servers
    }

    /// From 0 on.
    pub fn node(&self, at: usize) -> Result<&RedisServer> {
        self.servers
            .get(at)
            .with_context(|| format!("there is no node {at}"))
    }

    pub fn sentinels(&self) -> &[SentinelServer] {
        &self.sentinels
    }

    /// Whom a majority of the sentinels names, even while it is down.
    pub async fn current_master(&self) -> Result<&RedisServer> {
        let mut named = Vec::with_capacity(SENTINELS);
        for sentinel in &self.sentinels {
            // One that is down has no voice.
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
            .context("no majority of the sentinels names one master")
    }

    /// Waits until another than this is the master, as a majority of the sentinels names it, and
    /// gives it.
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

    /// Has the sentinels promote a replica while the master is well (`SENTINEL FAILOVER`), and
    /// gives the new master. What the replica does not have is lost.
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
            // It gives up when it has not heard of a good replica for a moment.
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
