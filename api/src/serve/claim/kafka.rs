//! The Kafka producer of claims.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::claim::Claim;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::kafka::{KafkaSettings, TopicError, check_topic};
use firstcome_shared::report::FailureCause;
use metrics::{counter, gauge, histogram};
use parking_lot::RwLock;
use rdkafka::producer::{BaseRecord, Producer as _};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::polled_producer::PolledProducer;
use super::refusal::LastRefusal;

pub(crate) struct Publisher {
    kafka: KafkaSettings,
    producer: RwLock<Arc<PolledProducer>>,
    deadline: Duration,
    /// Why claims are not sent to Kafka.
    problem: RwLock<Option<String>>,
    refused: LastRefusal,
}

/// Interval between checks of the topic, and maximum wait for one.
const ASK_EVERY: Duration = Duration::from_secs(5);

fn producer(kafka: &KafkaSettings, deadline: Duration) -> anyhow::Result<Arc<PolledProducer>> {
    PolledProducer::new(&kafka.producer(deadline)).map(Arc::new)
}

impl Publisher {
    /// Creates the producer, which connects later. `is_up` means that Kafka answers.
    pub(crate) fn new(
        kafka: KafkaSettings,
        deadline: Duration,
        is_up: bool,
    ) -> anyhow::Result<Self> {
        let publisher = Self {
            producer: producer(&kafka, deadline)?.into(),
            kafka,
            deadline,
            problem: RwLock::default(),
            refused: LastRefusal::new(FailureCause::Kafka),
        };
        publisher.note((!is_up).then(|| "Kafka was unavailable at the start".to_owned()));
        Ok(publisher)
    }

    /// Checks regularly whether a problem is over. Never ends.
    pub(crate) async fn watch_topic(&self) {
        loop {
            sleep(ASK_EVERY).await;
            self.check_again().await;
        }
    }

    /// Checks whether a problem is over; until then, no claim is sent. Afterwards it recreates the
    /// producer, because librdkafka may have forgotten all brokers ([`FORGOTTEN`]).
    ///
    /// [`FORGOTTEN`]: firstcome_shared::kafka::FORGOTTEN
    async fn check_again(&self) {
        // Without claims, a refusal ends by time alone.
        self.measure();
        if self.problem().is_none() {
            return;
        }
        let renewed = match check_topic(&self.kafka, ASK_EVERY).await {
            Ok(_) => producer(&self.kafka, self.deadline),
            Err(error) => {
                if matches!(error, TopicError::Setting(_) | TopicError::Refuses(_)) {
                    self.refused.renew();
                }
                Err(error.into())
            }
        };
        self.note(renewed.as_ref().err().map(|error| format!("{error:#}")));
        if let Ok(renewed) = renewed {
            tracing::info!("Kafka answers again: the producer is made anew");
            let old = std::mem::replace(&mut *self.producer.write(), renewed);
            // Dropping it may block. Its claims become rows.
            spawn_blocking(move || drop(old));
        }
    }

