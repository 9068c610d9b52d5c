//! The topic of claims: `migrate` makes it, start-up checks it.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaSettings;

/// Why the topic can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("Kafka cannot be reached at {brokers}: {source}")]
    Unreachable {
        /// `KAFKA_BROKERS`.
        brokers: String,
        source: KafkaError,
    },
    #[error(
        "the topic {0:?} does not exist: run `firstcome-api migrate`, or make it with the number of partitions you need"
    )]
    Missing(String),
    /// The brokers refused to make it.
    #[error("the topic {topic:?} could not be made: {reason}")]
    Refused { topic: String, reason: String },
}

impl KafkaSettings {
    fn unreachable(&self, source: KafkaError) -> TopicError {
        TopicError::Unreachable { brokers: self.brokers.clone(), source }
    }
}

/// Number of partitions of the topic.
pub async fn check_topic(settings: &KafkaSettings, limit: Duration) -> Result<usize, TopicError> {
    let owned = settings.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let client: BaseConsumer = owned.reader().create().map_err(|e| owned.unreachable(e))?;
        let metadata = client.fetch_metadata(Some(&owned.topic), limit).map_err(|e| owned.unreachable(e))?;
        let partitions = metadata.topics().iter().find(|t| t.name() == owned.topic).map_or(0, |t| t.partitions().len());
        if partitions == 0 { Err(TopicError::Missing(owned.topic)) } else { Ok(partitions) }
    });
    asked.await.unwrap_or_else(|_| Err(settings.unreachable(KafkaError::Canceled)))
}

/// Makes the topic where it is missing; `true` if this call made it.
pub async fn ensure_topic(
    settings: &KafkaSettings,
    partitions: i32,
    replication: i32,
    limit: Duration,
) -> Result<bool, TopicError> {
    match check_topic(settings, limit).await {
        Err(TopicError::Missing(_)) => {}
        other => return other.map(|_| false),
    }
    let admin: AdminClient<DefaultClientContext> = settings.admin().create().map_err(|e| settings.unreachable(e))?;
    let topic = NewTopic::new(&settings.topic, partitions, TopicReplication::Fixed(replication));
    let options = AdminOptions::new().operation_timeout(Some(limit)).request_timeout(Some(limit));
    let results = admin.create_topics([&topic], &options).await.map_err(|e| settings.unreachable(e))?;
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(true),
        // Another `migrate` was quicker.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((topic, code))) => Err(TopicError::Refused { topic, reason: code.to_string() }),
        None => Err(TopicError::Refused { topic: settings.topic.clone(), reason: "no answer".into() }),
    }
}
