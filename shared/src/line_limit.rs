//! Limits the rate of log lines that clients can cause.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Allows one line per interval for each reason; the default is a second.
#[derive(Debug)]
pub struct LineLimit {
    every: Duration,
    /// Time of the next line, and the number of lines suppressed since the last.
    by_reason: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl Default for LineLimit {
    fn default() -> Self {
        Self::new(Duration::from_secs(1))
    }
}

impl LineLimit {
    pub fn new(every: Duration) -> Self {
        let by_reason = Mutex::default();
        Self { every, by_reason }
    }

    /// Returns the number of lines suppressed since the previous one, or `None` if this line must
    /// also be suppressed.
    pub fn allow(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut by_reason = self.by_reason.lock();
        let (next, left_out) = by_reason.entry(reason).or_insert((now, 0));
        if now < *next {
            *left_out += 1;
            return None;
        }
        *next = now + self.every;
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_reason_and_second_is_logged_with_the_suppressed_count() {
        let limit = LineLimit::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(limit.allow("redis_error", at(0)), Some(0));
        assert_eq!(limit.allow("redis_error", at(1)), None);
        assert_eq!(
            limit.allow("shed", at(2)),
            Some(0),
            "another reason has lines of its own"
        );
        assert_eq!(limit.allow("redis_error", at(999)), None);
        assert_eq!(limit.allow("redis_error", at(1_000)), Some(2));
        assert_eq!(limit.allow("redis_error", at(5_000)), Some(0));
    }
}
