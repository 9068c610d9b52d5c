//! The health of the loop, of MySQL and of Kafka, and the consumer's metrics.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use firstcome_shared::coupon::ClaimFault;
use firstcome_shared::http::health::{HealthCheck, check};
use firstcome_shared::kafka::FORGED;
use firstcome_shared::mysql::dead_letters::UNREADABLE;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};
use parking_lot::Mutex;

use super::record::Record;
use super::write::ROW_LOCKED;
use crate::rows::Outcome;

/// What may be in trouble while the loop runs.
pub(super) const MYSQL: &str = "mysql";
pub(super) const GROUP: &str = "group";
pub(super) const KAFKA: &str = "kafka";

/// Set by the loop; read by `/healthz` and `/readyz`.
#[derive(Debug)]
pub(super) struct Health {
    /// The loop is alive if it has iterated within this time. It also iterates while it waits for
    /// MySQL or for messages.
    stuck: Duration,
    iterated_at: Mutex<Instant>,
    troubles: Mutex<BTreeMap<&'static str, String>>,
}

impl Health {
    /// Creates the initial state: alive, but not ready until the group has assigned partitions.
    pub(super) fn new(stuck: Duration) -> Self {
        Self {
            stuck,
            iterated_at: Mutex::new(Instant::now()),
            troubles: Mutex::new([(GROUP, "not in the group yet".into())].into()),
        }
    }

    pub(super) fn iterated(&self) {
        *self.iterated_at.lock() = Instant::now();
    }

    /// Reports trouble, or `None` if there is none. Logs when it begins and ends.
    pub(super) fn set(&self, what: &'static str, trouble: Option<String>) {
        let mut troubles = self.troubles.lock();
        if let Some(why) = trouble {
            if !troubles.contains_key(what) {
                tracing::warn!(what, why, "this is tried again until it works");
            }
            troubles.insert(what, why);
        } else if troubles.remove(what).is_some() {
            tracing::info!(what, "the trouble is over");
        }
    }

    fn is_alive(&self, now: Instant) -> Result<(), String> {
        let still = now.saturating_duration_since(*self.iterated_at.lock());
        if still <= self.stuck {
            return Ok(());
        }
        Err(format!("the loop has stood still for {still:.0?}"))
    }

    pub(super) fn alive(self: &Arc<Self>) -> HealthCheck {
        let health = Arc::clone(self);
        check(move || ready(health.is_alive(Instant::now())))
    }

    /// Returns the checks for `/readyz`.
    pub(super) fn ready(self: &Arc<Self>) -> Vec<(&'static str, HealthCheck)> {
        let works = |what| {
            let health = Arc::clone(self);
            let trouble = move || health.troubles.lock().get(what).cloned();
            (what, check(move || ready(trouble().map_or(Ok(()), Err))))
        };
        let mut checks: Vec<_> = [MYSQL, KAFKA, GROUP].map(works).into();
        checks.push(("loop", self.alive()));
        checks
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
    let delay = "Time from a claim's admission (Redis's clock) to its row (this host's); read again, counted again";
    describe_histogram!(ISSUE_DELAY, Unit::Seconds, delay);
    for (name, meaning) in [
        (ISSUED, "Rows written"),
        (AGAIN, "Claims that were published or read before"),
        (RETRIES, "Attempts repeated because MySQL failed"),
        (REBALANCES, "Assignments of partitions"),
    ] {
        describe_counter!(name, meaning);
        counter!(name).absolute(0);
    }
    describe_counter!(REFUSED, "Claims kept in the dead-letter table, by reason");
    let faults = [ClaimFault::SealedDrop, ClaimFault::OutsideWindow].map(ClaimFault::reason);
    let others = "undecodable unknown_drop slot_out_of_range slot_taken already_has_one bad_data";
    let others = others.split(' ').chain([ROW_LOCKED, UNREADABLE, FORGED]);
    for reason in faults.into_iter().chain(others) {
        counter!(REFUSED, "reason" => reason).absolute(0);
    }
}

/// Counts a batch of `claims`, of which `records` were not repeats.
pub(super) fn count_batch(records: &[Record], claims: usize, outcomes: &[Outcome]) {
    let number = |wanted| outcomes.iter().filter(|it| **it == wanted).count();
    counter!(ISSUED).increment(number(Outcome::Issued) as u64);
    let again = claims - records.len() + number(Outcome::Again);
    counter!(AGAIN).increment(again as u64);
    let now = Utc::now();
    let delay = histogram!(ISSUE_DELAY);
    for claim in records.iter().flat_map(|record| &record.claim) {
        // The delay is negative if this host's clock is behind Redis's clock.
        let passed = (now - claim.claimed_at).to_std().unwrap_or_default();
        delay.record(passed.as_secs_f64());
    }
    let mut refused = 0;
    for outcome in outcomes {
        if let Outcome::Refused(reason, _) = outcome {
            counter!(REFUSED, "reason" => *reason).increment(1);
            refused += 1;
        }
    }
    if refused > 0 {
        tracing::warn!(refused, "dead letters of claims that cannot become rows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_loop_is_not_alive_until_it_resumes() {
        let health = Health::new(Duration::from_secs(30));
        let now = Instant::now();
        assert_eq!(health.is_alive(now + Duration::from_secs(29)), Ok(()));
        let stuck = health.is_alive(now + Duration::from_secs(32));
        assert!(stuck.is_err_and(|reason| reason.contains("stood still for 3")));
        health.iterated();
        assert_eq!(health.is_alive(Instant::now()), Ok(()));
    }
}
