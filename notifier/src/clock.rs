//! The time, and what one clock says of instants that another has noted.

use chrono::{DateTime, TimeDelta, Utc};

/// The time, as the sender asks for it. Tests put in their own.
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

/// How long ago that was. An instant in the future was noted by a clock that has been set back
/// since; it must not silence anything until the clock has caught up.
pub(crate) fn elapsed(at: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
    if at > now { TimeDelta::MAX } else { now - at }
}
