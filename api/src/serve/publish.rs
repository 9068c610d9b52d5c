//! Handing admissions to Kafka.

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::KafkaSettings;
use metrics::{counter, histogram};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::time::Instant;

/// Publishes admissions.
pub(super) struct Publisher {
    producer: FutureProducer,
    topic: String,
    deadline: Duration,
}

impl Publisher {
    /// A producer for the topic of claims; it connects by itself.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub(super) fn new(settings: &KafkaSettings, deadline: Duration) -> anyhow::Result<Self> {
        let producer = settings.producer(deadline).create().context("the Kafka producer could not be made")?;
        Ok(Self { producer, topic: settings.topic.clone(), deadline })
    }

    /// Publishes an admission and waits for its acknowledgement, until the deadline. `false` means that it is not certain
    /// to be on the topic: it may still get there, and if it does not, the reconciler issues it.
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
        // A full queue is not waited for: Kafka is away, and the claim need not be.
        let delivery = self.producer.send_result(record).map_err(|(error, _)| error.to_string())?;
        match tokio::time::timeout(self.deadline, delivery).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err((error, _)))) => Err(error.to_string()),
            Ok(Err(_)) => Err("the producer is gone".into()),
            Err(_) => Err(format!("no acknowledgement within {:?}", self.deadline)),
        }
    }

    /// Waits, for at most `limit`, until nothing is on its way any more; gives how much is left.
    pub(super) async fn flush(&self, limit: Duration) -> i32 {
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            if let Err(error) = producer.flush(limit) {
                tracing::warn!(%error, "some admissions are not acknowledged; the reconciler issues them if need be");
            }
            producer.in_flight_count()
        });
        flushed.await.unwrap_or(-1)
    }
}
