//! One person's messages on the topic, read or not, for `explain`.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::event::ClaimEvent;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::TopicReader;
use super::topic::read_to_the_ends;

/// A message about a person.
#[derive(Debug, Clone)]
pub struct PersonMessage {
    pub partition: i32,
    pub offset: i64,
    /// When it came to the topic, where the broker says.
    pub at: Option<DateTime<Utc>>,
    pub event: ClaimEvent,
    /// The consumer has dealt with it.
    pub read: bool,
}

/// What the topic still tells of a person.
#[derive(Debug, Clone, Default)]
pub struct PersonMessages {
    /// In order of partition and offset.
    pub messages: Vec<PersonMessage>,
    /// Why some may be missing: the topic no longer has them, or there was no time to read them.
    pub unknown: Vec<String>,
    /// How many messages were read.
    pub examined: u64,
}

impl TopicReader {
    /// Every message of a coupon about a person that came at `since` or later and is still on the
    /// topic.
    pub async fn messages_of(
        &self,
        coupon: CouponId,
        user: &UserId,
        since: DateTime<Utc>,
    ) -> anyhow::Result<PersonMessages> {
        let (reader, user) = (self.clone(), user.clone());
        tokio::task::spawn_blocking(move || reader.messages_blocking(coupon, &user, since))
            .await
            .context("reading the topic panicked")?
    }

    fn messages_blocking(
        &self,
        coupon: CouponId,
        user: &UserId,
        since: DateTime<Utc>,
    ) -> anyhow::Result<PersonMessages> {
        // A client of its own, so that `explain` does not hold up a pass.
        let consumer: BaseConsumer = self.settings.reader().create()?;
        let mut found = PersonMessages::default();
        let ranges = self.ranges(&consumer)?;
        let mut by_time = TopicPartitionList::new();
        for range in &ranges {
            by_time.add_partition_offset(
                &self.settings.topic,
                range.partition,
                Offset::Offset(since.timestamp_millis()),
            )?;
        }
        let starts = consumer.offsets_for_times(by_time, self.answer())?;
        let mut assignment = TopicPartitionList::new();
        let committed: HashMap<i32, i64> = ranges.iter().map(|range| (range.partition, range.from)).collect();
        let mut ends = HashMap::new();
        for range in &ranges {
            let (low, end) = consumer.fetch_watermarks(&self.settings.topic, range.partition, self.answer())?;
            let start = match starts.find_partition(&self.settings.topic, range.partition).map(|e| e.offset()) {
                Some(Offset::Offset(offset)) => offset.max(low),
                _ => end,
            };
            if low > 0 && start <= low {
                found.unknown.push(format!("partition {}: messages before offset {low} have expired", range.partition));
            }
            if start < end {
                assignment.add_partition_offset(&self.settings.topic, range.partition, Offset::Offset(start))?;
                ends.insert(range.partition, end);
            }
        }
        consumer.assign(&assignment)?;
        let left = read_to_the_ends(
            &consumer,
            ends,
            Instant::now() + self.limit,
            || {},
            |message| {
                found.examined += 1;
                if let Ok(event) = ClaimEvent::decode(message.payload().unwrap_or_default())
                    && event.coupon_id == coupon
                    && event.user_id == *user
                {
                    found.messages.push(PersonMessage {
                        partition: message.partition(),
                        offset: message.offset(),
                        at: message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
                        event,
                        read: committed.get(&message.partition()).is_some_and(|from| message.offset() < *from),
                    });
                }
            },
        )?;
        if left > 0 {
            found.unknown.push(format!("{left} partitions could not be read to their end in time"));
        }
        found.messages.sort_by_key(|m| (m.partition, m.offset));
        Ok(found)
    }
}
