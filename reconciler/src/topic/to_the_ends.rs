//! Reads partitions of the topic to their end.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use firstcome_shared::kafka::{KafkaSettings, LookResult, UnreadableAt, look};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};

use super::reader::{ANSWER, Unread};

/// A partition that is being read.
struct Reading {
    /// The offset after the last message.
    next: i64,
    end: i64,
    /// The end was reported too early although the leader has all messages up to `end`.
    was_early: bool,
}

impl Reading {
    /// Whether the partition is read up to the requested end. A new leader may lag behind and
    /// report an earlier end, in which case `high`, its current end, is below the requested one. If
    /// a leader that does not lag reports an early end twice, the end is correct: the remaining
    /// offsets have no messages.
    fn is_at_the_end(&mut self, high: i64) -> bool {
        let is_whole = high >= self.end;
        let is_at_the_end = self.next >= self.end || (is_whole && self.was_early);
        self.was_early = is_whole;
        is_at_the_end
    }
}

/// When to give up reading.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReadLimit {
    At(Instant),
    /// Maximum time without a message. While messages arrive, reading makes progress, and a new
    /// attempt would start over. After a loss of Redis, all coupons stay closed until the whole
    /// tail is read.
    WithoutMessage(Duration),
}

impl ReadLimit {
    fn is_over(self, last_message: Instant) -> bool {
        match self {
            Self::At(deadline) => Instant::now() > deadline,
            Self::WithoutMessage(limit) => last_message.elapsed() > limit,
        }
    }
}

/// The result of reading partitions.
pub(super) struct TailRead {
    /// Number of partitions that were not read to the end within the limit.
    pub(super) left: usize,
    pub(super) unreadable: Vec<UnreadableAt>,
}

/// Passes every message of the assigned partitions to `take` until each partition's end, an
/// unreadable offset, or a break by `take`. Errors from which librdkafka recovers on its own end
/// the read only if no message arrives for a while.
pub(super) fn read_to_the_ends(
    consumer: &BaseConsumer,
    settings: &KafkaSettings,
    ranges: impl IntoIterator<Item = Unread>,
    limit: ReadLimit,
    is_alive: impl Fn(),
    mut take: impl FnMut(&BorrowedMessage<'_>) -> ControlFlow<()>,
) -> Result<TailRead, KafkaError> {
    let topic = &settings.topic;
    let reading = |it: Unread| {
        (
            it.partition,
            Reading {
                next: it.from,
                end: it.end,
                was_early: false,
            },
        )
    };
    let mut open: HashMap<i32, Reading> = ranges.into_iter().map(reading).collect();
    let mut trouble: Option<(Instant, KafkaError)> = None;
    let mut last = Instant::now();
    let mut unreadable = Vec::new();
    let mut looked_at = last;
    while !open.is_empty() && !limit.is_over(last) {
        is_alive();
        if last.max(looked_at).elapsed() > SILENCE {
            let found = find_unreadable(settings, &open, &is_alive);
            for at in &found {
                open.remove(&at.partition);
                trouble = None;
                last = Instant::now();
            }
            unreadable.extend(found);
            looked_at = Instant::now();
            continue;
        }
        match consumer.poll(POLL) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let Some(reading) = open.get_mut(&partition) else {
                    continue;
                };
                if reading.next >= reading.end {
                    open.remove(&partition);
                    continue;
                }
                let (_, high) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
                if reading.is_at_the_end(high) {
                    open.remove(&partition);
                } else {
                    // librdkafka reports an end only once. Seeking makes it report the end again.
                    consumer.seek(topic, partition, Offset::Offset(reading.next), ANSWER)?;
                }
            }
            Some(Err(error)) if is_final(&error) => return Err(error),
            Some(Err(error)) => {
                tracing::debug!(%error, "reading the topic continues");
                trouble.get_or_insert((Instant::now(), error));
            }
            Some(Ok(message)) => {
                // After an unreadable batch, librdkafka may deliver earlier messages a second time.
                let Some(reading) = open
                    .get_mut(&message.partition())
                    .filter(|of| of.next <= message.offset())
                else {
                    continue;
                };
                trouble = None;
                last = Instant::now();
                if message.offset() < reading.end && take(&message).is_break() {
                    break;
                }
                reading.next = message.offset() + 1;
                if reading.next >= reading.end {
                    open.remove(&message.partition());
                }
            }
        }
        if let Some((_, error)) = trouble.take_if(|(since, _)| since.elapsed() > ANSWER) {
            return Err(error);
        }
    }
    Ok(TailRead {
        left: open.len(),
        unreadable,
    })
}

/// Checks with fresh clients whether partitions are stuck at an unreadable offset. Passes do not
/// skip such an offset; only the consumer does.
fn find_unreadable(
    settings: &KafkaSettings,
    open: &HashMap<i32, Reading>,
    is_alive: impl Fn(),
) -> Vec<UnreadableAt> {
    let mut found = Vec::new();
    for (partition, reading) in open {
        is_alive();
        match look(settings, *partition, reading.next) {
            Ok(LookResult::Unreadable { at, .. }) => found.push(at),
            Ok(LookResult::Message(_) | LookResult::End(_)) => {}
            Err(error) => {
                // Kafka is unavailable. The read itself has a limit for this case.
                tracing::debug!(%error, partition, "a fresh client could not check a partition");
                break;
            }
        }
    }
    is_alive();
    found
}

/// Time without a message after which to check whether the partition is readable at all.
const SILENCE: Duration = Duration::from_secs(2);

/// Maximum wait for the next message.
const POLL: Duration = Duration::from_millis(100);

/// Whether the error is permanent, so that a retry does not help.
fn is_final(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(
            Code::Fatal
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed
                | Code::Authentication
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn premature_end_of_partition_is_ignored() {
        // (next offset, the leader's end at each report, index of the report that ends the read)
        for (next, highs, over) in [
            (10, vec![10], Some(0)),
            (4, vec![4, 4, 10, 10], Some(3)),
            // The remaining offsets have no messages, for example after a transaction.
            (9, vec![10, 10], Some(1)),
            (4, vec![4, 4, 4], None),
        ] {
            let mut reading = Reading {
                next,
                end: 10,
                was_early: false,
            };
            let found = highs.iter().position(|high| reading.is_at_the_end(*high));
            assert_eq!(found, over, "{next} {highs:?}");
        }
    }
}
