//! The topic of claims: `migrate` creates it, start-up checks it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataPartition, MetadataTopic};
use rdkafka::types::RDKafkaRespErr;

use super::diagnosis::Failures;
use super::error::TopicError;
use super::safety::{BATCH_SETTING, IN_SYNC, TIME_SETTING, what_is_unsafe};
use super::{KafkaSettings, LARGEST_BATCH};

/// Maximum number of events processed after a call.
const EVENTS: usize = 50;

/// A client that can also read and create topics, but does not report why it reaches no broker.
type Admin = AdminClient<DefaultClientContext>;

/// Checks that the topic exists, that its settings cannot lose acknowledged messages, and that
/// enough replicas are in sync. If Kafka does not let this process read the settings, checks only
/// that the topic exists.
pub async fn check_topic(
    settings: &KafkaSettings,
    limit: Duration,
) -> Result<FoundTopic, TopicError> {
    let owned = settings.clone();
    let admin = settings.admin_client()?;
    let asked = tokio::task::spawn_blocking(move || read_topic(&owned, admin, limit)).await;
    let (found, admin) = asked.map_err(|_| settings.unreachable(&KafkaError::Canceled))??;
    let Some(config) = settings.config_of_topic(admin, limit).await? else {
        return Ok(found);
    };
    let value = |name: &str| config.get(name)?.value.as_deref();
    if let Some(why) = what_is_unsafe(&settings.topic, found.replicas, value) {
        return Err(TopicError::Setting(why));
    }
    let needed = value("min.insync.replicas").and_then(|number| number.parse::<usize>().ok());
    if needed.is_some_and(|needed| found.in_sync < needed) {
        return Err(TopicError::Refuses(format!(
            "a partition of the topic {:?} has fewer replicas in sync ({}) than \
            min.insync.replicas: NOT_ENOUGH_REPLICAS",
            settings.topic, found.in_sync
        )));
    }
    Ok(found)
}

/// The offsets of each partition: the first one that the log has, and its end.
pub type Logs = BTreeMap<i32, Range<i64>>;

/// Reads the offsets of all partitions. `limit` is the time for one answer.
pub fn logs(client: &BaseConsumer, topic: &str, limit: Duration) -> KafkaResult<Logs> {
    let logs = partitions(client, topic, limit)?
        .into_iter()
        .map(|partition| {
            let (first, end) = client.fetch_watermarks(topic, partition, limit)?;
            Ok((partition, first..end))
        });
    logs.collect()
}

pub fn partitions(client: &BaseConsumer, topic: &str, limit: Duration) -> KafkaResult<Vec<i32>> {
    let metadata = client.fetch_metadata(Some(topic), limit)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    Ok(partitions.map(MetadataPartition::id).collect())
}

/// A topic as the brokers describe it.
pub struct FoundTopic {
    pub partitions: usize,
    /// The smallest number of replicas of any partition.
    pub replicas: usize,
    /// The smallest number of replicas in sync of any partition.
    in_sync: usize,
}

/// Reads the topic's partitions. Returns the client too, because a new one would have to connect
/// again.
fn read_topic(
    settings: &KafkaSettings,
    admin: Admin,
    limit: Duration,
) -> Result<(FoundTopic, Admin), TopicError> {
    // A small part of the limit, because a second client repeats the question if this one fails.
    let asked = admin
        .inner()
        .fetch_metadata(Some(&settings.topic), limit / 4);
    let found = match asked {
        Ok(metadata) => settings.topic_in(&metadata),
        Err(error) => {
            tracing::debug!(%error, "the topic is read again, to learn the cause");
            read_or_diagnose(settings, limit * 3 / 4)
        }
    };
    match found {
        Ok(found) => Ok((found, admin)),
        Err(error) => {
            drop_in_background(admin);
            Err(error)
        }
    }
}

/// Reads the topic's partitions with a client that reports why it reaches no broker.
fn read_or_diagnose(settings: &KafkaSettings, limit: Duration) -> Result<FoundTopic, TopicError> {
    let created = settings.reader().create_with_context(Failures::default());
    let client: BaseConsumer<Failures> = created.map_err(|error| cannot_be_set_up(&error))?;
    let answer = client.fetch_metadata(Some(&settings.topic), limit);
    for _ in 0..EVENTS {
        drop(client.poll(Duration::ZERO));
    }
    let found = match answer {
        Ok(metadata) => settings.topic_in(&metadata),
        Err(error) => Err(settings.why_not(&error, client.context())),
    };
    drop_in_background(client);
    found
}

