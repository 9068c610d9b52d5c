//! Counts the answers of a crowd as they arrive, and summarises them afterwards with every promise.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::answer::{AnswerKind, CrowdAnswer, PromisedSlot};

/// Live counts while the crowd claims, for the progress line and for waiting until a number of
/// users is admitted.
#[derive(Debug, Default)]
pub struct CrowdProgress {
    counts: [AtomicU64; AnswerKind::ALL.len()],
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

    pub fn total(&self) -> u64 {
        AnswerKind::ALL.iter().map(|kind| self.count(*kind)).sum()
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
pub(crate) struct ConnectionTally {
    winners: Histogram<u32>,
    others: Histogram<u32>,
    promises: Vec<(u32, AnswerKind, PromisedSlot)>,
    denied: Vec<u32>,
    not_queued: u64,
    pub(crate) late: u64,
    pub(crate) gave_up: u64,
    pub(crate) unclear: Option<String>,
}

impl ConnectionTally {
    pub(crate) fn new() -> Self {
        Self {
            winners: latencies(),
            others: latencies(),
            promises: Vec::new(),
            denied: Vec::new(),
            not_queued: 0,
            late: 0,
            gave_up: 0,
            unclear: None,
        }
    }

    /// Counts an answer to a request that was due at `asked`.
    pub(crate) fn note(&mut self, person: u32, answer: &CrowdAnswer, asked: Instant) {
        let histogram = if answer.kind == AnswerKind::Accepted {
            &mut self.winners
        } else {
            &mut self.others
        };
        histogram.saturating_record(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
        if let Some(promise) = answer.promise {
            self.promises.push((person, answer.kind, promise));
        }
        if answer.kind == AnswerKind::SoldOut {
            self.denied.push(person);
        }
        self.not_queued += u64::from(!answer.queued);
    }

    fn add(&mut self, other: Self) {
        // All histograms have the same limits, so this cannot fail.
        let _ = self.winners.add(other.winners);
        let _ = self.others.add(other.others);
        self.promises.extend(other.promises);
        self.denied.extend(other.denied);
        self.not_queued += other.not_queued;
        self.late += other.late;
        self.gave_up += other.gave_up;
        self.unclear = self.unclear.take().or(other.unclear);
    }
}

/// Creates a histogram of microseconds up to a minute with two significant digits. It takes 10 kB,
/// which is little enough for one per connection.
fn latencies() -> Histogram<u32> {
    // The limits are constants that fit, and 1 and 2 digits are always allowed.
    Histogram::new_with_bounds(1, 60_000_000, 2).unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// Latencies of answers, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tally {
    pub people: u32,
    /// Number of requests sent, including retries.
    pub requests: u64,
    /// Seconds from the first request to the last response.
    pub seconds: f64,
    pub per_second: f64,
    /// Number of answers by kind. Kinds without answers are absent.
    pub answers: BTreeMap<AnswerKind, u64>,
    /// Number of users who were promised a coupon.
    pub admitted: usize,
    /// Number of promises that Kafka had not acknowledged.
    pub not_queued: u64,
    /// Number of requests that were abandoned, because the coupon was unavailable, not open or
    /// unanswered until patience ran out.
    pub gave_up: u64,
    /// Number of requests of an open loop that were not sent on time, because every connection was
    /// busy.
    pub late: u64,
    /// The first answer outside the contract, for diagnosis.
    pub unclear: Option<String>,
    /// Latency of all answers. In an open loop it counts from the due time of the request.
    pub latency: Latency,
    /// Latency of `accepted`.
    pub winners: Latency,
    /// Latency of all other answers.
    pub others: Latency,
    /// Contradictory answers: two slots for one user, one slot for two users, or a user who was
    /// admitted twice.
    pub contradictions: Vec<String>,
    /// Number of users who were promised a coupon but also got `sold_out`.
    pub holders_denied: u64,
    /// CPU seconds that this process used.
    pub cpu_seconds: f64,
    /// Every promise, by user ID.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub promises: HashMap<String, PromisedSlot>,
    /// Users who got `accepted`, and not only `already_claimed`.
    #[serde(default, skip_serializing_if = "HashSet::is_empty")]
    pub accepted: HashSet<String>,
}

impl Tally {
    /// Summarises the counts of all connections over `elapsed`. `name` returns the ID of a user.
    pub(crate) fn sum(
        progress: &CrowdProgress,
        people: u32,
        elapsed: Duration,
        parts: Vec<ConnectionTally>,
        name: impl Fn(u32) -> String,
    ) -> Self {
        let mut all = ConnectionTally::new();
        for part in parts {
            all.add(part);
        }
        let denied: HashSet<u32> = all.denied.into_iter().collect();
        let mut ledger = PromiseLedger::default();
        for (person, kind, promise) in all.promises {
            ledger.note(person, kind, promise);
        }
        let mut latency = all.winners.clone();
        let _ = latency.add(&all.others);
        let requests = progress.total();
        let seconds = elapsed.as_secs_f64();
        Self {
            people,
            requests,
            seconds,
            #[allow(clippy::cast_precision_loss, reason = "a rate for display")]
            per_second: requests as f64 / seconds.max(1e-6),
            answers: AnswerKind::ALL
                .map(|kind| (kind, progress.count(kind)))
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .collect(),
            admitted: ledger.promises.len(),
            not_queued: all.not_queued,
            gave_up: all.gave_up,
            late: all.late,
            unclear: all.unclear,
            latency: Latency::of(&latency),
            winners: Latency::of(&all.winners),
            others: Latency::of(&all.others),
            contradictions: ledger.contradictions(&name),
            holders_denied: ledger
                .promises
                .keys()
                .filter(|person| denied.contains(*person))
                .count() as u64,
            cpu_seconds: 0.0,
            accepted: ledger.accepted.keys().map(|person| name(*person)).collect(),
            promises: ledger
                .promises
                .iter()
                .map(|(person, promise)| (name(*person), *promise))
                .collect(),
        }
    }

    pub fn count(&self, kind: AnswerKind) -> u64 {
        self.answers.get(&kind).copied().unwrap_or(0)
    }

    /// Fails unless every request was accepted.
    pub fn everyone_won(&self) -> Result<()> {
        ensure!(
            self.count(AnswerKind::Accepted) == self.requests,
            "not everyone won: {:?}",
            self.answers
        );
        Ok(())
    }

    /// Counts the answers that a healthy system does not give.
    pub fn unhealthy(&self) -> u64 {
        [
            AnswerKind::Failed,
            AnswerKind::NoAnswer,
            AnswerKind::Refused,
            AnswerKind::Unavailable,
        ]
        .map(|kind| self.count(kind))
        .iter()
        .sum()
    }

    /// Drops the user IDs, which a report does not need.
    pub fn forget_names(&mut self) {
        self.promises.clear();
        self.accepted.clear();
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
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// All promises of all connections.
#[derive(Default)]
struct PromiseLedger {
    promises: HashMap<u32, PromisedSlot>,
    accepted: HashMap<u32, u32>,
    two_slots: Vec<(u32, PromisedSlot, PromisedSlot)>,
}

impl PromiseLedger {
    fn note(&mut self, person: u32, kind: AnswerKind, promise: PromisedSlot) {
        let first = *self.promises.entry(person).or_insert(promise);
        if first != promise {
            self.two_slots.push((person, first, promise));
        }
        if kind == AnswerKind::Accepted {
            *self.accepted.entry(person).or_default() += 1;
        }
    }

    fn contradictions(&self, name: impl Fn(u32) -> String) -> Vec<String> {
        let mut found = Vec::new();
        for (person, first, second) in &self.two_slots {
            found.push(format!(
                "{} was promised slot {} and slot {}",
                name(*person),
                first.slot,
                second.slot
            ));
        }
        for (person, times) in self.accepted.iter().filter(|(_, times)| **times > 1) {
            found.push(format!("{} was accepted {times} times", name(*person)));
        }
        let mut holders: HashMap<PromisedSlot, u32> = HashMap::new();
        for (person, promise) in &self.promises {
            if let Some(other) = holders.insert(*promise, *person) {
                found.push(format!(
                    "{} and {} were both promised slot {}",
                    name(other),
                    name(*person),
                    promise.slot
                ));
            }
        }
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(yes: &[(u32, AnswerKind, u32)]) -> Tally {
        let mut part = ConnectionTally::new();
        let begun = Instant::now();
        for (person, kind, slot) in yes {
            let promise = Some(PromisedSlot {
                drop_id: 1,
                slot: *slot,
            });
            part.note(
                *person,
                &CrowdAnswer {
                    kind: *kind,
                    promise,
                    queued: true,
                },
                begun,
            );
        }
        Tally::sum(
            &CrowdProgress::default(),
            9,
            Duration::from_secs(1),
            vec![part],
            |person| format!("p{person}"),
        )
    }

    #[test]
    fn repeated_promise_is_not_a_contradiction() {
        let tally = tally(&[
            (1, AnswerKind::AlreadyClaimed, 5),
            (1, AnswerKind::Accepted, 5),
            (2, AnswerKind::Accepted, 6),
        ]);
        assert_eq!(tally.contradictions, Vec::<String>::new());
        assert_eq!(tally.admitted, 2);
        assert_eq!(
            tally.promises["p1"],
            PromisedSlot {
                drop_id: 1,
                slot: 5
            }
        );
        assert_eq!(
            (tally.latency.count, tally.winners.count, tally.others.count),
            (3, 2, 1)
        );
        assert_eq!(tally.accepted, ["p1", "p2"].map(String::from).into());
    }

    #[test]
    fn lists_contradictions() {
        let two_slots = tally(&[
            (1, AnswerKind::Accepted, 5),
            (1, AnswerKind::AlreadyClaimed, 6),
        ]);
        assert_eq!(
            two_slots.contradictions,
            ["p1 was promised slot 5 and slot 6"]
        );
        let twice = tally(&[(1, AnswerKind::Accepted, 5), (1, AnswerKind::Accepted, 5)]);
        assert_eq!(twice.contradictions, ["p1 was accepted 2 times"]);
        let shared = tally(&[(1, AnswerKind::Accepted, 5), (2, AnswerKind::Accepted, 5)]);
        assert_eq!(shared.contradictions.len(), 1);
    }
}
