//! The start-up checks of Redis, Kafka and MySQL.

use std::time::Duration;

use anyhow::Error;
use firstcome_shared::config::{StartError, wait_for};
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::{DbError, migrations};
use firstcome_shared::redis::safety::Unsafe;
use tokio_util::sync::CancellationToken;

use crate::context::Stores;
use crate::report::FailureCause;

/// Maximum wait for one answer of Kafka.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the stores, and checks that their settings do not risk promises and that no running
/// program uses the same data with different settings.
///
/// # Errors
/// [`StartError`], which names the store. `Missing` means that the store does not answer now, even
/// if it has answered before.
pub async fn check(
    stores: &Stores,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), (FailureCause, StartError)> {
    let settings = &stores.db_settings;
    let name = format!("MySQL at {}", settings.url.host_and_port());
    let usable = wait_for(&name, limit, stop, mysql_is_away, async || {
        stores.db.ping().await?;
        migrations::check(&stores.db, settings).await?;
        let own = stores.process();
        let others = stores.db.processes().await?;
        let wrong = others.iter().find_map(|other| own.disagreement(other));
        wrong.map_or(Ok(()), |why| Err(Error::msg(why)))
    });
    usable.await.map_err(|error| (FailureCause::Mysql, error))?;
    let redis = &stores.redis;
    let name = format!("Redis at {}", redis.host_and_port());

    let safe = wait_for(
        &name,
        limit,
        stop,
        |error| matches!(error, Unsafe::Unreachable(_)),
        async || redis.check_at_start().await,
    )
    .await;
    safe.map_err(|error| (FailureCause::Redis, error))?;
    let kafka = &stores.topic.settings;
    let name = format!("Kafka at {}", kafka.brokers);
    let safe = wait_for(&name, limit, stop, TopicError::is_away, async || {
        check_topic(kafka, PATIENCE).await
    })
    .await;
    safe.map(|_| ())
        .map_err(|error| (FailureCause::Kafka, error))
}

/// Whether MySQL may answer later: a call to it failed, and MySQL has not refused this process.
pub(crate) fn mysql_is_away(error: &Error) -> bool {
    match error.downcast_ref() {
        Some(DbError::Refused(_)) | None => false,
        Some(_) => true,
    }
}
