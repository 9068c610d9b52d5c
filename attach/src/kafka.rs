//! Their Kafka. A stage that is a topic has passed once the committed offsets have reached the end
//! that was read; of it only offsets are read, never a message. A dead letter topic is read, and
//! nothing is committed. No group is joined.
//!
//! A transactional producer leaves a marker behind the last message, which no committed offset
//! reaches: such a stage never passes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use firstcome_shared::kafka::Security;
use firstcome_shared::report::FailureCause;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::error::{Answer, AttachError};
use crate::file::FailedTopic;
use crate::look::Event;
use crate::queue::{Behind, Mark};

/// Maximum wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Maximum wait for the next letter, before the time is checked.
const POLL: Duration = Duration::from_millis(100);
/// Limit of the letters that one look reads, in time.
const READS: Duration = Duration::from_secs(10);

const OURS: &str = "firstcome-attach";

/// The offsets of each partition: the first one that the log has, and its end.
pub type Logs = BTreeMap<i32, Range<i64>>;

/// An offset of each partition.
type Offsets = BTreeMap<i32, i64>;

#[derive(Debug, Clone)]
pub struct Brokers {
    /// `host:port`, several separated by commas.
    pub addresses: String,
    pub security: Security,
}

impl Brokers {
    /// Queries Kafka in a separate thread, because its client blocks.
    async fn ask<T: Send + 'static>(
        &self,
        group: &str,
        ask: impl FnOnce(&BaseConsumer) -> KafkaResult<T> + Send + 'static,
    ) -> Answer<T> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.addresses)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("socket.timeout.ms", ANSWER.as_millis().to_string())
            .set("enable.ssl.certificate.verification", "true")
            .set("ssl.endpoint.identification.algorithm", "https");
        self.security.apply(&mut config);
        tokio::task::spawn_blocking(move || ask(&config.create()?))
            .await
            .map_err(|error| AttachError::misfit(error.to_string()))?
            .map_err(|error| AttachError::away(FailureCause::Kafka, error))
    }

    pub async fn logs(&self, topic: &str) -> Answer<Logs> {
        let name = topic.to_owned();
        let logs = self.ask(OURS, move |client| logs(client, &name)).await?;
        must_exist(topic, logs.is_empty())?;
        Ok(logs)
    }

    /// Compares the committed offsets with the ends that were read before.
    pub async fn progress(&self, topic: &str, group: &str, ends: &Logs) -> Answer<Option<Behind>> {
        let name = topic.to_owned();
        let partitions: Vec<i32> = ends.keys().copied().collect();
        let committed = self
            .ask(group, move |client| committed(client, &name, &partitions))
            .await?;
        Ok(compare(ends, &committed))
    }
}

/// A topic without partitions would count as read to its end.
fn must_exist(topic: &str, is_empty: bool) -> Answer<()> {
    if is_empty {
        let why = format!("Kafka has no topic {topic:?}");
        return Err(AttachError::Misfit(why));
    }
    Ok(())
}

fn partitions(client: &BaseConsumer, topic: &str) -> KafkaResult<Vec<i32>> {
    let metadata = client.fetch_metadata(Some(topic), ANSWER)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    Ok(partitions.map(MetadataPartition::id).collect())
}

fn logs(client: &BaseConsumer, topic: &str) -> KafkaResult<Logs> {
    let mut logs = Logs::new();
    for partition in partitions(client, topic)? {
        let (first, end) = client.fetch_watermarks(topic, partition, ANSWER)?;
        logs.insert(partition, first..end);
    }
    Ok(logs)
}

fn committed(client: &BaseConsumer, name: &str, partitions: &[i32]) -> KafkaResult<Offsets> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(name, *partition);
    }
    let mut committed = Offsets::new();
    let found = client.committed_offsets(asked, ANSWER)?;
    for element in found.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            committed.insert(element.partition(), offset);
        }
    }
    Ok(committed)
}

/// What is behind the ends. A partition without a committed offset has passed if it had no message.
fn compare(ends: &Logs, committed: &Offsets) -> Option<Behind> {
    let mut left = 0;
    for (partition, log) in ends {
        let offset = committed.get(partition).unwrap_or(&log.start);
        left += (log.end - offset.max(&log.start)).max(0);
    }
    (left > 0).then(|| Behind {
        waits: format!("{left} messages from before are not processed"),
        mark: Mark::left(left.unsigned_abs()),
    })
}

