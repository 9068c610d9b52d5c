//! The loop: gathers batches and writes them. If a batch cannot be written, its messages are read
//! again from the positions in MySQL: Kafka is the buffer.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, bail};
use firstcome_shared::claim::Claim;
use firstcome_shared::kafka::{KafkaSettings, why_unreadable};
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::mysql::DbError;
use lru::LruCache;
use metrics::counter;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::batch::Batch;
use super::group::ConsumerGroup;
use super::health::{ConsumerHealth, GROUP, MYSQL, NOT_JOINED, count_batch};
use super::partitions::Tender;
use super::record::Record;
use super::write::{WrittenBatch, drop_id, write, write_by_drop};
use crate::rows::WriteOutcome;

/// Maximum sleep of the loop, so that it notices a shutdown soon.
const IDLE: Duration = Duration::from_millis(100);
/// Maximum time to leave the group.
const LEAVE: Duration = Duration::from_secs(5);
/// After this many failed attempts in a row, of which the last failed because of a lock, drops are
/// written one by one, and one that is still locked gets dead letters. An attempt waits two seconds
/// for a lock. After ten seconds, MySQL ends the transaction of a Firstcome process that is frozen.
const LOCK_WAITS: u32 = 3;
/// After a lock, drops are written one by one for this long. Otherwise each batch would wait for
/// it.
const LOCKED_FOR: Duration = Duration::from_secs(60);
/// After this time in one write, and during a longer wait for the pace, the loop polls on without
/// reading. The group waits for a process that does not poll, and librdkafka 2.12 never joins again
/// if the topic gets partitions while this process still has one that it must give up.
const SLOW: Duration = Duration::from_millis(500);
/// After a batch with a wrong checksum, librdkafka may skip messages. For this long after such an
/// error, only a message at the expected offset is accepted.
const DOUBTED_FOR: Duration = Duration::from_secs(60);

/// Number of written claims that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(30_000);

pub(super) struct ConsumerWorker {
    tender: Arc<Tender>,
    batch_max: usize,
    /// Claims that this process has written or is writing. A claim is published twice, for example,
    /// if the user claims through two APIs, and one repeat makes MySQL refuse the statement of its
    /// whole batch. A user who returns a coupon and gets the same slot again has another time of
    /// admission.
    recent: LruCache<Claim, ()>,
    /// Attempts that failed in a row.
    failures: u32,
    /// Drops are written one by one until then.
    locked_until: Instant,
    /// Only messages at the expected offsets are accepted until then.
    doubted_until: Instant,
}

/// Creates a client that joins the group, perhaps in place of an earlier one.
pub(super) fn subscribe(
    kafka: &KafkaSettings,
    stuck: Duration,
    health: &ConsumerHealth,
) -> anyhow::Result<StreamConsumer<ConsumerGroup>> {
    let consumer: StreamConsumer<ConsumerGroup> = kafka
        .group_consumer(stuck)
        .create_with_context(ConsumerGroup::default())
        .context("the Kafka consumer could not be made")?;
    health.set(GROUP, Some(NOT_JOINED.to_owned()));
    consumer.subscribe(&[&kafka.topic])?;
    Ok(consumer)
}

impl ConsumerWorker {
    pub(super) fn new(tender: Tender, batch_max: usize) -> Self {
        Self {
            tender: Arc::new(tender),
            batch_max,
            recent: LruCache::new(REMEMBERED),
            failures: 0,
            locked_until: Instant::now(),
            doubted_until: Instant::now(),
        }
    }

