//! Servers of which each store has several. A schedule may break any one; the others take its
//! place.

use anyhow::Result;
use firstcome_stack::{ClusterStack, FaultProxy, MailOptions};
use firstcome_testkit::{PrefixedKeys, WorldStores};
use tokio::sync::Mutex;

use crate::fault::FaultyStore;

/// A Redis Cluster, three brokers, and a pair of MySQLs.
pub struct ClusteredServers {
    pub stack: ClusterStack,
    /// To MySQL's primary, past the address that faults break.
    way_to_mysql: FaultProxy,
    /// One fault at a time on a store: the next waits until it is whole again.
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

    /// As the harness reaches them.
    pub(crate) fn stores(&self) -> WorldStores {
        let mysql = self
            .stack
            .mysql
            .primary
            .database_url_via(&self.way_to_mysql, "");
        let redis = &self.stack.redis;
        let stores =
            WorldStores::at("", &mysql, "").with_redis_servers(&redis.urls(), &redis.env());
        stores.with_kafka_cluster(&self.stack.kafka)
    }

    /// A database as processes reach it.
    pub(crate) fn database_url(&self, name: &str) -> String {
        self.stack
            .mysql
            .primary
            .database_url_via(&self.stack.mysql.address, name)
    }

    /// The harness goes to the primary of now.
    pub(crate) fn follow_mysql(&self) {
        self.way_to_mysql
            .set_upstream(self.stack.mysql.in_office().port());
    }

    /// Keeps other faults away from a store while the guard lives.
    pub async fn alone(&self, store: FaultyStore) -> tokio::sync::MutexGuard<'_, ()> {
        self.busy[store as usize].lock().await
    }

    /// Empties Redis. Every fault has made its store whole again.
    ///
    /// # Errors
    /// When a server does not answer any more: they are lost, take new ones.
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
