//! The consumer group: which partitions are assigned to this process, and how far their messages
//! have rows. Reading begins at the positions in MySQL (`firstcome_shared::mysql::positions`).
//! Offsets are still committed to Kafka, after the rows, for tools that show the lag.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::positions::ReadRange;
use metrics::counter;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::record::Record;
use super::unreadable::{PartitionPosition, Readings};
use crate::consume::watch::report::{self, Health};
use crate::consume::write::Written;

/// Maximum time that a rebalance waits for the write in flight, because the other consumers wait as
/// well. A batch that is not written in this time is read again by the partitions' next owners.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a write, once it is known.
pub(crate) type WriteOutcome = watch::Receiver<Option<Arc<Result<Written, DbError>>>>;

/// A batch that is being written.
pub(crate) struct InFlightBatch {
    pub(crate) batch: Vec<Arc<Record>>,
    pub(crate) outcome: WriteOutcome,
}

#[derive(Default)]
struct Assignment {
    /// Counts assignments as a fencing token: a message that was read before its partition was
    /// revoked and assigned again must not be written or committed.
    count: u64,
    owned: HashMap<i32, u64>,
    /// For each partition, the offset after the last message that has a row or a dead letter. A
    /// partition without an entry has not begun: its position is unknown.
    done: BTreeMap<i32, i64>,
    /// The offsets that Kafka has accepted in commits.
    committed: BTreeMap<i32, i64>,
    /// Whether Kafka refused the last commit.
    is_refused: bool,
    /// The ends of the partitions at the last measurement.
    ends: BTreeMap<i32, i64>,
    in_flight: Option<InFlightBatch>,
}

impl Assignment {
    /// Returns whether the partition is assigned.
    fn begin_again(&mut self, partition: i32) -> bool {
        let Some(own) = self.owned.get_mut(&partition) else {
            return false;
        };
        self.count += 1;
        *own = self.count;
        self.done.remove(&partition);
        // If the topic was recreated, Kafka has deleted the committed offset.
        self.committed.remove(&partition);
        true
    }

    /// Records that all messages before this offset have rows or dead letters.
    fn done_to(&mut self, partition: i32, next: i64) {
        if let Some(done) = self.done.get_mut(&partition) {
            *done = next.max(*done);
        }
    }
}

/// Kafka's callbacks, and the state that they share with the loop. They run on the loop's thread,
/// inside `poll`.
pub(crate) struct GroupContext {
    topic: String,
    health: Arc<Health>,
    runtime: Handle,
    paused: AtomicBool,
    assignment: Mutex<Assignment>,
    joined: Box<dyn Fn() + Send + Sync>,
}

impl GroupContext {
    /// `joined` is called at each assignment.
    pub(crate) fn new(
        topic: String,
        health: Arc<Health>,
        runtime: Handle,
        joined: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let paused = AtomicBool::new(false);
        let assignment = Mutex::default();
        Self {
            topic,
            health,
            runtime,
            paused,
            assignment,
            joined: Box::new(joined),
        }
    }

    /// Returns the number of a partition's assignment, or `None` if it is not assigned.
    pub(crate) fn assignment_of(&self, partition: i32) -> Option<u64> {
        self.assignment.lock().owned.get(&partition).copied()
    }

    /// Whether this process may write and commit a message: its partition has stayed assigned
    /// since the message was read.
    pub(crate) fn owns(&self, record: &Record) -> bool {
        self.assignment_of(record.source.partition) == Some(record.assignment)
    }

    /// Counts the times that a partition was assigned or began again.
    pub(crate) fn assignments(&self) -> u64 {
        self.assignment.lock().count
    }

    /// Whether the group has assigned partitions to this process at least once, even an empty set.
    pub(crate) fn has_joined(&self) -> bool {
        self.assignments() > 0
    }

    pub(crate) fn partitions(&self) -> Vec<i32> {
        self.assignment.lock().owned.keys().copied().collect()
    }

