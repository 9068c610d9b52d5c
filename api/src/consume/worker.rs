//! The loop: gather → write → commit, on one thread that owns the Kafka consumer. While MySQL writes a batch, the thread
//! commits the offsets of the one before it and gathers the next: neither adds to the time that a batch takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::mysql::{Db, DbError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::consume::metrics;
use crate::consume::read::batch::{Ahead, Limits};
use crate::consume::read::decode::Record;
use crate::consume::read::group::{Group, InHand, Outcome};
use crate::consume::read::source::Source;
use crate::consume::watch::health::Health;
use crate::consume::watch::lag::Lag;
use crate::consume::watch::watchdog::{Patience, Watchdog};
use crate::consume::write::backoff::Backoff;
use crate::consume::write::throttle::Throttle;
use crate::consume::write::{Written, write};

/// Longest that the loop sleeps without looking whether it is to stop.
const IDLE: Duration = Duration::from_millis(100);
/// A wait that is longer than this is spent polling. Not at once: pausing throws away what is fetched already.
const UNPOLLED: Duration = Duration::from_millis(250);
/// How often it polls then.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for a message while a batch is being written: that it is written is noticed after it.
const GLANCE: Duration = Duration::from_millis(1);
/// Time to finish the batch in hand once told to stop.
const LAST_BATCH: Duration = Duration::from_secs(5);
/// Time to leave the group then.
const LEAVE: Duration = Duration::from_secs(5);

/// A batch that has so many messages is large.
const LARGE: usize = 64;
/// The wait grows up to so many times what is set.
const MOST_PATIENT: u32 = 4;

/// Twice as long after a large batch, as set after any other.
fn next_patience(now: Duration, set: Duration, messages: usize) -> Duration {
    if messages >= LARGE { (now * 2).min(set * MOST_PATIENT) } else { set }
}

/// What the loop needs.
pub(crate) struct Setup {
    pub(crate) db: Db,
    pub(crate) kafka: KafkaSettings,
    pub(crate) limits: Limits,
    pub(crate) max_rows_per_second: u32,
    pub(crate) patience: Patience,
    pub(crate) health: Arc<Health>,
    pub(crate) runtime: Handle,
    pub(crate) stop: CancellationToken,
}

pub(crate) struct Worker {
    setup: Setup,
    source: Source,
    throttle: Throttle,
    backoff: Backoff,
    /// Read while the batch before them was written.
    ahead: Ahead<Arc<Record>>,
    /// Most messages in one transaction now: less than the limit after MySQL took too long for more.
    size: usize,
    /// How long the first message of the next batch waits for others: longer while batches are large, since rows in large
    /// transactions cost less. What comes now and then does not wait longer.
    patience: Duration,
    /// When to give up the batch in hand; set once told to stop.
    deadline: Option<Instant>,
}

/// Reads, writes and commits until told to stop. Blocks its thread. `joined` is called at each assignment of partitions.
pub(crate) fn run(setup: Setup, joined: impl Fn() + Send + Sync + 'static) -> anyhow::Result<()> {
    let group = Group::new(setup.kafka.topic.clone(), Arc::clone(&setup.health), setup.runtime.clone(), joined);
    let source = Source::subscribe(&setup.kafka, setup.patience, group)?;
    let lag = Lag::watch(Arc::clone(source.consumer()), setup.kafka.topic.clone(), Arc::clone(&setup.health))?;
    let watchdog = Watchdog::start(Arc::clone(&setup.health), setup.patience)?;
    let throttle = Throttle::new(setup.max_rows_per_second, Instant::now());
    let size = setup.limits.max;
    let (ahead, backoff) = (Ahead::default(), Backoff::default());
    let patience = setup.limits.wait;
    let mut worker = Worker { setup, source, throttle, backoff, ahead, size, patience, deadline: None };
    let ended = worker.work();
    drop(watchdog);
    worker.source.close(lag, LEAVE);
    ended
}

impl Worker {
    fn work(&mut self) -> anyhow::Result<()> {
        let mut committed_at = Instant::now();
        while !self.setup.stop.is_cancelled() {
            self.setup.health.turned();
            let batch = self.gather()?;
            self.patience = next_patience(self.patience, self.setup.limits.wait, batch.len());
            if !batch.is_empty() {
                self.write_out(batch)?;
                // Where the next batch is ready, the offsets of this one are committed while that is written.
                if self.ahead.is_ready(self.limits(), Instant::now()) {
                    continue;
                }
            } else if committed_at.elapsed() < Duration::from_secs(1) {
                continue;
            }
            // Also with nothing new: what Kafka refused to commit before is tried again.
            committed_at = Instant::now();
            self.commit();
        }
        Ok(())
    }

    /// Commits what is written.
    fn commit(&self) {
        self.source.group().commit(self.source.consumer().as_ref());
    }

    fn limits(&self) -> Limits {
        Limits { max: self.size.min(self.throttle.most()), wait: self.patience }
    }

