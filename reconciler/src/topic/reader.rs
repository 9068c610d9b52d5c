//! Reads the topic's unread tail: every message between the positions in MySQL and the end.
//! Partitions are assigned and not subscribed, so reading causes no rebalance.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use firstcome_shared::kafka::{
    Beginning, KafkaSettings, MessagePrint, PositionFault, StoredPositions, TopicError,
    UnreadableAt, check_topic,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};

use super::tail::{MOST_BYTES, Messages, TailWriter};
use super::to_the_ends::{ReadLimit, TailRead, read_to_the_ends};

/// The topic's unread messages.
#[derive(Debug, Default)]
pub struct Tail {
    /// The claims. Messages that are not claims are left to the consumer, which turns them into
    /// dead letters.
    pub(crate) messages: Arc<Messages>,
    /// Number of unread messages, including those that are not claims.
    pub unread: u64,
    pub partitions: Vec<Unread>,
    /// Positions that no client can read, at which reading stopped. Until the consumer has skipped
    /// them, the message of any admission may be there or after them.
    pub unreadable: Vec<UnreadableAt>,
    /// Partitions that are read again from an earlier offset, now or within the last hour.
    pub went_back: Vec<WentBack>,
}

/// A partition that is read again from an earlier offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WentBack {
    pub partition: i32,
    pub fault: PositionFault,
    /// The offset up to which the partition had been read.
    pub offset: i64,
}

/// A partition with its offsets in Kafka, and where reading begins.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    pub(super) id: i32,
    pub(super) log: Range<i64>,
    pub(super) beginning: Beginning,
}

impl Partition {
    fn unread(&self) -> Unread {
        Unread {
            partition: self.id,
            from: self.beginning.from,
            end: self.log.end,
        }
    }
}

/// The part of a partition that the consumer has not processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    pub partition: i32,
    /// The stored position, or the first existing message if there is none. A working consumer
    /// advances it.
    pub from: i64,
    pub end: i64,
}

/// Maximum wait for one response about the topic. Unreachable brokers must delay neither a pass nor
/// the end of the process, which waits for a blocked thread.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Maximum wait for a response if an earlier pass used the same client. Any of its connections may
/// lead to a host that does not respond.
const ANSWER_OF_KEPT: Duration = Duration::from_secs(1);

/// Time without progress after which a read is abandoned. Well above the longest wait for a
/// response. This limit is needed because librdkafka measures timeouts with the host's clock: if
/// that clock is set back, librdkafka blocks for the same time.
const STANDS_STILL: Duration = Duration::from_secs(15);

/// Reads the tail repeatedly with one client.
#[derive(Clone)]
pub struct TopicReader {
    pub(crate) settings: KafkaSettings,
    /// The client, or `None` while a read uses it. A read that never ends keeps it, and the next
    /// read creates another.
    consumer: Arc<Mutex<Option<BaseConsumer>>>,
    /// When a read last made progress.
    moved: Arc<Mutex<Instant>>,
    patience: Duration,
    pub(super) limit: Duration,
}

impl TopicReader {
    /// Creates a reader that gives up if no message arrives for `limit`.
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

    /// Returns which settings of the topic start-up would reject, as a sentence with the required
    /// change.
    ///
    /// # Errors
    /// [`TopicError`] if Kafka or the topic is unavailable.
    pub async fn unsafe_settings(&self) -> Result<Option<String>, TopicError> {
        match check_topic(&self.settings, ANSWER).await {
            Ok(_) => Ok(None),
            Err(TopicError::Setting(told)) => Ok(Some(told)),
            Err(error) => Err(error),
        }
    }

    pub fn name(&self) -> &str {
        &self.settings.topic
    }

