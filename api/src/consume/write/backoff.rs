//! How long to wait before a batch is tried again, and how often to speak of it.

use std::time::{Duration, Instant};

use rand::RngExt as _;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// Least time between two lines about the same trouble.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// Doubles from 50 ms to 2 s, each time shortened by up to a half, so that consumers that failed together don't come back
/// together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    logged_at: Option<Instant>,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures += 1;
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Whether this failure is to be logged: the first, then one in thirty seconds.
    pub(crate) fn is_worth_a_line(&mut self, now: Instant) -> bool {
        let due = self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOG_AGAIN);
        if due {
            self.logged_at = Some(now);
        }
        due
    }

    /// It went well; whether it had not before.
    pub(crate) fn ends(&mut self) -> bool {
        self.logged_at = None;
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(!backoff.ends());
        for whole in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let whole = Duration::from_millis(whole);
            let pause = backoff.next();
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        assert!(backoff.ends());
        assert!(backoff.next() <= FIRST);
    }

    #[test]
    fn trouble_is_logged_at_once_and_then_every_half_minute() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert!(backoff.is_worth_a_line(now));
        assert!(!backoff.is_worth_a_line(now + Duration::from_secs(29)));
        assert!(backoff.is_worth_a_line(now + Duration::from_secs(30)));
        backoff.ends();
        assert!(backoff.is_worth_a_line(now + Duration::from_secs(31)));
    }
}
