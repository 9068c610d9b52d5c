//! Decides on repairs. This is a pure function of the collected state: it performs no I/O and does
//! not read the clock.
//!
//! The caller passes the slots of a drop page by page ([`Planner::page`]), which keeps memory
//! constant even for a million claims, and then calls [`Planner::finish`]. The result is a list of
//! findings, each with its repair.

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

/// Limits on when repairs are made, and on how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairPolicy {
    /// An admission younger than this, in milliseconds, may still be in flight to the topic.
    pub publish_deadline_ms: i64,
    /// An admission younger than this, in milliseconds, may still be in flight to the topic or the
    /// dead-letter table.
    pub in_flight_ms: i64,
    /// If a message waits on the topic for longer than this, in milliseconds, the reconciler writes
    /// the row itself.
    pub overdue_ms: i64,
    /// Maximum number of repairs of a drop in one pass, in percent of its quantity.
    pub repair_limit_percent: u32,
    /// Number of repairs that are allowed regardless of the quantity of the drop.
    pub repair_limit_at_least: usize,
    /// Maximum number of single-page repairs kept in memory. Any further ones are only counted, and
    /// later carried out page by page.
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

/// A repair of a difference between the actual and the desired state of the stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Changes a user's slot in Redis. If the user may have any slot ([`Wanted::Any`]) but none is
    /// left, moves the user to the head of the waiting list and lists the promise as broken.
    Slot(SlotChange),
    /// Inserts a row that is missing from MySQL.
    Row(RowChange),
    /// Resolves a dead letter without a row in the slot that it names.
    Letter(LetterChange),
    /// Repairs the drop as a whole, or its coupon, in Redis.
    Drop(DropRepair),
}

/// A row to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    pub claim: Claim,
    /// ID of the dead letter that the row resolves, if any.
    pub letter: Option<i64>,
    /// Whether the user of the dead letter is missing from Redis and must be restored there before
    /// the row is inserted.
    pub put_back: bool,
}

/// A dead letter that is resolved without a row in the slot that it names.
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
        /// When the user was first admitted, if known.
        claimed_at: Option<DateTime<Utc>>,
    },
    /// The user already has a row, or gets one from an earlier repair of this plan.
    Duplicate,
    /// The claim is revoked.
    Revoked,
}

/// A repair of a whole drop or of its coupon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropRepair {
    /// Writes the `meta` of the drop.
    Settings,
    /// Writes the coupon's allow list.
    AllowList,
    /// Rebuilds the whole drop from rows, messages and dead letters.
    Everything {
        holdings: Vec<SlotChange>,
        /// Number of users who were already restored while a large drop was read.
        before: usize,
    },
    /// Carries out the missing steps of a revocation.
    Revocation(Box<HalfRevoked>),
    /// Sets the counter, so that `count = |users| + |free|`.
    Count,
    /// Gives a free slot to the first user on the waiting list, who is expected to be this user.
    Line(UserId),
}

/// A finding with its repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub kind: Kind,
    pub slot: Option<i64>,
    pub user: Option<UserId>,
    /// ID of the dead letter. A user can have several for the same slot.
    pub dead_letter: Option<i64>,
    /// The span of the claim request, if the dead letter recorded it.
    pub trace: Option<TraceContext>,
    /// What was observed, as shown to operators.
    pub detail: String,
    /// The repair, or `None` if an operator has to decide or nothing needs repair.
    pub action: Option<Action>,
    /// Whether an operator has to resolve the finding.
    pub needs_person: bool,
    /// The case among findings of this kind, which selects the text of the mail.
    pub case: FindingCase,
}

impl Planned {
    pub(crate) fn action_kind(&self) -> ActionKind {
        self.action
            .as_ref()
            .map_or(ActionKind::Report, Action::kind)
    }

    /// Whether the repair moves a user to any slot that is left.
    pub(crate) fn moves(&self) -> bool {
        matches!(&self.action, Some(Action::Slot(change)) if change.wanted == Wanted::Any)
    }
}

impl Action {
    /// Whether the repair takes a slot from a user who holds it in Redis.
    pub(crate) fn takes(&self) -> bool {
        matches!(self, Self::Slot(change) if change.takes())
    }

