//! The pace of rows: a token bucket that never saves tokens. All consumers together may insert a
//! number of rows in a second. Each has the share of its partitions, owes what it has inserted, and
//! writes again once that is paid at its present share. Consumers share nothing else: a rebalance
//! changes the shares, and with them how fast a debt shrinks.
//!
//! Only inserted rows and dead letters count, because users who look up their claims make the APIs
//! publish them again. A message is written whole, so single seconds may exceed the limit. A minute
//! exceeds it by at most a quarter of a second's rows and one message for each consumer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::rows::WriteOutcome;

/// How long a suspension of the pace stays in force after it was read from MySQL: longer than the
/// second until the next read.
const SUSPENDED_FOR: Duration = Duration::from_secs(3);

/// Number of full batches in a second's share of rows.
const BATCHES_PER_SECOND: f64 = 4.0;

/// A debt below this fraction of a row is a rounding error.
const PAID: f64 = 1e-6;

/// The debt of one consumer, in rows.
#[derive(Debug)]
struct Debt {
    rows: f64,
    /// Rows per second at the last payment, and the time of that payment.
    rate: f64,
    paid_at: Instant,
    /// Until then nothing is owed: a coupon waits until all messages are read.
    suspended_until: Option<Instant>,
}

impl Debt {
    fn is_suspended(&self, now: Instant) -> bool {
        self.suspended_until.is_some_and(|until| now < until)
    }

    /// Pays for the time since the last payment. The share may have changed at any moment since, so
    /// the smaller of the old and the new share counts.
    fn pay(&mut self, now: Instant, rate: f64) {
        let passed = now.saturating_duration_since(self.paid_at).as_secs_f64();
        self.rows -= passed * rate.min(self.rate);
        if self.rows < PAID {
            self.rows = 0.0;
        }
        self.rate = rate;
        self.paid_at = now;
    }

    /// Adds rows to the debt. The time before they were written pays for none of them.
    fn owe(&mut self, now: Instant, rows: usize) {
        self.pay(now, self.rate);
        self.rows += number(rows);
    }

