//! The health of the loop, of MySQL and of Kafka, and the consumer's metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use firstcome_shared::coupon::ClaimFault;
use firstcome_shared::http::health::{HealthCheck, check};
use firstcome_shared::kafka::FORGED;
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::dead_letters::UNREADABLE;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use parking_lot::Mutex;

use crate::consume::read::record::Record;
use crate::consume::write::Written;

/// The loop counts as not alive if no iteration ends within this time. It also iterates while it
/// waits for MySQL or for messages.
const STUCK: Duration = Duration::from_secs(30);

/// Set by the loop and the lag watcher; read by `/healthz`, `/readyz` and the watchdog.
#[derive(Debug)]
pub(crate) struct Health {
    iterated_at: Mutex<Instant>,
    mysql: Mutex<Option<String>>,
    kafka: Mutex<Option<String>>,
    stuck: Mutex<Option<String>>,
    /// Whether unread messages exist while no batch is being written.
    backlog: AtomicBool,
    /// Counts written batches and reported outages of a store. If it stays the same during a
    /// backlog, the loop is stuck.
    progress: AtomicU64,
}

/// The watchdog's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoopState {
    pub(crate) iterated_at: Instant,
    pub(crate) backlog: bool,
    pub(crate) progress: u64,
}

impl Health {
    /// Creates the initial state: alive, but not ready until the group has assigned partitions.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            iterated_at: Mutex::new(Instant::now()),
            mysql: Mutex::default(),
            kafka: Mutex::new(Some("not in the group yet".into())),
            stuck: Mutex::default(),
            backlog: AtomicBool::new(false),
            progress: AtomicU64::new(0),
        })
    }

    pub(crate) fn iterated(&self) {
        *self.iterated_at.lock() = Instant::now();
    }

    /// Reports why MySQL does not accept batches, or `None` if it does.
    pub(crate) fn mysql(&self, trouble: Option<String>) {
        self.progress.fetch_add(1, Ordering::Relaxed);
        *self.mysql.lock() = trouble;
    }

    /// Reports why Kafka does not answer, or `None` if it does.
    pub(crate) fn kafka(&self, trouble: Option<String>) {
        if trouble.is_some() {
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        *self.kafka.lock() = trouble;
    }

    /// Reports how many partitions wait until unreadable messages are skipped.
    pub(crate) fn holds(&self, partitions: usize) {
        self.progress.fetch_add(1, Ordering::Relaxed);
        gauge!(HELD).set(u32::try_from(partitions).unwrap_or(u32::MAX));
    }

    pub(crate) fn set_backlog(&self, backlog: bool) {
        self.backlog.store(backlog, Ordering::Relaxed);
    }

    pub(crate) fn loop_state(&self) -> LoopState {
        let backlog = self.backlog.load(Ordering::Relaxed);
        let progress = self.progress.load(Ordering::Relaxed);
        LoopState {
            iterated_at: *self.iterated_at.lock(),
            backlog,
            progress,
        }
    }

    /// Sets the watchdog's verdict, and returns whether it has changed.
    pub(crate) fn stuck(&self, trouble: Option<String>) -> bool {
        let mut stuck = self.stuck.lock();
        let changed = stuck.is_some() != trouble.is_some();
        *stuck = trouble;
        changed
    }

    fn alive_at(&self, now: Instant) -> Result<(), String> {
        let still = now.saturating_duration_since(*self.iterated_at.lock());
        if still <= STUCK {
            Ok(())
        } else {
            Err(format!(
                "the loop has stood still for {} s",
                still.as_secs()
            ))
        }
    }

    pub(crate) fn alive(self: &Arc<Self>) -> HealthCheck {
        let health = Arc::clone(self);
        check(move || std::future::ready(health.alive_at(Instant::now())))
    }

    /// Returns the checks for `/readyz`. MySQL is queried only if the last batch was written.
    pub(crate) fn ready(self: &Arc<Self>, db: &Db) -> Vec<(&'static str, HealthCheck)> {
        let of_mysql = Arc::clone(self);
        let of_kafka = Arc::clone(self);
        let db = db.clone();
        let mysql = check(move || {
            let trouble = of_mysql.mysql.lock().clone();
            let db = db.clone();
            async move {
                match trouble {
                    Some(trouble) => Err(trouble),
                    None => db.ping().await.map_err(|error| error.to_string()),
                }
            }
        });
        let kafka =
            check(move || std::future::ready(of_kafka.kafka.lock().clone().map_or(Ok(()), Err)));
        let of_loop = Arc::clone(self);
        let progress =
            check(move || std::future::ready(of_loop.stuck.lock().clone().map_or(Ok(()), Err)));
        vec![("mysql", mysql), ("kafka", kafka), ("loop", progress)]
    }
}

