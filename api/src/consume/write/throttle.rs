//! The cap on rows a second: a token bucket, asked before a batch is written and charged after.

use std::time::{Duration, Instant};

/// A token bucket that holds a tenth of a second's rows, so that no second sees more than 1.1 times the rate.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate: Option<f64>,
    tokens: f64,
    filled_at: Instant,
}

impl Throttle {
    /// A bucket for `rows_per_second`; 0 lets everything pass.
    pub(crate) fn new(rows_per_second: u32, now: Instant) -> Self {
        let rate = (rows_per_second > 0).then(|| f64::from(rows_per_second));
        let mut throttle = Self { rate, tokens: 0.0, filled_at: now };
        throttle.tokens = throttle.capacity();
        throttle
    }

    fn capacity(&self) -> f64 {
        self.rate.map_or(0.0, |rate| (rate / 10.0).max(1.0))
    }

    /// Most rows that are ever written at once: a batch that is larger would wait between its parts, unpolled.
    pub(crate) fn most(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1.0 to 100,000.0")]
        self.rate.map_or(usize::MAX, |_| self.capacity() as usize)
    }

    /// How many rows may be written now, out of `wanted`; where it is none, how long to wait.
    ///
    /// # Errors
    /// The wait, until the bucket is full: small batches would cost the database more than they spare it.
    pub(crate) fn allow(&mut self, wanted: usize, now: Instant) -> Result<usize, Duration> {
        let Some(rate) = self.rate else { return Ok(wanted) };
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(self.capacity());
        self.filled_at = now;
        // Rounding must not turn a full bucket of one into none.
        let whole = (self.tokens + 1e-6).floor();
        if whole < 1.0 {
            return Err(Duration::from_secs_f64((self.capacity() - self.tokens) / rate));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1.0 to 100,000.0, whole")]
        Ok(wanted.min(whole as usize))
    }

    /// Takes what was written out of the bucket.
    pub(crate) fn spend(&mut self, rows: usize) {
        if self.rate.is_some() {
            self.tokens -= f64::from(u32::try_from(rows).unwrap_or(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_rate_everything_passes() {
        let mut throttle = Throttle::new(0, Instant::now());
        throttle.spend(1_000_000);
        assert_eq!(throttle.allow(5_000, Instant::now()), Ok(5_000));
        assert_eq!(throttle.most(), usize::MAX);
    }

    #[test]
    fn an_empty_bucket_says_how_long_it_takes_to_fill() {
        let now = Instant::now();
        let mut throttle = Throttle::new(100, now);
        assert_eq!(throttle.allow(1_000, now), Ok(10));
        throttle.spend(10);
        assert_eq!(throttle.allow(1_000, now), Err(Duration::from_millis(100)));
        assert_eq!(throttle.allow(1_000, now + Duration::from_millis(100)), Ok(10));
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_over_any_stretch_and_nearly_reached(rate in 1_u32..2_000, batch in 1_usize..3_000) {
            let start = Instant::now();
            let mut throttle = Throttle::new(rate, start);
            let (mut now, mut rows) = (start, 0);
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
