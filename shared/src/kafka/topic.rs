//! The topic of claims: `migrate` makes it, start-up checks it.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::KafkaSettings;
use super::why_not::{Failure, Failures};

/// Why the topic can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("Kafka cannot be reached at {brokers}: {reason}")]
    Unreachable {
        /// `KAFKA_BROKERS`.
        brokers: String,
        reason: String,
    },
    /// Waiting does not mend it. The sentence says what to change.
    #[error("{0}")]
    Setting(String),
    #[error(
        "the topic {0:?} does not exist: run `firstcome-api migrate`, or make it with the number of partitions you need"
    )]
    Missing(String),
    /// The brokers refused to make it.
    #[error("the topic {topic:?} could not be made: {reason}")]
    Refused { topic: String, reason: String },
}

impl KafkaSettings {
    pub(super) fn unreachable(&self, reason: String) -> TopicError {
        TopicError::Unreachable { brokers: self.brokers.clone(), reason }
    }
}

/// The first wait for an answer; each further one is twice as long. Between them it is looked
/// whether a broker refused, of which a call that waits says nothing until its time is up.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Most events that are looked at between two waits.
const EVENTS: usize = 50;

/// Number of partitions of the topic.
pub async fn check_topic(settings: &KafkaSettings, limit: Duration) -> Result<usize, TopicError> {
    let owned = settings.clone();
    match tokio::task::spawn_blocking(move || ask(&owned, limit)).await {
        Ok(Ok(Topic::Has(partitions))) => Ok(partitions),
        Ok(Ok(Topic::Missing)) => Err(TopicError::Missing(settings.topic.clone())),
        Ok(Ok(Topic::Hidden)) => Err(TopicError::Setting(format!(
            "Kafka does not let this process see the topic {:?}: allow its user or its certificate to read and write it",
            settings.topic
        ))),
        Ok(Err((source, failure))) => Err(settings.why_not(&source, failure).await),
        Err(_) => Err(settings.unreachable(KafkaError::Canceled.to_string())),
    }
}

enum Topic {
    /// So many partitions.
    Has(usize),
    Missing,
    /// This user may not see it.
    Hidden,
}

fn ask(settings: &KafkaSettings, limit: Duration) -> Result<Topic, (KafkaError, Option<Failure>)> {
    let client: BaseConsumer<Failures> =
        settings.reader().create_with_context(Failures::default()).map_err(|error| (error, None))?;
    let (until, mut wait) = (Instant::now() + limit, FIRST_WAIT);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match client.fetch_metadata(Some(&settings.topic), wait.min(left)) {
            Ok(metadata) => {
                let topic = metadata.topics().iter().find(|topic| topic.name() == settings.topic);
                let hidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
                return Ok(match topic.map_or(0, |topic| topic.partitions().len()) {
                    0 if topic.is_some_and(|topic| topic.error() == Some(hidden)) => Topic::Hidden,
                    0 => Topic::Missing,
                    partitions => Topic::Has(partitions),
                });
            }
            Err(error) => error,
        };
        for _ in 0..EVENTS {
            drop(client.poll(Duration::ZERO));
        }
        let failure = client.context().first();
        if failure.is_some() || Instant::now() >= until {
            return Err((error, failure));
        }
        wait *= 2;
    }
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
    let admin: AdminClient<DefaultClientContext> =
        settings.admin().create().map_err(|e| settings.unreachable(e.to_string()))?;
    let topic = NewTopic::new(&settings.topic, partitions, TopicReplication::Fixed(replication));
    let options = AdminOptions::new().operation_timeout(Some(limit)).request_timeout(Some(limit));
    let results = admin.create_topics([&topic], &options).await.map_err(|e| settings.unreachable(e.to_string()))?;
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(true),
        // Another `migrate` was quicker.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((topic, code))) => Err(TopicError::Refused { topic, reason: code.to_string() }),
        None => Err(TopicError::Refused { topic: settings.topic.clone(), reason: "no answer".into() }),
    }
}