    /// Records the ends of partitions. Returns the number of messages without rows, or `None` if a
    /// partition has not begun.
    pub(crate) fn measured(&self, ends: BTreeMap<i32, i64>) -> Option<i64> {
        let mut guard = self.assignment.lock();
        let unread =
            |partition: &i32| Some((ends.get(partition)? - guard.done.get(partition)?).max(0));
        let lag = guard.owned.keys().map(unread).sum();
        guard.ends = ends;
        lag
    }

    /// Returns the partitions that have not begun, with their assignments.
    pub(crate) fn not_begun(&self) -> BTreeMap<i32, u64> {
        let guard = self.assignment.lock();
        guard
            .owned
            .iter()
            .filter(|(partition, _)| !guard.done.contains_key(partition))
            .map(|(partition, assignment)| (*partition, *assignment))
            .collect()
    }

    /// Returns the offset after the messages of a partition that have rows, or `None` if it has not
    /// begun.
    pub(super) fn done(&self, partition: i32) -> Option<i64> {
        self.assignment.lock().done.get(&partition).copied()
    }

    /// Records the position at which reading a partition begins.
    pub(super) fn begins(&self, partition: i32, position: i64) {
        self.assignment.lock().done.insert(partition, position);
    }

    /// Makes a partition begin again, as if it had just been assigned. Returns whether it is
    /// assigned.
    pub(super) fn reassign(&self, partition: i32) -> bool {
        self.assignment.lock().begin_again(partition)
    }

    /// Returns the offsets after the messages that have rows, by partition.
    pub(crate) fn done_of_all(&self) -> BTreeMap<i32, i64> {
        self.assignment.lock().done.clone()
    }