/// A dead letter topic: up to where it has been read, and the letters whose user has no row.
pub struct DeadLetters {
    topic: FailedTopic,
    /// The next offset of each partition.
    next: Offsets,
    /// Each with its place.
    pub open: Vec<Event>,
}

/// Letters that were read.
#[derive(Default)]
struct Read {
    letters: Vec<Event>,
    next: Offsets,
    is_missing: bool,
    is_whole: bool,
}

impl DeadLetters {
    pub fn new(topic: &FailedTopic) -> Self {
        Self {
            topic: topic.clone(),
            next: Offsets::new(),
            open: Vec::new(),
        }
    }

    /// Reads what has come for a campaign.
    pub async fn read(&mut self, brokers: &Brokers, id: &str) -> Answer<()> {
        let topic = self.topic.clone();
        let id = id.to_owned();
        let next = self.next.clone();
        let read = brokers
            .ask(OURS, move |client| read(client, &topic, &id, next))
            .await?;
        must_exist(&self.topic.topic, read.is_missing)?;
        self.next = read.next;
        self.open.extend(read.letters);
        if read.is_whole {
            return Ok(());
        }
        let why = "failed: the topic was not read to its end in time";
        Err(AttachError::misfit(why))
    }
}

fn read(client: &BaseConsumer, topic: &FailedTopic, id: &str, next: Offsets) -> KafkaResult<Read> {
    let mut read = Read {
        next,
        ..Read::default()
    };
    let mut left: BTreeSet<i32> = partitions(client, &topic.topic)?.into_iter().collect();
    read.is_missing = left.is_empty();
    let mut assigned = TopicPartitionList::new();
    for partition in &left {
        let known = read.next.get(partition);
        let from = known.map_or(Offset::Beginning, |offset| Offset::Offset(*offset));
        assigned.add_partition_offset(&topic.topic, *partition, from)?;
    }
    client.assign(&assigned)?;
    let deadline = Instant::now() + READS;
    while !left.is_empty() && Instant::now() < deadline {
        let message = match client.poll(POLL) {
            None => continue,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
                continue;
            }
            Some(message) => message?,
        };
        let [partition, offset] = [message.partition().into(), message.offset()];
        read.next.insert(message.partition(), offset + 1);
        if let Some(user) = message.payload().and_then(|it| user(topic, id, it)) {
            read.letters.push(Event {
                id: format!("{partition}:{offset}"),
                user: Some(user),
            });
        }
    }
    read.is_whole = left.is_empty();
    Ok(read)
}

/// Returns the user of a letter of this campaign.
fn user(topic: &FailedTopic, id: &str, payload: &[u8]) -> Option<String> {
    let letter: Value = serde_json::from_slice(payload).ok()?;
    let text = |pointer: &str| match letter.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let mut only = topic.only.iter();
    let is_ours = only.all(|(pointer, value)| text(pointer) == Some(value.replace(":id", id)));
    is_ours.then(|| text(&topic.user)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_has_passed_once_its_messages_are_committed() {
        let ends = Logs::from([(0, 10..20), (1, 5..5)]);
        for (committed, expected) in [
            (&[(0, 20)][..], None),
            (&[(0, 25), (1, 9)], None),
            (&[(0, 19)], Some(Mark::left(1))),
            (&[], Some(Mark::left(10))),
            // Retention deleted the messages from 4 to 9 unread, so only those from 10 on are
            // waited for.
            (&[(0, 4)], Some(Mark::left(10))),
        ] {
            let committed: Offsets = committed.iter().copied().collect();
            let mark = compare(&ends, &committed).map(|behind| behind.mark);
            assert_eq!(mark, expected, "{committed:?}");
        }
    }

    #[test]
    fn letters_of_other_campaigns_and_without_a_user_are_left_out() {
        let topic = FailedTopic {
            topic: "dlt".to_owned(),
            user: "/claim/userId".to_owned(),
            only: [("/couponId".to_owned(), ":id".to_owned())].into(),
        };
        for (payload, expected) in [
            (r#"{"couponId": 7, "claim": {"userId": 42}}"#, Some("42")),
            (
                r#"{"couponId": "7", "claim": {"userId": "u-42"}}"#,
                Some("u-42"),
            ),
            (r#"{"couponId": 8, "claim": {"userId": 42}}"#, None),
            (r#"{"couponId": 7, "claim": {}}"#, None),
            ("no JSON", None),
        ] {
            let found = user(&topic, "7", payload.as_bytes());
            assert_eq!(found.as_deref(), expected, "{payload}");
        }
    }
}
