//! The Kafka producer of claims.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::{KafkaSettings, check_topic};
use firstcome_shared::trace::{SpanKind, TRACEPARENT, TraceSpan, key};
use futures_util::future::join_all;
use metrics::{counter, gauge, histogram};
use parking_lot::RwLock;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Header;
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::time::Instant;

use super::second_store::Admitted;

pub(crate) struct Publisher {
    kafka: KafkaSettings,
    producer: FutureProducer,
    /// Number of partitions, or 0 if unknown. In that case the partition is chosen by the hash of
    /// the key.
    partitions: AtomicU32,
    deadline: Duration,
    /// Why Kafka did not accept the last claim.
    problem: RwLock<Option<String>>,
}

/// Interval of requests for the topic, and maximum wait for each.
const ASK_EVERY: Duration = Duration::from_secs(5);

impl Publisher {
    /// Creates the producer, which connects later. `partitions` is `None` if Kafka is unavailable.
    pub(crate) fn new(
        kafka: KafkaSettings,
        deadline: Duration,
        partitions: Option<usize>,
    ) -> anyhow::Result<Self> {
        let producer = kafka
            .producer(deadline)
            .create()
            .context("the Kafka producer could not be created")?;
        let problem = RwLock::new(
            partitions
                .is_none()
                .then(|| "Kafka was unavailable when this process started".to_owned()),
        );
        let publisher = Self {
            kafka,
            producer,
            partitions: AtomicU32::new(0),
            deadline,
            problem,
        };
        publisher.set_partitions(partitions.unwrap_or(0));
        Ok(publisher)
    }

    fn set_partitions(&self, partitions: usize) {
        self.partitions
            .store(u32::try_from(partitions).unwrap_or(0), Ordering::Relaxed);
    }

    /// Requests the topic periodically: checks it if Kafka was unavailable until now, and then
    /// reads its number of partitions, which may grow. Never ends.
    pub(crate) async fn watch_topic(&self) {
        loop {
            let is_known = self.partitions.load(Ordering::Relaxed) > 0;
            if is_known {
                tokio::time::sleep(ASK_EVERY).await;
                // Each claim reports that Kafka is unavailable.
                if let Some(partitions) = self.count_partitions().await {
                    self.set_partitions(partitions);
                }
                continue;
            }
            match check_topic(&self.kafka, ASK_EVERY).await {
                Ok(partitions) => {
                    self.set_partitions(partitions);
                    self.note(None);
                    tracing::info!(partitions, "Kafka answers");
                }
                Err(error) => {
                    self.note(Some(error.to_string()));
                    tokio::time::sleep(ASK_EVERY).await;
                }
            }
        }
    }

    async fn count_partitions(&self) -> Option<usize> {
        let producer = self.producer.clone();
        let topic = self.kafka.topic.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&topic), ASK_EVERY);
            let metadata = metadata.ok()?;
            let topic = metadata.topics().iter().find(|one| one.name() == topic)?;
            Some(topic.partitions().len()).filter(|partitions| *partitions > 0)
        });
        asked.await.ok().flatten()
    }

    /// Returns why Kafka did not accept the last claim, or `None` if it did. While there is a
    /// problem, claims become rows of MySQL.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.read().clone()
    }

    fn note(&self, problem: Option<String>) {
        if problem.is_none() && self.problem.read().is_none() {
            return;
        }
        gauge!("firstcome_kafka_up").set(f64::from(u8::from(problem.is_none())));
        *self.problem.write() = problem;
    }

    /// Publishes admissions of one drop and waits for Kafka's acknowledgements. Returns `false` for
    /// a claim whose message was not acknowledged before the deadline; the message may still reach
    /// the topic.
    pub(super) async fn publish(&self, claims: &[&Admitted]) -> Vec<bool> {
        let one =
            async |message: &[&Admitted]| vec![self.publish_one(message).await; message.len()];
        join_all(messages_of(claims).map(one)).await.concat()
    }

    async fn publish_one(&self, claims: &[&Admitted]) -> bool {
        let begun = Instant::now();
        let problem = self.send(claims).await.err();
        histogram!("firstcome_publish_seconds").record(begun.elapsed().as_secs_f64());
        let queued = problem.is_none();
        if let Some(problem) = &problem {
            counter!("firstcome_claims_not_queued_total").increment(claims.len() as u64);
            tracing::debug!(%problem, claims = claims.len(), "admissions are not queued");
        }
        self.note(problem);
        queued
    }

    async fn send(&self, claims: &[&Admitted]) -> Result<(), String> {
        // A message with several claims contains no sampled claim.
        let trace = if let [one] = claims { one.trace } else { None };
        let claims: Vec<&ClaimEvent> = claims.iter().map(|one| &one.claim).collect();
        let Some(first) = claims.iter().min_by_key(|claim| claim.slot) else {
            return Ok(());
        };
        let key = first.key();
        let payload = ClaimEvent::encode_batch(&claims);
        let topic = &self.kafka.topic;
        // The message carries the span of its sending, which ends with Kafka's acknowledgement.
        let start = |trace| {
            let name = format!("send {topic}");
            TraceSpan::start(trace, name, SpanKind::Producer, Duration::ZERO)
        };
        let span = trace.and_then(start);
        let trace = span.as_ref().map(TraceSpan::context).or(trace);
        let mut headers = self.kafka.signing.headers(topic, payload.as_bytes());
        if let Some(trace) = trace {
            headers = headers.insert(Header {
                key: TRACEPARENT,
                value: Some(&trace.to_string()),
            });
        }
        // Without a known number, the partition is chosen by the hash of the key.
        let partitions = self.partitions.load(Ordering::Relaxed);
        let partition = (partitions > 0).then(|| first.partition(partitions));
        let record = FutureRecord {
            partition: partition.and_then(|partition| i32::try_from(partition).ok()),
            ..FutureRecord::to(topic)
                .key(&key)
                .payload(&payload)
                .headers(headers)
        };
        let sent = self.deliver(record).await;
        if let Some(span) = span {
            let span = span
                .with(key::MESSAGING_SYSTEM, "kafka")
                .with(key::MESSAGING_OPERATION_NAME, "send")
                .with(key::MESSAGING_OPERATION_TYPE, "send")
                .with(key::MESSAGING_DESTINATION_NAME, topic.clone())
                .with(key::MESSAGING_KAFKA_MESSAGE_KEY, key);
            match &sent {
                Ok(sent) => span.with(key::MESSAGING_KAFKA_OFFSET, sent.offset),
                Err(_) => span.failed("not_acknowledged"),
            }
            .end();
        }
        sent.map(drop)
    }

    async fn deliver(&self, record: FutureRecord<'_, String, String>) -> Result<Delivery, String> {
        // A full queue of librdkafka means that Kafka is unavailable. Do not wait: the fallback
        // takes the claims.
        let sent = match self.producer.send_result(record) {
            // The topic was recreated with fewer partitions.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition), record)) => {
                self.producer.send_result(FutureRecord {
                    partition: None,
                    ..record
                })
            }
            sent => sent,
        };
        let delivery = sent.map_err(|(error, _)| error.to_string())?;
        crash_point(Point::ClaimSent);
        match tokio::time::timeout(self.deadline, delivery).await {
            Ok(Ok(Ok(sent))) => Ok(sent),
            Ok(Ok(Err((error, _)))) => Err(error.to_string()),
            Ok(Err(_)) => Err("the producer is gone".into()),
            Err(_) => Err(format!("no acknowledgement within {:?}", self.deadline)),
        }
    }

    /// Waits, for at most `limit`, until every message is acknowledged. Returns how many are not.
    pub(crate) async fn flush(&self, limit: Duration) -> i32 {
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            if let Err(error) = producer.flush(limit) {
                tracing::warn!(%error, "Kafka has not acknowledged some admissions; the reconciler issues those that are lost");
            }
            producer.in_flight_count()
        });
        flushed.await.unwrap_or(-1)
    }
}

