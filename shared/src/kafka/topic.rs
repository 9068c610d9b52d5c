//! The topic of claims: `migrate` creates it, start-up checks it.

use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaRespErr;

use super::error::TopicError;
use super::safety::{BATCH_SETTING, IN_SYNC, what_expands, what_loses};
use super::why_not::Failures;
use super::{KafkaSettings, LARGEST_BATCH};

/// Interval at which to check whether a broker has applied a new setting.
const AGAIN: Duration = Duration::from_millis(50);

/// Maximum number of events processed after a call.
const EVENTS: usize = 50;

/// Checks that the topic's settings cannot lose acknowledged messages. Returns its number of
/// partitions.
pub async fn check_topic(settings: &KafkaSettings, limit: Duration) -> Result<usize, TopicError> {
    let owned = settings.clone();
    let (partitions, replicas) = match tokio::task::spawn_blocking(move || ask(&owned, limit)).await
    {
        Ok(Ok(TopicState::Has {
            partitions,
            replicas,
        })) => (partitions, replicas),
        Ok(Ok(TopicState::Missing)) => return Err(TopicError::Missing(settings.topic.clone())),
        Ok(Ok(TopicState::Hidden)) => {
            return Err(TopicError::Setting(format!(
                "Kafka does not let this process see the topic {:?}: allow its user or its certificate to read and write it",
                settings.topic
            )));
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(settings.unreachable(KafkaError::Canceled.to_string())),
    };
    match settings.config_of_topic(limit).await? {
        Some(config) => {
            let value = |name: &str| config.get(name)?.value.as_deref();
            let wrong = what_loses(&settings.topic, replicas, value)
                .or_else(|| what_expands(&settings.topic, value));
            wrong.map_or(Ok(partitions), |why| Err(TopicError::Setting(why)))
        }
        None => Ok(partitions),
    }
}

enum TopicState {
    Has {
        partitions: usize,
        /// The smallest number of replicas of a partition.
        replicas: usize,
    },
    Missing,
    /// This user has no permission to read it.
    Hidden,
}

fn ask(settings: &KafkaSettings, limit: Duration) -> Result<TopicState, TopicError> {
    let client = settings.reader().create_with_context(Failures::default());
    let client: BaseConsumer<Failures> = client.map_err(|error| {
        TopicError::Setting(format!(
            "the Kafka client can't be set up: {error}; see KAFKA_PROPERTIES, SSL_CERT_FILE and TLS_CERT_FILE"
        ))
    })?;
    let answer = client.fetch_metadata(Some(&settings.topic), limit);
    for _ in 0..EVENTS {
        drop(client.poll(Duration::ZERO));
    }
    let state = answer
        .map(|metadata| TopicState::of(&settings.topic, &metadata))
        .map_err(|error| settings.why_not(&error, client.context()));
    // Drop the client in the background, because that takes a tenth of a second.
    tokio::task::spawn_blocking(move || drop(client));
    state
}

impl TopicState {
    fn of(name: &str, metadata: &Metadata) -> Self {
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let hidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        let partitions = topic.map_or(&[][..], MetadataTopic::partitions);
        let replicas = partitions.iter().map(|one| one.replicas().len());
        match replicas.min() {
            None if topic.is_some_and(|topic| topic.error() == Some(hidden)) => Self::Hidden,
            None => Self::Missing,
            Some(replicas) => Self::Has {
                partitions: partitions.len(),
                replicas,
            },
        }
    }
}

/// Errors of a broker that does not support describing a topic's settings, or does not permit it.
const KEPT_BACK: [RDKafkaErrorCode; 4] = [
    RDKafkaErrorCode::TopicAuthorizationFailed,
    RDKafkaErrorCode::ClusterAuthorizationFailed,
    RDKafkaErrorCode::UnsupportedFeature,
    RDKafkaErrorCode::UnsupportedVersion,
];

impl KafkaSettings {
    /// Reads the topic's settings. Returns `None` if they cannot be read.
    async fn config_of_topic(&self, limit: Duration) -> Result<Option<ConfigResource>, TopicError> {
        let admin = self.admin_client()?;
        let options = AdminOptions::new().request_timeout(Some(limit));
        let asked = admin
            .describe_configs(&[ResourceSpecifier::Topic(&self.topic)], &options)
            .await;
        // Drop it in the background: its thread takes a tenth of a second to end.
        tokio::task::spawn_blocking(move || drop(admin));
        let code = match asked.map(|results| results.into_iter().next()) {
            Ok(Some(Ok(config))) => return Ok(Some(config)),
            Ok(Some(Err(code))) | Err(KafkaError::AdminOp(code)) => code,
            Ok(None) => RDKafkaErrorCode::UnsupportedFeature,
            Err(error) => return Err(self.unreachable(error.to_string())),
        };
        if !KEPT_BACK.contains(&code) {
            return Err(self.unreachable(code.to_string()));
        }
        tracing::warn!(
            topic = self.topic,
            %code,
            "Kafka does not tell the topic's settings, so whether they lose messages is not checked: allow this process \
             DescribeConfigs on the topic"
        );
        Ok(None)
    }

    /// Lowers the topic's maximum batch size, and returns whether it did. Kafka's request replaces
    /// all settings of a topic, so the others are sent with their current values.
    async fn limit_batches(&self, limit: Duration) -> Result<bool, TopicError> {
        let allows_large = |config: &ConfigResource| {
            what_expands(&self.topic, |name| config.get(name)?.value.as_deref()).is_some()
        };
        let Some(config) = self.config_of_topic(limit).await?.filter(allows_large) else {
            return Ok(false);
        };
        let largest = LARGEST_BATCH.to_string();
        let mut changed =
            AlterConfig::new(ResourceSpecifier::Topic(&self.topic)).set(BATCH_SETTING, &largest);
        let own = config
            .entries
            .iter()
            .filter(|entry| entry.source == ConfigSource::DynamicTopic);
        for entry in own.filter(|entry| entry.name != BATCH_SETTING) {
            // Kafka does not show this value to the user, so the request would delete it.
            let Some(value) = &entry.value else {
                return Ok(false);
            };
            changed = changed.set(&entry.name, value);
        }
        let admin = self.admin_client()?;
        let options = AdminOptions::new()
            .operation_timeout(Some(limit))
            .request_timeout(Some(limit));
        let altered = admin.alter_configs([&changed], &options).await;
        tokio::task::spawn_blocking(move || drop(admin));
        let refused = match altered.map(|results| results.into_iter().next()) {
            Ok(Some(Ok(_))) => None,
            Ok(Some(Err((_, code)))) => Some(code.to_string()),
            Ok(None) => Some("no answer".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = refused {
            tracing::warn!(
                topic = self.topic,
                why,
                "Kafka does not let this process lower {BATCH_SETTING} of the topic"
            );
            return Ok(false);
        }
        // Brokers apply the setting at different times.
        let until = Instant::now() + limit;
        while self
            .config_of_topic(limit)
            .await?
            .is_some_and(|config| allows_large(&config))
            && Instant::now() < until
        {
            tokio::time::sleep(AGAIN).await;
        }
        tracing::info!(
            topic = self.topic,
            largest,
            "{BATCH_SETTING} of the topic is lowered"
        );
        Ok(true)
    }

    fn admin_client(&self) -> Result<AdminClient<DefaultClientContext>, TopicError> {
        self.base()
            .create()
            .map_err(|error| self.unreachable(error.to_string()))
    }
}

/// Creates the topic if it is missing. Returns `true` if this call created it. Limits batches of an
/// existing topic to [`LARGEST_BATCH`].
pub async fn ensure_topic(
    settings: &KafkaSettings,
    partitions: i32,
    limit: Duration,
    replication: i32,
) -> Result<bool, TopicError> {
    match check_topic(settings, limit).await {
        Err(TopicError::Missing(_)) => {}
        Err(TopicError::Setting(_)) if settings.limit_batches(limit).await? => {
            return check_topic(settings, limit).await.map(|_| false);
        }
        other => return other.map(|_| false),
    }
    let admin = settings.admin_client()?;
    let in_sync = IN_SYNC
        .min(usize::try_from(replication).unwrap_or(IN_SYNC))
        .to_string();
    let largest_batch = LARGEST_BATCH.to_string();
    // Override the brokers' defaults.
    let topic = NewTopic::new(
        &settings.topic,
        partitions,
        TopicReplication::Fixed(replication),
    )
    .set("min.insync.replicas", &in_sync)
    .set("cleanup.policy", "delete")
    .set("compression.type", "producer")
    .set(BATCH_SETTING, &largest_batch);
    let options = AdminOptions::new()
        .operation_timeout(Some(limit))
        .request_timeout(Some(limit));
    let results = admin
        .create_topics([&topic], &options)
        .await
        .map_err(|e| settings.unreachable(e.to_string()))?;
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(true),
        // A concurrent `migrate` created it.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((topic, code))) => Err(TopicError::Refused {
            topic,
            reason: code.to_string(),
        }),
        None => Err(TopicError::Refused {
            topic: settings.topic.clone(),
            reason: "no answer".into(),
        }),
    }
}
