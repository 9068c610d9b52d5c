//! Connections to Redis, Kafka and MySQL, and the startup checks.

use std::time::Duration;

use firstcome_shared::config::{StartError, wait_for};
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::processes::ProcessRow;
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
    let of = |cause: FailureCause| move |error: StartError| (cause, error);
    let mysql = check_mysql(stores, limit, stop).await;
    mysql.map_err(of(FailureCause::Mysql))?;
    let redis = &stores.redis;
    let name = format!("Redis at {}", redis.host_and_port());
    let is_away = |error: &Unsafe| matches!(error, Unsafe::Unreachable(_));
    let check = async || redis.check_at_start().await;
    let safe = wait_for(&name, limit, stop, is_away, check).await;
    safe.map_err(of(FailureCause::Redis))?;
    let kafka = &stores.topic.settings;
    let name = format!("Kafka at {}", kafka.brokers);
    let is_away = |error: &TopicError| matches!(error, TopicError::Unreachable { .. });
    let topic = async || check_topic(kafka, PATIENCE).await.map(|_| ());
    let safe = wait_for(&name, limit, stop, is_away, topic).await;
    safe.map_err(of(FailureCause::Kafka))?;
    let others = check_others(stores, limit).await;
    others.map_err(of(FailureCause::Mysql))
}

/// Maximum wait for one answer of Kafka.
const PATIENCE: Duration = Duration::from_secs(5);

async fn check_mysql(
    stores: &Stores,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let is_away = |error: &DbError| !matches!(error, DbError::Refused(_));
    let name = mysql_of(stores);
    wait_for(&name, limit, stop, is_away, async || stores.db.ping().await).await?;
    let checked = migrations::check(&stores.db_settings).await;
    checked.map_err(|error| match error.downcast_ref() {
        Some(error) if is_away(error) => missing(stores, limit, error),
        _ => StartError::Refused(format!("{error:#}")),
    })
}

/// Checks that no running program uses the same data with different settings.
async fn check_others(stores: &Stores, limit: Duration) -> Result<(), StartError> {
    let own = stores.process();
    let others = stores.db.processes().await;
    let others = others.map_err(|error| missing(stores, limit, &error))?;
    let wrong = others.iter().find_map(|other| own.disagreement(other));
    wrong.map_or(Ok(()), |why| Err(StartError::Refused(why)))
}

fn mysql_of(stores: &Stores) -> String {
    format!("MySQL at {}", stores.db_settings.url.host_and_port())
}

fn missing(stores: &Stores, waited: Duration, error: &DbError) -> StartError {
    let (store, reason) = (mysql_of(stores), error.to_string());
    StartError::Missing {
        store,
        waited,
        reason,
    }
}

impl Stores {
    /// Returns this process's entry in the registry of processes.
    pub(crate) fn process(&self) -> ProcessRow {
        ProcessRow {
            redis_prefix: Some(self.redis.prefix().to_owned()),
            ..ProcessRow::new("the reconciler", &self.topic.settings)
        }
    }
}
