//! The loop: gathers batches and writes them. It polls Kafka's client while it waits for MySQL, so
//! that it stays in the group and already gathers the next batch.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::kafka::{KafkaSettings, why_unreadable};
use firstcome_shared::mysql::positions::ReadRange;
use firstcome_shared::mysql::{Db, DbError};
use metrics::counter;
use rand::RngExt as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::args::TuningArgs;
use super::batch::{NextBatch, RecentClaims};
use super::group::{Arrived, Group};
use super::message::Message;
use super::report::{Health, RETRIES, count_batch};
use super::tend::Tender;
use super::write::{Batch, ROW_LOCKED, write, write_by_drop};

/// Maximum sleep of the loop, so that it notices a shutdown soon.
const IDLE: Duration = Duration::from_millis(100);
/// How long a full batch waits for the one before it without polls. After that, a partition of which
/// a message arrives leaves the batch, is paused, and begins again later.
const UNPOLLED: Duration = Duration::from_secs(1);
/// Time to finish the batch in flight after shutdown begins, and to leave the group after it.
const LAST_BATCH: Duration = Duration::from_secs(5);
const LEAVE: Duration = Duration::from_secs(5);
/// After this many attempts that failed because of a lock, each taking two seconds, drops are written
/// one by one, and one that is still locked gets dead letters. MySQL ends a transaction whose client
/// is frozen after ten seconds.
const LOCK_WAITS: u32 = 3;
/// After a lock, drops are written one by one for this long. Otherwise each batch would wait for it.
const LOCKED_FOR: Duration = Duration::from_secs(60);
/// After a batch with a wrong checksum, librdkafka may skip messages. For this long after an error,
/// only a message at the expected offset is accepted.
const DOUBTED_FOR: Duration = Duration::from_secs(60);

pub(super) struct Worker {
    tender: Arc<Tender>,
    stop: CancellationToken,
    /// Cancelled when the time for the batch in flight is over.
    give_up: CancellationToken,
    next: NextBatch,
    recent: RecentClaims,
    /// How often partitions had begun when `recent` was last empty.
    times_begun: u64,
    /// Attempts at the current batch that failed because of a lock.
    lock_waits: u32,
    /// When a drop last got dead letters because of a lock.
    locked_at: Option<Instant>,
    /// When Kafka's client last reported a message that it cannot read.
    doubted_at: Option<Instant>,
    /// Since when the next batch is full while the current one is written.
    full_since: Option<Instant>,
    /// Attempts at the current batch that failed.
    failures: u32,
}

impl Worker {
    pub(super) fn subscribe(
        tuning: &TuningArgs,
        kafka: KafkaSettings,
        db: Db,
        health: Arc<Health>,
        stop: CancellationToken,
        joined: CancellationToken,
    ) -> anyhow::Result<Self> {
        let stuck = Duration::from_secs(tuning.consume_stuck_seconds);
        let group = Group::new(Arc::clone(&health), joined);
        let consumer: StreamConsumer<Group> = kafka
            .group_consumer(stuck * 2)
            .create_with_context(group)
            .context("the Kafka consumer could not be made")?;
        consumer
            .subscribe(&[&kafka.topic])
            .context("the topic could not be subscribed to")?;
        Ok(Self {
            tender: Arc::new(Tender {
                consumer,
                kafka,
                db,
                health,
                stuck,
            }),
            stop,
            give_up: CancellationToken::new(),
            next: NextBatch::new(tuning.consume_batch_max),
            recent: RecentClaims::new(),
            times_begun: 0,
            lock_waits: 0,
            locked_at: None,
            doubted_at: None,
            full_since: None,
            failures: 0,
        })
    }

