//! The clock of the notifier.

use std::fmt::Debug;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use firstcome_shared::mysql::{Conn, levels};

/// The clock of MySQL, by which alerts are decided and messages are sent. Tests set it.
pub trait Clock: Debug + Send + Sync {
    /// The time that a test has set. `None`: MySQL says it.
    fn set_by_test(&self) -> Option<DateTime<Utc>> {
        None
    }
}

/// Reads MySQL's clock.
pub(crate) async fn now(clock: &dyn Clock, conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    match clock.set_by_test() {
        Some(at) => Ok(at),
        None => levels::clock(conn).await,
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {}
