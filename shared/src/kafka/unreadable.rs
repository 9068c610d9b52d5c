//! Messages on the topic that no client can read: garbled on a broker's disk, or compressed in a
//! way that librdkafka does not undo. librdkafka tells why, and neither partition nor offset, so a
//! fresh client looks for them.
//!
//! What librdkafka 2.12 does after such an error (`rdkafka_msgset_reader.c`): where decompression
//! fails it stays at the batch and tries again for ever. Where the checksum is wrong it skips to a
//! wrong place of the answer (`rd_kafka_buf_skip_to` with a length), takes what is there for a
//! batch and the offset in it for its next one: mostly far beyond the end, so it begins anew at the
//! first message. A client that met such an error must be told where to go on.

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
}

impl UnreadableCause {
    /// `None`: another trouble, which librdkafka gets over by itself.
    pub fn of(error: &KafkaError) -> Option<Self> {
        let KafkaError::MessageConsumption(code) = error else { return None };
        match code {
            RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::InvalidMessage => Some(Self::Garbled),
            RDKafkaErrorCode::BadCompression => Some(Self::Decompression),
            RDKafkaErrorCode::NotImplemented => Some(Self::UnknownFormat),
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => Some(Self::TooLarge),
            _ => None,
        }
    }
}

impl fmt::Display for UnreadableCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbled => "their checksum is wrong, so a broker's disk has garbled them",
            Self::Decompression => "they cannot be decompressed, or have more than 32 MiB then",
            Self::UnknownFormat => "their format or their compression is unknown",
            Self::TooLarge => "they are too large, or the length that they name is wrong",
        })
    }
}

/// Offsets of a partition that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRange {
    pub partition: i32,
    pub from: i64,
    /// The first offset behind them.
    pub next: i64,
    pub cause: UnreadableCause,
}

impl fmt::Display for UnreadableRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, from, next, cause } = self;
        let last = next - 1;
        if *from == last {
            write!(f, "offset {from} of partition {partition} cannot be read: {cause}")
        } else {
            write!(f, "offsets {from} to {last} of partition {partition} cannot be read: {cause}")
        }
    }
}

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(3);

/// The reset of a wrong offset may stop a client that was told another one meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Longest search for the end of a range. Whatever is left is another range.
const SEARCH: Duration = Duration::from_secs(20);

/// A fresh client that looks whether a partition can be read at an offset. Its calls block.
pub struct Prober {
    // Each failed look is an error of the client, which is no news.
    consumer: BaseConsumer<Failures>,
    topic: String,
}

impl Prober {
    pub fn new(settings: &KafkaSettings) -> KafkaResult<Self> {
        // It must not begin anew anywhere by itself.
        let mut config = settings.reader();
        config.set("auto.offset.reset", "error").set("fetch.error.backoff.ms", "1");
        let consumer = config.create_with_context(Failures::default())?;
        Ok(Self { consumer, topic: settings.topic.clone() })
    }

    /// The group's committed offset; `None` where nothing is committed.
    pub fn committed(&self, partition: i32) -> KafkaResult<Option<i64>> {
        let mut asked = TopicPartitionList::with_capacity(1);
        asked.add_partition(&self.topic, partition);
        let committed = self.consumer.committed_offsets(asked, ANSWER)?;
        let found = committed.find_partition(&self.topic, partition).map(|element| element.offset());
        Ok(if let Some(Offset::Offset(next)) = found { Some(next) } else { None })
    }

    /// The messages from `from` on that can't be read; `None` if the first one can.
    pub fn look(&self, partition: i32, from: i64) -> KafkaResult<Option<UnreadableRange>> {
        match self.cause(partition, from)? {
            Some((from, _)) => self.range(partition, from),
            None => Ok(None),
        }
    }

    /// Why the message at `from`, or the first one that is left, can't be read; `None` if it can.
    pub fn cause(&self, partition: i32, from: i64) -> KafkaResult<Option<(i64, UnreadableCause)>> {
        let (low, end) = self.consumer.fetch_watermarks(&self.topic, partition, ANSWER)?;
        let from = from.max(low);
        if from >= end {
            return Ok(None);
        }
        Ok(self.cause_at(partition, from)?.map(|cause| (from, cause)))
    }

    /// All that can't be read from `from` on; `None` if it can be read by now. A batch names its
    /// last offset only to librdkafka, so this asks for one offset after the other.
    pub fn range(&self, partition: i32, from: i64) -> KafkaResult<Option<UnreadableRange>> {
        let begun = Instant::now();
        let (_, end) = self.consumer.fetch_watermarks(&self.topic, partition, ANSWER)?;
        let Some(cause) = self.cause_at(partition, from)? else { return Ok(None) };
        let mut next = from + 1;
        while next < end && begun.elapsed() < SEARCH && self.cause_at(partition, next)?.is_some() {
            next += 1;
        }
        Ok(Some(UnreadableRange { partition, from, next, cause }))
    }

    /// Why nothing can be read at an offset before the end. Other errors are librdkafka's to get
    /// over.
    fn cause_at(&self, partition: i32, offset: i64) -> KafkaResult<Option<UnreadableCause>> {
        let until = Instant::now() + ANSWER;
        while Instant::now() < until {
            let mut assignment = TopicPartitionList::with_capacity(1);
            assignment.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
            self.consumer.assign(&assignment)?;
            let again = Instant::now() + ASK_AGAIN;
            while Instant::now() < again {
                match self.consumer.poll(again.saturating_duration_since(Instant::now())) {
                    Some(Ok(message)) if message.offset() >= offset => return Ok(None),
                    Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                    Some(Err(error)) => {
                        if let Some(cause) = UnreadableCause::of(&error) {
                            return Ok(Some(cause));
                        }
                    }
                    Some(Ok(_)) | None => {}
                }
            }
        }
        Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
    }
}
