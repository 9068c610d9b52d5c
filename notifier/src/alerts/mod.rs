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
use firstcome_shared::domain::{CouponId, DropId};
use strum::{EnumString, IntoStaticStr};

use crate::report::Kind;

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

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// The drift was there when last looked at.
    Firing,
    Resolved,
    /// Information that is told once.
    Told,
}

impl State {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An alert as it is kept, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What the drift is: hexadecimal SHA-256.
    pub fingerprint: String,
    pub kind: String,
    /// The coupon, where it concerns one.
    pub coupon_id: Option<CouponId>,
    /// The drop, where it concerns one.
    pub drop_id: Option<DropId>,
    pub state: State,
    /// One line for a person.
    pub summary: String,
    /// What the last mail said, hashed.
    pub content_hash: String,
    /// Since when it fires, this time.
    pub first_seen_at: DateTime<Utc>,
    /// When a pass last saw it.
    pub last_seen_at: DateTime<Utc>,
    /// When it was last mailed.
    pub last_mailed_at: Option<DateTime<Utc>>,
    /// Mails since it was last quiet for a whole cooldown.
    pub mails: u32,
    /// What its mails refer to, so that they form one thread.
    pub thread: String,
    /// When it was seen to be gone.
    pub resolved_at: Option<DateTime<Utc>>,
    /// When a person took it on.
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub acknowledged_by: Option<String>,
}

impl Alert {
    /// Whether a mail has told this time's drift.
    fn was_mailed(&self) -> bool {
        self.last_mailed_at.is_some_and(|at| at >= self.first_seen_at)
    }

    /// For repairs that were not all told: when the last mail told of some.
    pub(super) fn untold_since(&self) -> Option<DateTime<Utc>> {
        self.last_mailed_at.filter(|_| self.kind == REPAIRED && self.owes_notice())
    }

    /// Resolved while mails were silenced: people still believe that it fires.
    fn owes_notice(&self) -> bool {
        self.state == State::Resolved && self.was_mailed() && self.last_mailed_at < self.resolved_at
    }
}

/// A promise that could not be kept and was not mended since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenPromise {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    /// Who was promised, in full.
    pub user_id: String,
    /// Which slot, where it is known.
    pub slot: Option<i64>,
    /// Why it could not be kept.
    pub reason: String,
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
    pub untold_repairs: HashMap<Option<DropId>, u64>,
}

/// The kind of an alert that stands for what was repaired in a drop. It never fires; it is kept to count mails.
const REPAIRED: &str = "repaired";
