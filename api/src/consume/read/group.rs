//! The consumer group: which partitions are assigned to this process, and how far they are
//! committed. Offsets are never committed before the rows are, not even when a rebalance takes
//! partitions away.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::DbError;
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

/// Maximum time that a rebalance waits for the write in flight, because the other consumers wait,
/// too. A batch that is not written in this time is read again by the partitions' next owners.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of a write, once it is known.
pub(crate) type WriteOutcome = watch::Receiver<Option<Arc<Result<Written, DbError>>>>;

/// A batch that is being written.
pub(crate) struct InFlightBatch {
    pub(crate) batch: Vec<Arc<Record>>,
    pub(crate) outcome: WriteOutcome,
}

/// How far the group has read a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// The committed offset, or that of the first existing message.
    pub(crate) next: i64,
    pub(crate) end: i64,
}

#[derive(Default)]
struct Assignment {
    /// Counts assignments as a fencing token: a message that was read before its partition was
    /// revoked and assigned again must not be written or committed.
    count: u64,
    owned: HashMap<i32, u64>,
    /// Kafka's last answer about partitions.
    measured: BTreeMap<i32, Measured>,
    offsets: Offsets,
    in_flight: Option<InFlightBatch>,
}

/// Kafka's callbacks, and what they share with the loop. They run on the loop's thread, inside
/// `poll`.
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

    /// Returns the number of a partition's assignment; `None` if it is not assigned.
    pub(crate) fn assignment_of(&self, partition: i32) -> Option<u64> {
        self.assignment.lock().owned.get(&partition).copied()
    }

    /// Whether this process may write and commit a message: its partition has stayed assigned
    /// since the message was read.
    pub(crate) fn owns(&self, record: &Record) -> bool {
        self.assignment_of(record.source.partition) == Some(record.assignment)
    }

    /// Whether the group has assigned this process its partitions, or none.
    pub(crate) fn has_joined(&self) -> bool {
        self.assignment.lock().count > 0
    }

    pub(crate) fn partitions(&self) -> Vec<i32> {
        self.assignment.lock().owned.keys().copied().collect()
    }

    pub(crate) fn measured(&self, measured: BTreeMap<i32, Measured>) {
        self.assignment.lock().measured = measured;
    }

    /// How far the partitions of this process are read. `next` returns the offset after the last
    /// message read in an assignment.
    pub(super) fn readings(&self, next: impl Fn(i32, u64) -> Option<i64>) -> Readings {
        let guard = self.assignment.lock();
        let reading = |(partition, assignment): (&i32, &u64)| {
            let measured = guard.measured.get(partition);
            let next = next(*partition, *assignment).or(measured.map(|at| at.next));
            (
                *partition,
                PartitionPosition {
                    assignment: *assignment,
                    next,
                    end: measured.map(|at| at.end),
                },
            )
        };
        guard.owned.iter().map(reading).collect()
    }

    /// Records that there is no message at these offsets, once everything before them is committed.
    /// Returns whether it is.
    pub(super) fn passes(&self, partition: i32, assignment: u64, offsets: Range<i64>) -> bool {
        let mut guard = self.assignment.lock();
        let passes = guard.owned.get(&partition) == Some(&assignment)
            && guard
                .measured
                .get(&partition)
                .is_some_and(|measured| measured.next >= offsets.start);
        if passes {
            guard.offsets.written(partition, offsets.end - 1);
        }
        passes
    }

    /// `true`: newly assigned partitions are paused at once.
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

    /// Reports how many partitions wait at unreadable messages: then the loop is not stuck.
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

    /// Records that messages are written. Messages of partitions that are no longer assigned are
    /// committed by the new owner.
    pub(crate) fn written(&self, batch: &[Arc<Record>]) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        for record in batch {
            if assignment.owned.get(&record.source.partition) == Some(&record.assignment) {
                assignment
                    .offsets
                    .written(record.source.partition, record.last_offset);
            }
        }
    }

    /// Commits the offsets of written messages.
    pub(crate) fn commit(&self, client: &impl CommitClient) {
        // Without the lock during the request to Kafka, so that `/readyz` and the lag watcher are
        // not blocked.
        let mut offsets = std::mem::take(&mut self.assignment.lock().offsets);
        offsets.commit(&self.topic, client);
        self.assignment.lock().offsets = offsets;
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        assignment.count += 1;
        let count = assignment.count;
        assignment
            .owned
            .extend(partitions.elements().iter().map(|p| (p.partition(), count)));
        drop(guard);
        tracing::info!(
            partitions = partitions.count(),
            "the group gave this process partitions"
        );
        counter!(report::REBALANCES).increment(1);
        // librdkafka keeps a partition paused when it is revoked and assigned again, so `resume` is
        // needed, too.
        let paused = self.is_paused();
        let result = if paused {
            consumer.pause(partitions)
        } else {
            consumer.resume(partitions)
        };
        if let Err(error) = result {
            tracing::warn!(%error, paused, "new partitions could not be paused or resumed");
        }
        self.health.kafka(None);
        (self.joined)();
    }

    /// Before partitions are revoked, writes and commits the batch in flight, or leaves it to
    /// their next owners.
    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        // A lost assignment: the group continued without this process and would refuse the commit.
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
            guard.owned.remove(&partition.partition());
            guard.measured.remove(&partition.partition());
            guard.offsets.forget(partition.partition());
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

/// Commits offsets: Kafka's consumer, or a double that refuses in tests.
pub(crate) trait CommitClient {
    /// Commits the offset of the next message to read, by partition, and waits for the broker.
    /// After an error nothing may count as committed.
    fn commit(&self, topic: &str, next: &BTreeMap<i32, i64>) -> KafkaResult<()>;
}

impl<C: ConsumerContext> CommitClient for BaseConsumer<C> {
    fn commit(&self, topic: &str, next: &BTreeMap<i32, i64>) -> KafkaResult<()> {
        let mut offsets = TopicPartitionList::with_capacity(next.len());
        for (partition, offset) in next {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        rdkafka::consumer::Consumer::commit(self, &offsets, CommitMode::Sync)
    }
}

/// Offsets whose rows are in MySQL but which are not committed to Kafka yet.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    next: BTreeMap<i32, i64>,
    failing: bool,
}

impl Offsets {
    /// Records that a message and all before it in its partition are written.
    pub(crate) fn written(&mut self, partition: i32, offset: i64) {
        let next = self.next.entry(partition).or_insert(0);
        *next = (*next).max(offset + 1);
    }

    /// Drops a partition that is now assigned to another consumer.
    pub(crate) fn forget(&mut self, partition: i32) {
        self.next.remove(&partition);
    }

    /// Commits the offsets of written messages. If Kafka refuses, they stay for the next commit.
    /// That is harmless: writing a claim again changes nothing.
    pub(crate) fn commit(&mut self, topic: &str, client: &impl CommitClient) {
        if self.next.is_empty() {
            return;
        }
        match client.commit(topic, &self.next) {
            Ok(()) => {
                crash_point(Point::OffsetsCommitted);
                self.next.clear();
                if std::mem::take(&mut self.failing) {
                    tracing::info!("offsets are committed again");
                }
            }
            Err(error) => self.note(&error),
        }
    }

    fn note(&mut self, error: &KafkaError) {
        counter!(report::COMMIT_FAILURES).increment(1);
        // Log it once, not for each of many batches.
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "offsets could not be committed; the rows are, and what is read again changes nothing");
        }
    }
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

#[cfg(test)]
mod tests;
