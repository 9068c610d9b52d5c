//! The topic's unread tail: every message between the group's committed offsets and the end.
//! Partitions are assigned, never subscribed, so reading causes no rebalance.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use firstcome_shared::domain::DropId;
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::KafkaSettings;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::snapshot::InFlight;

/// The messages that the consumer has not committed.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    /// By drop. Messages that are no claims are left to the consumer, which makes dead letters of
    /// them.
    pub by_drop: HashMap<DropId, Vec<InFlight>>,
    /// Messages in all, also those that are no claims.
    pub unread: u64,
    /// The group's committed offset by partition: a consumer that works moves it.
    pub committed: Vec<(i32, i64)>,
}

/// Longest wait for one answer about the topic. Brokers that are gone must not hold up a pass, nor
/// the end of the process, which waits for a blocked thread.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// A read without any progress for this long is given up, well after the longest answer should have
/// come: librdkafka waits by the host's clock, and blocks for as long as that was set back.
const STANDS_STILL: Duration = Duration::from_secs(15);

/// Reads the tail, again and again, over one connection.
#[derive(Clone)]
pub struct TopicReader {
    pub(super) settings: KafkaSettings,
    /// Empty while a read uses it. A read that never ends keeps it, and the next one makes another.
    consumer: Arc<Mutex<Option<BaseConsumer>>>,
    /// When a read last got an answer.
    moved: Arc<Mutex<Instant>>,
    patience: Duration,
    pub(super) limit: Duration,
}

impl TopicReader {
    /// A reader that gives up when no message comes for as long as `limit`.
    pub fn new(settings: KafkaSettings, limit: Duration) -> Result<Self, KafkaError> {
        let consumer = Arc::new(Mutex::new(Some(settings.reader().create()?)));
        Ok(Self { settings, consumer, moved: Arc::new(Mutex::new(Instant::now())), patience: STANDS_STILL, limit })
    }

    /// Everything between the group's offsets and the end as it is now.
    pub async fn read(&self) -> anyhow::Result<Tail> {
        self.watched(Self::with_consumer).await
    }

    /// Reads on a thread of its own, which is abandoned when it makes no progress.
    async fn watched<T, F>(&self, read: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    {
        let reader = self.clone();
        self.moves();
        let task = tokio::task::spawn_blocking(move || read(&reader));
        tokio::select! {
            ended = task => ended.context("reading the topic panicked")?,
            () = self.stands_still() => bail!("the Kafka client stands still for {:?}", self.patience),
        }
    }

    fn moves(&self) {
        *self.moved.lock() = Instant::now();
    }

    async fn stands_still(&self) {
        loop {
            let moved = *self.moved.lock();
            let Some(left) = self.patience.checked_sub(moved.elapsed()) else { return };
            tokio::time::sleep(left).await;
        }
    }

    fn with_consumer(&self) -> anyhow::Result<Tail> {
        let taken = self.consumer.lock().take();
        let consumer = taken.map_or_else(|| self.settings.reader().create(), Ok)?;
        let read = self.read_blocking(&consumer);
        *self.consumer.lock() = Some(consumer);
        read
    }

    fn read_blocking(&self, consumer: &BaseConsumer) -> anyhow::Result<Tail> {
        let ranges = self.ranges(consumer).context("Kafka did not tell how far the consumer is")?;
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
        let ends = unread.iter().map(|range| (range.partition, range.end)).collect();
        let read = read_to_the_ends(
            consumer,
            ends,
            Limit::WithoutMessage(self.limit),
            || self.moves(),
            |message| {
                tail.unread += 1;
                if let Ok(event) = ClaimEvent::decode(message.payload().unwrap_or_default()) {
                    let claim = InFlight { slot: event.slot, user: event.user_id, claimed_at: event.claimed_at };
                    tail.by_drop.entry(event.drop_id).or_default().push(claim);
                }
            },
        );
        consumer.unassign()?;
        match read? {
            0 => Ok(tail),
            left => bail!("the topic's unread messages could not be read in time; {left} partitions are left"),
        }
    }

    pub(super) fn ranges(&self, consumer: &BaseConsumer) -> anyhow::Result<Vec<Range>> {
        let metadata = consumer.fetch_metadata(Some(&self.settings.topic), ANSWER)?;
        let topic = metadata.topics().first().context("no such topic")?;
        let mut wanted = TopicPartitionList::new();
        for partition in topic.partitions() {
            wanted.add_partition(&self.settings.topic, partition.id());
        }
        if wanted.count() == 0 {
            bail!("the topic {:?} does not exist", self.settings.topic);
        }
        let committed = consumer.committed_offsets(wanted, ANSWER)?;
        committed
            .elements()
            .iter()
            .map(|element| {
                self.moves();
                let (low, end) = consumer.fetch_watermarks(&self.settings.topic, element.partition(), ANSWER)?;
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

/// When reading is given up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    At(Instant),
    /// After so long without a message. As long as messages come the end comes nearer, and a pass
    /// that gave up would have to begin again: where Redis lost its data, everything stays closed
    /// until the whole tail was read.
    WithoutMessage(Duration),
}

impl Limit {
    fn is_over(self, last_message: Instant) -> bool {
        match self {
            Self::At(deadline) => Instant::now() > deadline,
            Self::WithoutMessage(limit) => last_message.elapsed() > limit,
        }
    }
}

/// Hands every message of the assigned partitions to `take`, up to each partition's end (`open`).
/// Gives how many partitions were not read to their end within the limit.
pub(super) fn read_to_the_ends(
    consumer: &BaseConsumer,
    mut open: HashMap<i32, i64>,
    limit: Limit,
    is_alive: impl Fn(),
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> Result<usize, KafkaError> {
    let mut last = Instant::now();
    while !open.is_empty() && !limit.is_over(last) {
        is_alive();
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(message)) => {
                let Some(end) = open.get(&message.partition()).copied() else { continue };
                last = Instant::now();
                if message.offset() < end {
                    take(&message);
                }
                if message.offset() + 1 >= end {
                    open.remove(&message.partition());
                }
            }
        }
    }
    Ok(open.len())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_read_that_stands_still_is_given_up_and_the_next_is_not_held_up_by_it() {
        let settings = KafkaSettings { brokers: "127.0.0.1:1".into(), topic: "t".into(), group: "g".into() };
        let limit = Duration::from_millis(100);
        let reader = TopicReader { patience: limit, ..TopicReader::new(settings, limit).unwrap() };
        let (end, ended) = channel::<()>();
        let stuck = reader.watched(move |reader| {
            let _kept = reader.consumer.lock().take();
            Ok(ended.recv()?)
        });
        let error = stuck.await.unwrap_err().to_string();
        assert!(error.contains("stands still"), "{error}");
        // It still has the first consumer; this one takes another, and says that nobody answers.
        let patient = TopicReader { patience: STANDS_STILL, ..reader };
        let error = format!("{:#}", patient.read().await.unwrap_err());
        assert!(error.contains("did not tell how far"), "{error}");
        assert!(patient.consumer.lock().is_some());
        drop(end);
    }
}
