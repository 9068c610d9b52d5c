//! What a process knows about the stores and the gates: written with its heartbeat, read by the
//! evaluation of alerts. Each part is *not known yet* (missing), *fine*, or a problem; a check
//! without an answer for ten seconds is a problem. Processes say what is so, never since when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::CouponId;
use crate::report::wording::line;
use crate::report::{FailureCause, StoreRefusal, UnsafePart};

/// A check that has not ended for this long is a problem.
const HANGS: Duration = Duration::from_secs(10);

/// Longest text of a problem, in characters.
const LONGEST: usize = 400;

/// What a process knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessState {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<StoreState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<StoreState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql: Option<StoreState>,
    /// The coupons that should be open and are closed; all others that are watched are open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<BTreeSet<CouponId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<ConsumerState>,
    /// Settings of stores that allow promises to be lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsafe_settings: Option<Vec<UnsafeSetting>>,
    /// The campaigns and checks in the file of `attach`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub campaigns: BTreeSet<String>,
}

/// A store as a process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    Fine,
    /// It answers, and refuses with this error.
    Refuses {
        refusal: StoreRefusal,
        error: String,
    },
    /// It does not answer.
    Away(String),
    /// A server of the cluster does not answer; the others do.
    Partly(String),
}

/// The consumers as a process sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerState {
    Fine,
    Stands(Standstill),
}

/// Unread messages that no consumer reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    /// About how many promises wait.
    pub unread: u64,
    /// The partitions that stand; empty if all do.
    pub partitions: Vec<i32>,
}

/// A setting of a store, in the words of the check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnsafeSetting {
    pub part: UnsafePart,
    pub error: String,
}

impl StoreState {
    /// Tells a refusal from a store that does not answer.
    pub fn from_error(store: FailureCause, error: &str) -> Self {
        let text = line(error, LONGEST);
        match StoreRefusal::from_error(store, &text) {
            Some(refusal) => Self::Refuses {
                refusal,
                error: text,
            },
            None => Self::Away(text),
        }
    }

    pub fn from_result<E: ToString>(store: FailureCause, result: Result<(), E>) -> Self {
        result.map_or_else(
            |error| Self::from_error(store, &error.to_string()),
            |()| Self::Fine,
        )
    }

    pub fn is_fine(&self) -> bool {
        *self == Self::Fine
    }
}

/// The state of this process. All parts that notice something share it.
#[derive(Debug, Clone, Default)]
pub struct SeenState(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<KnownState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct KnownState {
    state: ProcessState,
    /// When the checks that have not ended began.
    redis_since: Option<Instant>,
    kafka_since: Option<Instant>,
    /// Why the last heartbeat could not be written.
    unwritten: Option<String>,
}

impl SeenState {
    /// Returns what is known. Stores whose check hangs are away.
    pub fn get(&self) -> ProcessState {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> ProcessState {
        let known = self.0.known.lock();
        let mut state = known.state.clone();
        let hangs = |since: Option<Instant>| since.is_some_and(|at| now >= at + HANGS);
        let away = || Some(StoreState::Away(format!("no answer for {HANGS:?}")));
        if hangs(known.redis_since) {
            state.redis = away();
            state.closed = None;
        }
        if hangs(known.kafka_since) {
            state.kafka = away();
        }
        state
    }

    /// Changes what is known.
    pub fn note(&self, change: impl FnOnce(&mut ProcessState)) {
        let mut known = self.0.known.lock();
        let before = known.state.clone();
        change(&mut known.state);
        if known.state != before {
            self.0.changed.notify_one();
        }
    }

    /// Notes that a check of Redis begins (`true`) or has ended.
    pub fn checks_redis(&self, begins: bool) {
        self.0.known.lock().redis_since = begins.then(Instant::now);
    }

    /// Notes that a check of Kafka begins (`true`) or has ended.
    pub fn checks_kafka(&self, begins: bool) {
        self.0.known.lock().kafka_since = begins.then(Instant::now);
    }

    /// Notes whether a heartbeat could be written.
    pub fn note_written(&self, written: Result<(), String>) {
        self.0.known.lock().unwritten = written.err();
    }

    /// Returns why the last heartbeat could not be written.
    pub fn why_not_written(&self) -> Option<String> {
        self.0.known.lock().unwritten.clone()
    }

    /// Waits for a change.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_without_an_answer_for_ten_seconds_is_a_problem() {
        let seen = SeenState::default();
        let begun = Instant::now();
        assert_eq!(seen.at(begun).redis, None, "not known yet");
        seen.note(|state| state.redis = Some(StoreState::Fine));
        seen.checks_redis(true);
        assert_eq!(seen.at(begun).redis, Some(StoreState::Fine));
        let later = Instant::now() + HANGS;
        assert!(matches!(seen.at(later).redis, Some(StoreState::Away(_))));
        seen.checks_redis(false);
        assert_eq!(seen.at(later).redis, Some(StoreState::Fine));
    }
}
