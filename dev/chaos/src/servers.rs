//! The servers on which schedules run one after the other, each behind a proxy. A schedule may
//! break them in any way. [`ProxiedServers::restore`] repairs them for the next schedule.

use parking_lot::Mutex as SyncMutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use firstcome_stack::{
    FaultProxy, KafkaOptions, KafkaServer, MysqlOptions, MysqlServer, ProxyFault, RedisOptions,
    RedisServer,
};
use firstcome_testkit::{Clocks, PrefixedKeys, ProcessClock, StoreUrls, World, WorldStores};
use tokio::sync::Mutex;

use crate::fault::FaultyStore;

/// MySQL's lock wait timeout. It is short enough for schedules to reach it.
const LOCK_WAIT_SECONDS: u64 = 2;

fn redis_options(clock: &ProcessClock) -> RedisOptions {
    RedisOptions {
        env: clock.env().into(),
        ..RedisOptions::default()
    }
}

/// Redis, MySQL and Kafka, each with a proxy in front.
pub struct ProxiedServers {
    redis: SyncMutex<Arc<RedisServer>>,
    first_redis: Arc<RedisServer>,
    /// The clock of every Redis in this set.
    pub(crate) redis_clock: ProcessClock,
    _clocks: Clocks,
    pub mysql: MysqlServer,
    /// Kafka. All of its clients connect through the proxy.
    pub kafka: KafkaServer,
    redis_proxy: FaultProxy,
    mysql_proxy: FaultProxy,
    kafka_proxy: FaultProxy,
    /// Allows one fault per server at a time. The next fault waits.
    busy: [Mutex<()>; 3],
}

impl ProxiedServers {
    pub async fn start() -> Result<Self> {
        let wait = format!("--innodb-lock-wait-timeout={LOCK_WAIT_SECONDS}");
        let clocks = Clocks::new()?;
        let redis_clock = clocks.clock("redis")?;
        let (redis, mysql, kafka) = tokio::try_join!(
            RedisServer::start(redis_options(&redis_clock)),
            MysqlServer::start(MysqlOptions {
                extra_args: vec![wait]
            }),
            KafkaServer::start_behind_proxy(KafkaOptions::default()),
        )?;
        let redis = Arc::new(redis);
        Ok(Self {
            redis_proxy: redis.proxy().await?,
            mysql_proxy: mysql.proxy().await?,
            redis: SyncMutex::new(Arc::clone(&redis)),
            first_redis: redis,
            redis_clock,
            _clocks: clocks,
            mysql,
            kafka: kafka.0,
            kafka_proxy: kafka.1,
            busy: Default::default(),
        })
    }

    /// Creates a world whose connections bypass the faults. The connections of its processes do
    /// not.
    pub(crate) async fn world(&self, name: &str) -> World {
        let stores = WorldStores::at(StoreUrls {
            redis: self.redis().url(),
            mysql: self.mysql.url(),
            kafka: self.kafka.bootstrap(),
        });
        let world = World::on(stores, name).await;
        world.set("REDIS_URL", &self.redis_url());
        world.set("DATABASE_URL", &self.database_url(world.database()));
        world
    }

    /// Resets every proxy.
    pub(crate) async fn heal(&self) -> Result<()> {
        for store in FaultyStore::ALL {
            self.proxy(store).set(ProxyFault::Pass).await?;
        }
        Ok(())
    }

    /// Starts a replica of the master behind this port.
    pub async fn replica(&self, of: u16) -> Result<RedisServer> {
        RedisServer::start(RedisOptions {
            replica_of: Some(of),
            ..redis_options(&self.redis_clock)
        })
        .await
    }

    /// Returns the current master.
    pub fn redis(&self) -> Arc<RedisServer> {
        Arc::clone(&self.redis.lock())
    }

    /// Returns the proxy in front of a server.
    pub fn proxy(&self, store: FaultyStore) -> &FaultProxy {
        match store {
            FaultyStore::Redis => &self.redis_proxy,
            FaultyStore::Mysql => &self.mysql_proxy,
            FaultyStore::Kafka => &self.kafka_proxy,
        }
    }

