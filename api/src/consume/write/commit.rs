//! Commit: which offsets are written, and telling Kafka. Never before the rows are.

use std::collections::BTreeMap;

use firstcome_shared::crash::{Point, crash_point};
use rdkafka::consumer::{BaseConsumer, CommitMode, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

/// Where offsets are committed. Kafka's consumer does it; tests put one in its place that refuses.
pub(crate) trait CommitClient {
    /// Commits, and waits for the broker's word. Offsets are those of the next message to read, by partition.
    ///
    /// # Errors
    /// Kafka's; nothing may be taken as committed.
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

/// Offsets that are written to MySQL and not committed to Kafka yet.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    next: BTreeMap<i32, i64>,
    failing: bool,
}

impl Offsets {
    /// Notes that a message is dealt with, and with it all before it in its partition.
    pub(crate) fn written(&mut self, partition: i32, offset: i64) {
        let next = self.next.entry(partition).or_insert(0);
        *next = (*next).max(offset + 1);
    }

    /// Forgets a partition that is no longer ours: its offsets are another consumer's to commit.
    pub(crate) fn forget(&mut self, partition: i32) {
        self.next.remove(&partition);
    }

    /// Commits what is written. When Kafka refuses, the offsets stay for the next time; that is harmless, since writing a
    /// claim again changes nothing.
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
        metrics::counter!(crate::consume::metrics::COMMIT_FAILURES).increment(1);
        // Once, not at each of many batches.
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, "offsets could not be committed; the rows are, and what is read again changes nothing");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rdkafka::types::RDKafkaErrorCode;

    use super::*;

    /// Answers as it is told, and keeps what it was asked.
    #[derive(Default)]
    struct Broker {
        refuses: RefCell<bool>,
        committed: RefCell<BTreeMap<i32, i64>>,
        asked: RefCell<u32>,
    }

    impl CommitClient for Broker {
        fn commit(&self, _: &str, next: &BTreeMap<i32, i64>) -> KafkaResult<()> {
            *self.asked.borrow_mut() += 1;
            if *self.refuses.borrow() {
                return Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::RebalanceInProgress));
            }
            self.committed.borrow_mut().extend(next);
            Ok(())
        }
    }

    fn offsets(written: &[(i32, i64)]) -> Offsets {
        let mut offsets = Offsets::default();
        for (partition, offset) in written {
            offsets.written(*partition, *offset);
        }
        offsets
    }

    #[test]
    fn the_next_offset_of_each_partition_is_committed_once() {
        let broker = Broker::default();
        let mut offsets = offsets(&[(0, 4), (1, 0), (0, 5), (1, 1), (0, 3)]);
        offsets.commit("t", &broker);
        assert_eq!(*broker.committed.borrow(), BTreeMap::from([(0, 6), (1, 2)]));
        offsets.commit("t", &broker);
        assert_eq!(*broker.asked.borrow(), 1);
    }

    #[test]
    fn what_could_not_be_committed_is_committed_later_with_what_came_since() {
        let broker = Broker { refuses: true.into(), ..Broker::default() };
        let mut offsets = offsets(&[(0, 4), (1, 7)]);
        offsets.commit("t", &broker);
        assert!(broker.committed.borrow().is_empty());
        *broker.refuses.borrow_mut() = false;
        offsets.written(0, 9);
        offsets.commit("t", &broker);
        assert_eq!(*broker.committed.borrow(), BTreeMap::from([(0, 10), (1, 8)]));
        offsets.commit("t", &broker);
        assert_eq!(*broker.asked.borrow(), 2);
    }

    #[test]
    fn offsets_of_a_partition_that_was_taken_away_are_not_committed() {
        let broker = Broker::default();
        let mut offsets = offsets(&[(0, 4), (1, 7)]);
        offsets.forget(1);
        offsets.commit("t", &broker);
        assert_eq!(*broker.committed.borrow(), BTreeMap::from([(0, 5)]));
    }
}