    /// Returns the time until the debt is paid at the present share: [`Duration::MAX`] if that is
    /// zero.
    fn wait(&self) -> Duration {
        if self.rows <= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(self.rows / self.rate).unwrap_or(Duration::MAX)
    }
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// The pace of one process. It outlives a Kafka client that is replaced.
#[derive(Debug)]
pub(super) struct Pace {
    /// Rows that all consumers may insert in a second. `None`: there is no limit.
    limit: Option<f64>,
    /// Partitions of the topic.
    all: AtomicUsize,
    debt: Mutex<Debt>,
}

impl Pace {
    pub(super) fn new(rows_per_second: Option<u32>, all: usize) -> Self {
        let debt = Debt {
            rows: 0.0,
            rate: 0.0,
            paid_at: Instant::now(),
            suspended_until: None,
        };
        Self {
            limit: rows_per_second.map(f64::from),
            all: AtomicUsize::new(all),
            debt: Mutex::new(debt),
        }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    pub(super) fn set_partitions(&self, all: usize) {
        self.all.store(all, Ordering::Relaxed);
    }

    /// Returns how many rows per second a consumer with this many partitions may insert, or `None`
    /// if there is no limit.
    fn rate(&self, own: usize) -> Option<f64> {
        let all = self.all.load(Ordering::Relaxed).max(own).max(1);
        Some(self.limit? * number(own) / number(all))
    }

    /// Returns how long a consumer with this many partitions must not write.
    pub(super) fn wait(&self, own: usize, now: Instant) -> Duration {
        let Some(rate) = self.rate(own) else {
            return Duration::ZERO;
        };
        let mut debt = self.debt.lock();
        if debt.is_suspended(now) {
            debt.rows = 0.0;
        }
        debt.pay(now, rate);
        debt.wait()
    }

    /// Returns the number of claims at which a batch is full: `usize::MAX` if there is no limit, or
    /// while the pace is suspended.
    pub(super) fn full(&self, own: usize, now: Instant) -> usize {
        match self.rate(own) {
            Some(rate) if !self.debt.lock().is_suspended(now) => {
                // Truncates, and saturates.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let full = (rate / BATCHES_PER_SECOND) as usize;
                full.max(1)
            }
            _ => usize::MAX,
        }
    }

    /// Adds the rows and dead letters of a batch.
    pub(super) fn written(&self, outcomes: &[WriteOutcome], now: Instant) {
        if self.limit.is_none() {
            return;
        }
        let is_inserted = |outcome: &&WriteOutcome| {
            matches!(outcome, WriteOutcome::Issued | WriteOutcome::Refused(..))
        };
        let rows = outcomes.iter().filter(is_inserted).count();
        let mut debt = self.debt.lock();
        if rows > 0 && !debt.is_suspended(now) {
            debt.owe(now, rows);
        }
    }

    /// Whether to check in MySQL for a suspension of the pace. It matters only while this process
    /// owes rows or knows of a suspension.
    pub(super) fn must_ask(&self, now: Instant) -> bool {
        let debt = self.debt.lock();
        debt.rows > 0.0 || debt.is_suspended(now)
    }

    pub(super) fn suspend(&self, now: Instant) {
        let mut debt = self.debt.lock();
        if !debt.is_suspended(now) {
            tracing::info!("a coupon waits until all messages are read: rows keep no pace");
        }
        debt.suspended_until = Some(now + SUSPENDED_FOR);
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::model::DeadLetterReason;
    use proptest::prelude::*;

    use super::*;

    const PARTITIONS: usize = 12;
    const CONSUMERS: usize = 3;
    const LARGEST_MESSAGE: usize = 128;
    const TICK: Duration = Duration::from_millis(100);
    const TICKS_PER_MINUTE: usize = 600;

    /// Generates assignments: each lasts a number of ticks and gives each consumer a number of
    /// partitions.
    fn assignments() -> impl Strategy<Value = Vec<(usize, [usize; CONSUMERS])>> {
        let shares = prop_oneof![
            Just([12, 0, 0]),
            Just([0, 12, 0]),
            Just([4, 4, 4]),
            Just([6, 6, 0]),
            Just([11, 0, 1]),
            Just([4, 0, 4]),
            Just([0, 0, 0]),
        ];
        prop::collection::vec((1_usize..900, shares), 1..12)
    }

    fn issued(rows: usize) -> Vec<WriteOutcome> {
        vec![WriteOutcome::Issued; rows]
    }

    proptest! {
        #[test]
        fn consumers_keep_the_pace_in_each_minute_and_never_wait_without_a_debt(
            limit in prop_oneof![1_u32..30, 100_u32..2_000],
            sizes in prop::collection::vec(1..=LARGEST_MESSAGE, 1..40),
            assignments in assignments(),
        ) {
            let mut now = Instant::now();
            let consumers: [Pace; CONSUMERS] =
                std::array::from_fn(|_| Pace::new(Some(limit), PARTITIONS));
            let mut sizes = sizes.iter().copied().cycle();
            let mut written = Vec::new();
            for (ticks, shares) in assignments {
                for _ in 0..ticks {
                    now += TICK;
                    let mut rows = 0;
                    for (pace, own) in consumers.iter().zip(shares) {
                        let wait = pace.wait(own, now);
                        let owes = pace.debt.lock().rows > 0.0;
                        prop_assert_eq!(owes, !wait.is_zero());
                        if owes || own == 0 {
                            continue;
                        }
                        let mut batch = 0;
                        while batch < pace.full(own, now) {
                            batch += sizes.next().unwrap();
                        }
                        pace.written(&issued(batch), now);
                        rows += batch;
                    }
                    written.push(rows);
                }
            }
            let limit = usize::try_from(limit).unwrap();
            let most = limit * 60 + limit / 4 + LARGEST_MESSAGE * CONSUMERS;
            for minute in written.windows(TICKS_PER_MINUTE) {
                prop_assert!(minute.iter().sum::<usize>() <= most);
            }
        }
    }

    #[test]
    fn debt_is_paid_at_the_present_share_and_repeats_are_free() {
        let pace = Pace::new(Some(10), PARTITIONS);
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(pace.wait(1, start), Duration::ZERO);
        pace.written(&[WriteOutcome::Again, WriteOutcome::Void], start);
        assert_eq!(pace.wait(1, start), Duration::ZERO, "nothing was inserted");
        let refused = WriteOutcome::Refused(DeadLetterReason::SlotTaken, String::new());
        pace.written(&[issued(127), vec![refused]].concat(), start);
        // One of twelve partitions: 128 rows are 154 s.
        assert_eq!(pace.wait(1, start).as_secs(), 153);
        assert_eq!(pace.wait(1, after(60)).as_secs(), 93);
        // The other consumers have died.
        assert_eq!(pace.wait(12, after(60)).as_secs(), 7);
        assert_eq!(pace.wait(0, after(60)), Duration::MAX, "no partition");
        // The share in between is unknown: the consumer may have had no partition until now.
        assert_eq!(pace.wait(12, after(600)).as_secs(), 7, "nothing is paid");
        assert_eq!(pace.wait(12, after(608)), Duration::ZERO);
    }

    #[test]
    fn suspension_forgives_the_debt_and_ends_by_itself() {
        let pace = Pace::new(Some(1), PARTITIONS);
        let start = Instant::now();
        pace.wait(12, start);
        pace.written(&issued(500), start);
        assert!(pace.must_ask(start));
        pace.suspend(start);
        assert_eq!(pace.wait(12, start), Duration::ZERO);
        assert_eq!(pace.full(12, start), usize::MAX);
        pace.written(&issued(500), start);
        assert_eq!(pace.wait(12, start), Duration::ZERO);
        assert!(pace.must_ask(start), "until it is over");
        let later = start + SUSPENDED_FOR;
        assert!(!pace.must_ask(later) && pace.full(12, later) == 1);
        pace.written(&issued(2), later);
        assert!(!pace.wait(12, later).is_zero());
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let pace = Pace::new(None, PARTITIONS);
        let now = Instant::now();
        pace.written(&issued(5_000), now);
        assert_eq!(pace.wait(1, now), Duration::ZERO);
        assert_eq!(pace.full(1, now), usize::MAX);
        assert!(!pace.must_ask(now));
    }
}
