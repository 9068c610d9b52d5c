//! A replica of the Redis under test.

use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_stack::{FaultProxy, RedisServer};
use firstcome_testkit::PrefixedKeys;

use crate::servers::ProxiedServers;
use crate::wait::pause;

/// A replica that follows the master through a separate link.
pub(crate) struct Replica {
    pub(crate) server: RedisServer,
    pub(crate) link: FaultProxy,
}

/// Starts a replica of the master and waits until it has caught up.
pub(crate) async fn follow(servers: &ProxiedServers) -> Result<Replica> {
    let link = FaultProxy::start(servers.redis().port()).await?;
    let server = servers.replica(link.port()).await?;
    until_it_follows(&server).await?;
    Ok(Replica { server, link })
}

pub(crate) async fn until_it_follows(server: &RedisServer) -> Result<()> {
    let replica = PrefixedKeys::new(&server.url(), "");
    let begun = Instant::now();
    loop {
        let state: String = replica.try_command(&["INFO", "replication"]).await?;
        if state.contains("master_link_status:up") {
            return Ok(());
        }
        anyhow::ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "the replica did not catch up: {state}"
        );
        pause(20).await;
    }
}
