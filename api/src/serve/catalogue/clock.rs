//! Redis's clock, as last seen. Windows are judged by it, not by this host's, which may be seconds off.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// How far Redis's clock is ahead of this host's. Every answer of Redis that carries its time sets it anew.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    ahead_ms: AtomicI64,
}

impl Clock {
    /// Takes note of Redis's time, Unix milliseconds, as it was just now.
    pub(crate) fn seen(&self, redis_ms: i64) {
        self.ahead_ms.store(redis_ms - Utc::now().timestamp_millis(), Ordering::Relaxed);
    }

    /// Redis's time now, as well as this process knows it.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        instant(Utc::now().timestamp_millis() + self.ahead_ms.load(Ordering::Relaxed))
    }
}

/// Unix milliseconds as an instant.
pub(crate) fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_redis_not_this_host() {
        let clock = Clock::default();
        let hour_ahead = Utc::now().timestamp_millis() + 3_600_000;
        clock.seen(hour_ahead);
        assert!((clock.now().timestamp_millis() - hour_ahead).abs() < 1_000);
    }
}
