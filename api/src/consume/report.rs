//! The health of the loop, of MySQL and of Kafka, and the consumer's metrics.

use std::sync::Arc;
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

use super::write::{Record, Written};

/// Set by the loop; read by `/healthz` and `/readyz`.
#[derive(Debug)]
pub(super) struct Health {
    /// The loop is alive if it has iterated within this time. It also iterates while it waits for
    /// MySQL or for messages.
    stuck: Duration,
    iterated_at: Mutex<Instant>,
    mysql: Mutex<Option<String>>,
    group: Mutex<Option<String>>,
    kafka: Mutex<Option<String>>,
}

/// Logs trouble when it begins and ends.
fn set(now: &Mutex<Option<String>>, what: &str, trouble: Option<String>) {
    let mut now = now.lock();
    match (&trouble, &*now) {
        (Some(why), None) => {
            tracing::warn!(why, "{what}; this is tried again until it works")
        }
        (None, Some(_)) => tracing::info!("over: {what}"),
        _ => {}
    }
    *now = trouble;
}

impl Health {
    /// Creates the initial state: alive, but not ready until the group has assigned partitions.
    pub(super) fn new(stuck_seconds: u64) -> Self {
        Self {
            stuck: Duration::from_secs(stuck_seconds),
            iterated_at: Mutex::new(Instant::now()),
            mysql: Mutex::default(),
            group: Mutex::new(Some("not in the group yet".into())),
            kafka: Mutex::default(),
        }
    }

    pub(super) fn iterated(&self) {
        *self.iterated_at.lock() = Instant::now();
    }

    /// Reports why MySQL does not accept batches, or `None` if it does.
    pub(super) fn mysql(&self, trouble: Option<String>) {
        set(&self.mysql, "a batch could not be written", trouble);
    }

    /// Reports why the group does not accept this process, or `None` if it does.
    pub(super) fn group(&self, trouble: Option<String>) {
        set(&self.group, "the group does not accept this process", trouble);
    }

    /// Reports why Kafka does not answer, or `None` if it does.
    pub(super) fn kafka(&self, trouble: Option<String>) {
        set(&self.kafka, "Kafka does not answer", trouble);
    }

    fn alive_at(&self, now: Instant) -> Result<(), String> {
        let still = now.saturating_duration_since(*self.iterated_at.lock());
        let seconds = still.as_secs();
        let is_alive = still <= self.stuck;
        is_alive
            .then_some(())
            .ok_or_else(|| format!("the loop has stood still for {seconds} s"))
    }

    pub(super) fn alive(self: &Arc<Self>) -> HealthCheck {
        let health = Arc::clone(self);
        check(move || std::future::ready(health.alive_at(Instant::now())))
    }

    /// Returns the checks for `/readyz`. MySQL is queried only if the last batch was written.
    pub(super) fn ready(self: &Arc<Self>, db: &Db) -> Vec<(&'static str, HealthCheck)> {
        let health = Arc::clone(self);
        let db = db.clone();
        let mysql = check(move || {
            let trouble = health.mysql.lock().clone();
            let db = db.clone();
            async move {
                match trouble {
                    Some(trouble) => Err(trouble),
                    None => db.ping().await.map_err(|error| error.to_string()),
                }
            }
        });
        let health = Arc::clone(self);
        let kafka = move || {
            let trouble = health
                .group
                .lock()
                .clone()
                .or_else(|| health.kafka.lock().clone());
            std::future::ready(trouble.map_or(Ok(()), Err))
        };
        vec![
            ("mysql", mysql),
            ("kafka", check(kafka)),
            ("loop", self.alive()),
        ]
    }
}

pub(super) const LAG: &str = "firstcome_consumer_lag";
pub(super) const REBALANCES: &str = "firstcome_consumer_rebalances_total";
pub(super) const RETRIES: &str = "firstcome_consumer_retries_total";
const ISSUE_DELAY: &str = "firstcome_issue_delay_seconds";
const ISSUED: &str = "firstcome_consumer_issued_total";
const AGAIN: &str = "firstcome_consumer_again_total";
pub(super) const REFUSED: &str = "firstcome_consumer_refused_total";

/// Describes all metrics. Counters begin at 0, because a counter that first appears at 1 hides its
/// first increase.
pub(super) fn describe_metrics() {
    let unread = "Messages of the partitions this process reads that have no rows yet";
    describe_gauge!(LAG, unread);
    gauge!(LAG).set(0.0);
    let delay = "Time from a claim's admission (Redis's clock) to its row (this host's); read again, counted again";
    describe_histogram!(ISSUE_DELAY, Unit::Seconds, delay);
    for (name, meaning) in [
        (ISSUED, "Rows written"),
        (AGAIN, "Claims that were published or read before"),
        (
            RETRIES,
            "Batches tried again because MySQL was unavailable, locked or slow",
        ),
        (
            REBALANCES,
            "Rebalances of the group, as this process saw them",
        ),
    ] {
        describe_counter!(name, meaning);
        counter!(name).absolute(0);
    }
    describe_counter!(REFUSED, "Claims kept in the dead-letter table, by reason");
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
}

/// Counts a batch of `claims`, of which `records` were not repeats.
pub(super) fn count_batch(records: &[Record], claims: usize, written: &Written) {
    counter!(ISSUED).increment(written.issued);
    counter!(AGAIN).increment(written.again + (claims - records.len()) as u64);
    let now = Utc::now();
    let delay = histogram!(ISSUE_DELAY);
    for claim in records
        .iter()
        .filter_map(|it| it.message.claims[it.part].as_ref().ok())
    {
        // The delay is negative if this host's clock is behind Redis's clock.
        delay.record(
            (now - claim.claimed_at)
                .to_std()
                .unwrap_or_default()
                .as_secs_f64(),
        );
    }
    for (reason, count) in &written.refused {
        counter!(REFUSED, "reason" => *reason).increment(*count);
        tracing::warn!(
            reason,
            count,
            "claims could not become rows and are kept in failed_claims"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_loop_is_not_alive_until_it_resumes() {
        let health = Health::new(30);
        let now = Instant::now();
        assert_eq!(health.alive_at(now + Duration::from_secs(29)), Ok(()));
        let stuck = health.alive_at(now + Duration::from_secs(32));
        assert!(stuck.is_err_and(|reason| reason.contains("stood still for 3")));
        health.iterated();
        assert_eq!(health.alive_at(Instant::now()), Ok(()));
    }
}
