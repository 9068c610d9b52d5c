//! Redis with replicas, and sentinels that promote a replica when the master is down.

use std::iter;

use anyhow::{Context, Result, anyhow, ensure};

use crate::redis::{RedisOptions, RedisServer};
use crate::redis_group::{FENCE, LIMIT, ask, field, logs, replicates, together, urls, words};
use crate::sentinel::{SentinelOptions, SentinelServer};
use crate::wait::within;

const SENTINELS: usize = 3;
/// The name that the sentinels give to the master.
const MASTER: &str = "firstcome";

/// Number of replicas. A promoted replica needs another one for its writes.
const REPLICAS: usize = 2;

/// A private Redis with replicas and three sentinels. Each can be killed, frozen and restarted
/// separately.
///
/// A former master that is restarted is a master at first. It refuses writes because no replica
/// follows it (`NOREPLICAS`), and the sentinels make it a replica of the new master.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<SentinelServer>,
}

impl RedisSentinels {
    /// Starts all servers and waits until the sentinels know each other and every replica.
    pub async fn start() -> Result<Self> {
        let redis = RedisOptions {
            extra_args: FENCE.map(str::to_owned).into(),
            ..RedisOptions::default()
        };
        let servers = together(iter::repeat_n(redis, 1 + REPLICAS).map(RedisServer::start)).await?;
        let master = servers.first().context("there is no master")?.port();
        for replica in servers.iter().skip(1) {
            // Not passed as arguments, which would override the configuration that sentinels
            // rewrite.
            for command in [
                format!("REPLICAOF 127.0.0.1 {master}"),
                "CONFIG REWRITE".to_owned(),
            ] {
                let () = ask(replica.port(), &words(&command)).await?;
            }
        }
        // A sentinel looks for replicas when it starts, and then only occasionally.
        for server in &servers {
            within(LIMIT, async || replicates(server).await).await?;
        }
        let sentinel = SentinelOptions {
            master: (MASTER, master),
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

    /// Waits until every server runs and has its place: the sentinels agree on the master and know
    /// each other and every replica, and every replica has the master's data.
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
            replicates(server).await?;
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

    /// Returns the addresses of the sentinels in the format of `REDIS_URL`.
    pub fn urls(&self) -> String {
        urls(&self.sentinels)
    }

    /// Returns the product's settings for these servers.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [
            ("REDIS_MODE", "sentinel".to_owned()),
            ("REDIS_URL", self.urls()),
            ("REDIS_SENTINEL_MASTER", MASTER.to_owned()),
        ]
    }

    /// Returns the initial master, then its replicas.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.servers
    }

    /// Returns the master that a majority of the sentinels names, even while it is down.
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

    /// Waits until a majority of the sentinels names a different master, and returns it.
    pub async fn master_after(&self, old: &RedisServer) -> Result<&RedisServer> {
        within(LIMIT, async || self.is_replaced(old).await)
            .await
            .map_err(|error| self.explain(&error))
    }

    /// Lets the sentinels replace the master although it runs, and waits until every server has its
    /// place. Repeats the command, because a sentinel aborts its failover if another one, which
    /// does not know of it yet, makes the promoted server a replica again.
    pub async fn fail_over(&self) -> Result<()> {
        let old = self.current_master().await?;
        let sentinel = self.sentinels.first().context("there is no sentinel")?;
        let command = words(&format!("SENTINEL FAILOVER {MASTER}"));
        within(LIMIT, async || {
            if self.is_replaced(old).await.is_err() {
                let () = ask(sentinel.port(), &command).await?;
            }
            self.is_replaced(old).await
        })
        .await
        .map_err(|error| self.explain(&error))?;
        self.wait_until_whole().await
    }

    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!(
            "{error:#}\n{}\n{}",
            logs(&self.sentinels),
            logs(&self.servers)
        )
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
