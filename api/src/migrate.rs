//! `firstcome-api migrate`: the tables, then the topic. Safe when two run at once; a second run finds nothing to do.

use std::time::Duration;

use clap::Args;
use firstcome_shared::config::{KafkaArgs, MysqlArgs, StartArgs, StartError, wait_for};
use firstcome_shared::kafka::{self, KafkaSettings, TopicError};
use firstcome_shared::mysql::{DbError, migrations};
use tokio_util::sync::CancellationToken;

/// Settings of `migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// MySQL.
    #[command(flatten)]
    pub mysql: MysqlArgs,
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Partitions of the topic, if it has to be made
    #[arg(long, env = "KAFKA_PARTITIONS", default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000), help_heading = "Kafka")]
    pub kafka_partitions: i32,
    /// Replicas of each partition, if the topic has to be made
    #[arg(long, env = "KAFKA_REPLICATION", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100), help_heading = "Kafka")]
    pub kafka_replication: i32,
    /// Waiting for stores.
    #[command(flatten)]
    pub start: StartArgs,
}

/// Longest wait for one answer of Kafka.
const KAFKA_LIMIT: Duration = Duration::from_secs(10);

/// Makes what is missing and says so, one line each, on standard output.
pub async fn run(args: MigrateArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    match make_all(&args, &shutdown).await {
        Err(StartError::Stopped(store)) => {
            tracing::info!(store, "stopped while waiting");
            Ok(())
        }
        other => Ok(other?),
    }
}

async fn make_all(args: &MigrateArgs, shutdown: &CancellationToken) -> Result<(), StartError> {
    let wait = Duration::from_secs(args.start.startup_wait_seconds);
    let mysql = args.mysql.settings();
    let away = |error: &OneLine| matches!(error.0.downcast_ref(), Some(DbError::Unreachable(_)));
    let ran = wait_for("MySQL", wait, shutdown, away, async || migrations::migrate(&mysql).await.map_err(OneLine));
    match ran.await?.as_slice() {
        [] => println!("tables: nothing to do"),
        done => println!("tables: ran {}", done.join(", ")),
    }

    let kafka = args.kafka.settings();
    let away = |error: &TopicError| matches!(error, TopicError::Unreachable { .. });
    let ask = async || {
        let made = kafka::ensure_topic(&kafka, args.kafka_partitions, args.kafka_replication, KAFKA_LIMIT).await?;
        Ok::<_, TopicError>((made, partitions(&kafka).await?))
    };
    let (made, partitions) = wait_for("Kafka", wait, shutdown, away, ask).await?;
    let what = if made { "made" } else { "there already" };
    println!("topic {}: {what}, {partitions} partitions", kafka.topic);
    Ok(())
}

/// How many partitions the topic has. A topic just made is not known to every broker at once, and a process started now would
/// find it missing: so this is asked again for a while.
async fn partitions(kafka: &KafkaSettings) -> Result<usize, TopicError> {
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

/// An error with its chain, on one line.
#[derive(Debug)]
pub(crate) struct OneLine(pub(crate) anyhow::Error);

impl std::fmt::Display for OneLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
