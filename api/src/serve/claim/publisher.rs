//! The Kafka producer of claims.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::{KafkaSettings, check_topic};
use firstcome_shared::trace::{SpanKind, TRACEPARENT, TraceContext, TraceSpan, key};
use futures_util::future::join_all;
use metrics::{counter, gauge, histogram};
use parking_lot::RwLock;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Header;
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::time::Instant;

/// A claim to be written to a second store.
pub(super) struct Outgoing {
    pub(super) claim: ClaimEvent,
    /// The era of the gate at which Redis named the slot.
    pub(super) era: u64,
    /// The span of its request, if it has a trace.
    pub(super) trace: Option<TraceContext>,
}

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

/// Interval of requests for the topic, and maximum wait for each, if Kafka is unavailable at
/// start-up.
const FIND_EVERY: Duration = Duration::from_secs(2);

/// Interval of requests for the topic's partitions, and maximum wait for each.
const COUNT_EVERY: Duration = Duration::from_secs(5);

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

    /// Requests the topic until Kafka has answered once. Then periodically requests its number of
    /// partitions, which may grow.
    pub(crate) async fn watch_topic(&self) {
        self.find_topic().await;
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            let producer = self.producer.clone();
            let topic = self.kafka.topic.clone();
            let asked = tokio::task::spawn_blocking(move || {
                let metadata = producer
                    .client()
                    .fetch_metadata(Some(&topic), COUNT_EVERY)
                    .ok()?;
                Some(
                    metadata
                        .topics()
                        .iter()
                        .find(|one| one.name() == topic)?
                        .partitions()
                        .len(),
                )
            });
            // Failures are not logged here, because each claim reports that Kafka is unavailable.
            if let Some(partitions) = asked
                .await
                .ok()
                .flatten()
                .filter(|partitions| *partitions > 0)
            {
                self.set_partitions(partitions);
            }
        }
    }

    async fn find_topic(&self) {
        while self.partitions.load(Ordering::Relaxed) == 0 {
            match check_topic(&self.kafka, FIND_EVERY).await {
                Ok(partitions) => {
                    self.set_partitions(partitions);
                    self.note(None);
                    tracing::info!(partitions, "Kafka answers");
                }
                Err(error) => {
                    self.note(Some(error.to_string()));
                    tokio::time::sleep(FIND_EVERY).await;
                }
            }
        }
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
    pub(super) async fn publish(&self, claims: &[Outgoing]) -> Vec<bool> {
        let messages = messages_of(claims);
        let sent = join_all(messages.iter().map(|message| self.publish_one(message))).await;
        messages
            .iter()
            .zip(sent)
            .flat_map(|(message, sent)| message.iter().map(move |_| sent))
            .collect()
    }

    async fn publish_one(&self, claims: &[Outgoing]) -> bool {
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

    async fn send(&self, claims: &[Outgoing]) -> Result<(), String> {
        let Some(message) = EncodedMessage::new(claims) else {
            return Ok(());
        };
        // A message with several claims contains no sampled claim.
        let trace = if let [one] = claims { one.trace } else { None };
        // The message carries the span of its sending, which ends with Kafka's acknowledgement.
        let topic = &self.kafka.topic;
        let start = |trace| {
            let name = format!("send {topic}");
            TraceSpan::start(trace, name, SpanKind::Producer, Duration::ZERO)
        };
        let span = trace.and_then(start);
        let own = span.as_ref().map(TraceSpan::context).or(trace);
        let sent = self.send_with(&message, own).await;
        if let Some(span) = span {
            let span = span
                .with(key::MESSAGING_SYSTEM, "kafka")
                .with(key::MESSAGING_OPERATION_NAME, "send")
                .with(key::MESSAGING_OPERATION_TYPE, "send")
                .with(key::MESSAGING_DESTINATION_NAME, topic.clone())
                .with(key::MESSAGING_KAFKA_MESSAGE_KEY, message.key);
            let span = match &sent {
                Ok(sent) => span
                    .with(
                        key::MESSAGING_DESTINATION_PARTITION_ID,
                        sent.partition.to_string(),
                    )
                    .with(key::MESSAGING_KAFKA_OFFSET, sent.offset),
                Err(_) => span.failed("not_acknowledged"),
            };
            span.end();
        }
        sent.map(drop)
    }

    async fn send_with(
        &self,
        message: &EncodedMessage<'_>,
        trace: Option<TraceContext>,
    ) -> Result<Delivery, String> {
        let EncodedMessage {
            first,
            key,
            payload,
        } = message;
        let record = FutureRecord::to(&self.kafka.topic)
            .key(key)
            .payload(payload);
        let mut headers = self
            .kafka
            .signing
            .headers(&self.kafka.topic, payload.as_bytes());
        if let Some(trace) = trace {
            headers = headers.insert(Header {
                key: TRACEPARENT,
                value: Some(&trace.to_string()),
            });
        }
        let record = record.headers(headers);
        let partitions = self.partitions.load(Ordering::Relaxed);
        let partition = if partitions > 0 {
            i32::try_from(first.partition(partitions)).ok()
        } else {
            None
        };
        // A full queue of librdkafka means that Kafka is unavailable. Do not wait: the fallback
        // takes the claims.
        let sent = match self.producer.send_result(FutureRecord {
            partition,
            ..record
        }) {
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

/// Maximum number of claims per message. With the longest user ids, they need about 18 KB, well
/// below the producer's limit.
const CLAIMS_A_MESSAGE: usize = 128;

/// Groups claims into messages: all together, except claims with a sampled trace, because a message
/// has one trace context.
fn messages_of(claims: &[Outgoing]) -> Vec<&[Outgoing]> {
    let is_traced = |claim: &Outgoing| claim.trace.is_some_and(|trace| trace.sampled);
    let together = |a: &Outgoing, b: &Outgoing| !is_traced(a) && !is_traced(b);
    claims
        .chunk_by(together)
        .flat_map(|some| some.chunks(CLAIMS_A_MESSAGE))
        .collect()
}

struct EncodedMessage<'c> {
    /// The claim with the lowest slot, which determines the partition.
    first: &'c ClaimEvent,
    key: String,
    payload: String,
}

impl<'c> EncodedMessage<'c> {
    fn new(claims: &'c [Outgoing]) -> Option<Self> {
        let first = claims
            .iter()
            .map(|one| &one.claim)
            .min_by_key(|claim| claim.slot)?;
        let all: Vec<&ClaimEvent> = claims.iter().map(|one| &one.claim).collect();
        Some(Self {
            first,
            key: first.key(),
            payload: ClaimEvent::encode_batch(&all),
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use firstcome_shared::domain::{CouponId, DropId};
    use firstcome_shared::kafka::{Security, Signing};

    use super::*;

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

    fn claim(slot: u32, trace: Option<TraceContext>) -> Outgoing {
        let claim = ClaimEvent {
            coupon_id: CouponId(1),
            drop_id: DropId(1),
            slot,
            user_id: "u-1".parse().unwrap(),
            claimed_at: DateTime::UNIX_EPOCH,
        };
        Outgoing {
            claim,
            era: 1,
            trace,
        }
    }

    fn traced() -> TraceContext {
        let text = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        TraceContext::parse(text).unwrap()
    }

    #[tokio::test]
    async fn claims_are_published_in_order_and_flushed() {
        let publisher = publisher();
        let claims = [claim(3, None), claim(2, Some(traced())), claim(4, None)];
        assert_eq!(publisher.publish(&claims).await, [true; 3]);
        assert_eq!(publisher.flush(Duration::from_secs(5)).await, 0);
    }

    #[test]
    fn claims_share_a_message_unless_they_are_traced_or_too_many() {
        let claims: Vec<Outgoing> = (1..=300)
            .map(|slot| claim(slot, (slot == 140).then(traced)))
            .collect();
        let sizes: Vec<usize> = messages_of(&claims).iter().map(|some| some.len()).collect();
        assert_eq!(sizes, [128, 11, 1, 128, 32]);
        assert!(messages_of(&[]).is_empty());
    }

    #[test]
    fn largest_message_fits_the_producer_limit() {
        let longest: Vec<Outgoing> = (0..u32::try_from(CLAIMS_A_MESSAGE).unwrap())
            .map(|n| {
                let mut one = claim(u32::MAX - n, None);
                one.claim.user_id = "u".repeat(64).parse().unwrap();
                one.claim.coupon_id = CouponId(i64::MAX);
                one
            })
            .collect();
        let message = EncodedMessage::new(&longest).unwrap();
        assert_eq!(message.first.slot, u32::MAX - 127);
        assert!(message.payload.len() < 30_000, "{}", message.payload.len());
    }
}
