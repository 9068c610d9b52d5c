//! The Kafka producer of claims.

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::KafkaSettings;
use metrics::{counter, histogram};
use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::time::Instant;

pub(crate) struct Publisher {
    settings: ClientConfig,
    producer: RwLock<FutureProducer>,
    topic: String,
    /// At start-up; 0: not known, and the hash of the key chooses.
    partitions: u32,
    deadline: Duration,
}

impl Publisher {
    /// A producer for the topic of claims, which has so many partitions. It connects by itself.
    pub(crate) fn new(settings: &KafkaSettings, deadline: Duration, partitions: usize) -> anyhow::Result<Self> {
        let partitions = u32::try_from(partitions).unwrap_or(0);
        let topic = settings.topic.clone();
        let settings = settings.producer(deadline);
        let producer = RwLock::new(settings.create().context("the Kafka producer could not be made")?);
        Ok(Self { settings, producer, topic, partitions, deadline })
    }

    fn producer(&self) -> FutureProducer {
        self.producer.read().clone()
    }

    /// Replaces a producer that has failed for good. An idempotent producer fails rather than risk
    /// a gap or a duplicate, and refuses every message from then on. Here both are harmless.
    pub(crate) fn renew_if_failed(&self) -> anyhow::Result<bool> {
        let Some((code, reason)) = self.producer().client().fatal_error() else { return Ok(false) };
        tracing::error!(%code, reason, "the Kafka producer failed for good and is replaced");
        self.renew()?;
        Ok(true)
    }

    fn renew(&self) -> anyhow::Result<()> {
        let fresh = self.settings.create().context("the Kafka producer could not be made again")?;
        let old = std::mem::replace(&mut *self.producer.write(), fresh);
        // Dropping a producer blocks until its thread has ended.
        tokio::task::spawn_blocking(move || drop(old));
        Ok(())
    }

    /// Publishes an admission and waits for Kafka's acknowledgement. `false`: it did not come
    /// before the deadline, and the message may or may not reach the topic.
    pub(super) async fn publish(&self, event: &ClaimEvent) -> bool {
        let begun = Instant::now();
        let problem = self.send(event).await.err();
        histogram!("firstcome_publish_seconds").record(begun.elapsed().as_secs_f64());
        if let Some(problem) = problem {
            counter!("firstcome_claims_not_queued_total").increment(1);
            tracing::debug!(%problem, drop = %event.drop_id, slot = event.slot, "an admission is not queued");
            return false;
        }
        true
    }

    async fn send(&self, event: &ClaimEvent) -> Result<(), String> {
        let (key, payload) = (event.key(), event.encode());
        let record = FutureRecord::to(&self.topic).key(&key).payload(&payload);
        let partition = if self.partitions > 0 { i32::try_from(event.partition(self.partitions)).ok() } else { None };
        // Where librdkafka's queue is full, Kafka is away: no wait, the fallback takes the claim.
        let sent = match self.producer().send_result(FutureRecord { partition, ..record }) {
            // The topic was created again with fewer partitions.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition), record)) => {
                self.producer().send_result(FutureRecord { partition: None, ..record })
            }
            sent => sent,
        };
        let delivery = sent.map_err(|(error, _)| error.to_string())?;
        crash_point(Point::ClaimSent);
        match tokio::time::timeout(self.deadline, delivery).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err((error, _)))) => Err(error.to_string()),
            Ok(Err(_)) => Err("the producer is gone".into()),
            Err(_) => Err(format!("no acknowledgement within {:?}", self.deadline)),
        }
    }

    /// Waits, for at most `limit`, until every message is acknowledged; returns how many are not.
    pub(crate) async fn flush(&self, limit: Duration) -> i32 {
        let producer = self.producer();
        let flushed = tokio::task::spawn_blocking(move || {
            if let Err(error) = producer.flush(limit) {
                tracing::warn!(%error, "some admissions are not acknowledged; the reconciler issues them if need be");
            }
            producer.in_flight_count()
        });
        flushed.await.unwrap_or(-1)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use firstcome_shared::domain::{CouponId, DropId};

    use super::*;

    fn publisher(brokers: &str) -> Publisher {
        let (topic, group) = ("coupon-claims".to_owned(), "g".to_owned());
        let deadline = Duration::from_secs(5);
        let mut made = Publisher::new(&KafkaSettings { brokers: brokers.into(), topic, group }, deadline, 0).unwrap();
        // librdkafka's mock broker: enough to see that messages are sent.
        made.settings.set("test.mock.num.brokers", "1");
        made
    }

    fn event(slot: u32) -> ClaimEvent {
        let (coupon_id, drop_id, claimed_at) = (CouponId(1), DropId(1), DateTime::UNIX_EPOCH);
        ClaimEvent { coupon_id, drop_id, slot, user_id: "u-1".parse().unwrap(), claimed_at }
    }

    #[tokio::test]
    async fn a_new_producer_takes_over() {
        let publisher = publisher("127.0.0.1:1");
        assert!(!publisher.renew_if_failed().unwrap(), "an unreachable broker is not a failure for good");
        publisher.renew().unwrap();
        assert!(publisher.publish(&event(1)).await);
        publisher.renew().unwrap();
        assert!(publisher.publish(&event(2)).await);
        assert_eq!(publisher.flush(Duration::from_secs(5)).await, 0);
    }
}
