//! `firstcome-api migrate`: creates the tables, then the topic. Idempotent, even if two processes
//! run it concurrently.

use std::time::Duration;

use clap::Args;
use firstcome_shared::config::{KafkaArgs, MysqlArgs, StartArgs, StartError};
use firstcome_shared::kafka::{self, FoundTopic, KafkaSettings, TopicError};
use firstcome_shared::mysql::migrations;
use tokio_util::sync::CancellationToken;

use crate::start_check::{StoreWait, of_kafka, of_mysql, unless_stopped};

#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Partitions of the topic, if it does not exist yet
    #[arg(long, default_value_t = 12, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Replicas of each partition, if the topic does not exist yet. With two or more, Kafka
    /// acknowledges a message once two of them have it
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=100))]
    pub replication: i32,
    #[command(flatten)]
    pub start: StartArgs,
}

/// Maximum wait for one response of Kafka.
const KAFKA_LIMIT: Duration = Duration::from_secs(10);

/// Creates missing tables and the topic, and prints to standard output what it did.
pub async fn run(args: MigrateArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mysql = args.mysql.settings()?;
    let kafka = args.kafka.settings(&args.mysql.tls)?;
    let wait = StoreWait::new(&args.start, &shutdown);
    let make = async {
        match wait
            .until(&of_mysql(&mysql), async || {
                migrations::migrate(&mysql, migrations::Tables::All).await
            })
            .await?
            .as_slice()
        {
            [] => firstcome_shared::say!("tables: nothing to do"),
            done => firstcome_shared::say!("tables: ran {}", done.join(", ")),
        }
        let (made, found) = wait
            .until(&of_kafka(&kafka), async || {
                let partitions = args.partitions;
                let replicas = args.replication;
                let made = kafka::ensure_topic(&kafka, partitions, KAFKA_LIMIT, replicas).await?;
                Ok((made, known_topic(&kafka).await?))
            })
            .await?;
        let what = if made { "made" } else { "there already" };
        let partitions = found.partitions;
        firstcome_shared::say!("topic {}: {what}, partitions: {partitions}", kafka.topic);
        if let Some(few) = too_few_replicas(found.replicas, args.replication) {
            firstcome_shared::say!("{few}");
        }
        Ok::<_, StartError>(())
    };
    unless_stopped(make.await)?;
    Ok(())
}

/// Returns a message if the topic has fewer replicas than wanted, which only one that existed
/// before may have; else `None`.
fn too_few_replicas(found: usize, wanted: i32) -> Option<String> {
    let is_enough = usize::try_from(wanted).is_ok_and(|wanted| found >= wanted);
    (!is_enough)
        .then(|| format!("replicas: {found}, not {wanted}: reassign them with Kafka's own tool"))
}

/// Waits, for at most [`KAFKA_LIMIT`], until the brokers know a new topic, so that processes that
/// start next find it.
async fn known_topic(kafka: &KafkaSettings) -> Result<FoundTopic, TopicError> {
    let give_up = tokio::time::Instant::now() + KAFKA_LIMIT;
    loop {
        match kafka::check_topic(kafka, KAFKA_LIMIT).await {
            Err(TopicError::Missing(_)) if tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_about_too_few_replicas_says_how_to_get_more() {
        // Without the option, one replica is enough.
        for (found, wanted) in [(3, 3), (3, 1)] {
            assert_eq!(too_few_replicas(found, wanted), None);
        }
        assert_eq!(
            too_few_replicas(1, 3).unwrap(),
            "replicas: 1, not 3: reassign them with Kafka's own tool"
        );
    }
}
