//! A stage that is a Kafka topic: it has passed once the committed offsets have reached the end.
//! Only offsets are read, never a message, and the group is not joined.
//!
//! A transactional producer leaves a marker behind the last message, which no offset reaches: such
//! a topic never passes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_shared::report::FailureCause;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{Behind, Brokers, Mark, Progress};
use crate::error::{Answer, AttachError};

/// Maximum wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Time between two attempts while a broker settles.
const RETRY: Duration = Duration::from_millis(100);

/// Errors of a broker that has just started, and of a partition whose leader is being elected.
const SETTLING: [RDKafkaErrorCode; 4] = [
    RDKafkaErrorCode::CoordinatorLoadInProgress,
    RDKafkaErrorCode::CoordinatorNotAvailable,
    RDKafkaErrorCode::LeaderNotAvailable,
    RDKafkaErrorCode::NotLeaderForPartition,
];

/// The offsets of each partition: the first one that the log has, and its end.
pub(crate) type Logs = BTreeMap<i32, Range<i64>>;

/// The committed offset of each partition that has one.
type Committed = BTreeMap<i32, i64>;

/// A topic, and the group that reads it.
pub(super) struct Topic {
    client: Arc<BaseConsumer>,
    name: String,
    group: String,
}

impl Topic {
    pub(super) fn new(brokers: Option<&Brokers>, name: &str, group: &str) -> Answer<Self> {
        let Some(brokers) = brokers else {
            let why = "kafka: write its address, as \"host:9092\"";
            return Err(AttachError::Misfit(why.to_owned()));
        };
        let client = brokers.client(group)?;
        Ok(Self {
            client: Arc::new(client),
            name: name.to_owned(),
            group: group.to_owned(),
        })
    }

    /// Queries Kafka in a separate thread, because its client blocks.
    async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&BaseConsumer) -> KafkaResult<T> + Send + 'static,
    ) -> Answer<T> {
        let client = self.client.clone();
        let answer = tokio::task::spawn_blocking(move || read(&client)).await;
        answer
            .map_err(|error| AttachError::away(FailureCause::Kafka, error))?
            .map_err(|error| away(&error))
    }

    /// Refuses a topic or a group that does not exist.
    pub(super) async fn check(&self) -> Answer<()> {
        self.logs().await?;
        let group = self.group.clone();
        if self.query(move |client| exists(client, &group)).await? {
            return Ok(());
        }
        Err(AttachError::Misfit(format!(
            "queue: Kafka has no consumer group {:?} yet: start its consumer, or correct the name",
            self.group
        )))
    }

    pub(super) async fn logs(&self) -> Answer<Logs> {
        let name = self.name.clone();
        let logs = self.query(move |client| logs(client, &name)).await?;
        // A topic without partitions would count as read to its end.
        if logs.is_empty() {
            let why = format!("queue: Kafka has no topic {:?}", self.name);
            return Err(AttachError::Misfit(why));
        }
        Ok(logs)
    }

    /// Compares the committed offsets with the ends that were read before.
    pub(super) async fn progress(&self, ends: &Logs) -> Answer<Progress> {
        let name = self.name.clone();
        let partitions: Vec<i32> = ends.keys().copied().collect();
        let committed = self
            .query(move |client| committed(client, &name, &partitions))
            .await?;
        // Read after the offsets: an offset beyond this end belongs to another log.
        let now = self.logs().await?;
        Ok(compare(ends, &committed, &now))
    }
}

impl Brokers {
    /// Creates a client that never commits and joins no group.
    pub(crate) fn client(&self, group: &str) -> Answer<BaseConsumer> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.addresses)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("socket.timeout.ms", ANSWER.as_millis().to_string())
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https");
        self.security.apply(&mut config);
        config.create().map_err(|error| away(&error))
    }
}

impl Brokers {
    /// Whether Kafka answers.
    pub(crate) async fn ping(&self) -> Answer<()> {
        let client = self.client("firstcome-attach")?;
        let asked = move || client.fetch_metadata(None, ANSWER).map(drop);
        let answer = tokio::task::spawn_blocking(asked).await;
        answer
            .map_err(|error| AttachError::Lost(error.to_string()))?
            .map_err(|error| away(&error))
    }
}

