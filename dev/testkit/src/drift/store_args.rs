//! Addresses of the stores of a system.

use anyhow::Result;
use clap::{Args, Parser};
use firstcome_shared::config::{KafkaArgs, MysqlArgs, RedisArgs};

const SETTINGS: [&str; 20] = [
    "REDIS_URL",
    "REDIS_KEY_PREFIX",
    "REDIS_CA_FILE",
    "REDIS_CERT_FILE",
    "REDIS_KEY_FILE",
    "STORE_TIMEOUT_MS",
    "DATABASE_URL",
    "DATABASE_TLS",
    "DATABASE_CA_FILE",
    "DATABASE_CERT_FILE",
    "DATABASE_KEY_FILE",
    "KAFKA_BROKERS",
    "KAFKA_TOPIC",
    "KAFKA_GROUP",
    "KAFKA_SECURITY_PROTOCOL",
    "KAFKA_SASL_MECHANISM",
    "KAFKA_SASL_USERNAME",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_CA_FILE",
    "KAFKA_SIGNING_KEY",
];

/// The stores of the target system. The settings are the same as the product's.
#[derive(Debug, Clone, Args)]
pub struct DriftStoreArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
}

impl DriftStoreArgs {
    /// Reads the settings of the stores by calling `setting` with the names of their variables.
    pub fn of(setting: impl Fn(&str) -> Option<String>) -> Result<Self> {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            stores: DriftStoreArgs,
        }
        let flag = |name: &str| {
            Some(format!(
                "--{}={}",
                name.to_lowercase().replace('_', "-"),
                setting(name)?
            ))
        };
        let args = SETTINGS.iter().filter_map(|name| flag(name));
        Ok(Only::try_parse_from(std::iter::once("stores".to_owned()).chain(args))?.stores)
    }
}