    fn gather(&mut self) -> anyhow::Result<Vec<Arc<Record>>> {
        self.source.go_on()?;
        let mut failed = None;
        let (ahead, limits) = (std::mem::take(&mut self.ahead), self.limits());
        let batch = ahead.gather(limits, IDLE, Instant::now, |longest| match self.source.next(longest) {
            Ok(record) => record.map(Arc::new),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        failed.map_or(Ok(batch), Err)
    }

    /// Writes a batch, and goes on trying for as long as MySQL is away: Kafka is the buffer.
    fn write_out(&mut self, mut rest: Vec<Arc<Record>>) -> anyhow::Result<()> {
        loop {
            rest.retain(|record| self.source.group().owns(record));
            if rest.is_empty() {
                return Ok(());
            }
            if self.out_of_time() {
                break;
            }
            let allowed = match self.throttle.allow(rest.len().min(self.size), Instant::now()) {
                Ok(allowed) => allowed,
                Err(pause) => {
                    if self.wait(async move { tokio::time::sleep(pause).await })?.is_none() {
                        break;
                    }
                    continue;
                }
            };
            let part = rest[..allowed].to_vec();
            let begun = Instant::now();
            let Some(outcome) = self.attempt(part.clone())? else { break };
            match outcome.as_ref() {
                Ok(written) => {
                    metrics::batch(part.len(), begun.elapsed().as_secs_f64(), written);
                    self.wrote(&part, written);
                    rest.drain(..allowed);
                }
                Err(error) => {
                    let pause = self.failed(error, part.len());
                    if self.wait(async move { tokio::time::sleep(pause).await })?.is_none() {
                        break;
                    }
                }
            }
        }
        tracing::warn!(messages = rest.len(), "stopping with messages that could not be written; they are read again");
        Ok(())
    }

    /// One transaction. `None` when the time to stop has come first.
    fn attempt(&mut self, batch: Vec<Arc<Record>>) -> anyhow::Result<Option<Arc<Result<Written, DbError>>>> {
        let (told, outcome) = watch::channel(None);
        let (db, own) = (self.setup.db.clone(), batch.clone());
        self.setup.runtime.spawn(async move {
            let result = write(&db, own).await;
            told.send_replace(Some(Arc::new(result)));
        });
        self.source.group().hold(Some(InHand { batch, outcome: outcome.clone() }));
        let mut seen = outcome;
        let waited = self.meanwhile(&seen).and_then(|()| {
            self.wait(async move {
                let seen = seen.wait_for(Option::is_some).await;
                seen.ok().and_then(|outcome| outcome.clone())
            })
        });
        self.source.group().hold(None);
        let lost = || Arc::new(Err(DbError::Panicked { what: "write a batch" }));
        Ok(waited?.map(|outcome| outcome.unwrap_or_else(lost)))
    }

    /// What is done while a batch is written: the offsets of those before it are committed, and the next one is gathered.
    fn meanwhile(&mut self, outcome: &Outcome) -> anyhow::Result<()> {
        self.commit();
        let (begun, most) = (Instant::now(), self.limits().max);
        let is_under_way = || outcome.borrow().is_none() && outcome.has_changed().is_ok();
        while is_under_way()
            && self.ahead.len() < most
            && begun.elapsed() < UNPOLLED
            && !self.source.group().is_paused()
        {
            if let Some(record) = self.source.next(GLANCE)? {
                self.ahead.push(Arc::new(record), Instant::now());
            }
        }
        Ok(())
    }

    fn wrote(&mut self, part: &[Arc<Record>], written: &Written) {
        self.throttle.spend(part.len());
        self.source.group().written(part);
        self.setup.health.mysql(None);
        if self.backoff.ends() {
            tracing::info!(rows = written.issued, again = written.again, "MySQL takes batches again");
        }
        for (reason, count) in &written.refused {
            tracing::warn!(reason, count, "messages could not become rows and are kept in failed_claims");
        }
        self.size = (self.size * 2).min(self.setup.limits.max);
    }

    /// Notes that a batch was not written, and gives the pause before the next attempt.
    fn failed(&mut self, error: &DbError, size: usize) -> Duration {
        ::metrics::counter!(metrics::RETRIES).increment(1);
        self.setup.health.mysql(Some(error.to_string()));
        if self.backoff.is_worth_a_line(Instant::now()) {
            tracing::warn!(%error, messages = size, "a batch could not be written; it is tried again until it is");
        }
        if matches!(error, DbError::TimedOut { .. }) {
            // A batch too large for a slow MySQL would never end.
            self.size = (size / 2).max(1);
        }
        self.backoff.next()
    }

    /// Whether it was told to stop, and the time for the batch in hand is over.
    fn out_of_time(&mut self) -> bool {
        let now = Instant::now();
        self.setup.stop.is_cancelled() && now > *self.deadline.get_or_insert(now + LAST_BATCH)
    }

    /// Waits for something on the runtime, and stays in the group meanwhile. `None` when the time to stop has come first.
    fn wait<T>(&mut self, future: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
        let mut future = std::pin::pin!(future);
        let mut patience = UNPOLLED;
        loop {
            let runtime = self.setup.runtime.clone();
            let done = runtime.block_on(async { tokio::time::timeout(patience, future.as_mut()).await });
            if let Ok(value) = done {
                return Ok(Some(value));
            }
            self.setup.health.turned();
            if self.out_of_time() {
                return Ok(None);
            }
            self.source.stay_in_group()?;
            patience = POLL_EVERY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_the_rate_only() {
        let set = Duration::from_millis(10);
        let waits = [63, 64, 500, 1_000, 1_000, 1, 0].iter().scan(set, |wait, messages| {
            *wait = next_patience(*wait, set, *messages);
            Some(wait.as_millis())
        });
        assert_eq!(waits.collect::<Vec<_>>(), [10, 20, 40, 40, 40, 10, 10]);
        assert_eq!(next_patience(Duration::ZERO, Duration::ZERO, 1_000), Duration::ZERO);
    }
}
