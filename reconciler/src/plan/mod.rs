//! The decision: a pure function of the collected state. Nothing here reads, writes or asks for the
//! time.
//!
//! The caller feeds a drop page by page ([`Planner::page`]), so that memory stays flat at a million
//! claims, then closes it ([`Planner::finish`]). The result is a list of findings, each with its
//! repair.

mod beyond;
mod dead_letters;
mod desired;
mod drop;
mod left;
mod page;
mod phases;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use beyond::Beyond;
use left::{DeadLettersLeft, for_example};
pub(crate) use phases::{Phase, PhaseStep, steps};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::redis::repair::{SlotChange, Wanted};
use firstcome_shared::trace::TraceContext;

use crate::collect::snapshot::{DeadLetter, DropFacts, HalfRevoked};
use crate::report::{ActionKind, Examined, FindingCase, Kind, Numbers};

/// The policy of repairs: when, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairPolicy {
    /// An admission younger than this may still be on its way to the topic, in milliseconds.
    pub publish_deadline_ms: i64,
    /// An admission younger than this may still be on its way to the topic or the dead-letter
    /// table, in milliseconds.
    pub in_flight_ms: i64,
    /// A message that waits on the topic for longer than this is issued by the reconciler, in
    /// milliseconds.
    pub overdue_ms: i64,
    /// Maximum number of repairs of a drop in one pass, in percent of its quantity.
    pub repair_limit_percent: u32,
    /// This many repairs are always allowed.
    pub repair_limit_at_least: usize,
    /// Maximum number of repairs kept in memory that each concern one page; further ones are
    /// counted, and carried out page by page.
    pub kept: usize,
}

impl Default for RepairPolicy {
    fn default() -> Self {
        Self {
            publish_deadline_ms: 2_000,
            in_flight_ms: 3_000,
            overdue_ms: 60_000,
            repair_limit_percent: 20,
            repair_limit_at_least: 50,
            kept: 10_000,
        }
    }
}

/// A difference between what the stores hold and what they should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A user's slot in Redis. If any slot is wanted and none is left, the user goes to the head of
    /// the waiting list, and the promise is listed as broken.
    Slot(SlotChange),
    /// A missing row in MySQL.
    Row(RowChange),
    /// An unresolved dead letter.
    Letter(LetterChange),
    /// The drop or its coupon in Redis.
    Drop(DropRepair),
}

/// A missing row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    pub claim: Claim,
    /// The dead letter that it resolves.
    pub letter: Option<i64>,
    /// Redis lacks the user on the slot of the dead letter, and gets the user first.
    pub put_back: bool,
}

/// A dead letter that ends without a row in the slot that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterChange {
    pub id: i64,
    pub user: UserId,
    pub end: LetterEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterEnd {
    /// Another user holds the slot: admit the user again, to a free slot.
    Readmitted {
        /// When the user was admitted first, if known.
        claimed_at: Option<DateTime<Utc>>,
    },
    /// The user holds a row already, or will after the repairs before this one.
    Duplicate,
    /// The claim is revoked.
    Revoked,
}

/// A difference that concerns a drop or its coupon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropRepair {
    /// The drop's `meta`.
    Settings,
    /// The coupon's allow list.
    AllowList,
    /// The whole drop, from everything that is known of it.
    Everything {
        holdings: Vec<SlotChange>,
        /// Number of users of a large drop who were restored while it was read.
        before: usize,
    },
    /// The steps of a revocation that are missing.
    Revocation(Box<HalfRevoked>),
    /// count = |users| + |free|.
    Count,
    /// A free slot for the first on the waiting list, who is this user.
    Line(UserId),
}

/// A finding with its repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub kind: Kind,
    pub slot: Option<i64>,
    pub user: Option<UserId>,
    /// The dead letter concerned: one user on one slot can have several.
    pub dead_letter: Option<i64>,
    /// The span in which the claim was made, if the dead letter has it.
    pub trace: Option<TraceContext>,
    /// The observation, for a person.
    pub detail: String,
    /// The repair. `None`: only a person can decide, or there is nothing to repair.
    pub action: Option<Action>,
    /// Only a person can resolve it.
    pub needs_person: bool,
    /// Distinguishes it from others of its kind, for mails.
    pub case: FindingCase,
}

impl Planned {
    pub(crate) fn action_kind(&self) -> ActionKind {
        self.action
            .as_ref()
            .map_or(ActionKind::Report, Action::kind)
    }

    /// Whether it moves a user to another slot, whichever is left.
    pub(crate) fn moves(&self) -> bool {
        matches!(&self.action, Some(Action::Slot(change)) if change.wanted == Wanted::Any)
    }
}

impl Action {
    /// Whether it takes a slot from a user who holds it in Redis.
    pub(crate) fn takes(&self) -> bool {
        matches!(self, Self::Slot(change) if change.takes())
    }

