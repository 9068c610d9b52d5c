//! What came back, counted, with every yes kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use tokio::sync::Notify;

use crate::answer::{Answer, Kind, Promise};

/// Counts that change while the crowd asks: for the progress line, and for whoever waits for a moment in the rush.
#[derive(Debug, Default)]
pub struct Progress {
    counts: [AtomicU64; Kind::ALL.len()],
    moved: Notify,
    over: AtomicBool,
}

impl Progress {
    pub(crate) fn add(&self, kind: Kind) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        if kind == Kind::Accepted {
            self.moved.notify_waiters();
        }
    }

    /// How many answers of a kind came so far.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }

    /// How many answers came so far.
    pub fn total(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.count(*kind)).sum()
    }

    /// The rush is over: nobody will be admitted any more.
    pub fn give_up(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// Waits until this many people were admitted, or [`Progress::give_up`].
    pub async fn admitted(&self, wanted: u64) {
        loop {
            let moved = self.moved.notified();
            if self.count(Kind::Accepted) >= wanted || self.over.load(Ordering::Relaxed) {
                return;
            }
            moved.await;
        }
    }
}

/// What one connection saw. Each has its own, so that counting costs no lock.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) winners: Histogram<u32>,
    pub(crate) losers: Histogram<u32>,
    pub(crate) late: u64,
    pub(crate) unclear: Option<String>,
    pub(crate) yes: Vec<(u32, Kind, Promise)>,
    pub(crate) not_queued: u64,
    pub(crate) gave_up: u64,
}

impl Seen {
    pub(crate) fn new() -> Self {
        let (winners, losers) = (latencies(), latencies());
        Self { winners, losers, late: 0, unclear: None, yes: Vec::new(), not_queued: 0, gave_up: 0 }
    }

    pub(crate) fn note(&mut self, person: u32, answer: &Answer, took: Duration) {
        let of_kind = if answer.kind == Kind::Accepted { &mut self.winners } else { &mut self.losers };
        of_kind.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if let Some(promise) = answer.promise {
            self.yes.push((person, answer.kind, promise));
        }
        self.not_queued += u64::from(!answer.queued);
    }
}

/// Microseconds to a minute, two digits: 10 kB, small enough for one a connection.
fn latencies() -> Histogram<u32> {
    // The bounds are constants that fit; 1 and 2 digits are always allowed.
    Histogram::new_with_bounds(1, 60_000_000, 2).unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// Latencies of answers, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    /// Nine of ten were faster.
    pub p90_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// 999 of 1,000 were faster.
    pub p999_ms: f64,
    pub max_ms: f64,
    /// The whole curve: quantile and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

/// Everything that came back.
#[derive(Debug, Serialize)]
pub struct Tally {
    pub people: u32,
    /// Requests they sent, retries among them.
    pub requests: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    pub per_second: f64,
    /// Answers by kind, those that came.
    #[serde(serialize_with = "as_map")]
    pub answers: Vec<(Kind, u64)>,
    /// People who were told yes.
    pub admitted: usize,
    /// Yes answers that came without Kafka's acknowledgement.
    pub not_queued: u64,
    /// Requests that were given up: unavailable, not open or without an answer until patience ended.
    pub gave_up: u64,
    /// Requests of an open loop that could not be sent on time, because every connection was waiting for an answer.
    pub late: u64,
    /// One of the answers that are none of the contract's, for whoever looks for the reason.
    pub unclear: Option<String>,
    /// How long answers took; in an open loop from the instant at which the request was due.
    pub latency: Latency,
    /// The same of those who were told `accepted`.
    pub winners: Latency,
    /// The same of every other answer.
    pub losers: Latency,
    /// What no correct system says: two slots to one person, one slot to two people, one person admitted twice.
    pub contradictions: Vec<String>,
    /// Every yes: user id and what was promised.
    #[serde(skip)]
    pub promises: HashMap<String, Promise>,
}

impl Tally {
    pub(crate) fn sum(
        progress: &Progress,
        people: u32,
        elapsed: Duration,
        seen: Vec<Seen>,
        name: impl Fn(u32) -> String,
    ) -> Self {
        let (mut latency, mut winners, mut losers) = (latencies(), latencies(), latencies());
        let mut ledger = Ledger::default();
        let (mut not_queued, mut gave_up, mut late, mut unclear) = (0, 0, 0, None);
        for part in seen {
            for (sum, part) in [(&mut winners, &part.winners), (&mut losers, &part.losers)] {
                // All have the same bounds, so nothing can fall outside.
                let _ = sum.add(part);
                let _ = latency.add(part);
            }
            late += part.late;
            unclear = unclear.or(part.unclear);
            not_queued += part.not_queued;
            gave_up += part.gave_up;
            for (person, kind, promise) in part.yes {
                ledger.note(person, kind, promise);
            }
        }
        let (requests, seconds) = (progress.total(), elapsed.as_secs_f64());
        Self {
            people,
            requests,
            seconds,
            #[allow(clippy::cast_precision_loss, reason = "a rate for people to read")]
            per_second: requests as f64 / seconds.max(0.001),
            answers: Kind::ALL.map(|kind| (kind, progress.count(kind))).into_iter().filter(|(_, n)| *n > 0).collect(),
            admitted: ledger.promises.len(),
            not_queued,
            gave_up,
            late,
            unclear,
            latency: Latency::of(&latency),
            winners: Latency::of(&winners),
            losers: Latency::of(&losers),
            contradictions: ledger.contradictions(&name),
            promises: ledger.promises.iter().map(|(person, promise)| (name(*person), *promise)).collect(),
        }
    }

    /// How many answers of a kind came.
    pub fn count(&self, wanted: Kind) -> u64 {
        self.answers.iter().find(|(kind, _)| *kind == wanted).map_or(0, |(_, count)| *count)
    }
}

fn as_map<S: Serializer>(answers: &[(Kind, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(answers.iter().map(|(kind, count)| (kind, count)))
}

impl Latency {
    fn of(histogram: &Histogram<u32>) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "at most a minute in microseconds")]
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
            curve: if histogram.is_empty() { Vec::new() } else { POINTS.map(|point| (point, at(point))).to_vec() },
        }
    }
}

