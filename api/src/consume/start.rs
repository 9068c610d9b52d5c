//! What must be there before anything is read.

use std::time::Duration;

use firstcome_shared::config::{StartError, wait_for};
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::{DbError, migrations};
use tokio_util::sync::CancellationToken;

use crate::consume::ConsumeArgs;
use crate::migrate::OneLine;

/// Longest wait for one answer of Kafka.
const KAFKA_LIMIT: Duration = Duration::from_secs(5);

/// Waits for MySQL and Kafka, and checks that the tables and the topic are as this build needs them.
pub(crate) async fn check_stores(args: &ConsumeArgs, shutdown: &CancellationToken) -> Result<(), StartError> {
    let limit = Duration::from_secs(args.start.startup_wait_seconds);
    let (mysql, kafka) = (args.mysql.settings(), args.kafka.settings());
    let away = |error: &OneLine| matches!(error.0.downcast_ref(), Some(DbError::Unreachable(_)));
    let tables = wait_for("MySQL", limit, shutdown, away, async || migrations::check(&mysql).await.map_err(OneLine));
    let away = |error: &TopicError| matches!(error, TopicError::Unreachable { .. });
    let topic = wait_for("Kafka", limit, shutdown, away, async || check_topic(&kafka, KAFKA_LIMIT).await);
    tokio::try_join!(tables, topic).map(|_| ())
}
