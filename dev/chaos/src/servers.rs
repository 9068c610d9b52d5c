//! The servers on which schedules run one after the other, each behind a proxy. A schedule may
//! break them in any way. [`ProxiedServers::restore`] repairs them for the next schedule.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstcome_harness::{PrefixedKeys, StoreUrls, World, WorldStores};
use firstcome_stack::{Clocks, ProcessClock};
use firstcome_stack::{
    FaultProxy, KafkaOptions, KafkaServer, MysqlServer, ProxyFault, RedisOptions, RedisServer,
    StackOptions,
};
use parking_lot::Mutex as SyncMutex;
use tokio::sync::{Mutex, MutexGuard};

use crate::fault::FaultyStore;
use crate::wait::pause;

/// MySQL's lock wait timeout. It is short enough for schedules to reach it.
const LOCK_WAIT: &str = "--innodb-lock-wait-timeout=2";

/// Redis, MySQL and Kafka, each with a proxy in front.
pub struct ProxiedServers {
    redis: SyncMutex<Arc<RedisServer>>,
    first_redis: Arc<RedisServer>,
    /// The clock of every Redis in this set.
    pub(crate) redis_clock: ProcessClock,
    pub(crate) clocks: Clocks,
    pub(crate) mysql: MysqlServer,
    /// All clients of Kafka connect through the proxy.
    pub(crate) kafka: KafkaServer,
    proxies: [FaultProxy; 3],
    /// Allows one fault per server at a time. The next fault waits.
    busy: [Mutex<()>; 3],
}

/// A replica that follows the master through a separate link.
pub(crate) struct Replica {
    pub(crate) server: RedisServer,
    pub(crate) link: FaultProxy,
}

impl ProxiedServers {
    pub async fn start() -> Result<Self> {
        let clocks = Clocks::new()?;
        let redis_clock = clocks.clock("redis")?;
        let redis = RedisOptions {
            env: redis_clock.env().into(),
            ..RedisOptions::default()
        };
        // A killed server loses no commit, because the page cache survives it.
        let mut mysql = StackOptions::without_fsync().mysql;
        mysql.extra_args.push(LOCK_WAIT.to_owned());
        let (redis, mysql, (kafka, kafka_proxy)) = tokio::try_join!(
            RedisServer::start(redis),
            MysqlServer::start(mysql),
            KafkaServer::start_behind_proxy(KafkaOptions::default()),
        )?;
        let redis = Arc::new(redis);
        Ok(Self {
            proxies: [redis.proxy().await?, mysql.proxy().await?, kafka_proxy],
            redis: SyncMutex::new(Arc::clone(&redis)),
            first_redis: redis,
            redis_clock,
            clocks,
            mysql,
            kafka,
            busy: Default::default(),
        })
    }

    /// Creates a world whose own connections to Redis and MySQL bypass the proxies. Its processes,
    /// and all clients of Kafka, connect through the proxies.
    pub(crate) async fn world(&self, name: &str) -> World {
        let stores = WorldStores::at(StoreUrls {
            redis: self.redis().url(),
            mysql: self.mysql.url(),
            kafka: self.kafka.bootstrap(),
        });
        let world = World::on(stores, name).await;
        let mysql = self.proxy(FaultyStore::Mysql);
        let database = self.mysql.database_url_via(mysql, world.database());
        let redis = self.proxy(FaultyStore::Redis).port();
        world.set("REDIS_URL", &format!("redis://127.0.0.1:{redis}"));
        world.set("DATABASE_URL", &database);
        world
    }

    /// Ends the fault of every proxy.
    pub(crate) async fn heal(&self) -> Result<()> {
        for proxy in &self.proxies {
            proxy.set(ProxyFault::Pass).await?;
        }
        Ok(())
    }

    /// Starts a replica of the master and waits until it has caught up.
    pub(crate) async fn follow(&self) -> Result<Replica> {
        let link = FaultProxy::start(self.redis().port()).await?;
        let options = RedisOptions {
            replica_of: Some(link.port()),
            env: self.redis_clock.env().into(),
            ..RedisOptions::default()
        };
        let server = RedisServer::start(options).await?;
        until_it_follows(&server).await?;
        Ok(Replica { server, link })
    }

    /// Returns the current master.
    pub(crate) fn redis(&self) -> Arc<RedisServer> {
        Arc::clone(&self.redis.lock())
    }

    /// Returns the proxy in front of a server.
    pub(crate) fn proxy(&self, store: FaultyStore) -> &FaultProxy {
        &self.proxies[store as usize]
    }

