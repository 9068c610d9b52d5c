//! Stores with several servers each. A schedule may break any one of them, and another takes over.

use anyhow::Result;
use firstcome_stack::{ClusterStack, FaultProxy, MailOptions};
use firstcome_testkit::{PrefixedKeys, StoreUrls, WorldStores};
use tokio::sync::Mutex;

use crate::fault::FaultyStore;

/// A Redis Cluster, three brokers, and a pair of MySQL servers.
pub struct ClusteredServers {
    pub stack: ClusterStack,
    /// Leads to MySQL's primary and bypasses the proxy that faults break.
    way_to_mysql: FaultProxy,
    /// Allows one fault per store at a time. The next fault waits until the store has recovered.
    busy: [Mutex<()>; 3],
}

impl ClusteredServers {
    pub async fn start() -> Result<Self> {
        let stack = ClusterStack::start(MailOptions::default()).await?;
        let way_to_mysql = stack.mysql.in_office().proxy().await?;
        Ok(Self {
            stack,
            way_to_mysql,
            busy: Default::default(),
        })
    }

    /// Returns the stores for the harness.
    pub(crate) fn stores(&self) -> WorldStores {
        let mysql = self
            .stack
            .mysql
            .primary
            .database_url_via(&self.way_to_mysql, "");
        let redis = &self.stack.redis;
        let urls = StoreUrls {
            mysql,
            ..StoreUrls::default()
        };
        WorldStores::at(urls)
            .with_redis_servers(&redis.urls(), &redis.env())
            .with_kafka_cluster(&self.stack.kafka)
    }

    /// Returns the URL of a database for the product's processes.
    pub(crate) fn database_url(&self, name: &str) -> String {
        self.stack
            .mysql
            .primary
            .database_url_via(&self.stack.mysql.address, name)
    }

    /// Directs the harness to the current primary.
    pub(crate) fn follow_mysql(&self) {
        self.way_to_mysql
            .set_upstream(self.stack.mysql.in_office().port());
    }

    /// Prevents other faults of a store while the guard is held.
    pub async fn alone(&self, store: FaultyStore) -> tokio::sync::MutexGuard<'_, ()> {
        self.busy[store as usize].lock().await
    }

    /// Empties Redis. Every fault has already repaired its store.
    ///
    /// # Errors
    ///
    /// Fails if a server no longer answers. The servers are then unusable, and new ones must be
    /// started.
    pub async fn restore(&self) -> Result<()> {
        self.stack.mysql.address.cut_now().await;
        self.stack.redis.wait_until_whole().await?;
        for node in self.stack.redis.nodes() {
            let redis = PrefixedKeys::new(&node.url(), "");
            let info: String = redis.try_command(&["INFO", "replication"]).await?;
            if info.contains("role:master") {
                redis.try_command::<()>(&["FLUSHALL"]).await?;
                redis.try_command::<()>(&["SCRIPT", "FLUSH"]).await?;
            }
        }
        Ok(())
    }
}
