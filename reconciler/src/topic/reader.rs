//! The topic's unread tail: every message between the group's committed offsets and the end.
//! Partitions are assigned, never subscribed, so reading causes no rebalance.

use parking_lot::Mutex;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use firstcome_shared::kafka::{KafkaSettings, TopicError, UnreadableAt, check_topic};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::tail::{MOST_BYTES, Messages, TailWriter};
use super::to_the_ends::{ReadLimit, TailRead, read_to_the_ends};

/// The messages that the consumer has not committed.
#[derive(Debug, Default)]
pub struct Tail {
    /// Messages that are not claims are left to the consumer, which makes dead letters of them.
    pub(crate) messages: Arc<Messages>,
    /// Number of unread messages, including those that are not claims.
    pub unread: u64,
    pub partitions: Vec<Unread>,
    /// Where reading partitions stopped because no client can read what is there. Until the
    /// consumer has skipped it, the message of any admission may be in it or behind it.
    pub unreadable: Vec<UnreadableAt>,
    /// Partitions whose end is below the committed offset.
    pub past_the_end: Vec<PastTheEnd>,
}

/// A partition that ends below the offset that the consumer has committed: it lost messages, or
/// somebody moved the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastTheEnd {
    pub partition: i32,
    pub committed: i64,
    pub end: i64,
}

/// The part of a partition that the consumer has not processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    pub partition: i32,
    /// The group's committed offset, or else the first message that exists: a working consumer
    /// moves it.
    pub from: i64,
    pub end: i64,
}

/// Maximum wait for one answer about the topic. Unreachable brokers must not delay a pass, nor the
/// end of the process, which waits for a blocked thread.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Maximum wait of a client that an earlier pass left behind: its connections may lead, one after
/// another, to a host that does not answer.
const ANSWER_OF_KEPT: Duration = Duration::from_secs(1);

/// A read without progress for this long is given up, well after the longest answer should have
/// arrived: librdkafka waits by the host's clock, and blocks for as long as that was set back.
const STANDS_STILL: Duration = Duration::from_secs(15);

/// Reads the tail repeatedly over one connection.
#[derive(Clone)]
pub struct TopicReader {
    pub(crate) settings: KafkaSettings,
    /// Empty while a read uses it. A read that never ends keeps it, and the next read creates
    /// another.
    consumer: Arc<Mutex<Option<BaseConsumer>>>,
    /// When a read last got an answer.
    moved: Arc<Mutex<Instant>>,
    patience: Duration,
    pub(super) limit: Duration,
}

impl TopicReader {
    /// A reader that gives up if no message arrives for `limit`.
    pub fn new(settings: KafkaSettings, limit: Duration) -> Result<Self, KafkaError> {
        let consumer = Arc::new(Mutex::new(Some(settings.reader().create()?)));
        Ok(Self {
            settings,
            consumer,
            moved: Arc::new(Mutex::new(Instant::now())),
            patience: STANDS_STILL,
            limit,
        })
    }

    /// The topic's settings that start-up would refuse, as a sentence that says what to change.
    ///
    /// # Errors
    /// Kafka or the topic is unavailable.
    pub async fn unsafe_settings(&self) -> Result<Option<String>, TopicError> {
        match check_topic(&self.settings, ANSWER).await {
            Ok(_) => Ok(None),
            Err(TopicError::Setting(told)) => Ok(Some(told)),
            Err(error) => Err(error),
        }
    }

    /// Reads everything between the group's offsets and the present end.
    pub async fn read(&self) -> anyhow::Result<Tail> {
        self.watched(Self::with_consumer).await
    }

