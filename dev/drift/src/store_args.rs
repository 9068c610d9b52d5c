//! Where the system is.

use anyhow::Result;
use clap::{Args, Parser};
use firstcome_shared::config::{KafkaArgs, MysqlArgs, RedisArgs};

/// The stores of the system that is to drift: the same settings as the product's.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
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

impl StoreArgs {
    /// The stores whose settings are looked up by the names of their variables: `REDIS_URL`,
    /// `REDIS_KEY_PREFIX`, `DATABASE_URL`, `KAFKA_BROKERS`, `KAFKA_TOPIC`, `KAFKA_GROUP`.
    pub fn of(setting: impl Fn(&str) -> String) -> Result<Self> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            stores: StoreArgs,
        }
        let names = ["REDIS_URL", "REDIS_KEY_PREFIX", "DATABASE_URL", "KAFKA_BROKERS", "KAFKA_TOPIC", "KAFKA_GROUP"];
        let flag = |name: &str| format!("--{}={}", name.to_lowercase().replace('_', "-"), setting(name));
        let args = names.iter().map(|name| flag(name));
        Ok(Only::try_parse_from(std::iter::once("stores".to_owned()).chain(args))?.stores)
    }
}