    /// Prevents other faults of a server while the guard is held.
    pub async fn alone(&self, store: FaultyStore) -> tokio::sync::MutexGuard<'_, ()> {
        self.busy[store as usize].lock().await
    }

    /// Returns the URL of a database through the proxy.
    pub fn database_url(&self, name: &str) -> String {
        self.mysql.database_url_via(&self.mysql_proxy, name)
    }

    /// Returns the URL of Redis through the proxy.
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis_proxy.port())
    }

    /// Promotes another Redis to master and cuts existing connections.
    pub async fn promote(&self, replica: Arc<RedisServer>) -> Result<()> {
        self.redis_proxy.set(ProxyFault::Cut).await?;
        self.redis_proxy.set_upstream(replica.port());
        *self.redis.lock() = replica;
        self.redis_proxy.set(ProxyFault::Pass).await
    }

    pub async fn kill(&self, store: FaultyStore) -> Result<()> {
        match store {
            FaultyStore::Redis => self.redis().kill().await,
            FaultyStore::Mysql => self.mysql.kill().await,
            FaultyStore::Kafka => self.kafka.kill().await,
        }
    }

    /// Restarts a server after [`ProxiedServers::kill`].
    pub async fn start_again(&self, store: FaultyStore) -> Result<()> {
        match store {
            FaultyStore::Redis => {
                self.redis().start_again().await?;
                // A promoted server restarts as a replica, because it was started as one.
                self.redis_command(&["REPLICAOF", "NO", "ONE"]).await
            }
            FaultyStore::Mysql => self.mysql.start_again().await,
            FaultyStore::Kafka => self.kafka.start_again().await,
        }
    }

    pub async fn hold(&self, store: FaultyStore, held: bool) -> Result<()> {
        match (store, held) {
            (FaultyStore::Redis, true) => self.redis().freeze().await,
            (FaultyStore::Redis, false) => self.redis().thaw().await,
            (FaultyStore::Mysql, true) => self.mysql.freeze().await,
            (FaultyStore::Mysql, false) => self.mysql.thaw().await,
            (FaultyStore::Kafka, true) => self.kafka.freeze().await,
            (FaultyStore::Kafka, false) => self.kafka.thaw().await,
        }
    }

    /// Returns the process ID of a server.
    pub fn pid(&self, store: FaultyStore) -> Option<u32> {
        match store {
            FaultyStore::Redis => self.redis().pid(),
            FaultyStore::Mysql => self.mysql.pid(),
            FaultyStore::Kafka => self.kafka.pid(),
        }
    }

    /// Makes the first Redis the master again and empties it.
    ///
    /// # Errors
    ///
    /// Fails if a server no longer answers. The servers are then unusable, and new ones must be
    /// started.
    pub async fn restore(&self) -> Result<()> {
        for store in FaultyStore::ALL {
            self.proxy(store).set(ProxyFault::Pass).await?;
            // Connections to silent hosts would stay open forever.
            self.proxy(store).cut_now().await;
        }
        self.redis_clock.set(0)?;
        if !Arc::ptr_eq(&self.redis(), &self.first_redis) {
            self.promote(Arc::clone(&self.first_redis)).await?;
        }
        if self.first_redis.pid().is_none() {
            self.first_redis.start_again().await?;
        }
        self.redis_command(&["REPLICAOF", "NO", "ONE"]).await?;
        self.redis_command(&["FLUSHALL"]).await?;
        self.redis_command(&["SCRIPT", "FLUSH"]).await?;
        self.redis_command(&["CONFIG", "SET", "maxmemory", "0"])
            .await
    }

    /// Sends a command directly to the master.
    async fn redis_command(&self, words: &[&str]) -> Result<()> {
        let redis = PrefixedKeys::new(&self.redis().url(), "");
        let done = tokio::time::timeout(Duration::from_secs(5), redis.try_command(words));
        Ok(done.await.context("Redis does not answer")??)
    }

    /// Returns the path of the append-only file that the master currently writes.
    pub fn append_only_file(&self) -> Result<PathBuf> {
        let folder = self.redis().data_dir().join("appendonlydir");
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .with_context(|| format!("{}", folder.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .collect();
        files.sort();
        files.pop().context("Redis has no append-only file")
    }
}
