//! A probe by a fresh client: can the next message of a silent partition be read at all?
//!
//! Kafka's client names neither partition nor offset with an error, and librdkafka 2.12 fails in
//! three ways (`rdkafka_msgset_reader.c`). If decompression fails, it retries the batch forever. If
//! a record cannot be parsed, it also retries forever, without an error, because it takes the batch
//! for a truncated response. If the checksum is wrong, it skips to a wrong place in the response,
//! and usually starts again at the first message.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::KafkaSettings;

/// What a fresh client gets at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    Readable,
    /// There is no message up to this end of the partition: transaction markers occupy offsets.
    Empty(i64),
    /// Why the message at the offset cannot be read, and the end of the partition. Either the
    /// client reports an error about the message, or it returns nothing there although it can read
    /// at the end.
    Unreadable(&'static str, i64),
    /// The client cannot read the partition at all, or the log does not have the offset.
    Unknown,
}

/// Maximum wait for a message. It is longer than `socket.timeout.ms`, so that a fetch that hangs is
/// noticed.
const PATIENCE: Duration = Duration::from_secs(6);

/// Maximum wait for the offsets of a partition.
const ANSWER: Duration = Duration::from_secs(3);

/// Returns why a message can never be read, or `None` for errors from which librdkafka recovers.
pub fn why_unreadable(error: &KafkaError) -> Option<&'static str> {
    use RDKafkaErrorCode as Code;
    Some(match error {
        KafkaError::MessageConsumption(Code::BadMessage | Code::InvalidMessage) => {
            "the checksum is wrong, so a broker's disk has garbled the batch"
        }
        KafkaError::MessageConsumption(Code::BadCompression) => {
            "the batch cannot be decompressed, or has more than 32 MiB then"
        }
        KafkaError::MessageConsumption(Code::NotImplemented) => {
            "the format or the compression of the batch is unknown"
        }
        KafkaError::MessageConsumption(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
            "the batch is too large, or the length that it names is wrong"
        }
        _ => return None,
    })
}

/// Notices requests that timed out, which librdkafka only logs.
#[derive(Default)]
struct TimedOut(AtomicBool);

impl ClientContext for TimedOut {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(facility, text, "the client that probes a partition");
        self.0.fetch_or(facility == "REQTMOUT", Ordering::Relaxed);
    }
}

impl ConsumerContext for TimedOut {}

/// Reads at an offset with a fresh client. Blocks for at most 15 seconds.
pub fn probe(kafka: &KafkaSettings, partition: i32, offset: i64) -> KafkaResult<Probed> {
    let mut config = kafka.reader();
    // The client must not start at another offset.
    config
        .set("auto.offset.reset", "error")
        .set_log_level(RDKafkaLogLevel::Warning);
    let client: BaseConsumer<TimedOut> = config.create_with_context(TimedOut::default())?;
    let (first, end) = client.fetch_watermarks(&kafka.topic, partition, ANSWER)?;
    let at = |offset| fetch(&client, &kafka.topic, partition, offset);
    let probed = match at(offset)? {
        _ if !(first..end).contains(&offset) => Probed::Unknown,
        Fetched::Message => Probed::Readable,
        Fetched::End => Probed::Empty(end),
        Fetched::Unreadable(why) => Probed::Unreadable(why, end),
        Fetched::Nothing if client.context().0.load(Ordering::Relaxed) => Probed::Unknown,
        Fetched::Nothing => match at(end)? {
            Fetched::Message | Fetched::End => Probed::Unreadable(
                "Kafka's client returns neither a message nor an error, so the batch is malformed",
                end,
            ),
            Fetched::Unreadable(_) | Fetched::Nothing => Probed::Unknown,
        },
    };
    // A client fetches a malformed batch repeatedly until it is closed. Closing takes a tenth of a
    // second, or much longer if a broker does not respond.
    std::thread::spawn(move || drop(client));
    Ok(probed)
}

enum Fetched {
    Message,
    End,
    Unreadable(&'static str),
    Nothing,
}

/// Fetches the first message at or after an offset.
fn fetch(
    client: &BaseConsumer<TimedOut>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> KafkaResult<Fetched> {
    let mut assignment = TopicPartitionList::with_capacity(1);
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    client.assign(&assignment)?;
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match client.poll(left) {
            Some(Ok(message)) if message.offset() >= offset => return Ok(Fetched::Message),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Fetched::End),
            Some(Err(error)) => {
                if let Some(why) = why_unreadable(&error) {
                    return Ok(Fetched::Unreadable(why));
                }
            }
            Some(Ok(_)) | None => {}
        }
        if left.is_zero() {
            return Ok(Fetched::Nothing);
        }
    }
}
