//! Settings of `consume`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, value_parser};
use firstcome_shared::config::{KafkaArgs, MysqlArgs, StartArgs, listen_address};

use super::read::batch::BatchLimits;
use super::read::membership::{Membership, Rebalance, instance_id};
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

/// Where `consume` listens unless `CONSUME_LISTEN_ADDR` says otherwise.
pub(crate) const LISTEN_ADDR: &str = "127.0.0.1:8082";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Consumer")]
pub struct TuningArgs {
    /// Address for `/healthz`, `/readyz` and `/metrics`
    #[arg(long, env = "CONSUME_LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address)]
    pub consume_listen_addr: SocketAddr,
    /// Most claims written in one transaction
    // 5,000 rows of eight values stay below the 65,535 values that one prepared statement of MySQL
    // takes.
    #[arg(long, env = "CONSUME_BATCH_MAX", default_value_t = 1_000, value_parser = value_parser!(u16).range(1..=5_000))]
    pub consume_batch_max: u16,
    /// Longest that the first claim of a batch waits for others, in milliseconds
    #[arg(long, env = "CONSUME_BATCH_WAIT_MS", default_value_t = 10, value_parser = value_parser!(u64).range(0..=1_000))]
    pub consume_batch_wait_ms: u64,
    /// Most rows this process writes in a second; 0 for no limit. For a database that others need
    /// too
    #[arg(long, env = "CONSUME_MAX_ROWS_PER_SECOND", default_value_t = 0, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub consume_max_rows_per_second: u32,
    /// Silence after which the group takes a dead consumer's partitions away, in milliseconds. The
    /// brokers must allow it (`group.min.session.timeout.ms`)
    #[arg(long, env = "CONSUME_SESSION_TIMEOUT_MS", default_value_t = 6_000, value_parser = value_parser!(u64).range(1_000..=300_000))]
    pub consume_session_timeout_ms: u64,
    /// Name of this process in the group, by which the one started in its place gets its partitions
    /// again: they wait for it, for as long as CONSUME_SESSION_TIMEOUT_MS. No two may have the
    /// same. Without one, partitions go to others at once when a process stops
    #[arg(long, env = "KAFKA_GROUP_INSTANCE_ID", value_name = "NAME", value_parser = instance_id)]
    pub kafka_group_instance_id: Option<String>,
    /// What happens to partitions when a process joins or leaves; the same for all of a group
    #[arg(
        long,
        env = "CONSUME_REBALANCE",
        value_enum,
        ignore_case = true,
        default_value_t
    )]
    pub consume_rebalance: Rebalance,
    /// Time without progress after which this process calls itself stuck, in seconds: it is not
    /// ready then; after twice the time its partitions go to others, and after three times it ends
    /// with code 1, for its supervisor to start it again. A store that is away is no such case
    #[arg(long, env = "CONSUME_STUCK_SECONDS", default_value_t = 30, value_parser = value_parser!(u64).range(3..=3_600))]
    pub consume_stuck_seconds: u64,
}

impl ConsumeArgs {
    pub(super) fn membership(&self) -> Membership {
        let instance_id = self
            .tuning
            .kafka_group_instance_id
            .clone()
            .filter(|name| !name.is_empty());
        Membership {
            group: self.kafka.kafka_group.clone(),
            rebalance: self.tuning.consume_rebalance,
            instance_id,
        }
    }
}

impl TuningArgs {
    pub(super) fn liveness(&self) -> LivenessLimits {
        LivenessLimits {
            session: Duration::from_millis(self.consume_session_timeout_ms),
            stuck: Duration::from_secs(self.consume_stuck_seconds),
        }
    }

    pub(super) fn limits(&self) -> BatchLimits {
        let wait = Duration::from_millis(self.consume_batch_wait_ms);
        BatchLimits::new(usize::from(self.consume_batch_max), wait, wait)
    }
}
