//! A sentinel, which watches a Redis with replicas.

use std::fs;

use anyhow::Result;

use crate::fetch;
use crate::process::CommandLine;
use crate::redis_group::{ask, words};
use crate::server::{Instance, Server, ServerKind};

/// Written once. Afterwards the sentinel keeps its state in this file.
const FILE: &str = "sentinel.conf";

/// Number of sentinels that must agree that the master is down.
const QUORUM: usize = 2;

/// Time without a response after which a sentinel considers the master down. Redis's default is 30
/// s. The product requires more than `min-replicas-max-lag`, which is 10 s here. That does not
/// matter for a killed or frozen master, which accepts no writes.
const DOWN_AFTER_MS: u32 = 1_000;

/// A failover is aborted after this time, and retried after twice this time. Redis's default is 180
/// s.
const FAILOVER_TIMEOUT_MS: u32 = 3_000;

/// Interval at which a sentinel queries roles and publishes its information to the others. Redis's
/// defaults are 10 s and 2 s. A former master that returns as a master is made a replica after four
/// times this interval.
const PACE_MS: u32 = 500;

/// Options for starting a sentinel.
#[derive(Debug, Clone)]
pub struct SentinelOptions {
    /// The name and the port on 127.0.0.1 of the initial master.
    pub master: (&'static str, u16),
}

/// A private Redis Sentinel.
pub type SentinelServer = Server<SentinelOptions>;

impl SentinelOptions {
    fn configuration(&self, instance: &Instance) -> String {
        let (name, port) = self.master;
        format!(
            "port {}\n\
             bind 127.0.0.1\n\
             dir {}\n\
             sentinel monitor {name} 127.0.0.1 {port} {QUORUM}\n\
             sentinel down-after-milliseconds {name} {DOWN_AFTER_MS}\n\
             sentinel failover-timeout {name} {FAILOVER_TIMEOUT_MS}\n",
            instance.port(),
            instance.data.display()
        )
    }
}

impl ServerKind for SentinelOptions {
    const NAME: &'static str = "sentinel";
    const PORTS: usize = 1;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        fetch::redis()?;
        Ok(fs::write(
            instance.dir.join(FILE),
            self.configuration(instance),
        )?)
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        Ok(vec![
            "redis-server".into(),
            instance.dir.join(FILE).into(),
            "--sentinel".into(),
        ])
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        // This value is not persisted, so it is set at each start.
        ask(
            instance.port(),
            &words(&format!(
                "SENTINEL DEBUG INFO-PERIOD {PACE_MS} PUBLISH-PERIOD {PACE_MS}"
            )),
        )
        .await
    }
}
