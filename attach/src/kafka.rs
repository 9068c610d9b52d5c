//! Their Kafka. A stage that is a topic has passed once the committed offsets have reached the end
//! that was read; of it only offsets are read, never a message. A dead letter topic is read, and
//! nothing is committed. No group is joined.
//!
//! A transactional producer leaves a marker behind the last message, which no committed offset
//! reaches: such a stage never passes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use firstcome_shared::kafka::{Logs, Security, logs, partitions};
use firstcome_shared::quoted::without_values;
use firstcome_shared::report::FailureCause;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::error::{Answer, AttachError};
use crate::file::FailedTopic;
use crate::queue::Behind;

/// Maximum wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Maximum wait for one letter.
const POLL: Duration = Duration::from_millis(100);
/// Limit of the letters that one look reads, in time.
const READS: Duration = Duration::from_secs(10);

const OURS: &str = "firstcome-attach";

/// An offset of each partition.
type Offsets = BTreeMap<i32, i64>;

#[derive(Debug, Clone)]
pub struct Brokers {
    /// `host:port`, several separated by commas.
    pub addresses: String,
    pub security: Security,
}

impl Brokers {
    /// Distinguishes a Kafka that is away from a refusal of one topic or group.
    async fn ask<T: Send + 'static>(
        &self,
        group: &str,
        ask: impl FnOnce(&BaseConsumer) -> KafkaResult<T> + Send + 'static,
    ) -> Answer<T> {
        match self.try_to_ask(group, ask).await {
            Ok(answer) => Ok(answer),
            Err(why) => {
                self.ping().await?;
                Err(AttachError::Lost(format!("your Kafka: {why}")))
            }
        }
    }

    /// Queries Kafka in a separate thread, because its client blocks.
    async fn try_to_ask<T: Send + 'static>(
        &self,
        group: &str,
        ask: impl FnOnce(&BaseConsumer) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, String> {
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
            .map_err(|error| error.to_string())?
            .map_err(without_values)
    }

    pub async fn ping(&self) -> Answer<()> {
        let ping = |client: &BaseConsumer| client.fetch_metadata(None, ANSWER).map(drop);
        let pinged = self.try_to_ask(OURS, ping).await;
        pinged.map_err(|why| AttachError::away(FailureCause::Kafka, why))
    }

    pub async fn logs(&self, topic: &str) -> Answer<Logs> {
        let name = topic.to_owned();
        let logs = self
            .ask(OURS, move |client| logs(client, &name, ANSWER))
            .await?;
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
        // Read after the offsets: an offset beyond this end belongs to another log.
        let now = self.logs(topic).await?;
        Ok(compare(ends, &committed, &now))
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
/// An offset beyond the log belongs to a topic that was deleted since.
fn compare(ends: &Logs, committed: &Offsets, now: &Logs) -> Option<Behind> {
    let mut left = 0;
    let mut waits = None;
    for (partition, log) in ends {
        let offset = committed.get(partition).copied();
        if offset.is_some_and(|it| now.get(partition).is_none_or(|log| it > log.end)) {
            let beyond = "is beyond its end";
            waits = Some(format!(
                "the committed offset of partition {partition} {beyond}"
            ));
        }
        left += (log.end - offset.unwrap_or(log.start).max(log.start)).max(0);
    }
    if left == 0 && waits.is_none() {
        return None;
    }
    Some(Behind {
        waits: waits.unwrap_or(format!("{left} messages from before are not processed")),
        left: left.unsigned_abs(),
        ..Behind::default()
    })
}

/// A dead letter topic: up to where it has been read, and the letters whose user has no row.
#[derive(Clone)]
pub struct DeadLetters {
    topic: FailedTopic,
    /// The next offset of each partition.
    next: Offsets,
    /// Users by the places of letters.
    pub open: BTreeMap<String, String>,
    /// Partitions that were not read to their end.
    left: BTreeSet<i32>,
}

impl DeadLetters {
    pub fn new(topic: &FailedTopic) -> Self {
        Self {
            topic: topic.clone(),
            next: Offsets::new(),
            open: BTreeMap::new(),
            left: BTreeSet::new(),
        }
    }

    /// Reads what has come for a campaign.
    pub async fn read(&mut self, brokers: &Brokers, id: &str) -> Answer<()> {
        let letters = self.clone();
        let id = id.to_owned();
        *self = brokers
            .ask(OURS, move |client| letters.read_from(client, &id))
            .await?;
        must_exist(&self.topic.topic, self.next.is_empty())?;
        if self.left.is_empty() {
            return Ok(());
        }
        let why = "failed: the topic was not read to its end in time";
        Err(AttachError::Lost(why.to_owned()))
    }

    fn read_from(mut self, client: &BaseConsumer, id: &str) -> KafkaResult<Self> {
        let topic = &self.topic;
        let mut assigned = TopicPartitionList::new();
        self.left = partitions(client, &topic.topic, ANSWER)?
            .into_iter()
            .collect();
        self.next
            .retain(|partition, _| self.left.contains(partition));
        for partition in self.left.iter().copied() {
            let next = *self.next.entry(partition).or_default();
            let from = Offset::Offset(next);
            assigned.add_partition_offset(&topic.topic, partition, from)?;
        }
        client.assign(&assigned)?;
        let deadline = Instant::now() + READS;
        while !self.left.is_empty() && Instant::now() < deadline {
            let message = match client.poll(POLL) {
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.left.remove(&partition);
                    continue;
                }
                Some(message) => message?,
            };
            let [partition, offset] = [message.partition().into(), message.offset()];
            self.next.insert(message.partition(), offset + 1);
            if let Some(user) = message.payload().and_then(|it| user(topic, id, it)) {
                self.open.insert(format!("{partition}:{offset}"), user);
            }
        }
        Ok(self)
    }
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
            let committed: Offsets = committed.iter().copied().collect();
            let waits = compare(&ends, &committed, now).map(|behind| behind.waits);
            assert_eq!(waits.is_some(), expected.is_some(), "{committed:?}");
            let waits = waits.unwrap_or_default();
            assert!(waits.contains(expected.unwrap_or_default()), "{waits}");
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
