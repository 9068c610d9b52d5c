//! Counts the answers of a crowd as they arrive, and summarises them afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use strum::{EnumCount as _, VariantArray as _};
use tokio::sync::Notify;

use crate::answer::AnswerKind;
use crate::terminal::{grouped, number};

/// Live counts while the crowd claims, for the progress line and for waiting until a number of
/// users is admitted.
#[derive(Debug, Default)]
pub struct CrowdProgress {
    counts: [AtomicU64; AnswerKind::COUNT],
    moved: Notify,
    over: AtomicBool,
}

impl CrowdProgress {
    pub(crate) fn add(&self, kind: AnswerKind) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        if kind == AnswerKind::Accepted {
            self.moved.notify_waiters();
        }
    }

    /// Returns the number of answers of a kind so far.
    pub fn count(&self, kind: AnswerKind) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of answers by kind. Kinds without answers are absent.
    fn counts(&self) -> BTreeMap<AnswerKind, u64> {
        let counts = AnswerKind::VARIANTS
            .iter()
            .map(|kind| (*kind, self.count(*kind)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Formats the progress line.
    pub fn line(&self) -> String {
        let counts = self.counts();
        let shown = counts
            .iter()
            .map(|(kind, count)| format!("{kind} {}", grouped(*count)));
        let total = grouped(counts.values().sum());
        format!(
            "{total} answers · {}",
            shown.collect::<Vec<_>>().join(" · ")
        )
    }

    /// Ends all waits, because no more users will be admitted.
    pub fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// Waits until this many users are admitted, or until [`CrowdProgress::give_up`].
    pub async fn admitted(&self, wanted: u64) {
        loop {
            let moved = self.moved.notified();
            if self.count(AnswerKind::Accepted) >= wanted || self.over.load(Ordering::Relaxed) {
                return;
            }
            moved.await;
        }
    }
}

/// The answers of one connection. Each connection has separate counts, so that counting needs no
/// lock.
#[derive(Debug)]
pub struct ConnectionTally {
    winners: Histogram<u32>,
    others: Histogram<u32>,
    /// The users with a promise. Users who asked again occur several times.
    promised: Vec<u32>,
    pub(crate) late: u64,
    pub(crate) gave_up: u64,
    pub(crate) unclear: Option<String>,
}

impl ConnectionTally {
    #[allow(
        clippy::new_without_default,
        reason = "a tally begins with its histograms"
    )]
    pub fn new() -> Self {
        Self {
            winners: latencies(),
            others: latencies(),
            promised: Vec::new(),
            late: 0,
            gave_up: 0,
            unclear: None,
        }
    }

    /// Counts an answer to a request that was due at `asked`, or that was then sent as a retry.
    pub fn note(&mut self, person: u32, answer: AnswerKind, asked: Instant) {
        let histogram = if answer == AnswerKind::Accepted {
            &mut self.winners
        } else {
            &mut self.others
        };
        histogram.saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        if answer.is_promise() {
            self.promised.push(person);
        }
    }

    fn add(&mut self, other: Self) {
        // All histograms have the same limits, so this cannot fail.
        let _ = self.winners.add(other.winners);
        let _ = self.others.add(other.others);
        self.promised.extend(other.promised);
        self.late += other.late;
        self.gave_up += other.gave_up;
        self.unclear = self.unclear.take().or(other.unclear);
    }
}

/// Creates a histogram of microseconds up to a minute with two significant digits. It takes 10 kB,
/// which is little enough for two per connection.
fn latencies() -> Histogram<u32> {
    // The limits are constants that fit, and 1 and 2 digits are always allowed.
    Histogram::new_with_bounds(1, 60_000_000, 2).unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// Latencies of answers, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tally {
    pub people: u32,
    /// Seconds from the first request to the last response.
    pub seconds: f64,
    /// Requests per second, including retries.
    pub per_second: f64,
    /// Number of answers by kind. Kinds without answers are absent.
    pub answers: BTreeMap<AnswerKind, u64>,
    /// Number of requests that were abandoned, because the coupon was unavailable, not open or
    /// unanswered until patience ran out.
    pub gave_up: u64,
    /// Number of requests of an open loop that were not sent on time, because every connection was
    /// busy.
    pub late: u64,
    /// One of the answers outside the contract, for diagnosis.
    pub unclear: Option<String>,
    /// Latency of `accepted`. In an open loop it counts from the due time of the request, and for a
    /// retry from its sending.
    pub winners: Latency,
    /// Latency of all other answers.
    pub others: Latency,
    /// CPU seconds that this process used.
    pub cpu_seconds: f64,
    /// The IDs of the users with a promise.
    pub promised: BTreeSet<String>,
}

impl Tally {
    /// Summarises the counts of all connections. `name` returns the ID of a user.
    pub fn sum(
        progress: &CrowdProgress,
        people: u32,
        seconds: f64,
        parts: Vec<ConnectionTally>,
        name: impl Fn(u32) -> String,
    ) -> Self {
        let mut all = ConnectionTally::new();
        for part in parts {
            all.add(part);
        }
        let answers = progress.counts();
        #[allow(clippy::cast_precision_loss, reason = "a rate for display")]
        let per_second = answers.values().sum::<u64>() as f64 / seconds.max(1e-6);
        Self {
            people,
            seconds,
            per_second,
            answers,
            gave_up: all.gave_up,
            late: all.late,
            unclear: all.unclear,
            winners: Latency::of(&all.winners),
            others: Latency::of(&all.others),
            cpu_seconds: 0.0,
            promised: all.promised.into_iter().map(name).collect(),
        }
    }

    /// Returns the number of answers with one of these kinds.
    pub fn count(&self, kinds: &[AnswerKind]) -> u64 {
        kinds.iter().filter_map(|kind| self.answers.get(kind)).sum()
    }

    pub fn requests(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Whether every user got a final answer, and every answer was understood.
    pub fn good(&self) -> bool {
        let unclear = self.count(&[AnswerKind::Failed, AnswerKind::Refused]);
        unclear + self.gave_up == 0
    }

    /// Returns the rows of a table for the terminal.
    pub fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |what: &str, value: String| rows.push((what.to_owned(), value));
        row("users who claimed", grouped(self.people.into()));
        row("requests", grouped(self.requests()));
        let build = if cfg!(debug_assertions) {
            " (an unoptimized build)"
        } else {
            ""
        };
        let rate = number(self.per_second);
        row(
            "took",
            format!("{:.1} s, {rate} per second{build}", self.seconds),
        );
        let cores = self.cpu_seconds / self.seconds.max(1e-6);
        row("cores that this tool used", number(cores));
        for (who, latency) in [("winners", &self.winners), ("all others", &self.others)] {
            if latency.count > 0 {
                let what = format!("latency p50 · p99 · p99.9 · max, {who}");
                row(&what, latency.to_string());
            }
        }
        for (kind, count) in &self.answers {
            row(&format!("answered {kind}"), grouped(*count));
        }
        row("users with a promise", grouped(self.promised.len() as u64));
        row("requests given up", grouped(self.gave_up));
        rows
    }
}

impl Latency {
    fn of(histogram: &Histogram<u32>) -> Self {
        #[allow(
            clippy::cast_precision_loss,
            reason = "at most a minute in microseconds"
        )]
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            p50_ms,
            p99_ms,
            p999_ms,
            max_ms,
            ..
        } = self;
        write!(
            f,
            "{p50_ms:.1} · {p99_ms:.1} · {p999_ms:.1} · {max_ms:.1} ms"
        )
    }
}
