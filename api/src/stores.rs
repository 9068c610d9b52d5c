//! Start-up checks of the stores: waits for a store that does not answer yet, and refuses to start
//! if a store's settings are unsuitable.

use std::time::Duration;

use firstcome_shared::config::{StartArgs, StartError, wait_for};
use firstcome_shared::http::fetch::FetchError;
use firstcome_shared::kafka::{KafkaSettings, TopicError, check_topic};
use firstcome_shared::mysql::{DbError, DbSettings, migrations};
use firstcome_shared::redis::safety::Unsafe;
use firstcome_shared::redis::{Redis, RedisError};
use tokio_util::sync::CancellationToken;

use crate::serve::auth::Identity;

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

    /// Waits for MySQL and checks the tables.
    pub(crate) async fn tables(&self, mysql: &DbSettings) -> Result<(), StartError> {
        self.mysql(mysql, async || Ok(migrations::check(mysql).await?))
            .await
    }

    /// Waits for Kafka and checks the topic. Returns its number of partitions.
    pub(crate) async fn topic(&self, kafka: &KafkaSettings) -> Result<usize, StartError> {
        self.kafka(kafka, async || check_topic(kafka, KAFKA_LIMIT).await)
            .await
    }

    /// Checks the topic if Kafka answers. Returns `None` if Kafka is unavailable, because claims
    /// continue without it.
    pub(crate) async fn topic_or_away(
        &self,
        kafka: &KafkaSettings,
    ) -> Result<Option<usize>, StartError> {
        let checked = tokio::select! {
            () = self.shutdown.cancelled() => return Err(StartError::Stopped(format!("Kafka at {}", kafka.brokers))),
            checked = check_topic(kafka, KAFKA_LIMIT) => checked,
        };
        match checked {
            Ok(partitions) => Ok(Some(partitions)),
            Err(error @ TopicError::Unreachable { .. }) => {
                tracing::warn!(%error, "starting without Kafka: claims go to MySQL until it answers");
                Ok(None)
            }
            Err(error) => Err(StartError::Refused(error.to_string())),
        }
    }

    /// Waits for Redis and checks for settings that could lose a promise.
    pub(crate) async fn redis_settings(&self, redis: &Redis) -> Result<(), StartError> {
        let away = |error: &Unsafe| matches!(error, Unsafe::Unreachable(_));
        let at = format!("Redis at {}", redis.host_and_port());
        wait_for(&at, self.limit, self.shutdown, away, async || {
            redis.check_at_start().await
        })
        .await
    }

    /// Retries a call to Redis until it answers.
    pub(crate) async fn redis<T, Fut: Future<Output = Result<T, RedisError>>>(
        &self,
        redis: &Redis,
        ask: impl FnMut() -> Fut,
    ) -> Result<T, StartError> {
        let at = format!("Redis at {}", redis.host_and_port());
        wait_for(&at, self.limit, self.shutdown, |_| true, ask).await
    }

    /// Waits for the keys that verify tokens.
    pub(crate) async fn keys(&self, identity: &Identity) -> Result<(), StartError> {
        let Some(keys) = identity.key_set() else {
            return Ok(());
        };
        let away = |error: &FetchError| matches!(error, FetchError::Away(_));
        let read = wait_for(
            &keys.to_string(),
            self.limit,
            self.shutdown,
            away,
            async || keys.read().await,
        )
        .await;
        read.map_err(|error| match error {
            StartError::Refused(why) => StartError::Refused(format!("{keys}: {why}")),
            other => other,
        })
    }

    /// Retries a call to MySQL until it answers.
    pub(crate) async fn mysql<T, Fut: Future<Output = Result<T, OneLine>>>(
        &self,
        mysql: &DbSettings,
        ask: impl FnMut() -> Fut,
    ) -> Result<T, StartError> {
        let at = format!("MySQL at {}", mysql.url.host_and_port());
        let away =
            |error: &OneLine| matches!(error.0.downcast_ref(), Some(DbError::Unreachable(_)));
        wait_for(&at, self.limit, self.shutdown, away, ask).await
    }

    /// Retries a call to Kafka until it answers.
    pub(crate) async fn kafka<T, Fut: Future<Output = Result<T, TopicError>>>(
        &self,
        kafka: &KafkaSettings,
        ask: impl FnMut() -> Fut,
    ) -> Result<T, StartError> {
        let at = format!("Kafka at {}", kafka.brokers);
        let away = |error: &TopicError| matches!(error, TopicError::Unreachable { .. });
        wait_for(&at, self.limit, self.shutdown, away, ask).await
    }
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

/// An error with its chain, on one line.
#[derive(Debug)]
pub(crate) struct OneLine(anyhow::Error);

impl From<anyhow::Error> for OneLine {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for OneLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
