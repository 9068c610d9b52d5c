//! Determines where to start reading a partition: at its position in MySQL
//! ([`crate::mysql::positions`]), if Kafka still has the log that was read. Kafka's committed
//! offsets do not determine it.
//!
//! Reading starts with the message before the position, which proves that the log is the same: if
//! the topic was recreated, that offset holds another message or none. The topic's id would also
//! prove it, but Kafka's client does not return it.

use std::collections::BTreeMap;
use std::ops::Range;

use crc::{CRC_64_XZ, Crc};
use rdkafka::message::{BorrowedMessage, Message as _};
use strum::{EnumString, IntoStaticStr};

const CRC: Crc<u64> = Crc::<u64>::new(&CRC_64_XZ);

/// A checksum of a message's timestamp, key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagePrint(pub i64);

impl MessagePrint {
    /// Stored if the previous offset holds no message that can be read.
    pub const UNKNOWN: Self = Self(0);

    pub fn of(message: &BorrowedMessage<'_>) -> Self {
        let mut digest = CRC.digest();
        let timestamp_ms = message.timestamp().to_millis().unwrap_or_default();
        digest.update(&timestamp_ms.to_be_bytes());
        digest.update(message.key().unwrap_or_default());
        digest.update(message.payload().unwrap_or_default());
        Self(digest.finalize().cast_signed())
    }
}

/// Why a partition is read again from an earlier offset, or has a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum PositionFault {
    /// The partition was read beyond the position: MySQL has lost transactions, or the
    /// position or Kafka's offsets were changed manually.
    Gap,
    /// The message before the position differs, or no message was read before it: the topic was
    /// recreated, or the position was changed manually.
    OtherLog,
    /// The partition ends below the position: Kafka has lost messages, or the topic was recreated.
    BeyondEnd,
    /// The partition begins above the position: messages were deleted before they were read.
    Expired,
}

impl PositionFault {
    /// Returns the value stored in the table.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The position of a partition in MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPosition {
    /// The offset after the last message whose rows were written.
    pub next: i64,
    /// The message at the previous offset, or `None` if no message was read yet.
    pub before: Option<MessagePrint>,
    /// The fault recorded within the last hour, and the offset that reading had reached.
    pub fault: Option<(PositionFault, i64)>,
}

/// The positions of a topic by partition.
pub type StoredPositions = BTreeMap<i32, StoredPosition>;

/// Where to start reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    pub from: i64,
    /// The message that must be at the previous offset, if it is known.
    pub before: Option<MessagePrint>,
    /// The fault, and the offset that reading had reached.
    pub fault: Option<(PositionFault, i64)>,
}

impl Beginning {
    /// Compares a position with the offsets that the partition has, and with the offset committed
    /// to Kafka. Consumers commit only after they have advanced the position, so a higher committed
    /// offset means that the position went back. A partition without a position is read from its
    /// beginning, never from its end.
    pub fn of(position: Option<&StoredPosition>, committed: Option<i64>, log: &Range<i64>) -> Self {
        let first = Self {
            from: log.start,
            before: None,
            fault: None,
        };
        let Some(position) = position else {
            return first;
        };
        let at_the_first_message = |fault| Self {
            fault: Some((fault, position.next)),
            ..first
        };
        if position.next > log.end {
            return at_the_first_message(PositionFault::BeyondEnd);
        }
        if position.next < log.start {
            return at_the_first_message(PositionFault::Expired);
        }
        if position.before.is_none() && position.next > log.start {
            return at_the_first_message(PositionFault::OtherLog);
        }
        Self {
            from: position.next,
            // A message that has expired cannot be compared.
            before: position
                .before
                .filter(|print| position.next > log.start && *print != MessagePrint::UNKNOWN),
            fault: committed
                .filter(|committed| *committed > position.next)
                .map(|committed| (PositionFault::Gap, committed)),
        }
    }

    /// Returns where to start if the message before the position differs.
    #[must_use]
    pub fn in_another_log(self, log: &Range<i64>) -> Self {
        Self {
            from: log.start,
            before: None,
            fault: Some((PositionFault::OtherLog, self.from)),
        }
    }

    /// Returns the first offset to fetch.
    pub fn fetched_from(&self) -> i64 {
        self.from - i64::from(self.before.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Option<MessagePrint> = Some(MessagePrint(7));

    fn beginning(next: i64, log: Range<i64>) -> Beginning {
        let position = StoredPosition {
            next,
            before: BEFORE,
            fault: None,
        };
        Beginning::of(Some(&position), Some(next), &log)
    }

    #[test]
    fn position_outside_the_log_restarts_at_the_first_offset() {
        use PositionFault::{BeyondEnd, Expired};
        for (next, from, before, fault) in [
            (2, 3, None, Some((Expired, 2))),
            (3, 3, None, None),
            (4, 4, BEFORE, None),
            (9, 9, BEFORE, None),
            (10, 3, None, Some((BeyondEnd, 10))),
        ] {
            let expected = Beginning {
                from,
                before,
                fault,
            };
            assert_eq!(beginning(next, 3..9), expected, "{next}");
        }
    }

    #[test]
    fn position_that_was_moved_before_any_message_was_read_restarts_at_the_first_offset() {
        for (before, from, fault) in [
            (None, 3, Some((PositionFault::OtherLog, 6))),
            (Some(MessagePrint::UNKNOWN), 6, None),
        ] {
            let position = StoredPosition {
                next: 6,
                before,
                fault: None,
            };
            let expected = Beginning {
                from,
                before: None,
                fault,
            };
            let begun = Beginning::of(Some(&position), None, &(3..9));
            assert_eq!(begun, expected);
        }
    }

    #[test]
    fn reading_begins_with_the_message_before_the_position() {
        assert_eq!(beginning(6, 3..9).fetched_from(), 5);
        assert_eq!(beginning(3, 3..9).fetched_from(), 3);
    }

    #[test]
    fn partition_without_a_position_is_read_from_its_first_message() {
        let begun = Beginning::of(None, Some(6), &(3..9));
        assert_eq!((begun.from, begun.before, begun.fault), (3, None, None));
    }

    #[test]
    fn committed_offset_above_the_position_is_a_gap_and_does_not_move_it() {
        let position = StoredPosition {
            next: 6,
            before: BEFORE,
            fault: None,
        };
        for (committed, fault) in [
            (None, None),
            (Some(0), None),
            (Some(6), None),
            (Some(7), Some((PositionFault::Gap, 7))),
            (Some(1_000), Some((PositionFault::Gap, 1_000))),
        ] {
            let expected = Beginning {
                from: 6,
                before: BEFORE,
                fault,
            };
            let begun = Beginning::of(Some(&position), committed, &(3..9));
            assert_eq!(begun, expected);
        }
    }
}
