//! What must be there before anything is read.

use std::time::Duration;

use firstcome_shared::config::{StartError, wait_for};
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::{Db, migrations};
use tokio_util::sync::CancellationToken;

use super::ConsumeArgs;

/// Longest wait for one answer of Kafka.
const KAFKA_LIMIT: Duration = Duration::from_secs(5);

/// Waits for MySQL and Kafka, and checks that the tables and the topic are as this build needs them.
///
/// # Errors
/// [`StartError`], with what to do.
pub(super) async fn check_stores(args: &ConsumeArgs, db: &Db, shutdown: &CancellationToken) -> Result<(), StartError> {
    let limit = Duration::from_secs(args.start.startup_wait_seconds);
    wait_for("MySQL", limit, shutdown, |_| true, async || db.ping().await).await?;
    let mysql = args.mysql.settings();
    wait_for(
        "MySQL",
        limit,
        shutdown,
        |_: &String| false,
        async || migrations::check(&mysql).await.map_err(|error| format!("{error:#}")),
    )
    .await?;
    let kafka = args.kafka.settings();
    let may_come = |error: &TopicError| matches!(error, TopicError::Unreachable { .. });
    wait_for("Kafka", limit, shutdown, may_come, async || check_topic(&kafka, KAFKA_LIMIT).await).await?;
    Ok(())
}