    /// Whether the repair only gives users what they were promised. Such a repair takes nothing
    /// from any user and gives no slot to a new user.
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
                // Only the list of claimants has the user on this slot.
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
    /// Single-page repairs that exceed [`RepairPolicy::kept`].
    pub beyond: Beyond,
    pub numbers: Numbers,
    pub examined: Examined,
    /// Number of admissions too recent to judge, because their claims may still be in flight to the
    /// topic.
    pub young: u64,
    /// Number of users of the waiting list that may get a slot after the repairs.
    pub left: u64,
    /// Whether the counter must not be set, and repairs that depend on it must wait: slots without
    /// a holder may belong to users whose claims are in flight or whose messages are unread.
    pub counter_waits: bool,
    /// How many repairs count towards the repair limit.
    pub repairs: usize,
    /// A hash of the repairs that count. An operator's confirmation is valid for exactly these
    /// repairs.
    pub fingerprint: u64,
    /// The hash of each of these repairs, except for those of [`Plan::beyond`].
    pub counted: HashSet<u64>,
    /// Whether the repairs exceed the limit. [`Plan::take_waiting`] returns those that an operator
    /// must confirm.
    pub over_limit: bool,
    /// Whether every promise has its row, no promise is broken, no row is surplus, and no user
    /// waits while a slot is free.
    pub exact: bool,
    /// Whether the drop can be sealed: it is closed and exact, and none of its claims is in flight.
    pub sealable: bool,
}

impl Plan {
    /// Removes and returns the repairs that an operator must confirm. With an open gate, these are
    /// all repairs. With a closed gate (`what_adds_goes_on`), repairs that only add what was
    /// promised stay in the plan: no user loses a slot through them, and no other user can claim.
    /// The counter is not set in this case, because that would free the slots of users who have yet
    /// to be moved.
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

/// Plans the repairs of one drop: first page by page ([`Planner::page`]), then for the drop as a
/// whole ([`Planner::finish`]).
///
/// # The counter
///
/// In Redis every slot up to the counter is held or free, so `count = |users| + |free|`. A fault
/// must not be reported twice: a user whom Redis has lost is a `missing_admission`, but not also a
/// `count_mismatch`. The counter is therefore compared with the state after the other repairs:
///
/// ```text
/// max(count, highest_returning) = |users| + |free| + change_of_settled
/// ```
///
/// Each page adds to `change_of_settled` the number of slots that are held or free after its
/// repairs, less the number of users and free slots that Redis has now. In addition, there must be
/// no `gaps`: slots up to the counter that are neither held nor free, and free slots that are held.
/// (One of each would cancel out in the sum.) If either condition fails, the repair is
/// [`DropRepair::Count`]. While any slot is `DesiredSlot::Held`, this
/// repair waits, as do all others that need the counter.
#[derive(Debug)]
pub struct Planner<'a> {
    policy: RepairPolicy,
    facts: &'a DropFacts,
    items: Vec<Planned>,
    /// Number of single-page repairs in [`Planner::items`].
    of_pages: usize,
    beyond: Beyond,
    rebuild: Vec<SlotChange>,
    /// Number of users of a lost drop that [`Planner::take_holdings`] has already returned.
    rebuilt: usize,
    numbers: Numbers,
    examined: Examined,
    young: u64,
    /// Change in the number of held slots through the repairs of the pages so far.
    change_of_held: i64,
    /// Change in the number of held or free slots through the repairs of the pages so far.
    change_of_settled: i64,
    /// Highest slot to which a user is restored. Restoring raises the counter to it.
    highest_returning: i64,
    gaps: u64,
    /// A hash of their slots.
    gaps_hash: u64,
    /// Number of slots that are `DesiredSlot::Held`.
    absent: u64,
    /// Highest slot of the drop that is held or free. Only used in reports.
    highest: i64,
    people_without_row: u64,
    /// Users with a dead letter that this plan resolves. Any further dead letter of the same user
    /// is a duplicate.
    people_of_dead_letters: HashSet<UserId>,
    /// Number of dead letters read with the pages. MySQL may have more.
    letters: u64,
    /// Number of free slots that dead letters need.
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
            gaps_hash: 0,
            absent: 0,
            highest: 0,
            people_without_row: 0,
            people_of_dead_letters: HashSet::new(),
            letters: 0,
            slots_for_letters: 0,
            left: DeadLettersLeft::default(),
        }
    }

    /// Removes and returns the users to restore into a lost drop, as found on the pages so far. The
    /// caller restores them while it reads, since a large drop does not fit in memory.
    pub fn take_holdings(&mut self) -> Vec<SlotChange> {
        std::mem::take(&mut self.rebuild)
    }

    /// Adds to the number of users that the caller has already restored.
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

    /// Builds the claim to insert as a row. Its time comes from Redis's clock: the time of
    /// admission or, if that is unknown, the time at which the drop was read.
    fn claim(&self, slot: Slot, user: &UserId, claimed_at: Option<DateTime<Utc>>) -> Claim {
        let claimed_at =
            claimed_at.or_else(|| DateTime::from_timestamp_millis(self.facts.read_at_ms));
        self.facts.claim(slot, user, claimed_at)
    }
}

/// Plans a dead letter that names no drop of this pass. `why` describes what it names instead. Only
/// an operator can resolve it.
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

/// Describes dead letters that are too many to list individually.
pub fn many_loose(number: u64, why: &str, examples: &[i64]) -> String {
    format!(
        "{number} failed claims name {why} ({})",
        for_example(examples)
    )
}
