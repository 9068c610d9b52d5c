//! The consumer group: which partitions are assigned to this process, and how far each was read.
//! Kafka's callbacks change the assignment while the loop waits for a message.
//!
//! The callback assigns partitions paused, at an explicit offset: for one without an offset, Kafka's
//! client looks up the committed offset, which would overtake a seek. `tend` then reads the position
//! in MySQL, seeks to it and resumes; while MySQL is away, the partition stays paused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::positions::{Positions, ReadRange};
use metrics::counter;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::report::{Health, REBALANCES};

/// How far a partition was read since its position was last looked up.
struct Reading {
    /// The offset after the last message that was read.
    next: i64,
    /// The offset after the last message that has a row or a dead letter.
    done: i64,
}

/// What to do with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// It continues the range that was read up to this offset.
    After(i64),
    /// Kafka's client has jumped: read the partition again from its position.
    Elsewhere,
    /// Its partition is not being read.
    Ignored,
}

pub(super) struct Group {
    health: Arc<Health>,
    /// The assigned partitions. One without a reading is paused until reading begins at its
    /// position in MySQL, and its messages are ignored.
    partitions: Mutex<BTreeMap<i32, Option<Reading>>>,
    /// Counts the times that a partition began.
    begun: AtomicU64,
    /// Whether the loop takes no messages for now.
    is_full: AtomicBool,
    /// Cancelled at the first assignment.
    joined: CancellationToken,
}

impl Group {
    pub(super) fn new(health: Arc<Health>, joined: CancellationToken) -> Self {
        Self {
            health,
            partitions: Mutex::default(),
            begun: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            joined,
        }
    }

    pub(super) fn assigned(&self) -> Vec<i32> {
        self.partitions.lock().keys().copied().collect()
    }

    pub(super) fn times_begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// Returns the partitions whose reading should begin.
    pub(super) fn not_begun(&self) -> Vec<i32> {
        if self.is_full.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let partitions = self.partitions.lock();
        let waiting = partitions.iter().filter(|(_, reading)| reading.is_none());
        waiting.map(|(partition, _)| *partition).collect()
    }

    fn reading<T>(&self, partition: i32, change: impl FnOnce(&mut Reading) -> T) -> Option<T> {
        let mut partitions = self.partitions.lock();
        partitions.get_mut(&partition)?.as_mut().map(change)
    }

    /// Begins to read a partition at an offset.
    pub(super) fn begin(&self, partition: i32, offset: i64) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if let Some(reading) = self.partitions.lock().get_mut(&partition) {
            *reading = Some(Reading {
                next: offset,
                done: offset,
            });
        }
    }

    /// Makes a partition begin again. Returns whether it was being read.
    pub(super) fn forget(&self, partition: i32) -> bool {
        let mut partitions = self.partitions.lock();
        partitions
            .get_mut(&partition)
            .is_some_and(|reading| reading.take().is_some())
    }

    /// Places a message. It may be above the offset that is expected next, because transaction
    /// markers have offsets, too; but not if the client may have skipped messages after an error.
    pub(super) fn arrived(&self, partition: i32, offset: i64, may_have_skipped: bool) -> Arrived {
        let arrived = self.reading(partition, |reading| {
            if offset < reading.next || offset > reading.next && may_have_skipped {
                return Arrived::Elsewhere;
            }
            Arrived::After(std::mem::replace(&mut reading.next, offset + 1))
        });
        arrived.unwrap_or(Arrived::Ignored)
    }

    /// Records that the messages of these ranges have rows or dead letters. A partition that has
    /// begun again in the meantime reads them again.
    pub(super) fn written(&self, ranges: &[ReadRange]) {
        for ReadRange { partition, offsets } in ranges {
            self.reading(*partition, |reading| {
                if reading.done == offsets.start {
                    reading.done = offsets.end;
                }
            });
        }
    }

    /// Returns how far partitions were read of which no message waits to be written.
    pub(super) fn standing(&self) -> Positions {
        let partitions = self.partitions.lock();
        let standing = |(partition, reading): (&i32, &Option<Reading>)| {
            let reading = reading
                .as_ref()
                .filter(|reading| reading.next == reading.done)?;
            Some((*partition, reading.done))
        };
        partitions.iter().filter_map(standing).collect()
    }

    /// Whether a partition is assigned and was read up to this offset, or begins again.
    pub(super) fn stands(&self, partition: i32, offset: i64) -> bool {
        let partitions = self.partitions.lock();
        let stands = |reading: &Reading| (reading.next, reading.done) == (offset, offset);
        partitions
            .get(&partition)
            .is_some_and(|reading| reading.as_ref().is_none_or(stands))
    }

    /// Returns how many messages of a partition have no rows and how far it was read, if reading has
    /// begun. The second is `None` while messages wait to be written.
    pub(super) fn unread(&self, partition: i32, end: i64) -> Option<(i64, Option<i64>)> {
        self.reading(partition, |reading| {
            let is_standing = reading.next == reading.done;
            (
                (end - reading.done).max(0),
                is_standing.then_some(reading.done),
            )
        })
    }

    fn change(
        &self,
        consumer: &BaseConsumer<Self>,
        is_assigned: bool,
        list: &mut TopicPartitionList,
    ) -> KafkaResult<()> {
        let ids: Vec<i32> = list.elements().iter().map(|it| it.partition()).collect();
        if is_assigned {
            tracing::info!(
                partitions = ids.len(),
                "the group gave this process partitions"
            );
            counter!(REBALANCES).increment(1);
            self.partitions
                .lock()
                .extend(ids.into_iter().map(|id| (id, None)));
            self.health.group(None);
            self.joined.cancel();
            list.set_all_offsets(Offset::Offset(0))?;
            consumer.incremental_assign(list)?;
            consumer.pause(list)
        } else {
            tracing::info!(partitions = ids.len(), "the group took partitions away");
            self.partitions.lock().retain(|id, _| !ids.contains(id));
            consumer.incremental_unassign(list)
        }
    }
}

