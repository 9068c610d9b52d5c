//! The consumer group: which partitions are assigned to this process, and how far each was read.
//! Kafka's callbacks change the assignment while the loop waits for a message.
//!
//! The callback assigns partitions paused, at an explicit offset: for one without an offset,
//! Kafka's client looks up the committed offset. `partitions` then reads the position in MySQL, and
//! the loop assigns the partition there; while MySQL is away, the partition stays paused. The loop
//! does not seek: after a batch with a wrong checksum librdkafka 2.12 asks for an offset far
//! outside the log, and a seek does not end that. Only the loop begins a partition, and only
//! between two messages. Otherwise a message taken from Kafka's client before would count as the
//! first of the new assignment, and those below it would be skipped.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use firstcome_shared::mysql::positions::ReadRanges;
use metrics::counter;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

/// How far a partition was read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// The offset after the last message that was read. `None` while the partition waits to begin
    /// at its position in MySQL; its messages are ignored until then.
    pub(super) next: Option<i64>,
    /// The offset after the last message that has a row or a dead letter, once that is known.
    pub(super) done: Option<i64>,
}

impl Reading {
    pub(super) fn begins(self) -> bool {
        self.next.is_none()
    }

    fn begin(&mut self, offset: i64) {
        self.next = Some(offset);
        self.done = Some(offset);
    }

    /// Returns how far the partition was read if none of its messages waits to be written.
    pub(super) fn stands(self) -> Option<i64> {
        self.next.filter(|_| self.next == self.done)
    }
}

#[derive(Default)]
pub(super) struct ConsumerGroup {
    /// The assigned partitions.
    partitions: Mutex<BTreeMap<i32, Reading>>,
    /// Offsets at which the loop must begin partitions. A hash map, because Kafka's client fetches
    /// from the first one first, and that must not always be the same one.
    pub(super) to_begin: Mutex<HashMap<i32, i64>>,
    /// Whether the group has accepted this process since this flag was last read.
    pub(super) has_joined: AtomicBool,
    /// Whether a partition has begun since this flag was last read.
    pub(super) has_begun: AtomicBool,
    /// The permission that Kafka denies. librdkafka only reports this as an event; its calls time
    /// out.
    denied: Mutex<Option<&'static str>>,
}

impl ConsumerGroup {
    /// Describes the permission that Kafka denies, or returns `None` if it denies none.
    pub(super) fn denied(&self) -> Option<&'static str> {
        *self.denied.lock()
    }

    pub(super) fn note_permitted(&self) {
        *self.denied.lock() = None;
    }

    pub(super) fn partitions(&self) -> BTreeMap<i32, Reading> {
        self.partitions.lock().clone()
    }

    /// Returns the partitions that are being read, without those that wait to begin at their
    /// position.
    pub(super) fn begun(&self) -> Vec<i32> {
        let partitions = self.partitions.lock();
        let begun = partitions.iter().filter(|(_, it)| !it.begins());
        begun.map(|(partition, _)| *partition).collect()
    }

    /// Changes how far a partition was read, unless the group has taken it away.
    fn change<T>(&self, partition: i32, change: impl FnOnce(&mut Reading) -> T) -> Option<T> {
        self.partitions.lock().get_mut(&partition).map(change)
    }

    /// Begins to read a partition at an offset by assigning it again, unless the group has taken it
    /// away. The lock prevents a rebalance from moving it at the same time. Blocks briefly.
    pub(super) fn begin(
        &self,
        partition: i32,
        offset: i64,
        consumer: &impl Consumer<Self>,
        list: &TopicPartitionList,
    ) -> KafkaResult<()> {
        let mut partitions = self.partitions.lock();
        let Some(reading) = partitions.get_mut(&partition) else {
            return Ok(());
        };
        if let Err(error) = consumer.incremental_unassign(list) {
            // An earlier attempt has unassigned it. If not, assigning it fails, too.
            tracing::debug!(%error, partition, "not assigned");
        }
        // Resume it first: Kafka's client may wait for a second before it fetches from a partition
        // that was paused when it was assigned.
        consumer.resume(list)?;
        consumer.incremental_assign(list)?;
        reading.begin(offset);
        self.has_begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes a partition begin again at its position in MySQL.
    pub(super) fn begin_again(&self, partition: i32) {
        tracing::warn!(partition, "it is read again from its position in MySQL");
        self.change(partition, |reading| reading.next = None);
    }

    /// Pauses all partitions, and makes them begin again at their positions in MySQL.
    pub(super) fn begin_all_again(&self, consumer: &impl Consumer<Self>) -> KafkaResult<()> {
        for reading in self.partitions.lock().values_mut() {
            reading.next = None;
        }
        consumer.pause(&consumer.assignment()?)
    }

    /// Records that a message has arrived, and returns the offset up to which its partition was
    /// read before. Returns `None` if the message is to be ignored: its partition is not being
    /// read, or begins again because Kafka's client has jumped. A message may be above the expected
    /// offset, because transaction markers have offsets, too. With `may_have_skipped`, such a gap
    /// counts as a jump.
    pub(super) fn arrived(
        &self,
        partition: i32,
        offset: i64,
        may_have_skipped: bool,
    ) -> Option<i64> {
        self.change(partition, |reading| {
            let next = reading.next?;
            let has_jumped = offset < next || offset > next && may_have_skipped;
            reading.next = (!has_jumped).then_some(offset + 1);
            reading.next.map(|_| next)
        })?
    }

    /// Records that the messages of these ranges have rows or dead letters, unless their partition
    /// has begun at another offset in the meantime.
    pub(super) fn written(&self, ranges: &ReadRanges) {
        for (partition, offsets) in ranges {
            self.change(*partition, |reading| {
                let is_read = reading.next.is_none_or(|next| next >= offsets.end);
                if is_read && reading.done == Some(offsets.start) {
                    reading.done = Some(offsets.end);
                }
            });
        }
    }
}

