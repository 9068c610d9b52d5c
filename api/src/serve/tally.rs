//! Counts of what happens a hundred thousand times a second: kept by thread, so that the processors don't hand one counter's memory
//! to and fro for each claim, and added to the figures in batches, and whenever the figures are read.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Histogram};

/// More threads than these share.
const SHARDS: usize = 16;

/// As many as are added at once.
const BATCH: usize = 64;

/// One kind of answer: how many, and how long each took.
pub(super) struct Tally {
    counters: Vec<Counter>,
    seconds: Histogram,
    shards: [Shard; SHARDS],
}

/// Alone in its lines of the processor's cache.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Vec<f64>>);

impl Tally {
    /// Adds to each of these counters, and to this histogram.
    pub(super) fn new(counters: Vec<Counter>, seconds: Histogram) -> Self {
        Self { counters, seconds, shards: Default::default() }
    }

    /// One more, that took so long.
    pub(super) fn note(&self, seconds: f64) {
        let shard = &self.shards[this_thread() % SHARDS];
        let mut kept = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(seconds);
        if kept.len() >= BATCH {
            self.add(&mut kept);
        }
    }

    /// Adds what is kept: the figures are whole then.
    pub(super) fn settle(&self) {
        for shard in &self.shards {
            self.add(&mut shard.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn add(&self, kept: &mut Vec<f64>) {
        for counter in &self.counters {
            counter.increment(kept.len() as u64);
        }
        for seconds in kept.drain(..) {
            self.seconds.record(seconds);
        }
    }
}

/// A number of this thread's own.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed)));
    MINE.get()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use metrics::{CounterFn, HistogramFn};

    use super::*;

    #[derive(Default)]
    struct Seen {
        counted: AtomicU64,
        timed: Mutex<Vec<f64>>,
    }

    impl CounterFn for Seen {
        fn increment(&self, value: u64) {
            self.counted.fetch_add(value, Ordering::SeqCst);
        }

        fn absolute(&self, _: u64) {
            unreachable!("nothing is set")
        }
    }

    impl HistogramFn for Seen {
        fn record(&self, value: f64) {
            self.timed.lock().unwrap().push(value);
        }
    }

    #[test]
    fn everything_that_any_thread_noted_is_there_once_it_is_settled() {
        let seen = Arc::new(Seen::default());
        let counters = vec![Counter::from_arc(Arc::clone(&seen)), Counter::from_arc(Arc::clone(&seen))];
        let tally = Tally::new(counters, Histogram::from_arc(Arc::clone(&seen)));
        let threads = SHARDS + 4;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..BATCH + 7).for_each(|n| tally.note(f64::from(u32::try_from(n).unwrap()))));
            }
        });
        assert!(!seen.timed.lock().unwrap().is_empty(), "full batches are added by themselves");
        tally.settle();
        tally.settle();
        let all = threads * (BATCH + 7);
        assert_eq!(seen.counted.load(Ordering::SeqCst), 2 * all as u64);
        let timed = seen.timed.lock().unwrap();
        assert_eq!(timed.len(), all);
        #[allow(clippy::cast_precision_loss)]
        let sum = (threads * (BATCH + 7) * (BATCH + 6) / 2) as f64;
        assert!((timed.iter().sum::<f64>() - sum).abs() < 1e-6);
    }
}
