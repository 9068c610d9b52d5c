//! All stores as clusters that survive the loss of any single server.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use crate::kafka_cluster::KafkaCluster;
use crate::mail::{MailOptions, MailSink};
use crate::mysql_pair::{MysqlPair, Replication};
use crate::redis_cluster::RedisCluster;

/// Interval at which MySQL's primary is probed.
const ASKED_EVERY: Duration = Duration::from_millis(500);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// After this many probes without an answer, the primary counts as dead.
const DEAD_AFTER: u32 = 3;

/// A Redis Cluster of three primaries with a replica each, three Kafka brokers with a copy of every
/// message each, a MySQL primary with a semi-synchronous replica behind one address, and a mail
/// sink.
#[derive(Debug)]
pub struct ClusterStack {
    pub redis: RedisCluster,
    pub mysql: MysqlPair,
    pub kafka: KafkaCluster,
    pub mail: MailSink,
}

impl ClusterStack {
    pub async fn start(mail: MailOptions) -> Result<Self> {
        let (redis, mysql, kafka, mail) = tokio::try_join!(
            RedisCluster::start(),
            MysqlPair::start(Replication::SemiSynchronous),
            KafkaCluster::start(),
            MailSink::start(mail),
        )?;
        Ok(Self {
            redis,
            mysql,
            kafka,
            mail,
        })
    }

    /// Returns the addresses and settings by the product's variable names. `DATABASE_URL` names the
    /// database `firstcome`.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = Vec::from(self.redis.env());
        env.extend([
            (
                "DATABASE_URL",
                self.mysql
                    .primary
                    .database_url_via(&self.mysql.address, "firstcome"),
            ),
            ("KAFKA_BROKERS", self.kafka.bootstrap()),
            ("SMTP_URL", self.mail.url()),
        ]);
        env
    }

    /// Watches MySQL forever. If the primary dies or hangs, promotes the replica and restarts the
    /// former primary as the new replica. (Redis and Kafka fail over automatically.)
    pub async fn watch_mysql(&self, mut told: impl FnMut(String)) -> Result<()> {
        loop {
            told(format!(
                "MySQL's primary is process {}",
                self.mysql.in_office().pid().unwrap_or_default()
            ));
            let mut silent = 0;
            while silent < DEAD_AFTER {
                sleep(ASKED_EVERY).await;
                let answer = timeout(ANSWER_LIMIT, self.mysql.in_office().query("SELECT 1")).await;
                silent = if matches!(answer, Ok(Ok(_))) {
                    0
                } else {
                    silent + 1
                };
            }
            self.mysql.in_office().kill().await?;
            self.mysql
                .fail_over()
                .await
                .context("MySQL's replica was not promoted")?;
            told("MySQL's primary is dead; its replica has taken over".to_owned());
            self.mysql
                .take_back()
                .await
                .context("MySQL's former primary does not become a replica")?;
        }
    }
}