/// Where the curve of latencies has its points.
const POINTS: [f64; 15] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0];

/// Who was told what.
#[derive(Default)]
struct Ledger {
    promises: HashMap<u32, Promise>,
    accepted: HashMap<u32, u32>,
    two_slots: Vec<(u32, Promise, Promise)>,
}

impl Ledger {
    fn note(&mut self, person: u32, kind: Kind, promise: Promise) {
        let first = *self.promises.entry(person).or_insert(promise);
        if first != promise {
            self.two_slots.push((person, first, promise));
        }
        if kind == Kind::Accepted {
            *self.accepted.entry(person).or_default() += 1;
        }
    }

    fn contradictions(&self, name: impl Fn(u32) -> String) -> Vec<String> {
        let mut found = Vec::new();
        for (person, first, second) in &self.two_slots {
            found.push(format!("{} was told slot {} and slot {}", name(*person), first.slot, second.slot));
        }
        for (person, times) in self.accepted.iter().filter(|(_, times)| **times > 1) {
            found.push(format!("{} was accepted {times} times", name(*person)));
        }
        let mut holders: HashMap<Promise, u32> = HashMap::new();
        for (person, promise) in &self.promises {
            if let Some(other) = holders.insert(*promise, *person) {
                found.push(format!("{} and {} were both told slot {}", name(other), name(*person), promise.slot));
            }
        }
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(yes: &[(u32, Kind, u32)]) -> Tally {
        let mut seen = Seen::new();
        for (person, kind, slot) in yes {
            let promise = Some(Promise { drop_id: 1, slot: *slot });
            seen.note(*person, &Answer { kind: *kind, promise, queued: true }, Duration::from_millis(3));
        }
        Tally::sum(&Progress::default(), 9, Duration::from_secs(1), vec![seen], |person| format!("p{person}"))
    }

    #[test]
    fn the_same_yes_again_is_no_contradiction() {
        let tally = tally(&[(1, Kind::AlreadyClaimed, 5), (1, Kind::Accepted, 5), (2, Kind::Accepted, 6)]);
        assert_eq!(tally.contradictions, Vec::<String>::new());
        assert_eq!(tally.admitted, 2);
        assert_eq!(tally.promises["p1"], Promise { drop_id: 1, slot: 5 });
        assert!((2.9..3.1).contains(&tally.latency.p50_ms), "{:?}", tally.latency);
    }

    #[test]
    fn what_no_correct_system_says_is_listed() {
        let two_slots = tally(&[(1, Kind::Accepted, 5), (1, Kind::AlreadyClaimed, 6)]);
        assert_eq!(two_slots.contradictions, ["p1 was told slot 5 and slot 6"]);
        let twice = tally(&[(1, Kind::Accepted, 5), (1, Kind::Accepted, 5)]);
        assert_eq!(twice.contradictions, ["p1 was accepted 2 times"]);
        let shared = tally(&[(1, Kind::Accepted, 5), (2, Kind::Accepted, 5)]);
        assert_eq!(shared.contradictions.len(), 1);
    }
}
