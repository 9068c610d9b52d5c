//! The claims of one drop, from Redis to their rows: two slots, three users, and faults of every
//! store. The gate is one compare-and-set here; [`super::gate`] models its mechanism.
//!
//! - [`stores`]: the data of Redis, MySQL and the topic, and the effect of each script and
//!   transaction.
//! - [`state`]: the whole state at one moment, and the promises.
//! - [`step`]: users, API, consumer, operator, and faults.
//! - [`pass`]: a reconciler's pass: read, judge, insert rows, project, open, promote.
//! - [`reconciler`]: the progress of a pass, and what it has read.
//! - [`cases`]: the explored worlds, and for each omitted rule a world that catches it.
//! - [`heal`]: the same system once the faults are over. It must become exact from every state.

pub mod cases;
pub mod heal;
pub mod pass;
pub mod reconciler;
pub mod state;
pub mod step;
pub mod stores;

use stateright::{Model, Property};

pub use state::State;
pub use step::Step;

/// Number of users, one more than the number of slots.
pub const USERS: usize = 3;
pub const SLOTS: usize = 2;

/// A fault, or something else that only some worlds have. Each may happen once, or as often as a
/// world lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An API process, the consumer or a reconciler dies between two of its steps.
    Crash,
    /// A suspended reconciler loses the urgent lane's lock, so that two close and rebuild at once.
    LockLost,
    /// Kafka does not acknowledge in time, so the API writes the row itself.
    Hang,
    /// Redis restarts or fails over with all its data.
    Restart,
    /// Redis restarts or fails over with older data.
    GoBack,
    /// Redis is emptied in the same process.
    Flush,
    /// MySQL fails over to a replica that has everything.
    Failover,
    /// MySQL fails over to a replica that lags.
    FailoverToOlder,
    /// The topic is deleted and created again.
    RecreateTopic,
    /// `slot_limits` is emptied, so MySQL refuses every row until an operator restores it.
    LoseLimits,
    /// An operator inserts a dead letter by hand.
    InsertLetter,
    /// An operator inserts a row of a claim that was given back.
    InsertVoidRow,
    /// The first user's claim is revoked, and the user may claim again.
    Return,
    /// An operator raises the quantity from one to two.
    Raise,
    /// An operator pauses the coupon.
    Pause,
}

/// A rule that a protocol leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omitted {
    /// Owed users are stored before the first `UNLINK`, not at the end.
    OwedFirst,
    /// At an open gate, a dead letter of a vacant slot closes the gate instead of becoming a row,
    /// unless Redis has its user on that slot.
    LetterByRedis,
    /// The position is the last statement of the batch's one transaction.
    PositionLast,
    /// A range that begins beyond the stored position does not move it.
    NoGap,
    /// The consumer begins again at the stored position if that differs from its own.
    BeginAgain,
    /// Reached means `ends <= position <= ends`, not only `ends <= position`.
    PositionInLog,
    /// A position outside the log is stored as the first offset.
    PositionReset,
    /// A closed coupon is judged once no message is unread.
    Barrier,
    /// Also the next attempt at a coupon that stayed closed waits for that: MySQL may have gone back.
    BarrierAgain,
    /// Rows keep no pace while a closed coupon waits for the barrier.
    BarrierUnpaced,
    /// A closed coupon is judged once nothing is in flight.
    Wait,
    /// A revision in Redis above MySQL's is adopted before anything is judged.
    Adoption,
    /// A revocation in Redis that MySQL does not know is adopted before anything is judged, and
    /// before a user is stored as owed.
    ReturnAdoption,
    /// Redis knows which revocations will end, so that an adopted one ends, too.
    ReturnInProgress,
    /// The revision that decides about adoption is read together with the users.
    RevisionWithUsers,
    /// A write of settings that finds no `meta` still leaves its revision.
    RevisionKept,
    /// A projected slot of a void user becomes free.
    PutChecksRevoked,
    /// If Redis lacks a return, a void admission differs from a later row of the same user on the
    /// same slot.
    TimesCompared,
    /// A refusal for a reason other than a taken slot makes no user owed.
    RefusalQuoted,
    /// A demoted primary answers no read.
    OfPrimary,
    /// The cache of stored claims distinguishes two admissions of the same slot and user.
    CacheByTime,
    /// A retry and `claims/me` say `accepted` only if a second store has the claim.
    StoredBeforeTold,
    /// A difference counts only if the rows are the same before and after Redis was read.
    RowsAgain,
    /// The API's row reads the era `FOR SHARE`.
    FallbackFenced,
    /// The reconciler's rows read the era `FOR SHARE`.
    RowsFenced,
    /// Each projected page carries the era.
    PutFenced,
    /// Rows that a revocation voids are moved before anything is compared.
    VoidRowMoved,
    /// Owed users are at the head of the waiting list before the gate opens.
    OwedAtHead,
    /// Rows are inserted before Redis is rebuilt from them.
    RowsFirst,
}

/// A protocol and the faults that it must survive.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub faults: Vec<Fault>,
    pub reconcilers: usize,
    pub omitted: Option<Omitted>,
}

impl Protocol {
    pub fn omits(&self, rule: Omitted) -> bool {
        self.omitted == Some(rule)
    }
}

/// No two users have a promise of the same slot, and no user has promises of two slots, apart from
/// promises that were given back or are listed as broken.
pub const ONE_EACH: &str = "one slot a user, one user a slot";
/// Topic, rows or dead letters hold every promise. If one of these stores lost data, Redis may be
/// the only one that does.
pub const HELD: &str = "a store besides Redis holds every promise";
/// A promise is broken only if MySQL and Redis forgot a return, or MySQL got a row by hand.
pub const UNBROKEN: &str = "no promise is broken without a reason";
/// Only a fault of a store or a manual change closes an open coupon. No traffic and no crash of a
/// process does.
pub const NOT_CLOSED: &str = "no clean coupon is closed";
/// No answer confirms a claim that was given back, unless both stores forgot the return or MySQL got
/// a row by hand.
pub const NOT_TOLD: &str = "a claim that was given back is not promised";
/// Nobody is admitted after a pause was answered.
pub const PAUSED: &str = "settings that were answered are in force";
/// No newcomer takes a slot from a user who was owed one when the gate opened.
pub const OWED_FIRST: &str = "owed users come before newcomers";
/// Without further faults every promise becomes a row or is listed, every slot is issued, and Redis
/// equals the rows.
pub const HEALS: &str = "left alone, it becomes exact";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::open(self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        step::possible(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        step::take(self, &mut next, step);
        next.tidy();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_EACH, |_, state: &State| state.promises_agree()),
            Property::always(HELD, |_, state: &State| state.promises_are_held()),
            Property::always(UNBROKEN, |_, state: &State| {
                state.broken.is_empty() || state.excused
            }),
            Property::always(NOT_CLOSED, |_, state: &State| !state.seen.closed_clean),
            Property::always(NOT_TOLD, |_, state: &State| {
                !state.seen.void_told || state.excused
            }),
            Property::always(PAUSED, |_, state: &State| !state.seen.admitted_while_paused),
            Property::always(OWED_FIRST, |_, state: &State| !state.seen.overtaken),
            Property::always(HEALS, heal::becomes_exact),
            Property::sometimes("every slot is issued", |_, state: &State| {
                (1..)
                    .zip(state.mysql.rows)
                    .all(|(slot, row)| row.is_some() || slot > state.mysql.settings.quantity)
            }),
        ]
    }
}