    /// Reads and writes until it is stopped, then leaves the group.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let (stop, give_up) = (self.stop.clone(), self.give_up.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            sleep(LAST_BATCH).await;
            give_up.cancel();
        });
        let done = CancellationToken::new();
        let tending = Tender::start(Arc::clone(&self.tender), done.clone())?;
        let ended = self.iterate().await;
        done.cancel();
        // Closing commits the last offsets and leaves the group. It hangs if Kafka does, so it runs
        // on a thread that can be abandoned.
        let (left, has_left) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            if tending.join().is_err() {
                tracing::error!("the thread that tends the partitions had failed");
            }
            drop(self.tender);
            drop(left);
        });
        if timeout(LEAVE, has_left).await.is_err() {
            tracing::warn!(after = ?LEAVE, "this consumer could not leave the group in time; Kafka reassigns its partitions after the session timeout");
        }
        ended
    }

    async fn iterate(&mut self) -> anyhow::Result<()> {
        let mut goes_on = true;
        // A position must not move over a batch that is not written.
        while goes_on && !self.stop.is_cancelled() {
            self.tender.health.iterated();
            let batch = self.gather().await?;
            goes_on = self.write_out(batch).await?;
        }
        Ok(())
    }

    fn group(&self) -> &Group {
        self.tender.consumer.context()
    }

    /// Gathers a batch. Messages that have already arrived are taken even after its deadline.
    /// Returns an empty batch if none arrives soon.
    async fn gather(&mut self) -> anyhow::Result<Vec<Arc<Message>>> {
        self.group().set_full(false);
        self.full_since = None;
        let tender = Arc::clone(&self.tender);
        let idle = Instant::now() + IDLE;
        while !self.next.is_full() {
            let until = self.next.deadline().unwrap_or(idle);
            match timeout_at(until, tender.consumer.recv()).await {
                Ok(polled) => self.take(polled)?,
                Err(_) => break,
            }
        }
        Ok(self.next.take())
    }

    fn take(&mut self, polled: KafkaResult<BorrowedMessage<'_>>) -> anyhow::Result<()> {
        let message = match polled {
            Ok(message) => message,
            Err(error) if why_unreadable(&error).is_some() => {
                self.doubted_at = Some(Instant::now());
                return Ok(());
            }
            Err(error) => return self.tolerate(error),
        };
        let partition = message.partition();
        let is_doubted = self.doubted_at.is_some_and(|at| at.elapsed() < DOUBTED_FOR);
        let arrived = if self.next.is_full() {
            self.group().set_full(true);
            self.next.remove(partition);
            Arrived::Elsewhere
        } else {
            self.group()
                .arrived(partition, message.offset(), is_doubted)
        };
        match arrived {
            Arrived::After(from) => {
                let message = Message::of(&message, from, &self.tender.kafka);
                self.next.push(message, Instant::now());
            }
            Arrived::Elsewhere => self.tender.begin_again(partition)?,
            Arrived::Ignored => {}
        }
        Ok(())
    }

    /// librdkafka recovers automatically from almost every error: unavailable brokers, missing
    /// offsets, a group that continued without this process.
    fn tolerate(&mut self, error: KafkaError) -> anyhow::Result<()> {
        let kafka = &self.tender.kafka;
        if let KafkaError::MessageConsumptionFatal(_) = error {
            // The error itself contains no cause.
            let (code, reason) = self.tender.consumer.client().fatal_error().unzip();
            let why = code.and_then(|code| kafka.why_kept_out(code)).or(reason);
            let why = format!(
                "Kafka refuses this consumer for good: {}",
                why.unwrap_or_default()
            );
            return Err(anyhow::Error::new(error).context(why));
        }
        let code = error.rdkafka_error_code();
        if let Some(why) = code.and_then(|code| kafka.why_kept_out(code)) {
            self.tender.health.group(Some(why));
        }
        tracing::debug!(%error, "Kafka reports a problem; polling on");
        Ok(())
    }

    /// Writes a batch, and retries for as long as MySQL is unavailable, because Kafka is the
    /// buffer. Returns `false` if the shutdown deadline passes first.
    async fn write_out(&mut self, mut batch: Vec<Arc<Message>>) -> anyhow::Result<bool> {
        let mut size = batch.len();
        loop {
            let assigned = self.group().assigned();
            batch.retain(|message| assigned.contains(&message.source.partition));
            size = size.min(batch.len());
            if batch.is_empty() {
                return Ok(true);
            }
            let pause = match self.attempt(&batch[..size]).await? {
                None => break,
                Some(Ok(())) => {
                    batch.drain(..size);
                    continue;
                }
                Some(Err(error)) => {
                    if matches!(error, DbError::TimedOut { .. }) {
                        // A slow MySQL might never finish a large batch.
                        size = (size / 2).max(1);
                    }
                    self.on_failed(&error)
                }
            };
            if self.attend(sleep(pause)).await?.is_none() {
                break;
            }
        }
        tracing::warn!(
            messages = batch.len(),
            "stopping with messages that could not be written; they are read again"
        );
        Ok(false)
    }

    /// Runs one transaction. Returns `None` if the shutdown deadline passes first.
    async fn attempt(
        &mut self,
        part: &[Arc<Message>],
    ) -> anyhow::Result<Option<Result<(), DbError>>> {
        let times_begun = self.group().times_begun();
        if std::mem::replace(&mut self.times_begun, times_begun) != times_begun {
            self.recent.clear();
        }
        let records = self.recent.without_repeats(part);
        let ranges = ranges(part);
        let rows = Batch {
            topic: self.tender.kafka.topic.clone(),
            ranges: ranges.clone(),
            records: records.clone(),
        };
        let db = self.tender.db.clone();
        let by_drop = self.lock_waits >= LOCK_WAITS
            || self.locked_at.is_some_and(|at| at.elapsed() < LOCKED_FOR);
        let writing = async move {
            if by_drop {
                write_by_drop(&db, rows).await
            } else {
                write(&db, rows).await
            }
        };
        let written = match self.attend(writing).await? {
            None => return Ok(None),
            Some(Err(error)) => return Ok(Some(Err(error))),
            Some(Ok(written)) => written,
        };
        let claims: usize = part.iter().map(|message| message.claims.len()).sum();
        count_batch(&records, claims, &written);
        if written.refused.is_empty() && written.void == 0 {
            self.recent.committed(part);
        }
        if written.refused.contains_key(ROW_LOCKED) {
            self.locked_at = Some(Instant::now());
        }
        self.failures = 0;
        self.lock_waits = 0;
        self.tender.health.mysql(None);
        self.group().written(&ranges);
        let mut offsets = TopicPartitionList::with_capacity(ranges.len());
        for range in ranges {
            let next = Offset::Offset(range.offsets.end);
            offsets.add_partition_offset(&self.tender.kafka.topic, range.partition, next)?;
        }
        if let Err(error) = self.tender.consumer.store_offsets(&offsets) {
            tracing::debug!(%error, "offsets of lost partitions are not committed");
        }
        for partition in written.elsewhere {
            tracing::warn!(
                partition,
                "a partition is read again, because its position in MySQL is not where this process has read to"
            );
            self.tender.begin_again(partition)?;
        }
        Ok(Some(Ok(())))
    }

    /// Returns the pause before the next attempt: 50 ms to 2 s, with a jitter that spreads the
    /// retries of consumers that failed at the same time.
    fn on_failed(&mut self, error: &DbError) -> Duration {
        counter!(RETRIES).increment(1);
        self.tender.health.mysql(Some(error.to_string()));
        self.lock_waits += u32::from(error.is_lock_wait());
        let whole = Duration::from_millis(50 << self.failures.min(6)).min(Duration::from_secs(2));
        self.failures += 1;
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Waits for a future, gathers the next batch meanwhile, and stays in the group. Returns `None`
    /// if the shutdown deadline passes first.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
        let mut work = pin!(work);
        let tender = Arc::clone(&self.tender);
        let give_up = self.give_up.clone();
        loop {
            let polls = !self.next.is_full() || {
                let since = *self.full_since.get_or_insert_with(Instant::now);
                since.elapsed() > UNPOLLED
            };
            tokio::select! {
                biased;
                done = &mut work => return Ok(Some(done)),
                () = give_up.cancelled() => return Ok(None),
                polled = tender.consumer.recv(), if polls => self.take(polled)?,
                () = sleep(IDLE) => tender.health.iterated(),
            }
        }
    }
}

