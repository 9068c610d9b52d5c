//! The loop: gather and write, on one thread that owns the Kafka consumer. While MySQL writes a
//! batch, the thread prefetches the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_shared::kafka::{Beginning, KafkaSettings};
use firstcome_shared::mysql::{Db, DbError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::read::batch::{BatchLimits, NextBatch};
use super::read::group::{GroupContext, InFlightBatch, WriteOutcome};
use super::read::record::Record;
use super::read::source::Source;
use super::watch::lag::LagWatch;
use super::watch::report::{self, Health};
use super::watch::traces;
use super::watch::watchdog::{LivenessLimits, Watchdog};
use super::write::pacing::{Backoff, Throttle};
use super::write::repeats::RecentClaims;
use super::write::{Batch, ROW_LOCKED, Written, write, write_by_drop};

/// Maximum sleep of the loop, so that it notices a shutdown soon.
const IDLE: Duration = Duration::from_millis(100);
/// Maximum wait without a poll. Polling while paused discards prefetched messages, so short waits
/// do not poll.
const MAX_UNPOLLED: Duration = Duration::from_millis(250);
/// Poll interval of longer waits.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Maximum wait for a message while a batch is being written, which is also the maximum delay until
/// the end of the write is noticed.
const PREFETCH_POLL: Duration = Duration::from_millis(1);
/// Time to finish the batch in flight after shutdown begins.
const LAST_BATCH: Duration = Duration::from_secs(5);
/// Time to leave the group after the last batch.
const LEAVE: Duration = Duration::from_secs(5);

/// Interval of commits to Kafka, which only tools read.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Pause after an error before positions are read again.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);
/// Interval of comparing positions while no message arrives.
const CHECK_POSITIONS: Duration = Duration::from_secs(5);

/// After this many attempts that failed because of a lock, each taking two seconds, claims with
/// locked rows are skipped.
const LOCK_WAITS: u32 = 3;
/// After a lock, drops are written one by one for this long.
const LOCKED_FOR: Duration = Duration::from_secs(60);

/// A batch with at least this many messages is large.
const LARGE: usize = 64;
/// Maximum growth of the wait, as a multiple of the setting.
const MAX_WAIT_FACTOR: u32 = 25;

/// The wait doubles after each large batch and falls back to the setting after a small one.
fn next_wait(now: Duration, set: Duration, messages: usize) -> Duration {
    if messages >= LARGE {
        (now * 2).min(set * MAX_WAIT_FACTOR)
    } else {
        set
    }
}

pub(crate) struct Setup {
    pub(crate) db: Db,
    pub(crate) kafka: KafkaSettings,
    pub(crate) limits: BatchLimits,
    pub(crate) max_rows_per_second: u32,
    pub(crate) liveness: LivenessLimits,
    pub(crate) health: Arc<Health>,
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
}

pub(crate) struct Worker {
    setup: Setup,
    source: Source,
    throttle: Throttle,
    backoff: Backoff,
    recent: RecentClaims,
    /// The batch that is prefetched while the previous one is written.
    next_batch: NextBatch<Arc<Record>>,
    /// Current maximum number of messages per transaction. Halved if MySQL takes too long.
    size: usize,
    /// Number of attempts at the current batch that failed because another client of MySQL had
    /// locked rows.
    lock_waits: u32,
    /// When rows were last skipped because of a lock.
    locked_at: Option<Instant>,
    /// How long the first message of the next batch waits for others. It grows while batches are
    /// large, because rows cost less in large transactions.
    wait: Duration,
    /// When to give up on the batch in flight. Set when shutdown begins.
    deadline: Option<Instant>,
    /// Earliest time at which partitions may begin.
    begin_at: Instant,
    /// When positions were last compared without a batch.
    checked_at: Instant,
}

/// Reads and writes until it is stopped. Blocks its thread. `joined` is called at each
/// assignment of partitions.
pub(crate) fn run(setup: Setup, joined: impl Fn() + Send + Sync + 'static) -> anyhow::Result<()> {
    let group = GroupContext::new(
        setup.kafka.topic.clone(),
        Arc::clone(&setup.health),
        setup.runtime.clone(),
        joined,
    );
    let source = Source::subscribe(&setup.kafka, setup.liveness, group)?;
    let lag = LagWatch::start(
        Arc::clone(source.consumer()),
        setup.kafka.topic.clone(),
        Arc::clone(&setup.health),
    )?;
    let watchdog = Watchdog::start(Arc::clone(&setup.health), setup.liveness)?;
    let throttle = Throttle::new(setup.max_rows_per_second, Instant::now());
    let BatchLimits {
        max: size, wait, ..
    } = setup.limits;
    let next_batch = NextBatch::default();
    let backoff = Backoff::default();
    let mut worker = Worker {
        setup,
        source,
        throttle,
        backoff,
        recent: RecentClaims::new(),
        next_batch,
        size,
        lock_waits: 0,
        locked_at: None,
        wait,
        deadline: None,
        begin_at: Instant::now(),
        checked_at: Instant::now(),
    };
    let ended = worker.run();
    drop(watchdog);
    worker.source.close(lag, LEAVE);
    ended
}

impl Worker {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut committed_at = Instant::now();
        while !self.setup.stop.is_cancelled() {
            self.setup.health.iterated();
            self.begin_partitions()?;
            let batch = self.gather()?;
            self.wait = next_wait(self.wait, self.setup.limits.wait, batch.len());
            // The position must not move over a batch that is not written.
            if !batch.is_empty() && !self.write_out(batch)? {
                break;
            }
            if committed_at.elapsed() > COMMIT_EVERY {
                committed_at = Instant::now();
                self.check_positions()?;
                self.source.group().commit(self.source.consumer());
            }
        }
        Ok(())
    }

    /// Starts newly assigned partitions at their positions. They are paused until then.
    fn begin_partitions(&mut self) -> anyhow::Result<()> {
        let partitions = self.source.group().not_begun();
        if partitions.is_empty() || Instant::now() < self.begin_at {
            return Ok(());
        }
        // Pause before a retry. The cause may be MySQL, Kafka, or the client, which refuses to seek
        // while it still requests the committed offset.
        self.begin_at = Instant::now() + POLL_EVERY;
        let db = self.setup.db.clone();
        let topic = self.setup.kafka.topic.clone();
        let Some(stored) = self.of_mysql(async move { db.topic_positions(&topic).await })? else {
            return Ok(());
        };
        let own = partitions.keys().copied();
        let beginnings = match self.source.beginnings(own, &stored) {
            Ok(beginnings) => beginnings,
            Err(error) => {
                let why = format!("Kafka does not tell what the topic has: {error}");
                self.setup.health.kafka(Some(why));
                self.begin_at = Instant::now() + BEGIN_AGAIN;
                return Ok(());
            }
        };
        let is_new = |(partition, beginning): &&(i32, Beginning)| {
            beginning.fault.is_some() || !stored.contains_key(partition)
        };
        let new: Vec<_> = beginnings.iter().filter(is_new).copied().collect();
        if !new.is_empty() {
            let db = self.setup.db.clone();
            let topic = self.setup.kafka.topic.clone();
            if self
                .of_mysql(async move { db.begin_reading(&topic, new).await })?
                .is_none()
            {
                return Ok(());
            }
        }
        for (partition, beginning) in &beginnings {
            if let Some((fault, offset)) = beginning.fault {
                let from = beginning.from;
                let fault = fault.as_str();
                tracing::error!(
                    partition,
                    from,
                    offset,
                    fault,
                    "a partition is read again from an earlier offset"
                );
            }
            self.source
                .begin(*partition, partitions[partition], beginning)?;
        }
        Ok(())
    }

    /// Compares the positions with the offsets read so far, even while no message arrives: MySQL
    /// may have been restored, and transaction markers have no rows.
    fn check_positions(&mut self) -> anyhow::Result<()> {
        let ranges = self.source.standing();
        let is_due = ranges.iter().any(|range| !range.offsets.is_empty())
            || self.checked_at.elapsed() > CHECK_POSITIONS;
        if !is_due || ranges.is_empty() || self.next_batch.len() > 0 {
            return Ok(());
        }
        self.checked_at = Instant::now();
        let db = self.setup.db.clone();
        let topic = self.setup.kafka.topic.clone();
        let own = ranges.clone();
        let gaps = self.of_mysql(async move { db.advance_positions(&topic, own).await })?;
        if let Some(gaps) = gaps {
            self.source.group().passed(&ranges);
            self.fill_gaps(&gaps)?;
        }
        Ok(())
    }

    /// Reads partitions again from their positions.
    fn fill_gaps(&mut self, partitions: &[i32]) -> anyhow::Result<()> {
        for partition in partitions {
            tracing::warn!(
                partition,
                "MySQL's position is not where this process has read to, as after a restore of MySQL or another process; the partition is read again from there"
            );
            self.source.begin_again(*partition)?;
        }
        Ok(())
    }

    /// Returns the result of a call to MySQL, or `None` after an error or if the shutdown deadline
    /// passes first.
    fn of_mysql<T>(
        &mut self,
        call: impl Future<Output = Result<T, DbError>>,
    ) -> anyhow::Result<Option<T>> {
        match self.wait_for(call)? {
            None => Ok(None),
            Some(Ok(value)) => {
                self.setup.health.mysql(None);
                Ok(Some(value))
            }
            Some(Err(error)) => {
                if self.backoff.is_due_for_log(Instant::now()) {
                    tracing::warn!(%error, "positions could not be read or moved; this is retried");
                }
                self.setup.health.mysql(Some(error.to_string()));
                self.begin_at = Instant::now() + BEGIN_AGAIN;
                Ok(None)
            }
        }
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits::new(
            self.size.min(self.throttle.most()),
            self.wait,
            self.setup.limits.wait,
        )
    }

    fn gather(&mut self) -> anyhow::Result<Vec<Arc<Record>>> {
        self.source.resume()?;
        let mut failed = None;
        let prefetched = std::mem::take(&mut self.next_batch);
        let limits = self.limits();
        let batch = prefetched.gather(limits, IDLE, Instant::now, |longest| {
            match self.source.next(longest) {
                Ok(record) => record.map(Arc::new),
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        failed.map_or(Ok(batch), Err)
    }

    /// Writes a batch, and retries for as long as MySQL is unavailable, because Kafka is the
    /// buffer. Returns `false` if the shutdown deadline passes first.
    fn write_out(&mut self, mut rest: Vec<Arc<Record>>) -> anyhow::Result<bool> {
        loop {
            rest.retain(|record| self.source.group().owns(record));
            if rest.is_empty() {
                return Ok(true);
            }
            if self.out_of_time() {
                break;
            }
            let allowed = match self
                .throttle
                .allow(rest.len().min(self.size), Instant::now())
            {
                Ok(allowed) => allowed,
                Err(pause) => {
                    if self
                        .wait_for(async move { tokio::time::sleep(pause).await })?
                        .is_none()
                    {
                        break;
                    }
                    continue;
                }
            };
            let part = rest[..allowed].to_vec();
            let begun = Instant::now();
            let Some(outcome) = self.attempt(part.clone())? else {
                break;
            };
            match outcome.as_ref() {
                Ok(written) => {
                    let took = begun.elapsed();
                    report::count_batch(&part, took.as_secs_f64(), written);
                    traces::batch(&self.setup.kafka, &part, took, written);
                    self.on_written(&part, written)?;
                    rest.drain(..allowed);
                }
                Err(error) => {
                    let pause = self.on_failed(error, part.len());
                    if self
                        .wait_for(async move { tokio::time::sleep(pause).await })?
                        .is_none()
                    {
                        break;
                    }
                }
            }
        }
        tracing::warn!(
            messages = rest.len(),
            "stopping with messages that could not be written; they are read again"
        );
        Ok(false)
    }

    /// Runs one transaction. Returns `None` if the shutdown deadline passes first.
    fn attempt(
        &mut self,
        batch: Vec<Arc<Record>>,
    ) -> anyhow::Result<Option<Arc<Result<Written, DbError>>>> {
        let (result, mut outcome) = watch::channel(None);
        let db = self.setup.db.clone();
        let group = self.source.group();
        let records = self.recent.without_repeats(&batch, group.assignments());
        let repeats = (batch.len() - records.len()) as u64;
        let own = Batch {
            ranges: group.ranges(&batch),
            topic: self.setup.kafka.topic.clone(),
            records,
        };
        let by_drop = self.meets_locks();
        self.setup.runtime.spawn(async move {
            let mut written = if by_drop {
                write_by_drop(&db, own).await
            } else {
                write(&db, own).await
            };
            if let Ok(written) = &mut written {
                written.again += repeats;
            }
            result.send_replace(Some(Arc::new(written)));
        });
        self.source.group().set_in_flight(Some(InFlightBatch {
            batch,
            outcome: outcome.clone(),
        }));
        let waited = self.prefetch(&outcome).and_then(|()| {
            self.wait_for(async move {
                let outcome = outcome.wait_for(Option::is_some).await;
                outcome.ok().and_then(|outcome| outcome.clone())
            })
        });
        self.source.group().set_in_flight(None);
        let lost = || {
            Arc::new(Err(DbError::Panicked {
                what: "write a batch",
            }))
        };
        Ok(waited?.map(|outcome| outcome.unwrap_or_else(lost)))
    }

    /// Reads messages of the next batch while one is written.
    fn prefetch(&mut self, outcome: &WriteOutcome) -> anyhow::Result<()> {
        let begun = Instant::now();
        let most = self.limits().max;
        let is_writing = || outcome.borrow().is_none() && outcome.has_changed().is_ok();
        while is_writing()
            && self.next_batch.len() < most
            && begun.elapsed() < MAX_UNPOLLED
            && !self.source.group().is_paused()
        {
            if let Some(record) = self.source.next(PREFETCH_POLL)? {
                self.next_batch.push(Arc::new(record), Instant::now());
            }
        }
        Ok(())
    }

    /// Whether to write drops one by one: during a lock and for a while after it. Otherwise, while
    /// a lock lasts, each locked claim would delay the claims of other drops by three attempts.
    fn meets_locks(&self) -> bool {
        self.lock_waits >= LOCK_WAITS || self.locked_at.is_some_and(|at| at.elapsed() < LOCKED_FOR)
    }

    fn on_written(&mut self, part: &[Arc<Record>], written: &Written) -> anyhow::Result<()> {
        self.throttle.spend(part.len());
        self.source.group().written(part);
        if written.refused.is_empty() && written.revoked == 0 {
            self.recent.committed(part);
        }
        self.fill_gaps(&written.gaps)?;
        self.setup.health.mysql(None);
        self.lock_waits = 0;
        if written.refused.contains_key(ROW_LOCKED) {
            self.locked_at = Some(Instant::now());
        }
        if self.backoff.end() {
            tracing::info!(
                rows = written.issued,
                again = written.again,
                "MySQL takes batches again"
            );
        }
        for (reason, count) in &written.refused {
            tracing::warn!(
                reason,
                count,
                "messages could not become rows and are kept in failed_claims"
            );
        }
        self.size = (self.size * 2).min(self.setup.limits.max);
        Ok(())
    }

    /// Returns the pause before the next attempt.
    fn on_failed(&mut self, error: &DbError, size: usize) -> Duration {
        metrics::counter!(report::RETRIES).increment(1);
        self.setup.health.mysql(Some(error.to_string()));
        if self.backoff.is_due_for_log(Instant::now()) {
            tracing::warn!(%error, messages = size, "a batch could not be written; it is tried again until it is");
        }
        self.lock_waits += u32::from(error.is_lock_wait());
        if matches!(error, DbError::TimedOut { .. }) {
            // Halve the batch, because a slow MySQL might never finish a large one.
            self.size = (size / 2).max(1);
        }
        self.backoff.next()
    }

    /// Whether shutdown has begun and the time for the batch in flight is over.
    fn out_of_time(&mut self) -> bool {
        let now = Instant::now();
        self.setup.stop.is_cancelled() && now > *self.deadline.get_or_insert(now + LAST_BATCH)
    }

    /// Waits for a future on the runtime, and stays in the group meanwhile. Returns `None` if the
    /// shutdown deadline passes first.
    fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
        let mut future = std::pin::pin!(future);
        let mut until_poll = MAX_UNPOLLED;
        loop {
            let runtime = self.setup.runtime.clone();
            let done =
                runtime.block_on(async { tokio::time::timeout(until_poll, future.as_mut()).await });
            if let Ok(value) = done {
                return Ok(Some(value));
            }
            self.setup.health.iterated();
            if self.out_of_time() {
                return Ok(None);
            }
            self.source.stay_in_group()?;
            until_poll = POLL_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_grows_only_with_the_message_rate() {
        let set = Duration::from_millis(10);
        let waits = [63, 64, 500, 1_000, 1_000, 1_000, 1, 0]
            .iter()
            .scan(set, |wait, messages| {
                *wait = next_wait(*wait, set, *messages);
                Some(wait.as_millis())
            });
        assert_eq!(
            waits.collect::<Vec<_>>(),
            [10, 20, 40, 80, 160, 250, 10, 10]
        );
        assert_eq!(
            next_wait(Duration::ZERO, Duration::ZERO, 1_000),
            Duration::ZERO
        );
    }
}
