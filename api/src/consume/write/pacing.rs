//! The pace of writes: a token bucket limits rows per second, and an exponential backoff spaces
//! attempts while MySQL is unavailable.

use std::time::{Duration, Instant};

use rand::RngExt as _;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Minimum interval between two log lines about the same failure.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// A token bucket, checked before a batch is written and charged after it. It holds a tenth of a
/// second's rows, so that no second exceeds 1.1 times the rate.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: Option<f64>,
    tokens: f64,
    filled_at: Instant,
}

impl Throttle {
    /// Creates a bucket for `rows_per_second`; 0 means no limit.
    pub(crate) fn new(rows_per_second: u32, now: Instant) -> Self {
        let rate = (rows_per_second > 0).then(|| f64::from(rows_per_second));
        let mut throttle = Self {
            rate,
            tokens: 0.0,
            filled_at: now,
        };
        throttle.tokens = throttle.capacity();
        throttle
    }

    fn capacity(&self) -> f64 {
        self.rate.map_or(0.0, |rate| (rate / 10.0).max(1.0))
    }

    /// Maximum number of rows in one batch. A larger batch would have to wait between its parts
    /// without polling.
    pub(crate) fn most(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1.0 to 100,000.0"
        )]
        self.rate.map_or(usize::MAX, |_| self.capacity() as usize)
    }

    /// Returns how many of `wanted` rows may be written now, or how long to wait until the bucket
    /// is full. Waiting for a full bucket avoids many small batches, which would cost the database
    /// more than the limit saves.
    pub(crate) fn allow(&mut self, wanted: usize, now: Instant) -> Result<usize, Duration> {
        let Some(rate) = self.rate else {
            return Ok(wanted);
        };
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(self.capacity());
        self.filled_at = now;
        // Rounding errors must not empty a full bucket of size one.
        let whole = (self.tokens + 1e-6).floor();
        if whole < 1.0 {
            return Err(Duration::from_secs_f64(
                (self.capacity() - self.tokens) / rate,
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1.0 to 100,000.0, whole"
        )]
        Ok(wanted.min(whole as usize))
    }

    pub(crate) fn spend(&mut self, rows: usize) {
        if self.rate.is_some() {
            self.tokens -= f64::from(u32::try_from(rows).unwrap_or(u32::MAX));
        }
    }
}

/// Exponential backoff from 50 ms to 2 s. A jitter of up to a half spreads the retries of consumers
/// that failed at the same time.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    logged_at: Option<Instant>,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let whole = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(10))
            .min(LONGEST_PAUSE);
        self.failures += 1;
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Whether to log this failure: the first one, and then one every thirty seconds.
    pub(crate) fn is_due_for_log(&mut self, now: Instant) -> bool {
        let due = self
            .logged_at
            .is_none_or(|at| now.saturating_duration_since(at) >= LOG_AGAIN);
        if due {
            self.logged_at = Some(now);
        }
        due
    }

    /// Ends the backoff after a success, and returns whether there was a backoff.
    pub(crate) fn end(&mut self) -> bool {
        self.logged_at = None;
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rate_of_zero_allows_all_rows() {
        let mut throttle = Throttle::new(0, Instant::now());
        throttle.spend(1_000_000);
        assert_eq!(throttle.allow(5_000, Instant::now()), Ok(5_000));
        assert_eq!(throttle.most(), usize::MAX);
    }

    #[test]
    fn empty_bucket_returns_the_time_until_it_is_full() {
        let now = Instant::now();
        let mut throttle = Throttle::new(100, now);
        assert_eq!(throttle.allow(1_000, now), Ok(10));
        throttle.spend(10);
        assert_eq!(throttle.allow(1_000, now), Err(Duration::from_millis(100)));
        assert_eq!(
            throttle.allow(1_000, now + Duration::from_millis(100)),
            Ok(10)
        );
    }

    #[test]
    fn pauses_grow_to_two_seconds_and_reset_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(!backoff.end());
        for whole in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let whole = Duration::from_millis(whole);
            let pause = backoff.next();
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{pause:?} of {whole:?}"
            );
        }
        assert!(backoff.end());
        assert!(backoff.next() <= FIRST_PAUSE);
    }

    #[test]
    fn failures_are_logged_immediately_and_then_every_thirty_seconds() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        assert!(backoff.is_due_for_log(now));
        assert!(!backoff.is_due_for_log(now + Duration::from_secs(29)));
        assert!(backoff.is_due_for_log(now + Duration::from_secs(30)));
        backoff.end();
        assert!(backoff.is_due_for_log(now + Duration::from_secs(31)));
    }

    proptest! {
        #[test]
        fn rate_is_nearly_reached_and_not_exceeded_in_any_interval(rate in 1_u32..2_000, batch in 1_usize..3_000) {
            let start = Instant::now();
            let mut throttle = Throttle::new(rate, start);
            let mut now = start;
            let mut rows = 0;
            while now.duration_since(start) < Duration::from_secs(5) {
                match throttle.allow(batch, now) {
                    Ok(allowed) => { prop_assert!(allowed <= throttle.most()); throttle.spend(allowed); rows += allowed; }
                    Err(wait) => { prop_assert!(wait <= Duration::from_secs(1)); now += wait; }
                }
            }
            let seconds = now.duration_since(start).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let share = rows as f64 / (f64::from(rate) * seconds);
            prop_assert!((0.9..=1.1).contains(&share), "{share}");
        }
    }
}
