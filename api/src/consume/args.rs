//! Settings of `consume`.

use std::net::SocketAddr;

use clap::Args;
use firstcome_shared::config::{KafkaArgs, MysqlArgs, PaceArgs, StartArgs, listen_address};
use firstcome_shared::tuning::Tuning;

#[derive(Debug, Clone, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub pace: PaceArgs,
    #[command(flatten)]
    pub start: StartArgs,
    /// Address of `/healthz`, `/readyz` and `/metrics`
    #[arg(help_heading = "HTTP", long, env = "LISTEN_ADDR", default_value = "127.0.0.1:8082", value_parser = listen_address)]
    pub listen_addr: SocketAddr,
    /// Number of claims at which a batch is full. The last message may exceed it.
    #[arg(skip = Tuning::ConsumeBatchMax.or(1_000_usize))]
    pub batch_max: usize,
    /// Time without progress after which the loop is not alive, the group reassigns its partitions,
    /// and a partition is checked for messages that cannot be read.
    #[arg(skip = Tuning::ConsumeStuckSeconds.or(30_u64))]
    pub stuck_seconds: u64,
}
