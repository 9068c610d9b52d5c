//! This process's part of the consumer group: which partitions are its own, and what to do when they are taken away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use std::time::Duration;

use firstcome_shared::mysql::DbError;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{ClientContext, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::consume::read::decode::Record;
use crate::consume::watch::health::Health;
use crate::consume::write::Written;
use crate::consume::write::commit::{CommitClient, Offsets};

/// Longest that a rebalance waits for the write in hand. Others can't go on meanwhile; what is not done by then is read again.
const REVOKE_PATIENCE: Duration = Duration::from_secs(2);

/// What became of a write, once it is known.
pub(crate) type Outcome = watch::Receiver<Option<Arc<Result<Written, DbError>>>>;

/// A write that is under way.
pub(crate) struct InHand {
    pub(crate) batch: Vec<Arc<Record>>,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

#[derive(Default)]
struct Assignment {
    /// Counts assignments, so that a message read before its partition went and came back is not taken for a new one.
    count: u64,
    owned: HashMap<i32, u64>,
    offsets: Offsets,
    in_hand: Option<InHand>,
}

/// Kafka's callbacks, and what they share with the loop. All run on the loop's thread, inside `poll`.
pub(crate) struct Group {
    topic: String,
    health: Arc<Health>,
    runtime: Handle,
    paused: AtomicBool,
    assignment: Mutex<Assignment>,
    joined: Box<dyn Fn() + Send + Sync>,
}

impl Group {
    /// A group that nothing is assigned to yet. `joined` is called at each assignment.
    pub(crate) fn new(
        topic: String,
        health: Arc<Health>,
        runtime: Handle,
        joined: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (paused, assignment) = (AtomicBool::new(false), Mutex::default());
        Self { topic, health, runtime, paused, assignment, joined: Box::new(joined) }
    }

    /// The number of a partition's present assignment; `None` where it is not ours.
    pub(crate) fn assignment_of(&self, partition: i32) -> Option<u64> {
        self.assignment.lock().owned.get(&partition).copied()
    }

    /// Whether a message may still be written and committed by us: its partition has been ours since it was read.
    pub(crate) fn owns(&self, record: &Record) -> bool {
        self.assignment_of(record.source.partition) == Some(record.assignment)
    }

    /// Whether the group has told this process its part, be it none.
    pub(crate) fn has_joined(&self) -> bool {
        self.assignment.lock().count > 0
    }

    /// Partitions that are ours now.
    pub(crate) fn partitions(&self) -> Vec<i32> {
        self.assignment.lock().owned.keys().copied().collect()
    }

    /// Says whether partitions that come from now on are to be paused at once.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether fetching is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Tells of the write under way, so that a rebalance can wait for it; `None` when there is none.
    pub(crate) fn hold(&self, in_hand: Option<InHand>) {
        self.assignment.lock().in_hand = in_hand;
    }

    /// Whether a write is under way.
    pub(crate) fn is_writing(&self) -> bool {
        self.assignment.lock().in_hand.is_some()
    }

    /// Notes that messages are dealt with. Those that are no longer ours are left to whoever reads them now.
    pub(crate) fn written(&self, batch: &[Arc<Record>]) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        for record in batch {
            if assignment.owned.get(&record.source.partition) == Some(&record.assignment) {
                assignment.offsets.written(record.source.partition, record.source.offset);
            }
        }
    }

    /// Commits what is written.
    pub(crate) fn commit(&self, client: &impl CommitClient) {
        // Out of the lock while Kafka is asked: `/readyz` and the lag's watcher go on.
        let mut offsets = std::mem::take(&mut self.assignment.lock().offsets);
        offsets.commit(&self.topic, client);
        self.assignment.lock().offsets = offsets;
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut guard = self.assignment.lock();
        let assignment = &mut *guard;
        assignment.count += 1;
        let count = assignment.count;
        assignment.owned.extend(partitions.elements().iter().map(|p| (p.partition(), count)));
        drop(guard);
        tracing::info!(partitions = partitions.count(), "the group gave this process partitions");
        metrics::counter!(crate::consume::metrics::REBALANCES).increment(1);
        // librdkafka keeps a partition paused when it goes and comes back, so both ways are said.
        let paused = self.is_paused();
        let told = if paused { consumer.pause(partitions) } else { consumer.resume(partitions) };
        if let Err(error) = told {
            tracing::warn!(%error, paused, "new partitions could not be paused or resumed");
        }
        self.health.kafka(None);
        (self.joined)();
    }

    /// Before partitions go: what is being written is either written and committed now, or left to their next owner.
    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        // Lost, not taken: the group went on without us and would refuse the commit.
        if !consumer.assignment_lost() {
            let in_hand = self.assignment.lock().in_hand.take();
            if let Some(in_hand) = in_hand
                && self.ends_well(in_hand.outcome)
            {
                self.written(&in_hand.batch);
            }
            self.commit(consumer);
        }
        let mut guard = self.assignment.lock();
        for partition in partitions.elements() {
            guard.owned.remove(&partition.partition());
            guard.offsets.forget(partition.partition());
        }
        drop(guard);
        if partitions.count() > 0 {
            tracing::info!(partitions = partitions.count(), "the group took partitions away");
        }
    }

    fn ends_well(&self, mut outcome: Outcome) -> bool {
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(REVOKE_PATIENCE, outcome.wait_for(Option::is_some))
                .await
                .map(|seen| seen.is_ok_and(|outcome| outcome.as_ref().is_some_and(|outcome| outcome.is_ok())))
        });
        waited.unwrap_or(false)
    }
}

impl ConsumerContext for Group {
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

/// Kafka's own words go where ours go.
impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The same error comes out of `poll`, which logs it once.
        tracing::debug!(%error, reason, "librdkafka reports an error");
    }
}
