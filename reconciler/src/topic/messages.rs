//! Reads one user's messages on the topic, processed or not, for `explain`.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::{StoredPositions, trace_of};
use firstcome_shared::trace::TraceContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::reader::{ANSWER, TopicReader, Unread};
use super::to_the_ends::{ReadLimit, TailRead, read_to_the_ends};

/// A message of a user.
#[derive(Debug, Clone)]
pub struct PersonMessage {
    pub partition: i32,
    pub offset: i64,
    /// When the message was written to the topic, if known.
    pub at: Option<DateTime<Utc>>,
    pub event: ClaimEvent,
    /// Whether the consumer has processed the message.
    pub read: bool,
    /// The span that sent the message, if it was traced.
    pub trace: Option<TraceContext>,
}

/// The messages of a user that are still on the topic.
#[derive(Debug, Clone, Default)]
pub struct PersonMessages {
    /// The messages, by partition and offset.
    pub messages: Vec<PersonMessage>,
    /// Reasons why messages may be missing: they have expired or are unreadable, or there was not
    /// enough time to read them.
    pub unknown: Vec<String>,
    /// Number of messages that were read.
    pub examined: u64,
}

impl TopicReader {
    /// Returns the messages of a user for a coupon that were written at `since` or later and are
    /// still on the topic.
    pub async fn messages_of(
        &self,
        coupon: CouponId,
        user: &UserId,
        since: DateTime<Utc>,
        stored: StoredPositions,
    ) -> anyhow::Result<PersonMessages> {
        let reader = self.clone();
        let user = user.clone();
        tokio::task::spawn_blocking(move || reader.messages_blocking(coupon, &user, since, &stored))
            .await
            .context("reading the topic panicked")?
    }

    fn messages_blocking(
        &self,
        coupon: CouponId,
        user: &UserId,
        since: DateTime<Utc>,
        stored: &StoredPositions,
    ) -> anyhow::Result<PersonMessages> {
        // A separate client, so that `explain` does not delay a pass.
        let consumer: BaseConsumer = self.settings.reader().create()?;
        let mut found = PersonMessages::default();
        let read_to: HashMap<i32, i64> = self
            .partitions(&consumer, stored, ANSWER)?
            .into_iter()
            .map(|of| (of.id, of.beginning.from))
            .collect();
        let ends = self.assign_since(&consumer, &read_to, since, &mut found.unknown)?;
        let TailRead { left, unreadable } = read_to_the_ends(
            &consumer,
            &self.settings,
            ends,
            ReadLimit::At(Instant::now() + self.limit),
            || {},
            |message| {
                found.examined += 1;
                let claims = self.settings.claims_of(message).into_iter().flatten();
                for event in
                    claims.filter(|event| event.coupon_id == coupon && event.user_id == *user)
                {
                    found.messages.push(PersonMessage {
                        partition: message.partition(),
                        offset: message.offset(),
                        at: message
                            .timestamp()
                            .to_millis()
                            .and_then(DateTime::from_timestamp_millis),
                        event,
                        trace: message.headers().and_then(trace_of),
                        read: read_to
                            .get(&message.partition())
                            .is_some_and(|from| message.offset() < *from),
                    });
                }
                ControlFlow::Continue(())
            },
        )?;
        found
            .unknown
            .extend(unreadable.iter().map(ToString::to_string));
        if left > 0 {
            found.unknown.push(format!(
                "{left} partitions could not be read to their end in time"
            ));
        }
        found.messages.sort_by_key(|m| (m.partition, m.offset));
        Ok(found)
    }

    /// Assigns every partition, starting at `since`. Returns the ranges of partitions with messages
    /// to read.
    fn assign_since(
        &self,
        consumer: &BaseConsumer,
        partitions: &HashMap<i32, i64>,
        since: DateTime<Utc>,
        unknown: &mut Vec<String>,
    ) -> anyhow::Result<Vec<Unread>> {
        let topic = &self.settings.topic;
        let mut by_time = TopicPartitionList::new();
        for partition in partitions.keys() {
            by_time.add_partition_offset(
                topic,
                *partition,
                Offset::Offset(since.timestamp_millis()),
            )?;
        }
        let starts = consumer.offsets_for_times(by_time, ANSWER)?;
        let mut assignment = TopicPartitionList::new();
        let mut ends = Vec::new();
        for partition in partitions.keys().copied() {
            let (low, end) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
            let start = match starts.find_partition(topic, partition).map(|e| e.offset()) {
                Some(Offset::Offset(offset)) => offset.max(low),
                _ => end,
            };
            if low > 0 && start <= low {
                unknown.push(format!(
                    "partition {partition}: messages before offset {low} have expired"
                ));
            }
            if start < end {
                assignment.add_partition_offset(topic, partition, Offset::Offset(start))?;
                ends.push(Unread {
                    partition,
                    from: start,
                    end,
                });
            }
        }
        consumer.assign(&assignment)?;
        Ok(ends)
    }
}
