//! Connections to Redis, Kafka and MySQL, and the startup checks.

use std::time::Duration;

use firstcome_shared::config::{StartError, wait_for};
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::processes::{ProcessRow, owner};
use firstcome_shared::mysql::{Db, DbError, DbSettings, migrations};
use firstcome_shared::redis::safety::Unsafe;
use firstcome_shared::redis::{Redis, RedisError};
use tokio_util::sync::CancellationToken;

use crate::barrier::Topic;
use crate::report::FailureCause;

/// Connections to every store. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    pub db: Db,
    /// Settings for dedicated connections to MySQL.
    pub db_settings: DbSettings,
    pub redis: Redis,
    pub topic: Topic,
}

impl Stores {
    /// Returns the stores for one pass. The connection to Redis ends when its server process ends,
    /// and rows are never read from a read-only MySQL.
    pub async fn pinned(&self) -> Result<Self, RedisError> {
        Ok(Self {
            redis: self.redis.pinned().await?,
            db: self.db.of_primary(),
            ..self.clone()
        })
    }
}

/// Waits for the stores and checks that their settings do not risk promises.
///
/// # Errors
/// [`StartError`], which names the store. `Missing` means that the store does not answer now, even
/// if it has answered before.
pub async fn check(
    stores: &Stores,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), (FailureCause, StartError)> {
    check_mysql(stores, limit, stop)
        .await
        .map_err(|error| (FailureCause::Mysql, error))?;
    check_redis(stores, limit, stop)
        .await
        .map_err(|error| (FailureCause::Redis, error))?;
    check_kafka(stores, limit, stop)
        .await
        .map_err(|error| (FailureCause::Kafka, error))?;
    check_others(stores, limit)
        .await
        .map_err(|error| (FailureCause::Mysql, error))
}

fn mysql_of(stores: &Stores) -> String {
    format!("MySQL at {}", stores.db_settings.url.host_and_port())
}

async fn check_mysql(
    stores: &Stores,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let away = |error: &DbError| !matches!(error, DbError::Refused(_));
    let mysql = mysql_of(stores);
    wait_for(&mysql, limit, stop, away, async || stores.db.ping().await).await?;
    migrations::check(&stores.db_settings)
        .await
        .map_err(|error| match error.downcast_ref() {
            Some(error) if away(error) => StartError::Missing {
                store: mysql,
                waited: limit,
                reason: error.to_string(),
            },
            _ => StartError::Refused(format!("{error:#}")),
        })
}

async fn check_redis(
    stores: &Stores,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    wait_for(
        &format!("Redis at {}", stores.redis.host_and_port()),
        limit,
        stop,
        |e| matches!(e, Unsafe::Unreachable(_)),
        async || stores.redis.check_at_start().await,
    )
    .await
}

async fn check_kafka(
    stores: &Stores,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let kafka = &stores.topic.settings;
    wait_for(
        &format!("Kafka at {}", kafka.brokers),
        limit,
        stop,
        |e| matches!(e, TopicError::Unreachable { .. }),
        async || check_topic(kafka, Duration::from_secs(5)).await.map(|_| ()),
    )
    .await
}

impl Stores {
    /// Returns this process's entry in the registry of processes.
    pub(crate) fn process(&self) -> ProcessRow {
        let kafka = &self.topic.settings;
        ProcessRow {
            role: "the reconciler".into(),
            owner: owner(),
            redis_prefix: Some(self.redis.prefix().to_owned()),
            topic: kafka.topic.clone(),
            consumer_group: kafka.group.clone(),
            publish_deadline_ms: 0,
            fallback_deadline_ms: 0,
        }
    }
}

/// Checks that no running program uses the same data with different settings.
async fn check_others(stores: &Stores, limit: Duration) -> Result<(), StartError> {
    let own = stores.process();
    let away = |error: DbError| StartError::Missing {
        store: mysql_of(stores),
        waited: limit,
        reason: error.to_string(),
    };
    let others = stores.db.processes().await.map_err(away)?;
    others
        .iter()
        .find_map(|other| own.disagreement(other))
        .map_or(Ok(()), |it| Err(StartError::Refused(it)))
}
