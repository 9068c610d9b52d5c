//! Why the topic cannot be used.

use std::fmt::Display;

use super::KafkaSettings;

#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("Kafka cannot be reached at {0}")]
    Unreachable(String),
    /// Kafka answers, but takes no messages now.
    #[error("{0}")]
    Refuses(String),
    /// Retrying does not help. The message names what to change.
    #[error("{0}")]
    Setting(String),
    #[error(
        "the topic {0:?} does not exist: run `firstcome-api migrate`, or make it with the number \
        of partitions you need"
    )]
    Missing(String),
}

impl TopicError {
    /// Whether asking again may help.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Refuses(_))
    }
}

impl KafkaSettings {
    pub(super) fn unreachable(&self, reason: &dyn Display) -> TopicError {
        TopicError::Unreachable(format!("{}: {reason}", self.brokers))
    }
}