impl ConsumerContext for ConsumerGroup {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let ids: Vec<i32> = list
            .elements()
            .iter()
            .map(TopicPartitionListElem::partition)
            .collect();
        let is_assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        tracing::info!(partitions = ?ids, is_assigned, "the group moves partitions");
        let mut change = || {
            if !is_assigned {
                self.partitions.lock().retain(|id, _| !ids.contains(id));
                return consumer.incremental_unassign(list);
            }
            counter!("firstcome_consumer_rebalances_total").increment(1);
            let begin = ids.iter().map(|id| (*id, Reading::default()));
            self.partitions.lock().extend(begin);
            self.has_joined.store(true, Ordering::Relaxed);
            list.set_all_offsets(Offset::Offset(0))?;
            consumer.incremental_assign(list)?;
            consumer.pause(list)
        };
        if let Err(error) = change() {
            tracing::error!(%error, is_assigned, "a rebalance failed");
        }
    }
}

impl ClientContext for ConsumerGroup {
    fn error(&self, error: KafkaError, reason: &str) {
        // `recv` returns the same error, and the loop logs it once.
        tracing::debug!(%error, reason, "librdkafka reports an error");
        let denied = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                "Kafka does not permit this consumer group: allow its user or its certificate \
                `Read` on it (KAFKA_GROUP)"
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                "Kafka does not permit the topic: allow its user or its certificate `Read` and \
                `Describe` on it (KAFKA_TOPIC)"
            }
            _ => return,
        };
        *self.denied.lock() = Some(denied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a group with partition 0.
    fn group() -> ConsumerGroup {
        let group = ConsumerGroup::default();
        group.partitions.lock().insert(0, Reading::default());
        group
    }

    #[test]
    fn permission_that_kafka_denies_is_reported_until_it_is_granted() {
        let group = group();
        group.error(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut), "");
        assert_eq!(group.denied(), None);
        for (code, setting) in [
            (RDKafkaErrorCode::GroupAuthorizationFailed, "KAFKA_GROUP"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, "KAFKA_TOPIC"),
        ] {
            group.error(KafkaError::Global(code), "");
            assert!(group.denied().unwrap().contains(setting), "{code}");
        }
        group.note_permitted();
        assert_eq!(group.denied(), None);
    }

    fn begin(group: &ConsumerGroup, offset: i64) {
        group.change(0, |reading| reading.begin(offset));
    }

    fn range(offsets: std::ops::Range<i64>) -> ReadRanges {
        [(0, offsets)].into()
    }

    #[test]
    fn range_covers_gaps_between_messages_and_a_jump_restarts_the_partition() {
        let group = group();
        assert_eq!(group.arrived(0, 5, false), None, "the position is unknown");
        begin(&group, 5);
        assert_eq!(group.arrived(1, 0, false), None, "not assigned");
        assert_eq!(group.arrived(0, 5, false), Some(5));
        let markers = group.arrived(0, 8, false);
        assert_eq!(markers, Some(6), "transaction markers");
        assert_eq!(group.arrived(0, 9, true), Some(9));
        for (offset, may_have_skipped) in [(12, true), (3, false)] {
            assert_eq!(group.arrived(0, offset, may_have_skipped), None);
            assert!(group.partitions()[&0].begins(), "it begins again");
            begin(&group, 10);
        }
    }

    #[test]
    fn late_write_of_an_earlier_assignment_changes_nothing() {
        let group = group();
        let stands = || group.partitions()[&0].stands();
        begin(&group, 5);
        group.arrived(0, 5, false);
        assert_eq!(stands(), None, "a message waits to be written");
        group.begin_again(0);
        begin(&group, 3);
        group.written(&range(5..6));
        group.written(&range(3..4));
        assert_eq!(stands(), Some(3));
        group.arrived(0, 3, false);
        group.written(&range(3..4));
        assert_eq!(stands(), Some(4));
    }
}
