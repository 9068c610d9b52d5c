//! The Kafka producer of claims, and the fallback for those that it does not get acknowledged.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::kafka::{KafkaSettings, check_topic};
use firstcome_shared::mysql::dead_letters::Unpublished;
use firstcome_shared::mysql::{Db, DbError, dead_letters};
use firstcome_shared::trace::{self, SpanEnd, SpanKind, TRACEPARENT, TraceContext, TraceSpan, key};
use metrics::{counter, gauge, histogram};
use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(crate) struct Publisher {
    kafka: KafkaSettings,
    settings: ClientConfig,
    producer: RwLock<FutureProducer>,
    /// 0: not known, and the hash of the key chooses.
    partitions: AtomicU32,
    deadline: Duration,
    /// Why Kafka did not take the last claim.
    problem: RwLock<Option<String>>,
}

/// While Kafka was away at start-up: how often it is asked for the topic, and the longest wait.
const FIND_EVERY: Duration = Duration::from_secs(2);

/// How often Kafka is asked for the topic's partitions, and the longest wait.
const COUNT_EVERY: Duration = Duration::from_secs(5);

impl Publisher {
    /// A producer for the topic of claims, which has so many partitions; `None` where Kafka is
    /// away. It connects by itself.
    pub(crate) fn new(kafka: KafkaSettings, deadline: Duration, partitions: Option<usize>) -> anyhow::Result<Self> {
        let settings = kafka.producer(deadline);
        let producer = RwLock::new(settings.create().context("the Kafka producer could not be made")?);
        let problem = RwLock::new(partitions.is_none().then(|| "it was away when this process started".to_owned()));
        let publisher = Self { kafka, settings, producer, partitions: AtomicU32::new(0), deadline, problem };
        publisher.set_partitions(partitions.unwrap_or(0));
        Ok(publisher)
    }

    fn set_partitions(&self, partitions: usize) {
        self.partitions.store(u32::try_from(partitions).unwrap_or(0), Ordering::Relaxed);
    }

