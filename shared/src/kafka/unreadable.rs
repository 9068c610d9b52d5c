//! Messages on the topic that no client can read: garbled on a broker's disk, compressed in a way
//! that librdkafka does not undo, or malformed. librdkafka reports neither partition nor offset
//! with such an error, and sometimes no error at all, so fresh clients look for them.
//!
//! librdkafka 2.12 (`rdkafka_msgset_reader.c`) reacts in three ways. If decompression fails, it
//! stays at the batch and tries again forever. If a record cannot be parsed, it does the same
//! without an error, since it takes the batch for an answer that was cut off. If the checksum is
//! wrong, it skips to a wrong place of the answer (`rd_kafka_buf_skip_to` with a length), takes
//! what is there for a batch and its first bytes for the next offset: mostly far beyond the end, so
//! it begins again at the first message.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaSettings;
use super::why_not::Failures;

/// Why messages can't be read. Trying again with the same client does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadableCause {
    Garbled,
    Decompression,
    UnknownFormat,
    TooLarge,
    /// The client gets nothing, although it reaches the end of the partition.
    Silent,
}

impl UnreadableCause {
    /// `None`: another error, from which librdkafka recovers by itself.
    pub fn of(error: &KafkaError) -> Option<Self> {
        let KafkaError::MessageConsumption(code) = error else {
            return None;
        };
        match code {
            RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::InvalidMessage => Some(Self::Garbled),
            RDKafkaErrorCode::BadCompression => Some(Self::Decompression),
            RDKafkaErrorCode::NotImplemented => Some(Self::UnknownFormat),
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
                Some(Self::TooLarge)
            }
            _ => None,
        }
    }
}

impl fmt::Display for UnreadableCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbled => "the checksum is wrong, so a broker's disk has garbled the batch",
            Self::Decompression => "the batch cannot be decompressed, or has more than 32 MiB then",
            Self::UnknownFormat => "the format or the compression of the batch is unknown",
            Self::TooLarge => "the batch is too large, or the length that it names is wrong",
            Self::Silent => {
                "Kafka's client returns neither a message nor an error, so the batch is malformed"
            }
        })
    }
}

/// Where reading of a partition ends because the message there can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreadableAt {
    pub partition: i32,
    pub offset: i64,
    pub cause: UnreadableCause,
}

impl fmt::Display for UnreadableAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            offset,
            cause,
        } = self;
        write!(
            f,
            "offset {offset} of partition {partition} cannot be read: {cause}"
        )
    }
}

/// Offsets of a partition that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRange {
    pub first: UnreadableAt,
    /// The first offset behind them.
    pub next: i64,
}

impl fmt::Display for UnreadableRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnreadableAt {
            partition,
            offset,
            cause,
        } = self.first;
        let last = self.next - 1;
        if offset == last {
            self.first.fmt(f)
        } else {
            write!(
                f,
                "offsets {offset} to {last} of partition {partition} cannot be read: {cause}"
            )
        }
    }
}

/// What a fresh client finds at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookResult {
    /// The next message is at this offset.
    Message(i64),
    /// There is no message up to this offset, the end of the partition. Markers of transactions
    /// take offsets, and are no messages.
    End(i64),
    Unreadable {
        at: UnreadableAt,
        /// Of the partition.
        end: i64,
    },
}

/// Longest wait for one answer, and for a message.
const ANSWER: Duration = Duration::from_secs(3);

/// Shortest wait for a message. Each malformed record costs it several times.
const SHORTEST: Duration = Duration::from_millis(500);

/// Longest search for the end of a range. Whatever is left is another range.
const SEARCH: Duration = Duration::from_secs(20);

/// Looks with a fresh client at an offset; if the topic no longer has it, at the first one. Blocks
/// for a few seconds at most.
pub fn look(settings: &KafkaSettings, partition: i32, offset: i64) -> KafkaResult<LookResult> {
    // It must not begin elsewhere by itself.
    let mut config = settings.reader();
    config.set("auto.offset.reset", "error");
    let client: BaseConsumer<Failures> = config.create_with_context(Failures::default())?;
    let place = Place {
        client: &client,
        topic: &settings.topic,
        partition,
    };
    let found = place.look(offset);
    // Its end takes a tenth of a second, and longer if a broker is silent.
    std::thread::spawn(move || drop(client));
    found
}

struct Place<'c> {
    client: &'c BaseConsumer<Failures>,
    topic: &'c str,
    partition: i32,
}

