//! The progress of a reconciler in its pass, and what it has read.

use super::stores::{Claim, Gate, Revoked, Settings, Slot};
use super::{SLOTS, USERS};

/// The next step of a reconciler, and what it has read for that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reconciler {
    Idle,
    ReadRedis(OpenView),
    /// Reads the rows again, and compares them with what Redis has.
    Judge(OpenView, RedisView),
    Close(Gate),
    /// Behind an open gate: completes returns, writes the settings, and inserts rows of dead
    /// letters and of these users, whom Redis has and MySQL does not.
    Insert(Gate, [Option<Claim>; USERS]),
    Promote(Gate, [bool; USERS]),
    /// The coupon is closed in an era of this pass.
    Closed(Closed, Stage),
}

impl Reconciler {
    /// Whether it has closed the coupon and waits for the barrier. Rows keep no pace then.
    pub fn waits_for_barrier(&self) -> bool {
        matches!(self, Self::Closed(_, Stage::Wait))
    }
}

/// The result of one `MULTI` in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RedisView {
    pub(super) users: [Option<Claim>; USERS],
    pub(super) revision: u8,
    /// Redis had every return: it is not a copy from before one of them.
    pub(super) knows_returns: bool,
}

/// The first reads of a pass at an open gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenView {
    pub(super) gate: Gate,
    pub(super) revision: u8,
    pub(super) primary: u8,
    pub(super) rows: [Option<Claim>; SLOTS],
    /// Admissions that were overdue when the pass began: Redis had them, they were no longer in
    /// flight, and the consumer had read every message.
    pub(super) overdue: [Option<Claim>; USERS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Closed {
    pub(super) gate: Gate,
    /// The primary to which this pass is connected.
    pub(super) primary: u8,
    /// The owed users, if MySQL does not have them yet.
    pub(super) owed: [Option<Claim>; USERS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Waits for claims in flight and for the barrier, then reads Redis.
    Wait,
    /// Inserts rows of these users and of dead letters, and stores the owed users.
    Rows(RedisView),
    /// Unlinks the drop's keys.
    Unlink,
    /// Reads a page: 0 is the lists, the others are slots. `true` if the drop was unlinked.
    Read(Slot, bool),
    Put(Slot, bool, Page),
    TakeSettings,
    PutSettings(Settings),
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Page {
    Lists {
        revoked: [Revoked; USERS],
        highest: Slot,
        owed: [bool; USERS],
    },
    Row(Option<Claim>),
}
