//! The clock, and comparison with times that another clock recorded.

use chrono::{DateTime, TimeDelta, Utc};

/// The clock of the notifier. Tests use a manual one.
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

/// Returns the time elapsed since `at`. A time in the future was recorded by a clock that is ahead
/// of this one, or that has been set back since. It counts as long ago, so that it does not
/// suppress mails until this clock has caught up.
pub(crate) fn elapsed(at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    if at > now { TimeDelta::MAX } else { now - at }
}
