//! All stores as clusters that survive the loss of any single server.

use anyhow::Result;

use crate::kafka_cluster::KafkaCluster;
use crate::mysql_pair::MysqlPair;
use crate::redis_cluster::RedisCluster;

/// A Redis Cluster of three primaries with a replica each, three Kafka brokers with a copy of every
/// message each, and a MySQL primary with a semi-synchronous replica behind one address.
#[derive(Debug)]
pub struct ClusterStack {
    pub redis: RedisCluster,
    pub mysql: MysqlPair,
    pub kafka: KafkaCluster,
}

impl ClusterStack {
    pub async fn start() -> Result<Self> {
        let (redis, mysql, kafka) = tokio::try_join!(
            RedisCluster::start(),
            MysqlPair::start(),
            KafkaCluster::start(),
        )?;
        Ok(Self {
            redis,
            mysql,
            kafka,
        })
    }
}
