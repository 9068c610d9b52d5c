//! What the people on duty are told: a pure mapping from a run, and from what they were told before, to what is said now.
//!
//! An alert stands for one drift that is *left*: everything of one kind that is left in one drop, say. Its fingerprint says
//! what the drift is and stays the same while people are added to it or mended, so that one person's repair never reads as
//! the end of the whole, and so that one acknowledgement covers it. Who is concerned is in the content hash: when that
//! changes, the alert is told again.
//!
//! The kept content hash is that of the last *mail*, not of the last pass. A change that came while mails were silenced is
//! told when they are not any more.

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
pub use judge::{Earlier, Policy, Say, Told, Verdict, judge};
pub(super) use observe::is_repair;
pub use observe::{Observation, observe};

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// The pass itself failed.
    RunFailed,
    /// Something does not move or can't be reached.
    Stalled,
    /// So much was to be repaired that a person must confirm.
    Braked,
    /// Promises that could not be kept.
    BrokenPromise,
    /// Drift that this pass could not mend.
    Left(Kind),
    /// A drop closed below its quantity and nobody waits: told once, nothing is to be done.
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

/// For repairs that were not all mailed: when the last mail about some was sent.
pub(super) fn unmailed_repairs_since(alert: &Alert) -> Option<DateTime<Utc>> {
    alert.last_mailed_at.filter(|_| alert.kind == REPAIRED && alert.owes_notice())
}

/// What was told before, and what must not be told now.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Every alert that fires, that owes a notice, or that this pass sees, by fingerprint.
    pub alerts: HashMap<String, Alert>,
    /// Until when a drop's mails are silenced, also where that is over.
    pub silenced_until: HashMap<DropId, DateTime<Utc>>,
    /// Broken promises of the drops this pass looked at.
    pub broken: Vec<BrokenPromise>,
    /// How many repairs of earlier passes no mail has told yet, by drop.
    pub unmailed_repairs: HashMap<Option<DropId>, u64>,
}

/// The kind of an alert that stands for what was repaired in a drop. It never fires; it is kept to count mails.
const REPAIRED: &str = "repaired";
