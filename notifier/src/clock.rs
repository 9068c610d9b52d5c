//! The time, and comparison with times that another clock recorded.

use chrono::{DateTime, TimeDelta, Utc};

/// The sender's clock. Tests use their own.
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// How long ago a time was. A time in the future was recorded by a clock that has been set back
/// since; it must not silence anything until the clock has caught up.
pub(crate) fn elapsed(at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    if at > now { TimeDelta::MAX } else { now - at }
}