    /// Makes partitions begin again if their end is below `done`, because the topic was recreated.
    /// The caller must have read `done` before the ends.
    pub(crate) fn begin_shorter_again(&self, done: &BTreeMap<i32, i64>, ends: &BTreeMap<i32, i64>) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        for (partition, end) in ends {
            let was_done = done.get(partition).filter(|done| end < done);
            if was_done.is_some() && assignment.done.get(partition) == was_done {
                assignment.begin_again(*partition);
            }
        }
    }

    /// Returns the ranges that these records complete after `done`. Records are written in the
    /// order in which they are read.
    pub(crate) fn ranges(&self, records: &[Arc<Record>]) -> Vec<ReadRange> {
        let guard = self.assignment.lock();
        let mut ranges = BTreeMap::new();
        for record in records {
            let partition = record.source.partition;
            let Some(done) = guard.done.get(&partition).copied() else {
                continue;
            };
            let range = ranges.entry(partition).or_insert(ReadRange {
                partition,
                offsets: done..done,
                last: None,
            });
            let next = record.last_offset + 1;
            if next > range.offsets.end {
                range.offsets.end = next;
                range.last = record.print;
            }
        }
        ranges.into_values().collect()
    }

    /// Returns how far the partitions of this process have been read. `next` returns the offset
    /// after the last message read in an assignment, or where reading begins.
    pub(super) fn readings(&self, next: impl Fn(i32, u64) -> Option<i64>) -> Readings {
        let guard = self.assignment.lock();
        let reading = |(partition, assignment): (&i32, &u64)| {
            (
                *partition,
                PartitionPosition {
                    assignment: *assignment,
                    next: next(*partition, *assignment),
                    end: guard.ends.get(partition).copied(),
                },
            )
        };
        guard.owned.iter().map(reading).collect()
    }

    /// Records that these ranges have been read completely and that their messages have rows.
    pub(crate) fn passed(&self, ranges: &[ReadRange]) {
        let mut guard = self.assignment.lock();
        for range in ranges {
            guard.done_to(range.partition, range.offsets.end);
        }
    }

    /// Sets whether fetching is paused for all partitions.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Reports that the group does not accept this process.
    pub(crate) fn kept_out(&self, why: &str) {
        self.health.kafka(Some(why.to_owned()));
    }

    /// Reports how many partitions wait at unreadable messages. Such a wait does not make the loop
    /// stuck.
    pub(crate) fn holds(&self, partitions: usize) {
        self.health.holds(partitions);
    }

    /// Sets the batch that a rebalance has to wait for.
    pub(crate) fn set_in_flight(&self, batch: Option<InFlightBatch>) {
        self.assignment.lock().in_flight = batch;
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.assignment.lock().in_flight.is_some()
    }

    /// Records that messages are written. Ignores messages of partitions that are no longer
    /// assigned, because their new owners read them again.
    pub(crate) fn written(&self, batch: &[Arc<Record>]) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        for record in batch {
            if assignment.owned.get(&record.source.partition) == Some(&record.assignment) {
                assignment.done_to(record.source.partition, record.last_offset + 1);
            }
        }
    }

    /// Commits to Kafka the offsets up to which messages have rows. Nothing depends on them:
    /// reading begins at the positions in MySQL.
    pub(crate) fn commit(&self, consumer: &BaseConsumer<Self>) {
        // Release the lock during the request to Kafka, so that `/readyz` and the lag watcher are
        // not blocked.
        let guard = self.assignment.lock();
        let done = guard.done.clone();
        if done.is_empty() || done == guard.committed {
            return;
        }
        drop(guard);
        let committed = offsets(&self.topic, &done)
            .and_then(|offsets| consumer.commit(&offsets, CommitMode::Sync));
        let mut guard = self.assignment.lock();
        let was_refused = std::mem::replace(&mut guard.is_refused, committed.is_err());
        match committed {
            Ok(()) => {
                guard.committed = done;
                drop(guard);
                crash_point(Point::OffsetsCommitted);
                if was_refused {
                    tracing::info!("offsets are committed again");
                }
            }
            Err(error) => {
                counter!(report::COMMIT_FAILURES).increment(1);
                // Log this once, not for each of many attempts.
                if !was_refused {
                    tracing::warn!(%error, "offsets could not be committed; the positions in MySQL are right");
                }
            }
        }
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        assignment.count += 1;
        let count = assignment.count;
        for partition in partitions.elements() {
            assignment.owned.insert(partition.partition(), count);
            assignment.done.remove(&partition.partition());
        }
        drop(guard);
        tracing::info!(
            partitions = partitions.count(),
            "the group gave this process partitions"
        );
        counter!(report::REBALANCES).increment(1);
        // Pause them until their positions are known. Messages that arrive earlier are ignored.
        if let Err(error) = consumer.pause(partitions) {
            tracing::warn!(%error, "new partitions could not be paused");
        }
        self.health.kafka(None);
        (self.joined)();
    }

    /// Before partitions are revoked, writes and commits the batch in flight, or leaves it to
    /// their next owners.
    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        // If the assignment was lost, the group has continued without this process and would refuse
        // the commit.
        if !consumer.assignment_lost() {
            let in_flight = self.assignment.lock().in_flight.take();
            if let Some(in_flight) = in_flight
                && self.gets_written(in_flight.outcome)
            {
                self.written(&in_flight.batch);
            }
            self.commit(consumer);
        }
        let mut guard = self.assignment.lock();
        for partition in partitions.elements() {
            let partition = partition.partition();
            guard.owned.remove(&partition);
            guard.done.remove(&partition);
            guard.ends.remove(&partition);
        }
        drop(guard);
        if partitions.count() > 0 {
            tracing::info!(
                partitions = partitions.count(),
                "the group took partitions away"
            );
        }
    }

    fn gets_written(&self, mut outcome: WriteOutcome) -> bool {
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(REVOKE_TIMEOUT, outcome.wait_for(Option::is_some))
                .await
                .map(|seen| {
                    seen.is_ok_and(|outcome| {
                        outcome.as_ref().is_some_and(|outcome| outcome.is_ok())
                    })
                })
        });
        waited.unwrap_or(false)
    }
}

fn offsets(topic: &str, next: &BTreeMap<i32, i64>) -> KafkaResult<TopicPartitionList> {
    let mut offsets = TopicPartitionList::with_capacity(next.len());
    for (partition, offset) in next {
        offsets.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(offsets)
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Error(error) => tracing::warn!(%error, "a rebalance failed"),
            Rebalance::Assign(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.assigned(consumer, partitions);
        }
    }
}

impl ClientContext for GroupContext {
    fn error(&self, error: KafkaError, reason: &str) {
        // `poll` returns the same error and logs it once.
        tracing::debug!(%error, reason, "librdkafka reports an error");
    }
}
