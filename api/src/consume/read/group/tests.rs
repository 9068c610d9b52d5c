use std::cell::RefCell;

use rdkafka::types::RDKafkaErrorCode;

use super::*;

/// Refuses commits if set, and records what is committed.
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
            return Err(KafkaError::ConsumerCommit(
                RDKafkaErrorCode::RebalanceInProgress,
            ));
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
fn uncommitted_offsets_are_committed_later_with_newer_ones() {
    let broker = Broker {
        refuses: true.into(),
        ..Broker::default()
    };
    let mut offsets = offsets(&[(0, 4), (1, 7)]);
    offsets.commit("t", &broker);
    assert!(broker.committed.borrow().is_empty());
    *broker.refuses.borrow_mut() = false;
    offsets.written(0, 9);
    offsets.commit("t", &broker);
    assert_eq!(
        *broker.committed.borrow(),
        BTreeMap::from([(0, 10), (1, 8)])
    );
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
