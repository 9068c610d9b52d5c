//! Where the system is.

use clap::Args;
use firstcome_shared::config::{KafkaArgs, MysqlArgs, RedisArgs};

/// The stores of the system that is to drift: the same settings as the product's.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Where MySQL is.
    #[command(flatten)]
    pub mysql: MysqlArgs,
    /// Where Redis is.
    #[command(flatten)]
    pub redis: RedisArgs,
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaArgs,
}