    /// Returns the problem of the last claim or check of the topic, or that Kafka was unavailable
    /// at the start. `None`: there is none. While there is a problem, claims become rows of MySQL.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.read().clone()
    }

    /// Returns the last error with which Kafka refused claims, for a minute or until it accepts
    /// some. While the topic cannot be used although Kafka answers, the minute begins again with
    /// each check. Kafka being unavailable is no refusal.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refused.get()
    }

    fn note(&self, problem: Option<String>) {
        *self.problem.write() = problem;
        self.measure();
    }

    fn measure(&self) {
        let is_up = self.problem().is_none() && self.refusal().is_none();
        gauge!("firstcome_kafka_up").set(f64::from(u8::from(is_up)));
    }

    /// Publishes admissions of one drop in one message, and waits for Kafka's acknowledgement.
    /// Returns `false` without an acknowledgement; unless the message was never sent, it may still
    /// reach the topic. A call has at most [`MAX_BATCH`] claims; with the longest user ids, they
    /// need about 26 KB, well below the producer's limit.
    ///
    /// [`MAX_BATCH`]: firstcome_shared::redis::admission::MAX_BATCH
    pub(super) async fn publish(&self, claims: &[&Claim], now: DateTime<Utc>) -> bool {
        // A circuit breaker: while Kafka does not take claims, none waits for its deadline.
        if self.problem().is_some() {
            counter!("firstcome_publish_failures_total").increment(claims.len() as u64);
            return false;
        }
        let begun = Instant::now();
        let first = claims.iter().min_by_key(|claim| claim.slot);
        let key = first.map_or_else(String::new, |first| first.key());
        let Some(payload) = Claim::encode_batch(claims, now) else {
            return false;
        };
        let topic = &self.kafka.topic;
        let headers = self.kafka.signing.headers(topic, payload.as_bytes());
        let (waiting, report) = oneshot::channel();
        let record = BaseRecord::with_opaque_to(topic, Box::new(waiting))
            .key(&key)
            .payload(&payload)
            .headers(headers);
        let acknowledged = async {
            // If librdkafka's queue is full, Kafka is usually unavailable. Do not wait: the claims
            // become rows.
            let sent = self.producer.read().client.send(record);
            sent.map_err(|(error, _)| error.to_string())?;
            crash_point(Point::ClaimSent);
            match timeout(self.deadline, report).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) => Err(error.to_string()),
                Ok(Err(_)) => Err("the producer is gone".into()),
                Err(_) => Err(format!("no acknowledgement within {:?}", self.deadline)),
            }
        };
        let problem = acknowledged.await.err();
        histogram!("firstcome_publish_seconds").record(begun.elapsed().as_secs_f64());
        let is_published = problem.is_none();
        if let Some(problem) = &problem {
            counter!("firstcome_publish_failures_total").increment(claims.len() as u64);
            tracing::debug!(%problem, claims = claims.len(), "admissions are not queued");
        }
        self.refused.note(problem.as_deref());
        self.note(problem);
        is_published
    }

    /// Waits, for at most `limit`, until every message is acknowledged. Returns how many are not,
    /// or -1 if that is unknown.
    pub(crate) async fn flush(&self, limit: Duration) -> i32 {
        let producer = Arc::clone(&self.producer.read());
        let flush = move || {
            // It returns an error if messages are left.
            let _ = producer.client.flush(limit);
            producer.client.in_flight_count()
        };
        spawn_blocking(flush).await.unwrap_or(-1)
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::kafka::{Security, Signing};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::super::refusal::TOLD_FOR;
    use super::*;

    const REFUSAL: &str = "TopicAuthorizationFailed (Broker: Topic authorization failed)";

    /// Creates a publisher that sends nothing.
    fn publisher() -> Publisher {
        let kafka = KafkaSettings {
            brokers: "127.0.0.1:1".to_owned(),
            topic: "coupon-claims".to_owned(),
            group: "coupon-consumers".to_owned(),
            security: Security::default(),
            signing: Signing::new(&"0123456789abcdef0123456789abcdef".into()).unwrap(),
        };
        Publisher::new(kafka, Duration::from_secs(1), true).unwrap()
    }

    #[tokio::test]
    async fn kafka_counts_as_up_once_a_refusal_is_old_although_no_claim_follows() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let publisher = publisher();
        publisher.refused.note(Some(REFUSAL));
        // The topic was checked.
        publisher.note(None);
        let shown = recorder.handle();
        assert!(shown.render().contains("firstcome_kafka_up 0"));
        publisher.refused.grow_older(TOLD_FOR);
        publisher.check_again().await;
        assert!(shown.render().contains("firstcome_kafka_up 1"));
    }

    /// For example, Kafka's user has lost all rights: the first claim was refused, and later ones
    /// are not sent.
    #[tokio::test]
    async fn refusal_is_reported_while_checks_find_that_the_topic_cannot_be_used() {
        let mut publisher = publisher();
        publisher.refused.note(Some(REFUSAL));
        publisher.note(Some(REFUSAL.to_owned()));
        // Kafka's client does not take this setting, so each check fails with `Setting`.
        publisher.kafka.brokers = "\0".to_owned();
        let most = TOLD_FOR.saturating_sub(ASK_EVERY);
        for _ in 0..3 {
            publisher.refused.grow_older(most);
            publisher.check_again().await;
            assert!(publisher.problem().is_some_and(|why| why != REFUSAL));
            assert!(publisher.refusal().is_some());
        }
        publisher.refused.grow_older(TOLD_FOR);
        publisher.check_again().await;
        assert_eq!(publisher.refusal(), None, "it was over before the check");
    }
}