    /// Prevents other faults of a server while the guard is held.
    pub(crate) async fn alone(&self, store: FaultyStore) -> MutexGuard<'_, ()> {
        self.busy[store as usize].lock().await
    }

    /// Cuts existing connections and leads new ones to another Redis, which is the master from then
    /// on.
    pub(crate) async fn promote(&self, replica: Arc<RedisServer>) -> Result<()> {
        let proxy = self.proxy(FaultyStore::Redis);
        proxy.set(ProxyFault::Cut).await?;
        proxy.set_upstream(replica.port());
        *self.redis.lock() = replica;
        proxy.set(ProxyFault::Pass).await
    }

    pub(crate) async fn kill(&self, store: FaultyStore) -> Result<()> {
        match store {
            FaultyStore::Redis => self.redis().kill().await,
            FaultyStore::Mysql => self.mysql.kill().await,
            FaultyStore::Kafka => self.kafka.kill().await,
        }
    }

    /// Restarts a server after [`ProxiedServers::kill`].
    pub(crate) async fn start_again(&self, store: FaultyStore) -> Result<()> {
        match store {
            FaultyStore::Redis => self.redis().start_again().await,
            FaultyStore::Mysql => self.mysql.start_again().await,
            FaultyStore::Kafka => self.kafka.start_again().await,
        }?;
        if store == FaultyStore::Redis {
            // A promoted server restarts as a replica, because it was started as one.
            self.redis_command("REPLICAOF NO ONE").await?;
        }
        Ok(())
    }

    pub(crate) async fn set_frozen(&self, store: FaultyStore, frozen: bool) -> Result<()> {
        match store {
            FaultyStore::Redis => self.redis().set_frozen(frozen).await,
            FaultyStore::Mysql => self.mysql.set_frozen(frozen).await,
            FaultyStore::Kafka => self.kafka.set_frozen(frozen).await,
        }
    }

    /// Returns the process ID of a server.
    pub(crate) fn pid(&self, store: FaultyStore) -> Result<u32> {
        let pid = match store {
            FaultyStore::Redis => self.redis().pid(),
            FaultyStore::Mysql => self.mysql.pid(),
            FaultyStore::Kafka => self.kafka.pid(),
        };
        pid.with_context(|| format!("{store:?} does not run"))
    }

    /// Resets the proxies and Redis's clock, makes the first Redis the master again, and empties
    /// it.
    ///
    /// # Errors
    ///
    /// Fails if Redis does not start or answer. The servers are then unusable, and new ones must be
    /// started.
    pub async fn restore(&self) -> Result<()> {
        self.heal().await?;
        for proxy in &self.proxies {
            // Connections to silent hosts would stay open forever.
            proxy.cut_now().await;
        }
        self.redis_clock.shift_ms(0)?;
        if !Arc::ptr_eq(&self.redis(), &self.first_redis) {
            self.promote(Arc::clone(&self.first_redis)).await?;
        }
        if self.first_redis.pid().is_none() {
            self.first_redis.start_again().await?;
        }
        for command in [
            "REPLICAOF NO ONE",
            "FLUSHALL",
            "SCRIPT FLUSH",
            "CONFIG SET maxmemory 0",
        ] {
            self.redis_command(command).await?;
        }
        Ok(())
    }

    /// Sends a command directly to the master.
    async fn redis_command(&self, command: &str) -> Result<()> {
        let redis = PrefixedKeys::new(&self.redis().url(), "");
        let words: Vec<&str> = command.split(' ').collect();
        let done = tokio::time::timeout(Duration::from_secs(5), redis.try_command(&words));
        Ok(done.await.context("Redis does not answer")??)
    }

    /// Returns the path of the append-only file that the master currently writes.
    pub(crate) fn append_only_file(&self) -> Result<PathBuf> {
        let folder = self.redis().data_dir().join("appendonlydir");
        let files = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let files = files.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let files = files.filter(|path| path.to_string_lossy().ends_with(".incr.aof"));
        files.max().context("Redis has no append-only file")
    }
}

pub(crate) async fn until_it_follows(server: &RedisServer) -> Result<()> {
    let replica = PrefixedKeys::new(&server.url(), "");
    let begun = Instant::now();
    loop {
        let state: String = replica.try_command(&["INFO", "replication"]).await?;
        if state.contains("master_link_status:up") {
            return Ok(());
        }
        let is_soon = begun.elapsed() < Duration::from_secs(30);
        ensure!(is_soon, "the replica did not catch up: {state}");
        pause(20).await;
    }
}
