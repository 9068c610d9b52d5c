//! Start-up checks of the stores: waits for a store that does not answer yet, and refuses to start
//! if a store's settings are unsuitable.

use std::time::Duration;

use firstcome_shared::config::{StartArgs, StartError, wait_for};
use firstcome_shared::http::client::FetchError;
use firstcome_shared::kafka::{KafkaSettings, TopicError, check_topic};
use firstcome_shared::mysql::{Db, DbError, DbSettings, migrations};
use firstcome_shared::redis::copy::CatalogueCopy;
use firstcome_shared::redis::safety::Unsafe;
use firstcome_shared::redis::{Redis, RedisError};
use tokio_util::sync::CancellationToken;

/// Maximum wait for one response of Kafka.
const KAFKA_LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct StoreWait<'a> {
    limit: Duration,
    shutdown: &'a CancellationToken,
}

impl<'a> StoreWait<'a> {
    pub(crate) fn new(args: &StartArgs, shutdown: &'a CancellationToken) -> Self {
        Self {
            limit: args.limit(),
            shutdown,
        }
    }

    /// Retries a call while its store does not answer, until the time limit or the shutdown.
    /// `store` is the store's name and address.
    pub(crate) async fn until<T, Fut: Future<Output = anyhow::Result<T>>>(
        &self,
        store: &str,
        ask: impl FnMut() -> Fut,
    ) -> Result<T, StartError> {
        wait_for(store, self.limit, self.shutdown, is_away, ask).await
    }

    /// Waits for MySQL and checks the tables.
    pub(crate) async fn tables(&self, db: &Db, mysql: &DbSettings) -> Result<(), StartError> {
        self.until(&of_mysql(mysql), async || {
            migrations::check(db, mysql).await
        })
        .await
    }

    /// Waits for MySQL, checks the tables, and returns `None`. While MySQL does not answer, returns
    /// the copy of the coupons in Redis, if there is one.
    pub(crate) async fn tables_or_copy(
        &self,
        db: &Db,
        mysql: &DbSettings,
        redis: &Redis,
    ) -> Result<Option<CatalogueCopy>, StartError> {
        let check = async || {
            let Err(error) = migrations::check(db, mysql).await else {
                return Ok(None);
            };
            // An error of Redis is not reported here: another check waits for Redis at the same
            // time.
            match redis.catalogue_copy().await {
                Ok(Some(copy)) if is_away(&error) => {
                    let what = "starting without MySQL: coupons are those of the copy in Redis \
                        until it answers";
                    tracing::warn!(error = format!("{error:#}"), "{what}");
                    Ok(Some(copy))
                }
                _ => Err(error),
            }
        };
        self.until(&of_mysql(mysql), check).await
    }

    /// Waits for Kafka and checks the topic. Returns its number of partitions.
    pub(crate) async fn topic(&self, kafka: &KafkaSettings) -> Result<usize, StartError> {
        self.until(&of_kafka(kafka), async || {
            Ok(check_topic(kafka, KAFKA_LIMIT).await?.partitions)
        })
        .await
    }

    /// Checks the topic if Kafka answers. Returns `None` if Kafka is unavailable, because claims
    /// continue without it.
    pub(crate) async fn topic_or_away(
        &self,
        kafka: &KafkaSettings,
    ) -> Result<Option<usize>, StartError> {
        match check_topic(kafka, KAFKA_LIMIT).await {
            Ok(found) => Ok(Some(found.partitions)),
            Err(error) if error.is_away() => {
                tracing::warn!(%error, "starting without Kafka: claims go to MySQL until it answers");
                Ok(None)
            }
            Err(error) => Err(StartError::Refused(error.to_string())),
        }
    }
}

pub(crate) fn of_mysql(mysql: &DbSettings) -> String {
    format!("MySQL at {}", mysql.url.host_and_port())
}

pub(crate) fn of_kafka(kafka: &KafkaSettings) -> String {
    format!("Kafka at {}", kafka.brokers)
}

/// Converts the result of a wait. Returns `None` if `shutdown` came first.
pub(crate) fn unless_stopped<T>(waited: Result<T, StartError>) -> Result<Option<T>, StartError> {
    match waited {
        Err(StartError::Stopped(store)) => {
            tracing::info!(%store, "stopped while waiting");
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Whether a store or the issuer of keys did not answer, so that asking again may help.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DbError::Unreachable(_)))
        || error.downcast_ref().is_some_and(TopicError::is_away)
        || matches!(error.downcast_ref(), Some(Unsafe::Unreachable(_)))
        || matches!(error.downcast_ref(), Some(FetchError::Away(_)))
        || error.is::<RedisError>()
}
