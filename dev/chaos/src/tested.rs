//! The servers of a schedule: one or several per store.

use anyhow::{Context as _, Result};
use firstcome_stack::ProxyFault;
use firstcome_testkit::{PrefixedKeys, StoreUrls, World, WorldStores};

use crate::clusters::ClusteredServers;
use crate::fault::FaultyStore;
use crate::servers::ProxiedServers;

/// The servers on which a worker runs its schedules.
pub enum TestedServers {
    Single(Box<ProxiedServers>),
    Clusters(Box<ClusteredServers>),
}

impl TestedServers {
    pub async fn start(clusters: bool) -> Result<Self> {
        Ok(if clusters {
            Self::Clusters(Box::new(ClusteredServers::start().await?))
        } else {
            Self::Single(Box::new(ProxiedServers::start().await?))
        })
    }

    pub fn are_clusters(&self) -> bool {
        matches!(self, Self::Clusters(_))
    }

    pub(crate) fn single(&self) -> Result<&ProxiedServers> {
        let Self::Single(servers) = self else {
            anyhow::bail!("this fault is for single servers")
        };
        Ok(servers)
    }

    pub(crate) fn clusters(&self) -> Result<&ClusteredServers> {
        let Self::Clusters(servers) = self else {
            anyhow::bail!("this fault is for clusters")
        };
        Ok(servers)
    }

    /// Creates a world whose connections bypass the faults. The connections of its processes do
    /// not.
    pub(crate) async fn world(&self, name: &str) -> World {
        match self {
            Self::Single(servers) => {
                let stores = WorldStores::at(StoreUrls {
                    redis: servers.redis().url(),
                    mysql: servers.mysql.url(),
                    kafka: servers.kafka.bootstrap(),
                });
                let world = World::on(stores, name).await;
                world.set("REDIS_URL", &servers.redis_url());
                world.set("DATABASE_URL", &servers.database_url(world.database()));
                world
            }
            Self::Clusters(servers) => {
                let world = World::on(servers.stores(), name).await;
                world.set("DATABASE_URL", &servers.database_url(world.database()));
                world
            }
        }
    }

    /// Returns the keys with this prefix, on the servers that currently have them.
    pub(crate) fn redis(&self, prefix: &str) -> PrefixedKeys {
        match self {
            Self::Single(servers) => PrefixedKeys::new(&servers.redis().url(), prefix),
            Self::Clusters(servers) => PrefixedKeys::new(&servers.stack.redis.urls(), prefix),
        }
    }

    /// Resets every proxy.
    pub(crate) async fn heal(&self) -> Result<()> {
        // Faults of clusters have already ended.
        let Self::Single(servers) = self else {
            return Ok(());
        };
        for store in FaultyStore::ALL {
            servers.proxy(store).set(ProxyFault::Pass).await?;
        }
        Ok(())
    }

    /// Repairs and empties the servers for the next schedule.
    ///
    /// # Errors
    ///
    /// Fails if a server no longer answers. The servers are then unusable, and new ones must be
    /// started.
    pub async fn restore(&self) -> Result<()> {
        match self {
            Self::Single(servers) => servers.restore().await,
            Self::Clusters(servers) => servers.restore().await,
        }
        .context("the servers are unusable")
    }
}
