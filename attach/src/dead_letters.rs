//! A dead letter topic. It is read without a group, and nothing is committed: the process remembers
//! up to where it has read, and which letters have no row yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::error::{Answer, AttachError};
use crate::file::FailedTopic;
use crate::look::{Event, Rows, Target};
use crate::queue::{Brokers, kafka};
use crate::users::Hasher;

/// Limit of the letters that one look reads, in time.
const READS: Duration = Duration::from_secs(10);

const GROUP: &str = "firstcome-attach";

/// The place of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    partition: i32,
    offset: i64,
}

/// A letter of this campaign.
struct Letter {
    place: Place,
    user: String,
}

pub struct DeadLetters {
    topic: FailedTopic,
    brokers: Brokers,
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    /// Letters whose user has no row.
    open: BTreeMap<Place, String>,
}

impl DeadLetters {
    pub fn new(topic: &FailedTopic, brokers: &Brokers) -> Self {
        Self {
            topic: topic.clone(),
            brokers: brokers.clone(),
            next: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// Reads what has come, and returns the letters whose user has no row.
    pub async fn unanswered(
        &mut self,
        target: &Target<'_>,
        rows: &Rows,
        hasher: &Hasher,
    ) -> Answer<Vec<Event>> {
        let topic = self.topic.clone();
        let brokers = self.brokers.clone();
        let next = self.next.clone();
        let id = target.id.clone();
        let reading = move || read(&brokers, &topic, &id, next);
        let (letters, next) = tokio::task::spawn_blocking(reading)
            .await
            .map_err(|error| AttachError::Lost(error.to_string()))??;
        self.next = next;
        let letters = letters
            .into_iter()
            .map(|letter| (letter.place, letter.user));
        self.open.extend(letters);
        self.open.retain(|_, user| !rows.has(hasher.user(user)));
        let event = |(place, user): (&Place, &String)| Event {
            id: format!("{}:{}", place.partition, place.offset),
            user: Some(user.clone()),
        };
        Ok(self.open.iter().map(event).collect())
    }
}

type Next = BTreeMap<i32, i64>;

fn read(
    brokers: &Brokers,
    topic: &FailedTopic,
    id: &str,
    mut next: Next,
) -> Answer<(Vec<Letter>, Next)> {
    let client = brokers.client(GROUP)?;
    let logs = kafka::logs(&client, &topic.topic).map_err(|error| kafka::away(&error))?;
    if logs.is_empty() {
        let name = &topic.topic;
        return Err(AttachError::Misfit(format!(
            "failed: Kafka has no topic {name:?}"
        )));
    }
    let mut behind = BTreeMap::new();
    for (partition, log) in &logs {
        let from = next
            .get(partition)
            .copied()
            .unwrap_or(log.start)
            .max(log.start);
        // A topic that was deleted and created again begins again.
        let from = if from > log.end { log.start } else { from };
        next.insert(*partition, from);
        if from < log.end {
            behind.insert(*partition, log.end);
        }
    }
    let mut letters = Vec::new();
    if behind.is_empty() {
        return Ok((letters, next));
    }
    assign(&client, &topic.topic, &next, &behind).map_err(|error| kafka::away(&error))?;
    let deadline = Instant::now() + READS;
    while !behind.is_empty() {
        if Instant::now() >= deadline {
            let why = "failed: the topic was not read to its end in time";
            return Err(AttachError::Lost(why.to_owned()));
        }
        let Some(message) = client.poll(Duration::from_millis(200)) else {
            // Markers of transactions at the end of a partition are no messages.
            skip_markers(&client, &topic.topic, &mut next, &mut behind);
            continue;
        };
        let message = message.map_err(|error| kafka::away(&error))?;
        let place = Place {
            partition: message.partition(),
            offset: message.offset(),
        };
        next.insert(place.partition, place.offset + 1);
        if behind
            .get(&place.partition)
            .is_some_and(|end| place.offset + 1 >= *end)
        {
            behind.remove(&place.partition);
        }
        if let Some(user) = message
            .payload()
            .and_then(|payload| user(topic, id, payload))
        {
            letters.push(Letter { place, user });
        }
    }
    Ok((letters, next))
}

fn assign(
    client: &BaseConsumer,
    topic: &str,
    next: &Next,
    behind: &BTreeMap<i32, i64>,
) -> KafkaResult<()> {
    let mut partitions = TopicPartitionList::new();
    for partition in behind.keys() {
        let from = next.get(partition).copied().unwrap_or_default();
        partitions.add_partition_offset(topic, *partition, Offset::Offset(from))?;
    }
    client.assign(&partitions)
}

/// Takes the client's position for read if it has reached the end.
fn skip_markers(
    client: &BaseConsumer,
    topic: &str,
    next: &mut Next,
    behind: &mut BTreeMap<i32, i64>,
) {
    let Ok(position) = client.position() else {
        return;
    };
    behind.retain(|partition, end| {
        let at = position
            .find_partition(topic, *partition)
            .map(|it| it.offset());
        match at {
            Some(Offset::Offset(at)) if at >= *end => {
                next.insert(*partition, at);
                false
            }
            _ => true,
        }
    });
}

/// Returns the user of a letter of this campaign.
fn user(topic: &FailedTopic, id: &str, payload: &[u8]) -> Option<String> {
    let letter: Value = serde_json::from_slice(payload).ok()?;
    let text = |pointer: &str| match letter.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let is_ours = topic
        .only
        .iter()
        .all(|(pointer, value)| text(pointer) == Some(value.replace(":id", id)));
    is_ours.then(|| text(&topic.user)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

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
