//! Settings of `consume`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, value_parser};
use firstcome_shared::config::{KafkaArgs, MysqlArgs, StartArgs, listen_address};
use firstcome_shared::tuning::Tuning;

use super::read::batch::BatchLimits;
use super::watch::watchdog::LivenessLimits;

#[derive(Debug, Clone, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub start: StartArgs,
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// The default `LISTEN_ADDR` of `consume`.
pub(crate) const LISTEN_ADDR: &str = "127.0.0.1:8082";

/// Maximum time that the first claim of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct TuningArgs {
    /// Address for `/healthz`, `/readyz` and `/metrics`; port 0 takes a free one
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address)]
    pub listen_addr: SocketAddr,
    /// Maximum number of claims in one transaction. A claim binds eight values, and a prepared
    /// statement of MySQL takes at most 65,535.
    #[arg(skip = Tuning::ConsumeBatchMax.or(1_000_u16))]
    pub consume_batch_max: u16,
    /// Maximum rows that this process writes per second, if other programs need the database; 0: no
    /// limit
    #[arg(long, env = "CONSUME_MAX_ROWS_PER_SECOND", default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000), help_heading = "Share of MySQL")]
    pub consume_max_rows_per_second: u32,
    /// Time without progress after which this process is stuck: then it is not ready; after twice
    /// the time its partitions go to others, and after three times it exits with code 1, so that
    /// its supervisor restarts it. Time while a store is unavailable does not count.
    #[arg(skip = Tuning::ConsumeStuckSeconds.or(30_u64))]
    pub consume_stuck_seconds: u64,
}

/// Time without heartbeats after which the group reassigns a dead consumer's partitions.
const SESSION: Duration = Duration::from_secs(6);

impl ConsumeArgs {
    pub(super) fn liveness(&self) -> LivenessLimits {
        let session = self.kafka.kafka_security.of_member("session.timeout.ms");
        let session = session.and_then(|millis| millis.parse().ok());
        LivenessLimits {
            session: session.map_or(SESSION, Duration::from_millis),
            stuck: Duration::from_secs(self.tuning.consume_stuck_seconds),
        }
    }
}

impl TuningArgs {
    pub(super) fn limits(&self) -> BatchLimits {
        BatchLimits::new(usize::from(self.consume_batch_max), BATCH_WAIT, BATCH_WAIT)
    }
}
