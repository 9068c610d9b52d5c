//! Finds messages that no client can read: corrupted on a broker's disk, compressed in a way that
//! librdkafka cannot decompress, or malformed. librdkafka reports neither partition nor offset with
//! such errors, and sometimes no error at all, so fresh clients search for them.
//!
//! librdkafka 2.12 (`rdkafka_msgset_reader.c`) fails in three ways. If decompression fails, it
//! retries the batch forever. If a record cannot be parsed, it also retries forever, without an
//! error, because it takes the batch for a truncated response. If the checksum is wrong, it skips
//! to a wrong place in the response (`rd_kafka_buf_skip_to` with a length) and interprets the bytes
//! there as a batch with an offset, mostly far beyond the end, so it starts again at the first
//! message.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::KafkaSettings;
use super::why_not::Failures;

/// Why messages cannot be read. Retrying with the same client does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadableCause {
    Garbled,
    Decompression,
    UnknownFormat,
    TooLarge,
    /// The client returns nothing, although it reaches the end of the partition.
    Silent,
}

impl UnreadableCause {
    /// Returns the cause of an error, or `None` for other errors, from which librdkafka recovers
    /// automatically.
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

/// The first unreadable position of a partition.
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

/// A range of unreadable offsets of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRange {
    pub first: UnreadableAt,
    /// The first offset after the range.
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

/// The result of a fresh client's read at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookResult {
    /// The next message is at this offset.
    Message(i64),
    /// There is no message up to this offset, the end of the partition. Transaction markers occupy
    /// offsets, but are not messages.
    End(i64),
    Unreadable {
        at: UnreadableAt,
        /// The end of the partition.
        end: i64,
    },
}

/// Maximum wait for one response, and for a message.
const ANSWER: Duration = Duration::from_secs(3);

/// The first wait for a message. The client uses a multiple of this time for each malformed record.
const FIRST: Duration = Duration::from_millis(500);

/// Time limit of the search for the end of a range. The rest becomes another range.
const SEARCH: Duration = Duration::from_secs(20);

/// Reads at an offset with a fresh client, or at the first available offset if the topic no longer
/// has it. Blocks for a few seconds at most.
pub fn look(settings: &KafkaSettings, partition: i32, offset: i64) -> KafkaResult<LookResult> {
    // The client must not start at another offset.
    let mut config = settings.reader();
    config.set("auto.offset.reset", "error");
    let client: BaseConsumer<Failures> = config.create_with_context(Failures::default())?;
    let place = Place {
        client: &client,
        topic: &settings.topic,
        partition,
    };
    let found = place.look(offset);
    // A client fetches a malformed batch repeatedly until it is closed. Closing takes a tenth of a
    // second, or much longer if a broker does not respond.
    if let Err(error) = client.unassign() {
        tracing::debug!(%error, "cannot stop a client from fetching an unreadable partition");
    }
    std::thread::spawn(move || drop(client));
    found
}

/// Returns the error for a client that did not answer in time. This does not mean that the
/// partition is unreadable.
fn inconclusive() -> KafkaError {
    KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)
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
        // Kafka has lost the messages there, and consumers start again.
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
        // Fetch this offset first: after another fetch, the reported end of the partition may
        // belong to that fetch.
        let begun = Instant::now();
        let waited = match self.fetch(offset, FIRST)? {
            Some(Fetched::Message(next)) => return Ok(LookResult::Message(next)),
            Some(Fetched::End) => return Ok(LookResult::End(end)),
            Some(Fetched::Failed(cause)) => return Ok(unreadable(cause)),
            None => begun.elapsed(),
        };
        // Check whether this client can fetch from the partition at all, and how long a response
        // takes.
        let begun = Instant::now();
        let Some(Fetched::Message(_) | Fetched::End) = self.fetch(end, ANSWER)? else {
            return Err(inconclusive());
        };
        let patience = (begun.elapsed() * 5).min(ANSWER);
        if patience <= waited {
            return Ok(unreadable(UnreadableCause::Silent));
        }
        match self.fetch(offset, patience)? {
            Some(Fetched::Message(next)) => Ok(LookResult::Message(next)),
            Some(Fetched::End) => Err(inconclusive()),
            Some(Fetched::Failed(cause)) => Ok(unreadable(cause)),
            None => Ok(unreadable(UnreadableCause::Silent)),
        }
    }

    /// Fetches the first message at or after an offset. Returns `None` if none arrives in time.
    /// librdkafka recovers from other errors automatically.
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

/// Finds the unreadable range that starts at an unreadable message. It ends at `end` at the latest,
/// or at the end of the range that was found before.
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

/// Finds the first readable offset after `from`. Only librdkafka knows the last offset of a batch,
/// so this uses an exponential search followed by a binary one. It may skip readable batches
/// between two unreadable ones.
fn behind(
    from: i64,
    before: Option<i64>,
    end: i64,
    goes_on: impl Fn() -> bool,
    mut is_unreadable: impl FnMut(i64) -> KafkaResult<bool>,
) -> KafkaResult<i64> {
    let mut bad = from;
    let mut good = before.unwrap_or(end).min(end);
    // Start with the last offset of the range found before, if any.
    let mut step = before.map_or(1, |next| next - 1 - from);
    let mut gallops = true;
    while good - bad > 1 && goes_on() {
        let offset = if gallops {
            (bad + step).min(good - 1)
        } else {
            bad + (good - bad) / 2
        };
        if is_unreadable(offset)? {
            bad = offset;
            step *= 2;
        } else {
            good = offset;
            gallops = false;
        }
    }
    Ok(bad + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the offset found after 100 if some offsets are unreadable, and the number of reads.
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
    fn end_of_unreadable_range_is_found_with_few_reads() {
        for length in [1, 2, 3, 40, 400, 100_000] {
            let (next, looks) = found(|at| at < 100 + length, None);
            assert_eq!(next, 100 + length);
            assert!(looks <= 2 * length.ilog2() + 2, "{looks} for {length}");
        }
        assert_eq!(found(|_| true, None).0, 1_000_000);
    }

    #[test]
    fn short_readable_batch_between_unreadable_ones_may_be_skipped() {
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
    fn known_end_of_unreadable_range_is_confirmed_and_never_extended() {
        assert_eq!(found(|at| at < 140, Some(140)), (140, 1));
        assert_eq!(found(|at| at < 900, Some(140)), (140, 1));
        assert_eq!(found(|at| at < 101, Some(101)), (101, 0));
        assert_eq!(found(|at| at < 120, Some(140)).0, 120);
    }

    #[test]
    fn search_returns_its_partial_result_at_the_deadline() {
        let next = behind(100, None, 1_000_000, || false, |_| Ok(true));
        assert_eq!(next.unwrap(), 101);
    }
}