/// Drops a client. Its thread takes a tenth of a second to end.
fn drop_in_background(client: impl Send + 'static) {
    tokio::task::spawn_blocking(move || drop(client));
}

fn cannot_be_set_up(error: &KafkaError) -> TopicError {
    TopicError::Setting(format!(
        "the Kafka client can't be set up: {error}; see KAFKA_PROPERTIES, SSL_CERT_FILE and \
        TLS_CERT_FILE"
    ))
}

/// Errors of a broker that does not support describing a topic's settings, or does not permit it.
const KEPT_BACK: [RDKafkaErrorCode; 4] = [
    RDKafkaErrorCode::TopicAuthorizationFailed,
    RDKafkaErrorCode::ClusterAuthorizationFailed,
    RDKafkaErrorCode::UnsupportedFeature,
    RDKafkaErrorCode::UnsupportedVersion,
];

impl KafkaSettings {
    fn topic_in(&self, metadata: &Metadata) -> Result<FoundTopic, TopicError> {
        let name = &self.topic;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let partitions = topic.map_or(&[][..], MetadataTopic::partitions);
        let replicas = partitions.iter().map(|one| one.replicas().len());
        let in_sync = partitions.iter().map(|one| one.isr().len());
        if let Some((replicas, in_sync)) = replicas.min().zip(in_sync.min()) {
            return Ok(FoundTopic {
                partitions: partitions.len(),
                replicas,
                in_sync,
            });
        }
        let hidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        if topic.is_none_or(|topic| topic.error() != Some(hidden)) {
            return Err(TopicError::Missing(name.clone()));
        }
        Err(TopicError::Setting(format!(
            "Kafka does not let this process see the topic {name:?}: allow its user or its \
            certificate `Describe` on it, and `Create` for `migrate`"
        )))
    }

    /// Reads the topic's settings. Returns `None` if Kafka does not support or permit that.
    async fn config_of_topic(
        &self,
        admin: Admin,
        limit: Duration,
    ) -> Result<Option<ConfigResource>, TopicError> {
        let options = AdminOptions::new().request_timeout(Some(limit));
        let asked = admin
            .describe_configs(&[ResourceSpecifier::Topic(&self.topic)], &options)
            .await;
        drop_in_background(admin);
        let code = match asked.map(|results| results.into_iter().next()) {
            Ok(Some(Ok(config))) => return Ok(Some(config)),
            Ok(Some(Err(code))) | Err(KafkaError::AdminOp(code)) => code,
            Ok(None) => RDKafkaErrorCode::UnsupportedFeature,
            Err(error) => return Err(self.unreachable(&error)),
        };
        if !KEPT_BACK.contains(&code) {
            return Err(self.unreachable(&code));
        }
        tracing::warn!(
            topic = self.topic,
            %code,
            "Kafka does not tell the topic's settings, so whether they lose messages is not \
            checked: allow this process DescribeConfigs on the topic"
        );
        Ok(None)
    }

    /// Creates a client that does not let brokers create the topic when it reads the partitions.
    /// rdkafka's admin client is a producer, which lets them by default.
    fn admin_client(&self) -> Result<Admin, TopicError> {
        let mut config = self.base();
        config.set("allow.auto.create.topics", "false");
        config.create().map_err(|error| cannot_be_set_up(&error))
    }
}

/// Creates the topic if it is missing, otherwise checks it. Returns `true` if this call created it.
pub async fn ensure_topic(
    settings: &KafkaSettings,
    partitions: i32,
    limit: Duration,
    replication: i32,
) -> Result<bool, TopicError> {
    match check_topic(settings, limit).await {
        Err(TopicError::Missing(_)) => {}
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
    .set(TIME_SETTING[0], TIME_SETTING[1])
    .set(BATCH_SETTING, &largest_batch);
    let options = AdminOptions::new()
        .operation_timeout(Some(limit))
        .request_timeout(Some(limit));
    let results = admin
        .create_topics([&topic], &options)
        .await
        .map_err(|error| settings.unreachable(&error))?;
    let reason = match results.into_iter().next() {
        Some(Ok(_)) => return Ok(true),
        // A concurrent `migrate` created it.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => return Ok(false),
        Some(Err((_, code))) => code.to_string(),
        None => "no answer".to_owned(),
    };
    let topic = &settings.topic;
    let why = format!("the topic {topic:?} could not be made: {reason}");
    Err(TopicError::Setting(why))
}