    /// Reads on a separate thread, which is abandoned if it makes no progress.
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
            () = self.stands_still() => bail!("the Kafka client has made no progress for {:?}", self.patience),
        }
    }

    fn moves(&self) {
        *self.moved.lock() = Instant::now();
    }

    async fn stands_still(&self) {
        loop {
            let moved = *self.moved.lock();
            let Some(left) = self.patience.checked_sub(moved.elapsed()) else {
                return;
            };
            tokio::time::sleep(left).await;
        }
    }

    fn with_consumer(&self) -> anyhow::Result<Tail> {
        let kept = self.consumer.lock().take();
        let (consumer, ranges) = match kept.map(|kept| (self.ranges(&kept, ANSWER_OF_KEPT), kept)) {
            Some((Ok(ranges), kept)) => (kept, ranges),
            kept => {
                if let Some((why, silent)) = kept {
                    tracing::debug!(why = ?why.err(), "Kafka is asked by a new client");
                    // Dropping it may wait for the unreachable host.
                    std::thread::spawn(move || drop(silent));
                }
                let fresh = self.settings.reader().create()?;
                match self.ranges(&fresh, ANSWER) {
                    Ok(ranges) => (fresh, ranges),
                    Err(error) => {
                        *self.consumer.lock() = Some(fresh);
                        return Err(error.context("Kafka did not tell how far the consumer is"));
                    }
                }
            }
        };
        let (ranges, past_the_end) = ranges;
        let read = self.read_blocking(&consumer, ranges, past_the_end);
        // A client that met something unreadable may continue anywhere.
        if read.as_ref().is_ok_and(|tail| !tail.unreadable.is_empty()) {
            std::thread::spawn(move || drop(consumer));
        } else {
            *self.consumer.lock() = Some(consumer);
        }
        read
    }

    fn read_blocking(
        &self,
        consumer: &BaseConsumer,
        ranges: Vec<Unread>,
        past_the_end: Vec<PastTheEnd>,
    ) -> anyhow::Result<Tail> {
        let unread: Vec<_> = ranges.iter().copied().filter(|r| r.from < r.end).collect();
        let mut tail = Tail {
            partitions: ranges,
            past_the_end,
            ..Tail::default()
        };
        if unread.is_empty() {
            return Ok(tail);
        }
        let mut assignment = TopicPartitionList::new();
        for range in &unread {
            assignment.add_partition_offset(
                &self.settings.topic,
                range.partition,
                Offset::Offset(range.from),
            )?;
        }
        consumer.assign(&assignment)?;
        let mut writer = TailWriter::new(MOST_BYTES);
        let mut kept = Ok(());
        let read = read_to_the_ends(
            consumer,
            &self.settings,
            unread,
            ReadLimit::WithoutMessage(self.limit),
            || self.moves(),
            |message| {
                tail.unread += 1;
                for event in self.settings.claims_of(message).into_iter().flatten() {
                    kept = writer.push(&event);
                    if kept.is_err() {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            },
        );
        consumer.unassign()?;
        kept?;
        tail.messages = Arc::new(writer.finish());
        let TailRead { left, unreadable } = read?;
        if left > 0 {
            bail!(
                "the topic's unread messages could not be read in time; {left} partitions are left"
            );
        }
        tail.unreadable = unreadable;
        Ok(tail)
    }

    /// The unread ranges, and the partitions that end below the committed offset.
    pub(super) fn ranges(
        &self,
        consumer: &BaseConsumer,
        answer: Duration,
    ) -> anyhow::Result<(Vec<Unread>, Vec<PastTheEnd>)> {
        let metadata = consumer.fetch_metadata(Some(&self.settings.topic), answer)?;
        let topic = metadata.topics().first().context("no such topic")?;
        let mut wanted = TopicPartitionList::new();
        for partition in topic.partitions() {
            wanted.add_partition(&self.settings.topic, partition.id());
        }
        if wanted.count() == 0 {
            bail!("the topic {:?} does not exist", self.settings.topic);
        }
        let committed = consumer.committed_offsets(wanted, answer)?;
        let mut ranges = Vec::new();
        let mut past_the_end = Vec::new();
        for element in committed.elements() {
            self.moves();
            let partition = element.partition();
            let (low, end) = consumer.fetch_watermarks(&self.settings.topic, partition, answer)?;
            let committed = if let Offset::Offset(offset) = element.offset() {
                Some(offset)
            } else {
                None
            };
            let from = unread_from(committed, low..=end);
            let too_far = committed.filter(|offset| *offset > end);
            past_the_end.extend(too_far.map(|committed| PastTheEnd {
                partition,
                committed,
                end,
            }));
            ranges.push(Unread {
                partition,
                from,
                end,
            });
        }
        Ok((ranges, past_the_end))
    }
}

/// The first unread offset of a partition. If the committed offset is beyond the end, the consumer
/// begins again: nobody has processed the messages there.
fn unread_from(committed: Option<i64>, kept: RangeInclusive<i64>) -> i64 {
    let (low, end) = kept.into_inner();
    committed
        .filter(|offset| *offset <= end)
        .map_or(low, |offset| offset.max(low))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use firstcome_shared::kafka::{Security, Signing};

    use super::*;

    #[test]
    fn offset_beyond_the_end_leaves_everything_unread() {
        assert_eq!(unread_from(None, 3..=9), 3);
        assert_eq!(unread_from(Some(5), 3..=9), 5);
        assert_eq!(unread_from(Some(1), 3..=9), 3);
        assert_eq!(unread_from(Some(9), 3..=9), 9);
        assert_eq!(unread_from(Some(120), 0..=40), 0);
    }

    #[tokio::test]
    async fn a_read_that_stands_still_is_given_up_and_the_next_is_not_held_up_by_it() {
        let settings = KafkaSettings {
            brokers: "127.0.0.1:1".into(),
            topic: "t".into(),
            group: "g".into(),
            security: Security::default(),
            signing: Signing::default(),
        };
        let limit = Duration::from_millis(100);
        let reader = TopicReader {
            patience: limit,
            ..TopicReader::new(settings, limit).unwrap()
        };
        let (end, ended) = channel::<()>();
        let stuck = reader.watched(move |reader| {
            let _kept = reader.consumer.lock().take();
            Ok(ended.recv()?)
        });
        let error = stuck.await.unwrap_err().to_string();
        assert!(error.contains("has made no progress"), "{error}");
        // The abandoned read still has the first consumer; this one takes another, and reports that
        // nobody answers.
        let patient = TopicReader {
            patience: STANDS_STILL,
            ..reader
        };
        let error = format!("{:#}", patient.read().await.unwrap_err());
        assert!(error.contains("did not tell how far"), "{error}");
        assert!(patient.consumer.lock().is_some());
        drop(end);
    }
}
