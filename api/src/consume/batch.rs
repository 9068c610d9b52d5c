//! Gathers claims into a batch, which ends at a number of claims, at a gap between messages, or at
//! a deadline.

use std::ops::Range;
use std::time::Duration;

use firstcome_shared::mysql::positions::ReadRanges;
use tokio::time::Instant;

use super::record::Record;

/// Time without a message that ends a batch.
const GAP: Duration = Duration::from_millis(10);

/// Maximum wait of the first claim. Rows cost less in large transactions.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Claims to write, and the offsets that were read with them.
#[derive(Default, Clone)]
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    pub(super) ranges: ReadRanges,
    /// Arrival times of the first and the last message.
    pub(super) arrived: Option<(Instant, Instant)>,
}

impl Batch {
    /// Adds a message. If its partition has begun again since its previous message, its range
    /// starts over.
    pub(super) fn push(&mut self, read: (i32, Range<i64>), records: Vec<Record>, now: Instant) {
        let (partition, offsets) = read;
        self.arrived = Some((self.arrived.map_or(now, |(first, _)| first), now));
        self.records.extend(records);
        let range = self.ranges.entry(partition).or_insert(offsets.clone());
        if range.end == offsets.start {
            range.end = offsets.end;
        } else {
            *range = offsets;
        }
    }

    /// Returns the time at which the batch is ready even if it is not full, or `None` if it is
    /// empty.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.arrived
            .map(|(first, last)| (first + LONGEST_WAIT).min(last + GAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::record::tests::records;

    fn push(batch: &mut Batch, partition: i32, offset: i64, now: Instant) {
        let records = records(partition, offset, b"");
        batch.push((partition, offset..offset + 1), records, now);
    }

    #[test]
    fn batch_ends_at_a_gap_between_messages_or_at_its_deadline() {
        let start = Instant::now();
        let mut batch = Batch::default();
        assert_eq!(batch.deadline(), None);
        let mut deadlines = Vec::new();
        for after in [0, 3, 239, 245] {
            push(&mut batch, 0, 1, start + Duration::from_millis(after));
            deadlines.push(batch.deadline().unwrap().duration_since(start).as_millis());
        }
        assert_eq!(deadlines, [10, 13, 249, 250]);
    }

    #[test]
    fn ranges_cover_only_messages_that_were_read_consecutively() {
        for (read, expected) in [
            (
                &[(0, 5), (0, 6), (1, 0), (0, 7)][..],
                [(0, 5..8), (1, 0..1)].into(),
            ),
            (
                &[(0, 50), (0, 51), (0, 100), (0, 101)],
                [(0, 100..102)].into(),
            ),
            (&[(0, 50), (0, 51), (0, 20)], [(0, 20..21)].into()),
        ] {
            let mut batch = Batch::default();
            for (partition, offset) in read {
                push(&mut batch, *partition, *offset, Instant::now());
            }
            assert_eq!(batch.ranges, expected);
            assert_eq!(batch.records.len(), read.len());
        }
    }
}
