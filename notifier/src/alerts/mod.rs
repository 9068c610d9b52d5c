//! Alert deduplication: a pure function from a run, and from the alerts as they were, to what is
//! mailed now.
//!
//! An alert stands for one drift that was *not repaired*: everything of one kind in one drop, say.
//! Its fingerprint says what the drift is. It stays the same while people are added to the drift or
//! repaired, so that one person's repair never reads as the end of the whole, and one
//! acknowledgement covers it. The people are in the content hash: when that changes, the alert is
//! mailed again.
//!
//! The kept content hash is that of the last *mail*, not of the last pass. A change that came while
//! mails were silenced is mailed when the silence ends.

mod judge;
mod observe;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;

use crate::report::Kind;

pub use firstcome_shared::mysql::alerts::{Alert, AlertState as State, BrokenPromise};

pub(super) use judge::repair_fingerprints;
pub use judge::{AlertVerdict, Earlier, Notice, NoticeReason, Policy, judge};
pub(super) use observe::is_repair;
pub use observe::{Observation, observe};

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// The pass itself failed.
    RunFailed,
    /// Something does not move or can't be reached.
    Stalled,
    /// More repairs than the repair limit allows.
    Braked,
    /// Promises that could not be kept.
    BrokenPromise,
    /// Drift that this pass could not repair.
    Left(Kind),
    /// A drop closed below its quantity and nobody waits: mailed once, nothing is to be done.
    ClosedBelowQuantity,
}

impl About {
    /// The word in the table, in mails, and the heading of its section in docs/OPERATIONS.md.
    pub fn word(self) -> &'static str {
        match self {
            Self::RunFailed => "run_failed",
            Self::Stalled => "stalled",
            Self::Braked => "braked",
            Self::BrokenPromise => "broken_promise",
            Self::Left(kind) => kind.as_str(),
            Self::ClosedBelowQuantity => "unfilled",
        }
    }
}

/// What earlier passes left in the tables.
#[derive(Debug, Clone, Default)]
pub struct AlertMemory {
    /// Every alert that fires, that owes a notice, or that this pass sees, by fingerprint.
    pub alerts: HashMap<String, Alert>,
    /// Until when a drop's mails are silenced, also where that is over.
    pub silenced_until: HashMap<DropId, DateTime<Utc>>,
    /// Broken promises of the drops that this pass examined.
    pub broken: Vec<BrokenPromise>,
}

/// The kind of a row that counts the repairs of a drop and their mails. It never fires.
const REPAIRED: &str = "repaired";
