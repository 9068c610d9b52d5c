//! The topic's unread tail: every message between the group's committed offsets and the end. Partitions are assigned, never
//! subscribed, so reading causes no rebalance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use firstcome_shared::domain::DropId;
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::KafkaSettings;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::snapshot::InFlight;

/// What the consumer has not dealt with.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// By drop. Messages that are no claims are left to the consumer, which keeps them in the backup table.
    pub by_drop: HashMap<DropId, Vec<InFlight>>,
    /// Messages in all, also those that are no claims.
    pub unread: u64,
    /// The group's committed offset by partition: a consumer that works moves it.
    pub committed: Vec<(i32, i64)>,
}

/// Longest wait for one answer about the topic. Short beside the whole look: brokers that are gone must not hold up a pass,
/// nor the end of the process, which waits for whoever asks.
const ANSWER: Duration = Duration::from_secs(5);

/// Reads the tail, again and again, over one connection.
#[derive(Clone)]
pub struct TailReader {
    pub(super) settings: KafkaSettings,
    consumer: Arc<Mutex<BaseConsumer>>,
    pub(super) limit: Duration,
}

impl TailReader {
    /// A reader that takes at most `limit` for one look.
    ///
    /// # Errors
    /// When the client can't be made.
    pub fn new(settings: KafkaSettings, limit: Duration) -> Result<Self, KafkaError> {
        let consumer = Arc::new(Mutex::new(settings.reader().create()?));
        Ok(Self { settings, consumer, limit })
    }

    /// Everything between the group's offsets and the end as it is now.
    ///
    /// # Errors
    /// When Kafka can't be reached, or does not give all of it in time.
    pub async fn read(&self) -> anyhow::Result<Tail> {
        let reader = self.clone();
        tokio::task::spawn_blocking(move || reader.read_blocking()).await.context("reading the topic panicked")?
    }

    fn read_blocking(&self) -> anyhow::Result<Tail> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + self.limit;
        let ranges = self.ranges(&consumer).context("Kafka did not tell how far the consumer is")?;
        let mut tail = Tail { committed: ranges.iter().map(|r| (r.partition, r.from)).collect(), ..Tail::default() };
        let unread: Vec<_> = ranges.into_iter().filter(|r| r.from < r.end).collect();
        if unread.is_empty() {
            return Ok(tail);
        }
        let mut assignment = TopicPartitionList::new();
        for range in &unread {
            assignment.add_partition_offset(&self.settings.topic, range.partition, Offset::Offset(range.from))?;
        }
        consumer.assign(&assignment)?;
        let read = drain(&consumer, &unread, deadline, &mut tail);
        consumer.unassign()?;
        read.map(|()| tail)
    }

    /// Longest wait for one answer.
    pub(super) fn answer(&self) -> Duration {
        self.limit.min(ANSWER)
    }

    pub(super) fn ranges(&self, consumer: &BaseConsumer) -> anyhow::Result<Vec<Range>> {
        let metadata = consumer.fetch_metadata(Some(&self.settings.topic), self.answer())?;
        let topic = metadata.topics().first().context("no such topic")?;
        let mut wanted = TopicPartitionList::new();
        for partition in topic.partitions() {
            wanted.add_partition(&self.settings.topic, partition.id());
        }
        if wanted.count() == 0 {
            bail!("the topic {:?} does not exist", self.settings.topic);
        }
        let committed = consumer.committed_offsets(wanted, self.answer())?;
        committed
            .elements()
            .iter()
            .map(|element| {
                let (low, end) = consumer.fetch_watermarks(&self.settings.topic, element.partition(), self.answer())?;
                let from = match element.offset() {
                    Offset::Offset(offset) => offset.max(low),
                    _ => low,
                };
                Ok(Range { partition: element.partition(), from, end })
            })
            .collect()
    }
}

/// What of a partition the consumer has not dealt with.
pub(super) struct Range {
    pub(super) partition: i32,
    /// The group's committed offset, or the first message there is.
    pub(super) from: i64,
    pub(super) end: i64,
}

fn drain(consumer: &BaseConsumer, unread: &[Range], deadline: Instant, tail: &mut Tail) -> anyhow::Result<()> {
    let mut open: HashMap<i32, i64> = unread.iter().map(|r| (r.partition, r.end)).collect();
    while !open.is_empty() {
        if Instant::now() > deadline {
            bail!("the topic's unread messages could not be read in time; {} partitions are left", open.len());
        }
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                let Some(end) = open.get(&message.partition()).copied() else { continue };
                if message.offset() < end {
                    tail.unread += 1;
                    if let Ok(event) = ClaimEvent::decode(message.payload().unwrap_or_default()) {
                        let claim = InFlight { slot: event.slot, user: event.user_id, claimed_at: event.claimed_at };
                        tail.by_drop.entry(event.drop_id).or_default().push(claim);
                    }
                }
                if message.offset() + 1 >= end {
                    open.remove(&message.partition());
                }
            }
        }
    }
    Ok(())
}