impl Place<'_> {
    fn look(&self, offset: i64) -> KafkaResult<LookResult> {
        let (low, end) = self
            .client
            .fetch_watermarks(self.topic, self.partition, ANSWER)?;
        // Kafka has lost what was there, and the consumers begin again.
        let offset = if offset > end { low } else { offset.max(low) };
        if offset == end {
            return Ok(LookResult::End(end));
        }
        let unreadable = |cause| LookResult::Unreadable {
            at: UnreadableAt {
                partition: self.partition,
                offset,
                cause,
            },
            end,
        };
        // Whether this client can fetch from this partition at all, and how soon it gets an answer.
        let begun = Instant::now();
        let Some(Fetched::Message(_) | Fetched::End) = self.fetch(end, ANSWER)? else {
            return Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::OperationTimedOut,
            ));
        };
        let patience = (begun.elapsed() * 5).clamp(SHORTEST, ANSWER);
        Ok(match self.fetch(offset, patience)? {
            Some(Fetched::Message(next)) => LookResult::Message(next),
            Some(Fetched::End) => LookResult::End(end),
            Some(Fetched::Failed(cause)) => unreadable(cause),
            None => unreadable(UnreadableCause::Silent),
        })
    }

    /// The first that comes from an offset on; `None` if nothing does in time. librdkafka recovers
    /// from other errors by itself.
    fn fetch(&self, offset: i64, patience: Duration) -> KafkaResult<Option<Fetched>> {
        let mut assignment = TopicPartitionList::with_capacity(1);
        assignment.add_partition_offset(self.topic, self.partition, Offset::Offset(offset))?;
        self.client.assign(&assignment)?;
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.client.poll(left) {
                Some(Ok(message)) if message.offset() >= offset => {
                    return Ok(Some(Fetched::Message(message.offset())));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Some(Fetched::End)),
                Some(Err(error)) => {
                    if let Some(cause) = UnreadableCause::of(&error) {
                        return Ok(Some(Fetched::Failed(cause)));
                    }
                }
                Some(Ok(_)) | None => {}
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }
}

enum Fetched {
    Message(i64),
    End,
    Failed(UnreadableCause),
}

/// All that can't be read from an unreadable message on, up to `end`; at most what was found
/// before.
pub fn unreadable_range(
    settings: &KafkaSettings,
    at: UnreadableAt,
    end: i64,
    before: Option<&UnreadableRange>,
) -> KafkaResult<UnreadableRange> {
    let begun = Instant::now();
    let goes_on = || begun.elapsed() < SEARCH;
    let next = behind(
        at.offset,
        before.map(|range| range.next),
        end,
        goes_on,
        |offset| {
            let found = look(settings, at.partition, offset)?;
            Ok(matches!(found, LookResult::Unreadable { at, .. } if at.offset == offset))
        },
    )?;
    Ok(UnreadableRange { first: at, next })
}

/// The first readable offset behind `from`. A batch tells its last offset only to librdkafka, so
/// this gallops and then bisects. It may jump over good batches between two bad ones.
fn behind(
    from: i64,
    before: Option<i64>,
    end: i64,
    goes_on: impl Fn() -> bool,
    mut is_unreadable: impl FnMut(i64) -> KafkaResult<bool>,
) -> KafkaResult<i64> {
    let (mut bad, mut good) = (from, before.unwrap_or(end).min(end));
    // The last one that was found before, if any.
    let (mut step, mut gallops) = (before.map_or(1, |next| next - 1 - from), true);
    while good - bad > 1 && goes_on() {
        let offset = if gallops {
            (bad + step).min(good - 1)
        } else {
            bad + (good - bad) / 2
        };
        if is_unreadable(offset)? {
            (bad, step) = (offset, step * 2);
        } else {
            (good, gallops) = (offset, false);
        }
    }
    Ok(bad + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found behind 100 if some offsets can't be read, and how often it looks.
    fn found(is_unreadable: impl Fn(i64) -> bool, before: Option<i64>) -> (i64, u32) {
        let mut looks = 0;
        let look = |offset| {
            looks += 1;
            Ok(is_unreadable(offset))
        };
        let next = behind(100, before, 1_000_000, || true, look);
        (next.unwrap(), looks)
    }

    #[test]
    fn end_of_a_range_is_found_with_few_looks() {
        for length in [1, 2, 3, 40, 400, 100_000] {
            let (next, looks) = found(|at| at < 100 + length, None);
            assert_eq!(next, 100 + length);
            assert!(looks <= 2 * length.ilog2() + 2, "{looks} for {length}");
        }
        assert_eq!(found(|_| true, None).0, 1_000_000);
    }

    #[test]
    fn good_batch_between_two_bad_ones_is_kept_unless_a_gallop_jumps_over_it() {
        assert_eq!(
            found(|at| at < 110 || (200..300).contains(&at), None).0,
            110
        );
        assert_eq!(
            found(|at| at < 110 || (112..120).contains(&at), None).0,
            120
        );
    }

    #[test]
    fn what_was_found_before_is_confirmed_by_its_last_offset_and_never_widened() {
        assert_eq!(found(|at| at < 140, Some(140)), (140, 1));
        assert_eq!(found(|at| at < 900, Some(140)), (140, 1));
        assert_eq!(found(|at| at < 101, Some(101)), (101, 0));
        assert_eq!(found(|at| at < 120, Some(140)).0, 120);
    }

    #[test]
    fn search_that_takes_too_long_ends_with_what_it_has_found() {
        let next = behind(100, None, 1_000_000, || false, |_| Ok(true));
        assert_eq!(next.unwrap(), 101);
    }
}
