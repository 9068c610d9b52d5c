//! The health of the loop, of MySQL, of Kafka and of the membership in the group, and the
//! consumer's metrics.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use firstcome_shared::http::health::{HealthCheck, check};
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::process_state::{SeenState, StoreState};
use firstcome_shared::report::FailureCause;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use strum::IntoEnumIterator as _;

use super::record::Record;
use crate::metrics::describe_all;
use crate::rows::WriteOutcome;

/// Parts that may fail while the loop runs.
pub(super) const MYSQL: &str = "mysql";
pub(super) const GROUP: &str = "group";
pub(super) const KAFKA: &str = "kafka";

/// The trouble of [`GROUP`] until the group has assigned partitions to a client.
pub(super) const NOT_JOINED: &str = "not in the group yet";

/// Set by the loop and by the task that takes care of partitions; read by `/healthz` and `/readyz`.
#[derive(Debug)]
pub(super) struct ConsumerHealth {
    /// The loop is alive if it has iterated within this time. It also iterates while it waits for
    /// MySQL or for messages.
    stuck: Duration,
    iterated_at: Mutex<Instant>,
    troubles: Mutex<BTreeMap<&'static str, String>>,
    /// What this process tells the reconciler of the stores.
    seen: SeenState,
}

impl ConsumerHealth {
    /// Creates the initial state: alive, but not ready until the group has assigned partitions.
    pub(super) fn new(stuck: Duration, seen: SeenState) -> Self {
        Self {
            stuck,
            iterated_at: Mutex::new(Instant::now()),
            troubles: Mutex::new([(GROUP, NOT_JOINED.into())].into()),
            seen,
        }
    }

    pub(super) fn iterated(&self) {
        *self.iterated_at.lock() = Instant::now();
    }

    /// Sets the trouble of a part, or clears it with `None`. Logs when trouble begins and ends.
    pub(super) fn set(&self, what: &'static str, trouble: Option<String>) {
        let state = |store| match &trouble {
            Some(why) => StoreState::from_error(store, why),
            None => StoreState::Fine,
        };
        match what {
            MYSQL => self
                .seen
                .note(|it| it.mysql = Some(state(FailureCause::Mysql))),
            KAFKA => self
                .seen
                .note(|it| it.kafka = Some(state(FailureCause::Kafka))),
            _ => {}
        }
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

    pub(super) fn trouble(&self, what: &'static str) -> Option<String> {
        self.troubles.lock().get(what).cloned()
    }

    fn is_alive(&self, now: Instant) -> Result<(), String> {
        let still = now.saturating_duration_since(*self.iterated_at.lock());
        let alive = (still <= self.stuck).then_some(());
        alive.ok_or_else(|| format!("the loop has stood still for {still:.0?}"))
    }

    pub(super) fn alive(self: &Arc<Self>) -> HealthCheck {
        let health = Arc::clone(self);
        check(move || ready(health.is_alive(Instant::now())))
    }

    pub(super) fn ready(self: &Arc<Self>) -> Vec<(&'static str, HealthCheck)> {
        let works = |what| {
            let health = Arc::clone(self);
            let trouble = move || health.trouble(what);
            (what, check(move || ready(trouble().map_or(Ok(()), Err))))
        };
        let works = [MYSQL, KAFKA, GROUP].map(works).into_iter();
        works.chain([("loop", self.alive())]).collect()
    }
}

const METRICS: &str = "\
gauge firstcome_consumer_lag Messages of the partitions this process reads that have no rows yet; keeps its value while that is unknown
histogram firstcome_issue_delay_seconds Time from a claim's admission (Redis's clock) to its row or refusal (this host's); read again, counted again
counter firstcome_consumer_issued_total Rows written
counter firstcome_consumer_duplicates_total Claims that were published or read before
counter firstcome_consumer_retries_total Attempts repeated because MySQL failed
counter firstcome_consumer_rebalances_total Assignments of partitions
labelled firstcome_consumer_refused_total Claims kept in the dead-letter table, by reason";

pub(super) fn describe_metrics() {
    describe_all(METRICS);
    for reason in DeadLetterReason::iter().filter(|reason| reason.is_of_consumer()) {
        counter!("firstcome_consumer_refused_total", "reason" => reason.as_str()).absolute(0);
    }
}

/// Counts a batch with this number of `claims`, of which `records` were not repeats.
pub(super) fn count_batch(records: &[Record], claims: usize, outcomes: &[WriteOutcome]) {
    let number = |wanted| outcomes.iter().filter(|it| **it == wanted).count();
    counter!("firstcome_consumer_issued_total").increment(number(WriteOutcome::Issued) as u64);
    let again = claims - records.len() + number(WriteOutcome::Again);
    counter!("firstcome_consumer_duplicates_total").increment(again as u64);
    let now = Utc::now();
    let delay = histogram!("firstcome_issue_delay_seconds");
    for claim in records.iter().flat_map(|record| &record.claim) {
        if let Some(claimed_at) = claim.claimed_at {
            // The delay is negative if this host's clock is behind Redis's clock.
            let passed = (now - claimed_at).to_std().unwrap_or_default();
            delay.record(passed.as_secs_f64());
        }
    }
    for outcome in outcomes {
        if let WriteOutcome::Refused(reason, _) = outcome {
            counter!("firstcome_consumer_refused_total", "reason" => reason.as_str()).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_loop_is_not_alive_until_it_resumes() {
        let health = ConsumerHealth::new(Duration::from_secs(30), SeenState::default());
        let now = Instant::now();
        assert_eq!(health.is_alive(now + Duration::from_secs(29)), Ok(()));
        let stuck = health.is_alive(now + Duration::from_secs(32));
        assert!(stuck.is_err_and(|reason| reason.contains("stood still for 3")));
        health.iterated();
        assert_eq!(health.is_alive(Instant::now()), Ok(()));
    }
}