    /// Reads all messages between these positions and the current end.
    pub async fn read(&self, stored: StoredPositions) -> anyhow::Result<Tail> {
        self.watched(move |reader| reader.with_consumer(&stored))
            .await
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

    fn with_consumer(&self, stored: &StoredPositions) -> anyhow::Result<Tail> {
        let kept = self.consumer.lock().take();
        let asked = kept.map(|kept| (self.partitions(&kept, stored, ANSWER_OF_KEPT), kept));
        let (consumer, partitions) = match asked {
            Some((Ok(partitions), kept)) => (kept, partitions),
            kept => {
                if let Some((why, silent)) = kept {
                    tracing::debug!(why = ?why.err(), "Kafka is asked by a new client");
                    // Dropping it may wait for the unreachable host.
                    std::thread::spawn(move || drop(silent));
                }
                let fresh = self.settings.reader().create()?;
                match self.partitions(&fresh, stored, ANSWER) {
                    Ok(partitions) => (fresh, partitions),
                    Err(error) => {
                        *self.consumer.lock() = Some(fresh);
                        return Err(error.context("Kafka did not tell what the topic has"));
                    }
                }
            }
        };
        let read = self.read_blocking(&consumer, partitions, stored);
        // After an unreadable position, a client may continue at any offset, so do not use it
        // again.
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
        mut partitions: Vec<Partition>,
        stored: &StoredPositions,
    ) -> anyhow::Result<Tail> {
        let mut tail = Tail::default();
        let mut writer = TailWriter::new(MOST_BYTES);
        let others = self.read_from(consumer, &partitions, &mut tail, &mut writer)?;
        let mut again = Vec::new();
        for of in partitions.iter_mut().filter(|of| others.contains(&of.id)) {
            of.beginning = of.beginning.in_another_log(&of.log);
            again.push(of.clone());
        }
        self.read_from(consumer, &again, &mut tail, &mut writer)?;
        tail.messages = Arc::new(writer.finish());
        tail.partitions = partitions.iter().map(Partition::unread).collect();
        tail.went_back = partitions
            .iter()
            .filter_map(|of| went_back(of, stored))
            .collect();
        Ok(tail)
    }

    /// Reads partitions from their starting positions. Returns those whose message before that
    /// position has changed.
    fn read_from(
        &self,
        consumer: &BaseConsumer,
        partitions: &[Partition],
        tail: &mut Tail,
        writer: &mut TailWriter,
    ) -> anyhow::Result<Vec<i32>> {
        let mut ranges = Vec::new();
        let mut assignment = TopicPartitionList::new();
        for of in partitions {
            let from = of.beginning.fetched_from();
            if from < of.log.end {
                assignment.add_partition_offset(
                    &self.settings.topic,
                    of.id,
                    Offset::Offset(from),
                )?;
                ranges.push(Unread {
                    from,
                    ..of.unread()
                });
            }
        }
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let mut before: BTreeMap<i32, (i64, MessagePrint)> = partitions
            .iter()
            .filter_map(|of| Some((of.id, (of.beginning.from - 1, of.beginning.before?))))
            .collect();
        consumer.assign(&assignment)?;
        let mut kept = Ok(());
        let read = read_to_the_ends(
            consumer,
            &self.settings,
            ranges,
            ReadLimit::WithoutMessage(self.limit),
            || self.moves(),
            |message| {
                let partition = message.partition();
                if let Some(expected) = before.get(&partition) {
                    if (message.offset(), MessagePrint::of(message)) == *expected {
                        before.remove(&partition);
                    }
                    return ControlFlow::Continue(());
                }
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
        let TailRead { left, unreadable } = read?;
        if left > 0 {
            bail!(
                "the topic's unread messages could not be read in time; {left} partitions are left"
            );
        }
        for at in &unreadable {
            before.remove(&at.partition);
        }
        tail.unreadable.extend(unreadable);
        Ok(before.into_keys().collect())
    }

    /// Returns the topic's partitions, and where reading each begins.
    pub(super) fn partitions(
        &self,
        consumer: &BaseConsumer,
        stored: &StoredPositions,
        answer: Duration,
    ) -> anyhow::Result<Vec<Partition>> {
        let metadata = consumer.fetch_metadata(Some(&self.settings.topic), answer)?;
        let topic = metadata.topics().first().context("no such topic")?;
        let mut partitions = Vec::new();
        for id in topic.partitions().iter().map(MetadataPartition::id) {
            self.moves();
            let (low, end) = consumer.fetch_watermarks(&self.settings.topic, id, answer)?;
            let log = low..end;
            let beginning = Beginning::of(stored.get(&id), None, &log);
            partitions.push(Partition { id, log, beginning });
        }
        if partitions.is_empty() {
            bail!("the topic {:?} does not exist", self.settings.topic);
        }
        Ok(partitions)
    }
}

/// Returns why a partition is read again from an earlier offset, now or within the last hour.
fn went_back(of: &Partition, stored: &StoredPositions) -> Option<WentBack> {
    let recorded = || stored.get(&of.id)?.fault;
    let (fault, offset) = of.beginning.fault.or_else(recorded)?;
    Some(WentBack {
        partition: of.id,
        fault,
        offset,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use firstcome_shared::kafka::{Security, Signing};

    use super::*;

    #[tokio::test]
    async fn stalled_read_is_abandoned_and_does_not_block_the_next_one() {
        let settings = KafkaSettings {
            brokers: "127.0.0.1:1".into(),
            topic: "t".into(),
            group: "g".into(),
            security: Security::default(),
            signing: Signing::random(),
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
        // The abandoned read still has the first client. This read creates another one, and reports
        // that no broker responds.
        let patient = TopicReader {
            patience: STANDS_STILL,
            ..reader
        };
        let error = format!(
            "{:#}",
            patient.read(StoredPositions::new()).await.unwrap_err()
        );
        assert!(error.contains("did not tell what the topic has"), "{error}");
        assert!(patient.consumer.lock().is_some());
        drop(end);
    }
}