impl ConsumerContext for Group {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let is_assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if let Err(error) = self.change(consumer, is_assigned, list) {
            tracing::error!(%error, is_assigned, "a rebalance failed");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) => crash_point(Point::OffsetsCommitted),
            // Nothing depends on it: reading begins at the positions in MySQL.
            Err(error) => tracing::debug!(%error, "offsets could not be committed"),
        }
    }
}

impl ClientContext for Group {
    fn error(&self, error: KafkaError, reason: &str) {
        // `recv` returns the same error, and the loop logs it once.
        tracing::debug!(%error, reason, "librdkafka reports an error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a group with partition 0.
    fn group() -> Group {
        let group = Group::new(Arc::new(Health::new(30)), CancellationToken::new());
        group.partitions.lock().insert(0, None);
        group
    }

    fn range(offsets: std::ops::Range<i64>) -> [ReadRange; 1] {
        [ReadRange {
            partition: 0,
            offsets,
        }]
    }

    #[test]
    fn range_begins_where_the_last_one_ended_also_over_offsets_without_messages() {
        let group = group();
        assert_eq!(
            group.arrived(0, 5, false),
            Arrived::Ignored,
            "the position is unknown"
        );
        group.begin(0, 5);
        assert_eq!(group.arrived(0, 5, false), Arrived::After(5));
        assert_eq!(
            group.arrived(0, 8, false),
            Arrived::After(6),
            "transaction markers"
        );
        assert_eq!(
            group.arrived(0, 12, true),
            Arrived::Elsewhere,
            "after a wrong checksum"
        );
        assert_eq!(
            group.arrived(0, 3, false),
            Arrived::Elsewhere,
            "another log"
        );
        assert_eq!(group.arrived(1, 0, false), Arrived::Ignored, "not assigned");
        assert_eq!(group.arrived(0, 9, true), Arrived::After(9));
    }

    #[test]
    fn late_write_of_an_earlier_assignment_changes_nothing() {
        let group = group();
        group.begin(0, 5);
        group.arrived(0, 5, false);
        assert!(group.standing().is_empty(), "a message waits to be written");
        group.forget(0);
        group.begin(0, 3);
        group.written(&range(5..6));
        assert_eq!(group.standing(), [(0, 3)].into());
        group.arrived(0, 3, false);
        group.written(&range(3..4));
        assert_eq!(group.standing(), [(0, 4)].into());
    }
}
