//! Why the topic cannot be used.

use super::KafkaSettings;

#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("Kafka cannot be reached at {brokers}: {reason}")]
    Unreachable {
        /// `KAFKA_BROKERS`.
        brokers: String,
        reason: String,
    },
    /// Retrying does not help. The message names what to change.
    #[error("{0}")]
    Setting(String),
    #[error(
        "the topic {0:?} does not exist: run `firstcome-api migrate`, or make it with the number of partitions you need"
    )]
    Missing(String),
    /// The brokers refused to create the topic.
    #[error("the topic {topic:?} could not be made: {reason}")]
    Refused { topic: String, reason: String },
}

impl KafkaSettings {
    pub(super) fn unreachable(&self, reason: String) -> TopicError {
        TopicError::Unreachable {
            brokers: self.brokers.clone(),
            reason,
        }
    }
}