/// Groups claims into messages: all together, except claims with a sampled trace, because a message
/// has one trace context. A call has at most [`MAX_BATCH`] claims; with the longest user ids, they
/// need about 26 KB, well below the producer's limit.
///
/// [`MAX_BATCH`]: firstcome_shared::redis::admission::MAX_BATCH
fn messages_of<'a>(claims: &'a [&'a Admitted]) -> impl Iterator<Item = &'a [&'a Admitted]> {
    let is_traced = |claim: &Admitted| claim.trace.is_some_and(|trace| trace.sampled);
    claims.chunk_by(move |a, b| !is_traced(a) && !is_traced(b))
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::{CouponId, DropId};
    use firstcome_shared::kafka::{Security, Signing};
    use firstcome_shared::redis::admission::MAX_BATCH;
    use firstcome_shared::trace::TraceContext;

    use super::*;
    use crate::serve::claim::second_store::Call;

    /// Creates a publisher to librdkafka's mock broker.
    fn publisher() -> Publisher {
        let kafka = KafkaSettings {
            brokers: "127.0.0.1:1".to_owned(),
            topic: "coupon-claims".to_owned(),
            group: "g".to_owned(),
            security: Security::default(),
            signing: Signing::random(),
        };
        let deadline = Duration::from_secs(5);
        let mut settings = kafka.producer(deadline);
        let producer = settings.set("test.mock.num.brokers", "1").create().unwrap();
        let made = Publisher::new(kafka, deadline, None).unwrap();
        Publisher { producer, ..made }
    }

    fn claim(slot: u32, user: &str, trace: Option<TraceContext>) -> Admitted {
        let call = Call {
            coupon: CouponId(i64::MAX),
            era: 1,
            asked_at: Instant::now(),
            now_ms: 0,
        };
        Admitted::new(call, DropId(1), slot, user.parse().unwrap(), trace)
    }

    fn traced() -> TraceContext {
        let text = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        TraceContext::parse(text).unwrap()
    }

    #[tokio::test]
    async fn claims_are_published_in_order_and_flushed() {
        let publisher = publisher();
        let claims = [
            claim(3, "u-1", None),
            claim(2, "u-2", Some(traced())),
            claim(4, "u-3", None),
        ];
        let claims = claims.each_ref();
        assert_eq!(publisher.publish(&claims).await, [true; 3]);
        assert_eq!(publisher.flush(Duration::from_secs(5)).await, 0);
    }

    #[test]
    fn claims_share_a_message_unless_they_are_traced() {
        let claims: Vec<Admitted> = (1..=30)
            .map(|slot| claim(slot, "u-1", (slot == 14).then(traced)))
            .collect();
        let claims: Vec<&Admitted> = claims.iter().collect();
        let sizes: Vec<usize> = messages_of(&claims).map(<[_]>::len).collect();
        assert_eq!(sizes, [13, 1, 16]);
        assert_eq!(messages_of(&[]).count(), 0);
    }

    #[test]
    fn largest_message_fits_the_producer_limit() {
        let user = "u".repeat(128);
        let longest: Vec<Admitted> = (0..u32::try_from(MAX_BATCH).unwrap())
            .map(|n| claim(u32::MAX - n, &user, None))
            .collect();
        let events: Vec<&ClaimEvent> = longest.iter().map(|one| &one.claim).collect();
        let payload = ClaimEvent::encode_batch(&events);
        assert!(payload.len() < 40_000, "{}", payload.len());
    }
}