    /// Reads and writes until it is stopped or its client must be replaced, then leaves the group.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let tending = tokio::spawn(Arc::clone(&self.tender).run());
        let ended = self.iterate().await;
        tending.abort();
        // Its only result is the error that it was aborted.
        let _ = tending.await;
        let leave = spawn_blocking(move || {
            if let Err(error) = self.tender.commit() {
                tracing::debug!(%error, "the last offsets are not committed");
            }
            // Leaves the group, unless Kafka hangs.
            drop(self.tender);
        });
        if timeout(LEAVE, leave).await.is_err() {
            tracing::warn!(
                after = ?LEAVE,
                "this consumer could not leave the group in time; Kafka reassigns its partitions \
                after the session timeout"
            );
        }
        ended
    }

    async fn iterate(&mut self) -> anyhow::Result<()> {
        while !self.tender.client.is_cancelled() {
            self.keep_pace().await?;
            let batch = self.gather().await?;
            if !batch.ranges.is_empty() {
                self.write(batch).await?;
            }
        }
        Ok(())
    }

    /// Waits until the rows of earlier batches are paid for. A short wait is a sleep. During a long
    /// one the loop polls on, with the partitions paused where they are. A message that still
    /// arrives belongs to the next batch.
    async fn keep_pace(&mut self) -> anyhow::Result<()> {
        let tender = Arc::clone(&self.tender);
        loop {
            match tender.wait_for_pace() {
                Duration::ZERO => return Ok(()),
                short if short <= SLOW => sleep(short).await,
                _ => break,
            }
        }
        let mut to_hold = tender.group().begun();
        let mut held = BTreeSet::new();
        while !tender.client.is_cancelled() && !tender.wait_for_pace().is_zero() {
            tender.health.iterated();
            tender.hold(&to_hold)?;
            held.extend(to_hold);
            tokio::select! {
                () = sleep(IDLE) => {}
                polled = tender.consumer.recv() => self.take(polled, &mut tender.passed.lock())?,
            }
            // Partitions that the group has just assigned begin now. Otherwise they would be
            // checked at each tick.
            to_hold = tender.begin_partitions();
        }
        // Partitions that have just begun are not paused.
        held.retain(|partition| !to_hold.contains(partition));
        Ok(tender.release(&held)?)
    }

    /// Gathers a batch. Messages that have already arrived are taken even after its deadline.
    /// Returns an empty batch if none arrives soon. Batches are smaller after failures, because a
    /// slow MySQL might never finish a large one.
    async fn gather(&mut self) -> anyhow::Result<Batch> {
        let tender = Arc::clone(&self.tender);
        tender.health.iterated();
        let mut batch = std::mem::take(&mut *tender.passed.lock());
        let idle = Instant::now() + IDLE;
        let most = (self.batch_max >> self.failures.min(16)).max(1);
        let full = most.min(tender.full_at_pace());
        while batch.records.len() < full {
            tender.begin_partitions();
            let until = batch.deadline().unwrap_or(idle);
            match timeout_at(until, tender.consumer.recv()).await {
                Ok(polled) => self.take(polled, &mut batch)?,
                Err(_) => break,
            }
        }
        Ok(batch)
    }

    fn take(
        &mut self,
        polled: KafkaResult<BorrowedMessage<'_>>,
        batch: &mut Batch,
    ) -> anyhow::Result<()> {
        let message = match polled {
            Ok(message) => message,
            Err(KafkaError::MessageConsumptionFatal(_)) => {
                // The error itself contains no cause.
                let fatal = self.tender.consumer.client().fatal_error();
                let why = fatal.map(|(_, reason)| reason).unwrap_or_default();
                bail!("Kafka refuses this consumer for good: {why}");
            }
            // librdkafka recovers automatically from almost every other error: unavailable brokers,
            // missing offsets, a group that continued without this process.
            Err(error) => {
                if why_unreadable(&error).is_some() {
                    self.doubted_until = Instant::now() + DOUBTED_FOR;
                }
                tracing::debug!(%error, "Kafka reports a problem; polling on");
                return Ok(());
            }
        };
        let partition = message.partition();
        let offset = message.offset();
        let is_doubted = Instant::now() < self.doubted_until;
        if let Some(from) = self.tender.group().arrived(partition, offset, is_doubted) {
            let records = Record::decode(&message, &self.tender.kafka);
            batch.push((partition, from..offset + 1), records, Instant::now());
        }
        Ok(())
    }

    /// Writes a batch without repeats. If MySQL does not take it, its messages are read again.
    async fn write(&mut self, mut batch: Batch) -> anyhow::Result<()> {
        if self.tender.group().has_begun.swap(false, Ordering::Relaxed) {
            // A partition has begun, perhaps because the last batch was not written or MySQL was
            // restored. Then MySQL may lack rows of these claims.
            self.recent.clear();
        }
        let claims = batch.records.len();
        batch.records.retain(|record| match &record.claim {
            Ok(claim) => self.recent.put(claim.clone(), ()).is_none(),
            Err(_) => true,
        });
        batch.records.sort_by_key(drop_id);
        let batch = Arc::new(batch);
        let (outcomes, elsewhere) = match self.poll_until_written(Arc::clone(&batch)).await? {
            Ok(written) => written,
            Err(error) => return self.read_again(&error).await,
        };
        count_batch(&batch.records, claims, &outcomes);
        self.tender.pace.written(&outcomes, Instant::now());
        if outcomes.iter().any(|outcome| {
            matches!(
                outcome,
                WriteOutcome::Refused(DeadLetterReason::RowLocked, _)
            )
        }) {
            self.locked_until = Instant::now() + LOCKED_FOR;
        }
        self.failures = 0;
        *self.tender.refused_at.lock() = None;
        self.tender.health.set(MYSQL, None);
        self.tender.group().written(&batch.ranges);
        for partition in elsewhere {
            self.tender.group().begin_again(partition);
        }
        Ok(())
    }

    /// Writes a batch, and polls without reading if that is slow.
    async fn poll_until_written(&mut self, batch: Arc<Batch>) -> anyhow::Result<WrittenBatch> {
        let tender = Arc::clone(&self.tender);
        let by_drop = Instant::now() < self.locked_until;
        let mut writing = pin!(async move {
            if by_drop {
                write_by_drop(&tender.db, &tender.kafka.topic, batch).await
            } else {
                write(&tender.db, &tender.kafka.topic, batch).await
            }
        });
        if let Ok(written) = timeout(SLOW, &mut writing).await {
            return Ok(written);
        }
        let written = self.poll_until(writing).await?;
        // Positions that were read during the write are outdated.
        self.tender.group().to_begin.lock().clear();
        Ok(written)
    }

    /// Pauses all partitions, so that they begin again, and polls until `done`.
    async fn poll_until<T>(&mut self, done: impl Future<Output = T>) -> anyhow::Result<T> {
        let tender = Arc::clone(&self.tender);
        tender.group().begin_all_again(&tender.consumer)?;
        let mut done = pin!(done);
        let mut ignored = Batch::default();
        loop {
            tender.health.iterated();
            tokio::select! {
                done = &mut done => return Ok(done),
                () = sleep(IDLE) => {}
                polled = tender.consumer.recv() => self.take(polled, &mut ignored)?,
            }
        }
    }

    /// Makes all partitions begin again, and pauses for 25 ms to 1.6 s, with a jitter that spreads
    /// the retries of consumers that failed at the same time.
    async fn read_again(&mut self, error: &DbError) -> anyhow::Result<()> {
        counter!("firstcome_consumer_retries_total").increment(1);
        let why = format!("a batch could not be written: {error}");
        *self.tender.refused_at.lock() = Some(Instant::now());
        self.tender.health.set(MYSQL, Some(why));
        let whole = Duration::from_millis(50 << self.failures.min(5));
        self.failures += 1;
        if error.is_lock_wait() && self.failures >= LOCK_WAITS {
            self.locked_until = Instant::now() + LOCKED_FOR;
        }
        let pause = sleep(whole.mul_f64(rand::random_range(0.5..=1.0)));
        self.poll_until(pause).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use firstcome_shared::process_state::SeenState;

    use super::*;
    use crate::consume::ConsumeArgs;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConsumeArgs,
    }

    #[tokio::test]
    async fn client_that_replaces_another_is_not_in_the_group_before_it_joins() {
        let args = Line::parse_from([
            "consume",
            "--database-url=mysql://firstcome@127.0.0.1:1/firstcome",
            "--kafka-brokers=127.0.0.1:1",
            "--kafka-signing-key=0123456789abcdef0123456789abcdef",
        ])
        .args;
        let health = ConsumerHealth::new(SLOW, SeenState::default());
        // The earlier client had joined.
        health.set(GROUP, None);
        let kafka = args.kafka.settings(&args.mysql.tls).unwrap();
        let _client = subscribe(&kafka, SLOW, &health).unwrap();
        assert_eq!(health.trouble(GROUP).as_deref(), Some(NOT_JOINED));
    }
}