    /// Whether it only gives users what was promised to them: it takes nothing from anybody and
    /// gives no slot to anybody else.
    pub(crate) fn only_adds(&self) -> bool {
        if let Self::Slot(change) = self {
            return matches!(change.wanted, Wanted::Slot { .. }) && !change.takes();
        }
        matches!(
            self,
            Self::Row(_)
                | Self::Letter(LetterChange {
                    end: LetterEnd::Revoked,
                    ..
                })
                | Self::Drop(
                    DropRepair::Settings
                        | DropRepair::AllowList
                        | DropRepair::Everything { .. }
                        | DropRepair::Revocation(_)
                )
        )
    }

    pub fn kind(&self) -> ActionKind {
        match self {
            Self::Slot(change) => match (change.seen, change.wanted) {
                (_, Wanted::Any) => ActionKind::Move,
                (_, Wanted::Slot { .. } | Wanted::Front(_)) => ActionKind::PutBack,
                (Some(_), Wanted::Nothing) => ActionKind::Withdraw,
                // The user is a claimant of the drop only.
                (None, Wanted::Nothing) => ActionKind::SetCount,
            },
            Self::Row(_) => ActionKind::Issue,
            Self::Letter(letter) => match letter.end {
                LetterEnd::Readmitted { .. } => ActionKind::Readmit,
                LetterEnd::Duplicate => ActionKind::ResolveDuplicate,
                LetterEnd::Revoked => ActionKind::Revoke,
            },
            Self::Drop(change) => match change {
                DropRepair::Settings | DropRepair::AllowList => ActionKind::WriteMeta,
                DropRepair::Everything { .. } => ActionKind::Rebuild,
                DropRepair::Revocation(_) => ActionKind::Revoke,
                DropRepair::Count => ActionKind::SetCount,
                DropRepair::Line(_) => ActionKind::Promote,
            },
        }
    }
}

/// The repairs of a drop.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Findings with their repairs, in the order of execution.
    pub items: Vec<Planned>,
    /// Repairs of the same kinds that exceed the number kept.
    pub beyond: Beyond,
    pub numbers: Numbers,
    pub examined: Examined,
    /// Admissions too young to judge: they may still be on their way to the topic.
    pub young: u64,
    /// Slots that nobody will hold after the repairs: this many users may be promoted.
    pub left: u64,
    /// The counter must not be set, and nothing may be done that follows from it: slots that nobody
    /// holds may belong to users whose claims are on their way, or whose messages are unread.
    pub counter_waits: bool,
    /// How many repairs count towards the repair limit.
    pub repairs: usize,
    /// A hash of these repairs. A person confirms these and no others.
    pub fingerprint: u64,
    /// The repairs exceed the limit. [`Plan::take_waiting`] returns those that wait for a person.
    pub over_limit: bool,
    /// Every promise has its row, no promise is broken, no row is surplus, and nobody waits while a
    /// slot is free.
    pub exact: bool,
    /// The drop is closed and exact, and none of its claims is in flight: it can be sealed.
    pub sealable: bool,
}

impl Plan {
    /// Takes out the repairs that wait until a person confirms them. While the gate is open, all of
    /// them wait. While it is closed, repairs that only add what was promised go on: nobody loses a
    /// slot by them, and the coupon stays closed for other users. The counter waits with the rest,
    /// since setting it would free the slots of users who are to be moved.
    pub fn take_waiting(&mut self, what_adds_goes_on: bool) -> Vec<Planned> {
        if !what_adds_goes_on {
            return std::mem::take(&mut self.items);
        }
        self.counter_waits = true;
        let (waiting, going_on) = std::mem::take(&mut self.items)
            .into_iter()
            .partition(|item| !item.action.as_ref().is_none_or(Action::only_adds));
        self.items = going_on;
        waiting
    }
}

/// Plans one drop: reads it page by page ([`Planner::page`]), then decides about the whole
/// ([`Planner::finish`]).
///
/// # The counter
///
/// In Redis every slot up to the counter is held or free, so `count = |users| + |free|`. One fault
/// must not be reported twice: a user whom Redis lost is a `missing_admission`, not a
/// `count_mismatch` as well. So the counter is compared with the numbers after the other repairs:
///
/// ```text
/// max(count, highest_returning) = |users| + |free| + change_of_settled
/// ```
///
/// Each page adds to `change_of_settled` the slots that are held or become free by the repairs of
/// the page, less the users and free slots that Redis has now. Independently of the sum there must
/// be no `gaps`: slots up to the counter that are neither held nor free, and free slots that are
/// held. (One of each would cancel out.) Otherwise the repair is [`DropRepair::Count`]. It waits
/// while slots are [`DesiredSlot::Held`](desired::DesiredSlot), and so does everything that needs
/// the counter.
#[derive(Debug)]
pub struct Planner<'a> {
    policy: RepairPolicy,
    facts: &'a DropFacts,
    items: Vec<Planned>,
    /// Repairs of [`Planner::items`] that each concern one page.
    of_pages: usize,
    beyond: Beyond,
    rebuild: Vec<SlotChange>,
    /// Number of users of a lost drop who were taken already.
    rebuilt: usize,
    numbers: Numbers,
    examined: Examined,
    young: u64,
    /// By how many slots the repairs of the pages so far change the number of held ones.
    change_of_held: i64,
    /// The same for slots that are held or free.
    change_of_settled: i64,
    /// Restoring a user raises the counter to their slot.
    highest_returning: i64,
    gaps: u64,
    /// Slots that are [`DesiredSlot::Held`](desired::DesiredSlot).
    absent: u64,
    /// Highest slot of the drop that is held or free; only reported.
    highest: i64,
    people_without_row: u64,
    /// Users with a dead letter that is planned for: any further dead letter of theirs is a
    /// duplicate.
    people_of_dead_letters: HashSet<UserId>,
    /// Dead letters on the pages; there may be more.
    letters: u64,
    /// Slots that dead letters need.
    slots_for_letters: u64,
    left: DeadLettersLeft,
}