    /// Asks for the topic until Kafka has answered once, and from then on for its partitions: a
    /// topic may get more.
    pub(crate) async fn watch_topic(&self) {
        self.find_topic().await;
        loop {
            tokio::time::sleep(COUNT_EVERY).await;
            let (producer, topic) = (self.producer(), self.kafka.topic.clone());
            let asked = tokio::task::spawn_blocking(move || {
                let metadata = producer.client().fetch_metadata(Some(&topic), COUNT_EVERY).ok()?;
                Some(metadata.topics().iter().find(|one| one.name() == topic)?.partitions().len())
            });
            // Nobody has to know that Kafka is away: claims tell.
            if let Some(partitions) = asked.await.ok().flatten().filter(|partitions| *partitions > 0) {
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

    /// Why Kafka did not take the last claim; `None` where it did. Claims go on by the dead-letter
    /// table.
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
    pub(super) async fn publish(&self, event: &ClaimEvent, trace: Option<TraceContext>) -> bool {
        let begun = Instant::now();
        let problem = self.send(event, trace).await.err();
        histogram!("firstcome_publish_seconds").record(begun.elapsed().as_secs_f64());
        let queued = problem.is_none();
        if let Some(problem) = &problem {
            counter!("firstcome_claims_not_queued_total").increment(1);
            tracing::debug!(%problem, drop = %event.drop_id, slot = event.slot, "an admission is not queued");
        }
        self.note(problem);
        queued
    }

    async fn send(&self, event: &ClaimEvent, trace: Option<TraceContext>) -> Result<(), String> {
        let Some(trace) = trace.filter(|trace| trace.sampled && trace::is_on()) else {
            return self.send_with(event, trace).await.map(drop);
        };
        // The message carries the span of its sending, which ends with Kafka's acknowledgement.
        let (begun, own) = (Instant::now(), trace.child());
        let sent = self.send_with(event, Some(own)).await;
        let topic = &self.kafka.topic;
        if let Some(span) = TraceSpan::ended_now(own, format!("send {topic}"), SpanKind::Producer, begun.elapsed()) {
            let span = span
                .below(trace.span_id)
                .with(key::MESSAGING_SYSTEM, "kafka")
                .with(key::MESSAGING_OPERATION_NAME, "send")
                .with(key::MESSAGING_OPERATION_TYPE, "send")
                .with(key::MESSAGING_DESTINATION_NAME, topic.clone())
                .with(key::MESSAGING_KAFKA_MESSAGE_KEY, event.key());
            match &sent {
                Ok(sent) => span
                    .with(key::MESSAGING_DESTINATION_PARTITION_ID, sent.partition.to_string())
                    .with(key::MESSAGING_KAFKA_OFFSET, sent.offset)
                    .export(SpanEnd::Fine),
                Err(_) => span.export(SpanEnd::Failed("not_acknowledged")),
            }
        }
        sent.map(drop)
    }

    async fn send_with(&self, event: &ClaimEvent, trace: Option<TraceContext>) -> Result<Delivery, String> {
        let (key, payload) = (event.key(), event.encode());
        let record = FutureRecord::to(&self.kafka.topic).key(&key).payload(&payload);
        let record = match trace.map(|trace| trace.to_string()) {
            Some(trace) => record
                .headers(OwnedHeaders::new_with_capacity(1).insert(Header { key: TRACEPARENT, value: Some(&trace) })),
            None => record,
        };
        let partitions = self.partitions.load(Ordering::Relaxed);
        let partition = if partitions > 0 { i32::try_from(event.partition(partitions)).ok() } else { None };
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
            Ok(Ok(Ok(sent))) => Ok(sent),
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

/// Most claims that wait to be written; the requests of further ones are answered 503.
const QUEUE: usize = 16_384;

/// Most rows of one statement.
const MAX_ROWS: usize = 1_000;

/// Claims that Kafka has not acknowledged go to the table `failed_claims`. While Kafka answers,
/// MySQL gets no queries from here. While it does not, one statement writes all claims that have
/// come together.
pub(crate) struct Fallback {
    queue: mpsc::Sender<UnpublishedClaim>,
    deadline: Duration,
}

struct UnpublishedClaim {
    claim: Unpublished,
    kept: oneshot::Sender<bool>,
}

impl Fallback {
    /// Starts the task that writes. It ends when this is dropped.
    pub(crate) fn new(db: Db, deadline: Duration) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE);
        tokio::spawn(write(db, pending, deadline));
        Self { queue, deadline }
    }

    /// `false`: within the deadline it is not certain that the table has the claim.
    pub(super) async fn keep(&self, claim: &ClaimEvent, trace: Option<TraceContext>) -> bool {
        let (kept, answer) = oneshot::channel();
        let claim = Unpublished { claim: claim.clone(), trace };
        if self.queue.try_send(UnpublishedClaim { claim, kept }).is_err() {
            return false;
        }
        matches!(tokio::time::timeout(self.deadline, answer).await, Ok(Ok(true)))
    }
}

async fn write(db: Db, mut pending: mpsc::Receiver<UnpublishedClaim>, deadline: Duration) {
    let mut batch = Vec::new();
    let mut failing = false;
    while pending.recv_many(&mut batch, MAX_ROWS).await > 0 {
        // Requests that were answered 503 meanwhile; their retries come again.
        batch.retain(|one| !one.kept.is_closed());
        if batch.is_empty() {
            continue;
        }
        let claims: Vec<Unpublished> = batch.iter().map(|one| one.claim.clone()).collect();
        let written = insert(&db, claims, deadline).await;
        match &written {
            Ok(()) => counter!("firstcome_claims_backed_up_total").increment(batch.len() as u64),
            Err(error) if !failing => {
                tracing::warn!(%error, claims = batch.len(), "claims that Kafka has not acknowledged could not be kept in the dead-letter table");
            }
            Err(_) => {}
        }
        failing = written.is_err();
        for one in batch.drain(..) {
            // Where nobody waits any more, the row stands, and the reconciler issues it.
            let _ = one.kept.send(written.is_ok());
        }
    }
}

/// One statement, tried once more where MySQL refused it: two processes that write the same claims
/// can deadlock.
async fn insert(db: &Db, claims: Vec<Unpublished>, deadline: Duration) -> Result<(), DbError> {
    let begun = Instant::now();
    let again = claims.clone();
    let once = async |claims: Vec<Unpublished>, limit| {
        let keep =
            async move |conn: &mut firstcome_shared::mysql::Conn| dead_letters::keep_unpublished(conn, &claims).await;
        db.run_within(limit, "keep claims that are not published", keep).await
    };
    match once(claims, deadline).await {
        Err(DbError::Query { .. }) if begun.elapsed() < deadline => {
            once(again, deadline.saturating_sub(begun.elapsed())).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use firstcome_shared::domain::{CouponId, DropId};
    use firstcome_shared::kafka::Security;

    use super::*;

    fn publisher(brokers: &str) -> Publisher {
        let (topic, group) = ("coupon-claims".to_owned(), "g".to_owned());
        let deadline = Duration::from_secs(5);
        let kafka = KafkaSettings { brokers: brokers.into(), topic, group, security: Security::default() };
        let mut made = Publisher::new(kafka, deadline, None).unwrap();
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
        assert!(publisher.publish(&event(1), None).await);
        publisher.renew().unwrap();
        assert!(publisher.publish(&event(2), Some(TraceContext::root())).await);
        assert_eq!(publisher.flush(Duration::from_secs(5)).await, 0);
    }
}
