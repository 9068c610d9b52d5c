//! One of the sentinels that watch a Redis with replicas.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::fetch;
use crate::process::CommandLine;
use crate::redis_group::{ask, words};
use crate::server::{Instance, Server, ServerKind};

/// Written once; the sentinel then keeps its state in it.
const FILE: &str = "sentinel.conf";

/// How a sentinel is started.
#[derive(Debug, Clone)]
pub struct SentinelOptions {
    /// The name and the port on 127.0.0.1 of the initial master.
    pub master: (&'static str, u16),
    /// Sentinels that must agree that a master is down.
    pub quorum: usize,
    pub down_after: Duration,
    pub failover_timeout: Duration,
    /// Interval at which it queries roles and publishes its information to the other sentinels.
    pub pace: Duration,
}

/// A private Redis Sentinel.
pub type SentinelServer = Server<SentinelOptions>;

impl SentinelOptions {
    fn configuration(&self, instance: &Instance) -> Result<String> {
        let (name, port) = self.master;
        let mut text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\n",
            instance.port(),
            instance.data.display()
        );
        writeln!(
            text,
            "sentinel monitor {name} 127.0.0.1 {port} {}",
            self.quorum
        )?;
        writeln!(
            text,
            "sentinel down-after-milliseconds {name} {}",
            self.down_after.as_millis()
        )?;
        writeln!(
            text,
            "sentinel failover-timeout {name} {}",
            self.failover_timeout.as_millis()
        )?;
        Ok(text)
    }
}

impl ServerKind for SentinelOptions {
    const NAME: &'static str = "sentinel";
    const PORTS: usize = 1;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        fetch::redis()?;
        Ok(fs::write(
            instance.dir.join(FILE),
            self.configuration(instance)?,
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
        let pace_ms = self.pace.as_millis();
        // Not persisted, so set at each start.
        ask(
            instance.port(),
            &words(&format!(
                "SENTINEL DEBUG INFO-PERIOD {pace_ms} PUBLISH-PERIOD {pace_ms}"
            )),
        )
        .await
    }
}