pub(crate) const LAG: &str = "firstcome_consumer_lag";
pub(crate) const COMMIT_FAILURES: &str = "firstcome_consumer_commit_failures_total";
pub(crate) const REBALANCES: &str = "firstcome_consumer_rebalances_total";
const HELD: &str = "firstcome_consumer_held_partitions";
pub(crate) const RETRIES: &str = "firstcome_consumer_retries_total";
const BATCH_ROWS: &str = "firstcome_consumer_batch_rows";
const BATCH_SECONDS: &str = "firstcome_consumer_batch_seconds";
const ISSUE_DELAY: &str = "firstcome_issue_delay_seconds";
const ISSUED: &str = "firstcome_consumer_issued_total";
const AGAIN: &str = "firstcome_consumer_again_total";
const REVOKED: &str = "firstcome_consumer_revoked_total";
const REFUSED: &str = "firstcome_consumer_refused_total";

/// Describes all metrics. Counters begin at 0, because a counter that first appears at 1 hides its
/// first increase.
pub(crate) fn describe_metrics() {
    describe_gauge!(
        LAG,
        "Messages of the partitions this process reads that have no rows yet"
    );
    describe_gauge!(
        HELD,
        "Partitions that wait at messages that can't be read, until they are left out"
    );
    describe_histogram!(BATCH_ROWS, "Messages in a batch");
    describe_histogram!(BATCH_SECONDS, Unit::Seconds, "Time to write a batch");
    let delay = "Time from a claim's admission (Redis's clock) to its row (this host's); read again, counted again";
    describe_histogram!(ISSUE_DELAY, Unit::Seconds, delay);
    for (name, meaning) in [
        (ISSUED, "Rows written"),
        (
            AGAIN,
            "Messages whose row was there: read again after a restart or a rebalance",
        ),
        (
            REVOKED,
            "Messages of claims that were given back or revoked: neither rows nor dead letters",
        ),
        (
            RETRIES,
            "Batches tried again because MySQL was unavailable, locked or slow",
        ),
        (
            REBALANCES,
            "Rebalances of the group, as this process saw them",
        ),
        (COMMIT_FAILURES, "Commits of offsets that Kafka refused"),
    ] {
        describe_counter!(name, meaning);
        counter!(name).absolute(0);
    }
    describe_counter!(REFUSED, "Messages kept in the dead-letter table, by reason");
    let faults = [ClaimFault::SealedDrop, ClaimFault::OutsideWindow].map(ClaimFault::reason);
    let others = [
        "undecodable",
        "unknown_drop",
        "slot_out_of_range",
        "slot_taken",
        "already_has_one",
        "bad_data",
        UNREADABLE,
        FORGED,
    ];
    for reason in faults.into_iter().chain(others) {
        counter!(REFUSED, "reason" => reason).absolute(0);
    }
    gauge!(LAG).set(0.0);
    gauge!(HELD).set(0.0);
}

#[expect(clippy::cast_precision_loss, reason = "a batch is small")]
pub(crate) fn count_batch(batch: &[Arc<Record>], seconds: f64, written: &Written) {
    histogram!(BATCH_ROWS).record(batch.len() as f64);
    histogram!(BATCH_SECONDS).record(seconds);
    counter!(ISSUED).increment(written.issued);
    counter!(AGAIN).increment(written.again);
    counter!(REVOKED).increment(written.revoked);
    let now = Utc::now();
    let delay = histogram!(ISSUE_DELAY);
    for claimed_at in batch
        .iter()
        .filter_map(|record| record.claim.as_ref().ok()?.claimed_at)
    {
        // The delay is negative if this host's clock is behind Redis's clock.
        delay.record(
            (now - claimed_at)
                .to_std()
                .unwrap_or_default()
                .as_secs_f64(),
        );
    }
    for (reason, count) in &written.refused {
        counter!(REFUSED, "reason" => *reason).increment(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_loop_is_not_alive_until_it_resumes() {
        let health = Health::new();
        let now = Instant::now();
        assert_eq!(health.alive_at(now + Duration::from_secs(29)), Ok(()));
        let stuck = health.alive_at(now + Duration::from_secs(32));
        assert!(stuck.is_err_and(|reason| reason.contains("stood still for 3")));
        health.iterated();
        assert_eq!(health.alive_at(Instant::now()), Ok(()));
    }
}