/// Returns the ranges that these messages complete, in the order in which they were read. If a
/// partition has begun again between them, the range begins there.
fn ranges(messages: &[Arc<Message>]) -> Vec<ReadRange> {
    let mut ranges: BTreeMap<i32, ReadRange> = BTreeMap::new();
    for message in messages {
        let partition = message.source.partition;
        let offsets = message.offsets.clone();
        match ranges.get_mut(&partition) {
            Some(range) if range.offsets.end == offsets.start => range.offsets.end = offsets.end,
            _ => {
                ranges.insert(partition, ReadRange { partition, offsets });
            }
        }
    }
    ranges.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consume::message::tests::message;

    #[test]
    fn ranges_cover_only_messages_that_were_read_one_after_the_other() {
        let read = |partition, offsets: &[i64]| {
            let message = |at: &i64| Arc::new(message(partition, *at, b""));
            offsets.iter().map(message).collect::<Vec<_>>()
        };
        let range = |partition, offsets| ReadRange { partition, offsets };
        let both = [read(0, &[5, 6]), read(1, &[0]), read(0, &[7])].concat();
        assert_eq!(ranges(&both), [range(0, 5..8), range(1, 0..1)]);
        let again = [read(0, &[50, 51]), read(0, &[100, 101])].concat();
        assert_eq!(ranges(&again), [range(0, 100..102)]);
        let before = [read(0, &[50, 51]), read(0, &[20])].concat();
        assert_eq!(ranges(&before), [range(0, 20..21)]);
    }
}
