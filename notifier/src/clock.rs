//! The clocks of the notifier.

use std::fmt::Debug;

use chrono::{DateTime, Utc};

/// The clocks of the notifier. Tests set them.
pub trait Clock: Debug + Send + Sync {
    /// That of this host, by which messages are sent.
    fn now(&self) -> DateTime<Utc>;

    /// That of MySQL, by which alerts are decided. `None`: MySQL says it.
    fn of_mysql(&self) -> Option<DateTime<Utc>> {
        None
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
