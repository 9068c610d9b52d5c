//! The decision: a pure function of what was collected. Nothing here reads, writes or asks for the time.
//!
//! A drop is fed page by page ([`Planner::page`]), so that memory stays flat at a million claims, then closed
//! ([`Planner::finish`]). What comes out is a list of findings, each with the repair it calls for.

mod dead_letters;
mod drop;
mod page;
#[cfg(test)]
mod tests;

use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::issued::Claim;
use firstcome_shared::redis::repair::Holding;

use crate::collect::snapshot::{DeadLetter, DropFacts};
use crate::report::{ActionKind, Examined, Kind, Numbers};

/// What may be repaired, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// An admission younger than this may still be on its way to the topic, in milliseconds.
    pub publish_deadline_ms: i64,
    /// A message that waits on the topic for longer than this is issued here, in milliseconds.
    pub overdue_ms: i64,
    /// Most repairs of a drop in one pass, in percent of its quantity.
    pub repair_limit_percent: u32,
    /// This many repairs always pass.
    pub repair_limit_at_least: usize,
    /// An operator confirmed: no repair limit.
    pub confirmed: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            publish_deadline_ms: 2_000,
            overdue_ms: 60_000,
            repair_limit_percent: 20,
            repair_limit_at_least: 50,
            confirmed: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the drop's `meta` as MySQL has it.
    WriteMeta,
    /// Make the drop anew in Redis from everything that is known of it.
    Rebuild(Vec<Holding>),
    /// Give a person another slot, since theirs is another's or none of the drop's; without a free one they go to the head of
    /// the waiting list and are listed as broken.
    Move {
        user: UserId,
        /// The slot they can't keep.
        from: i64,
    },
    /// Take a slot from a person who holds one already.
    Withdraw {
        user: UserId,
        /// The slot they can't keep.
        from: i64,
    },
    /// Put a person back into Redis with their slot.
    PutBack(Holding),
    /// Make the counter and the free slots add up.
    SetCount,
    Issue(Claim),
    /// Write a row for a failed claim in the slot it is about, putting its person back where Redis does not know them.
    IssueDeadLetter {
        /// Number in the backup table.
        id: i64,
        /// The row to write.
        claim: Claim,
        /// The person is not in Redis on that slot.
        put_back: bool,
    },
    /// The slot is gone: admit the person of a failed claim anew, in a free slot.
    Readmit {
        /// Number in the backup table.
        id: i64,
        user: UserId,
        /// When they were admitted first, where known.
        claimed_at: Option<chrono::DateTime<chrono::Utc>>,
    },
    /// The person of a failed claim holds a row already, or will once the repairs before this one are done.
    ResolveDuplicate {
        /// Number in the backup table.
        id: i64,
        user: UserId,
    },
    /// Give a slot that is left to the first on the waiting list, who is this person.
    Promote {
        user: UserId,
    },
    /// Nothing can be done here; a person is told.
    Report,
}

/// A finding with its repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it is about.
    pub kind: Kind,
    /// The slot, where it concerns one.
    pub slot: Option<i64>,
    /// The person, where it concerns one.
    pub user: Option<UserId>,
    /// What was seen, for a person.
    pub detail: String,
    pub action: Action,
    /// Only a person can mend it.
    pub needs_person: bool,
}

impl Action {
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::WriteMeta => ActionKind::WriteMeta,
            Self::Rebuild(_) => ActionKind::Rebuild,
            Self::Move { .. } => ActionKind::Move,
            Self::Withdraw { .. } => ActionKind::Withdraw,
            Self::PutBack(_) => ActionKind::PutBack,
            Self::SetCount => ActionKind::SetCount,
            Self::Issue(_) | Self::IssueDeadLetter { .. } => ActionKind::Issue,
            Self::Readmit { .. } => ActionKind::Readmit,
            Self::ResolveDuplicate { .. } => ActionKind::ResolveDuplicate,
            Self::Promote { .. } => ActionKind::Promote,
            Self::Report => ActionKind::Report,
        }
    }
}

/// What a drop needs.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Findings with their repairs, in the order in which they are to be carried out.
    pub items: Vec<Planned>,
    /// The numbers that were seen.
    pub numbers: Numbers,
    /// How much was looked at.
    pub examined: Examined,
    /// Admissions too young to be judged: they may still be on their way to the topic.
    pub young: u64,
    /// More repairs than the limit: nothing may be changed until a person confirms.
    pub over_limit: bool,
    /// Every promise has its row, none is too many, nobody waits while a slot is free.
    pub exact: bool,
    /// The drop is closed and settled: it can be sealed.
    pub sealable: bool,
}

/// Takes in a drop page by page.
#[derive(Debug)]
pub struct Planner<'a> {
    policy: Policy,
    facts: &'a DropFacts,
    items: Vec<Planned>,
    rebuild: Vec<Holding>,
    numbers: Numbers,
    examined: Examined,
    young: u64,
    /// Slots given out that nobody holds and nothing explains, and free slots that are held.
    gaps: u64,
    /// Highest slot rightfully held or free.
    highest: i64,
    /// People who will be in Redis again, and people who share another's slot or are beyond the counter: what the counter
    /// will not add up by until those findings are repaired. They explain a difference; they are no finding twice.
    coming: i64,
    people_coming: i64,
    surplus: i64,
    /// Highest slot that somebody comes back to: the counter follows it.
    highest_restored: i64,
    people_without_row: u64,
    /// People a failed claim was planned for: any further one of theirs is a duplicate.
    people_of_dead_letters: std::collections::HashSet<UserId>,
}

impl<'a> Planner<'a> {
    /// A planner for one drop.
    pub fn new(policy: Policy, facts: &'a DropFacts) -> Self {
        Self {
            policy,
            facts,
            items: Vec::new(),
            rebuild: Vec::new(),
            numbers: Numbers::default(),
            examined: Examined::default(),
            young: 0,
            gaps: 0,
            highest: 0,
            coming: 0,
            people_coming: 0,
            surplus: 0,
            highest_restored: 0,
            people_without_row: 0,
            people_of_dead_letters: std::collections::HashSet::new(),
        }
    }

    fn push(
        &mut self,
        kind: Kind,
        slot: impl Into<Option<i64>>,
        user: Option<&UserId>,
        action: Action,
        detail: String,
    ) {
        let needs_person = matches!(action, Action::Report);
        self.items.push(Planned { kind, slot: slot.into(), user: user.cloned(), detail, action, needs_person });
    }

    fn claim(&self, slot: Slot, user: &UserId, claimed_at: Option<chrono::DateTime<chrono::Utc>>) -> Claim {
        Claim { coupon_id: self.facts.coupon.id, drop_id: self.facts.drop.id, slot, user_id: user.clone(), claimed_at }
    }
}

/// Rows of the backup table that name no drop there is: nothing can be done for them without a person.
pub fn loose(letter: &DeadLetter) -> Planned {
    Planned {
        kind: Kind::FailedClaim,
        slot: letter.slot,
        user: letter.user.clone(),
        detail: format!(
            "failed claim {}: {}; it names no drop that can be looked at (unknown, of another coupon, or sealed), so it is left for a person",
            letter.id, letter.reason
        ),
        action: Action::Report,
        needs_person: true,
    }
}