impl<'a> Planner<'a> {
    pub fn new(policy: RepairPolicy, facts: &'a DropFacts) -> Self {
        Self {
            policy,
            facts,
            items: Vec::new(),
            of_pages: 0,
            beyond: Beyond::default(),
            rebuild: Vec::new(),
            rebuilt: 0,
            numbers: Numbers::default(),
            examined: Examined::default(),
            young: 0,
            change_of_held: 0,
            change_of_settled: 0,
            highest_returning: 0,
            gaps: 0,
            absent: 0,
            highest: 0,
            people_without_row: 0,
            people_of_dead_letters: HashSet::new(),
            letters: 0,
            slots_for_letters: 0,
            left: DeadLettersLeft::default(),
        }
    }

    /// Takes the users to restore into a lost drop that the pages have shown so far: a large drop
    /// is not kept in memory.
    pub fn take_holdings(&mut self) -> Vec<SlotChange> {
        std::mem::take(&mut self.rebuild)
    }

    /// Counts users that were restored.
    pub fn were_put_back(&mut self, people: usize) {
        self.rebuilt += people;
    }

    fn push(
        &mut self,
        kind: Kind,
        slot: impl Into<Option<i64>>,
        user: Option<&UserId>,
        action: impl Into<Option<Action>>,
        detail: String,
    ) {
        let action = action.into();
        let needs_person = action.is_none();
        self.of_pages += usize::from(action.as_ref().is_some_and(Action::is_of_page));
        let slot = slot.into();
        let user = user.cloned();
        let dead_letter = None;
        let trace = None;
        let case = FindingCase::Plain;
        self.items.push(Planned {
            kind,
            slot,
            user,
            dead_letter,
            trace,
            detail,
            action,
            needs_person,
            case,
        });
    }

    /// Sets the case of the last finding.
    fn last_is(&mut self, case: FindingCase) {
        if let Some(item) = self.items.last_mut() {
            item.case = case;
        }
    }

    fn push_dead_letter(
        &mut self,
        letter: &DeadLetter,
        slot: Option<i64>,
        action: impl Into<Option<Action>>,
        detail: String,
    ) {
        self.push(
            Kind::FailedClaim,
            slot,
            letter.user.as_ref(),
            action,
            detail,
        );
        if let Some(item) = self.items.last_mut() {
            item.dead_letter = Some(letter.id);
            item.trace = letter.trace;
        }
    }

    /// A row's time comes from Redis's clock. If the time of the admission is unknown, use the time
    /// of this reading.
    fn claim(&self, slot: Slot, user: &UserId, claimed_at: Option<DateTime<Utc>>) -> Claim {
        let claimed_at =
            claimed_at.or_else(|| DateTime::from_timestamp_millis(self.facts.read_at_ms));
        let coupon_id = self.facts.coupon.id;
        let drop_id = self.facts.drop.id;
        let user_id = user.clone();
        Claim {
            coupon_id,
            drop_id,
            slot,
            user_id,
            claimed_at,
            trace: None,
        }
    }
}

/// A dead letter that names no drop of this pass, with the reason: only a person can resolve it.
pub fn loose(letter: &DeadLetter, why: &str) -> Planned {
    let name = dead_letters::name(letter);
    let (case, detail) = match (&letter.unreadable, &letter.user) {
        (Some(cause), _) => (
            FindingCase::Unreadable,
            format!("{name}: {cause}; discard it after the next pass"),
        ),
        (None, Some(_)) => (FindingCase::NamesNoDrop(1), format!("{name} names {why}")),
        (None, None) => (
            FindingCase::NamesNobody,
            format!("{name} names no user, and {why}"),
        ),
    };
    Planned {
        kind: Kind::FailedClaim,
        slot: letter.slot,
        user: letter.user.clone(),
        dead_letter: Some(letter.id),
        trace: letter.trace,
        detail,
        action: None,
        needs_person: true,
        case,
    }
}

/// Dead letters that are too many to list one by one.
pub fn many_loose(number: u64, why: &str, examples: &[i64]) -> String {
    format!(
        "{number} failed claims name {why} ({})",
        for_example(examples)
    )
}