pub(crate) fn away(error: &KafkaError) -> AttachError {
    AttachError::away(FailureCause::Kafka, error)
}

/// Retries while a broker settles.
fn once_settled<T>(ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let answer = ask();
        let code = answer
            .as_ref()
            .err()
            .and_then(KafkaError::rdkafka_error_code);
        let settles = code.is_some_and(|code| SETTLING.contains(&code));
        if !settles || Instant::now() >= deadline {
            return answer;
        }
        std::thread::sleep(RETRY);
    }
}

fn exists(client: &BaseConsumer, group: &str) -> KafkaResult<bool> {
    let found = once_settled(|| client.fetch_group_list(Some(group), ANSWER))?;
    let mut groups = found.groups().iter();
    Ok(groups.any(|it| it.name() == group && it.state() != "Dead"))
}

pub(crate) fn logs(client: &BaseConsumer, name: &str) -> KafkaResult<Logs> {
    let metadata = client.fetch_metadata(Some(name), ANSWER)?;
    let mut logs = Logs::new();
    for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
        let read = || client.fetch_watermarks(name, partition.id(), ANSWER);
        let (first, end) = once_settled(read)?;
        logs.insert(partition.id(), first..end);
    }
    Ok(logs)
}

fn committed(client: &BaseConsumer, name: &str, partitions: &[i32]) -> KafkaResult<Committed> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(name, *partition);
    }
    let mut committed = Committed::new();
    for element in client.committed_offsets(asked, ANSWER)?.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            committed.insert(element.partition(), offset);
        }
    }
    Ok(committed)
}

/// Whether a group has passed the ends. A partition without a committed offset has passed if it had
/// no message. An offset beyond the log belongs to a topic that was deleted since.
fn compare(ends: &Logs, committed: &Committed, now: &Logs) -> Progress {
    let mut waiting = 0;
    for (partition, log) in ends {
        let offset = committed.get(partition).copied();
        if offset.is_some_and(|it| now.get(partition).is_none_or(|log| it > log.end)) {
            return behind(
                format!("the committed offset of partition {partition} is beyond its end"),
                committed,
            );
        }
        waiting += (log.end - offset.unwrap_or(log.start).max(log.start)).max(0);
    }
    if waiting == 0 {
        return Progress::Passed;
    }
    let waits = format!("{waiting} messages from before are not processed");
    behind(waits, committed)
}

fn behind(waits: String, committed: &Committed) -> Progress {
    Progress::Behind(Behind {
        waits,
        mark: Mark::Position(committed.values().sum()),
        is_stuck: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_has_passed_once_its_messages_are_committed_and_no_offset_is_beyond_its_end() {
        let ends = Logs::from([(0, 10..20), (1, 5..5)]);
        let later = Logs::from([(0, 10..30), (1, 5..9)]);
        let shorter = Logs::from([(0, 0..3), (1, 0..0)]);
        for (committed, now, expected) in [
            (&[(0, 20)][..], &ends, None),
            (&[(0, 25), (1, 9)], &later, None),
            (&[(0, 19)], &ends, Some("1 messages")),
            (&[], &ends, Some("10 messages")),
            // Retention deleted the messages from 4 to 9 unread, so only those from 10 on are
            // waited for.
            (&[(0, 4)], &ends, Some("10 messages")),
            (&[(0, 20)], &shorter, Some("beyond its end")),
            (&[(0, 20)], &Logs::new(), Some("beyond its end")),
        ] {
            let committed: Committed = committed.iter().copied().collect();
            let verdict = match compare(&ends, &committed, now) {
                Progress::Behind(behind) => Some(behind.waits),
                Progress::Passed | Progress::Unknown => None,
            };
            assert_eq!(verdict.is_some(), expected.is_some(), "{committed:?}");
            assert!(
                verdict
                    .unwrap_or_default()
                    .contains(expected.unwrap_or_default())
            );
        }
    }
}
