//! Attach: somebody else's coupon system, which counts down, with more claims than its stock;
//! and the reconciler that looks at it twice and repairs it. A pass may die after any step.
//!
//! There is no clock. A phase is bounded (`Phase::is_bounded`) if it ends within `in_flight`, so a
//! wait lasts until each claim that was in such a phase has left it. A message may wait in a topic
//! forever.
//!
//! Their consumer inserts a row without looking for an earlier one, and no unique key refuses a
//! second row.

pub mod cases;
mod ours;
mod theirs;

use stateright::{Model, Property};

use ours::Pass;

/// The stock.
pub const QUANTITY: i8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The offset is committed, or the message popped, before its row is written.
    BeforeRow,
    AfterRow,
}

/// How the counter column of their stock table changes when a coupon's row is inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    None,
    /// Their consumer moves it in the transaction of the row.
    SameTransaction,
    /// Their consumer moves it in a transaction before that of the row.
    TransactionBefore,
    /// A trigger moves it on each insert.
    Trigger,
}

/// Somebody else's system.
#[derive(Debug, Clone, Copy)]
pub struct System {
    pub commit: Commit,
    pub column: Column,
    /// A message whose row fails moves to a retry topic.
    pub retries: bool,
    /// Losers give back what they took. Otherwise the counter runs below zero.
    pub gives_back: bool,
}

/// A fault, which may happen as often as a world lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An API dies after it took from the counter: nobody was promised a coupon.
    Leak,
    /// A producer dies with a message.
    LoseMessage,
    /// A consumer dies with a message, which is read again if it was not committed.
    LoseHandled,
    /// A consumer dies between the transactions of column and row.
    LoseCounted,
    /// The counter goes back to an older value, which is one higher.
    CounterRises,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omitted {
    /// The end of a queue is read `in_flight` after the first look. Before that, a producer may
    /// still hold a message of a user whom the look saw.
    EndsAfterWait,
    /// The pass waits for `in_flight` again after the last stage has passed: a message that is
    /// committed or popped may not be written yet.
    WaitAfterPassed,
    /// The pass also waits for `in_flight` after each other stage: a message that is committed or
    /// popped may not be in the next stage yet.
    WaitBetweenStages,
    /// A stage's end is read once the messages of the previous stage have passed.
    StagesInOrder,
    /// The counter moves by the difference: an absolute value undoes what was claimed or given back
    /// since the look.
    RelativeRepair,
    /// A column moves with our row only if it equalled the rows before. Otherwise it may already
    /// count this row, because its writer died.
    ColumnIfEqual,
    /// A column that our insert itself has moved, by a trigger, is left alone.
    InsertMayMove,
    /// A row is inserted beside a column that differs from the rows only if both looks and the
    /// repair saw the same two numbers: otherwise one of their writers is between column and row.
    ColumnAtRest,
    /// The counter is raised only if both looks and the repair saw the same value: otherwise a
    /// claim is in flight.
    SameAtBothLooks,
    /// A counter below zero is never raised if losers give back what they took: even if both looks
    /// and the repair saw the same value, a refused claim is in flight, perhaps not the same one.
    NotBelowZero,
}

/// The progress of a claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    #[default]
    ToCome,
    /// It took from the counter, and its user is about to become a member.
    Took,
    /// It took although nothing was left, and is about to give that back.
    TookTooMuch,
    Refused,
    /// Its user is a member and was promised a coupon. The producer has its message.
    Buffered,
    /// Its message is in the topic or retry topic with this number.
    InTopic(u8),
    /// A consumer has its message.
    Handled(u8),
    /// Its column was moved, its row was not inserted.
    Counted(u8),
    Written,
    Lost,
}

/// A claim, and what the current pass knows about it. Claims are interchangeable, so a state
/// keeps them sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Claim {
    phase: Phase,
    rows: u8,
    /// The looks so far saw its user without a row.
    is_unissued: bool,
    /// The pass waits until it moves on.
    is_awaited: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The counter: what is left.
    left: i8,
    /// The column: what was given.
    column: i8,
    claims: Vec<Claim>,
    pass: Option<Pass>,
    faults: Vec<Fault>,
    /// The most that may be sold: more than the quantity only after a fault.
    most: i8,
    raised: bool,
    lowered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next step of a claim.
    Claim(usize),
    /// A message moves to the retry topic.
    Retry(usize),
    Dies(Fault, usize),
    CounterRises,
    /// The next step of the reconciler.
    Pass,
    /// The reconciler inserts a row for this claim.
    Repair(usize),
    RepairCounter,
    PassEnds,
}

/// A system, its faults, and a reconciler.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub system: System,
    pub faults: Vec<Fault>,
    pub omitted: Option<Omitted>,
}

impl Phase {
    /// Whether it ends within `in_flight`.
    fn is_bounded(self) -> bool {
        match self {
            Self::Took
            | Self::TookTooMuch
            | Self::Buffered
            | Self::Handled(_)
            | Self::Counted(_) => true,
            Self::ToCome | Self::Refused | Self::InTopic(_) | Self::Written | Self::Lost => false,
        }
    }

    fn is_member(self) -> bool {
        self >= Self::Buffered
    }
}

impl State {
    fn members(&self) -> i8 {
        let members = self.claims.iter().filter(|it| it.phase.is_member());
        members.map(|_| 1).sum()
    }

    fn rows(&self) -> i8 {
        let rows = self.claims.iter().map(|it| it.rows.cast_signed());
        rows.sum()
    }

    /// The number of users who were promised a coupon or are about to be.
    fn taken(&self) -> i8 {
        let taking = self.claims.iter().filter(|it| it.phase == Phase::Took);
        self.members() + taking.map(|_| 1).sum::<i8>()
    }

    fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn spend(&mut self, fault: Fault) {
        let at = self.faults.iter().position(|it| *it == fault);
        at.map(|at| self.faults.remove(at));
    }

    /// Whether nothing moves any longer, and every promise has its row.
    fn is_at_rest(&self) -> bool {
        let is_done = |claim: &Claim| match claim.phase {
            Phase::ToCome | Phase::Refused => true,
            Phase::Written | Phase::Lost => claim.rows > 0,
            _ => false,
        };
        self.pass.is_none() && self.claims.iter().all(is_done)
    }
}

impl Protocol {
    fn omits(&self, rule: Omitted) -> bool {
        self.omitted == Some(rule)
    }

    /// The claims that arrive: one more than the stock. Without [`Omitted::NotBelowZero`], a second
    /// one is refused at the second look, and a third one is admitted after the repair.
    fn claims(&self) -> usize {
        let refused = if self.omits(Omitted::NotBelowZero) {
            3
        } else {
            1
        };
        usize::from(QUANTITY.cast_unsigned()) + refused
    }

    fn stages(&self) -> u8 {
        if self.system.retries { 2 } else { 1 }
    }

    fn has_column(&self) -> bool {
        self.system.column != Column::None
    }

    /// Whether every promise has its row once what has begun is completed and passes have run.
    fn heals(&self, state: &State) -> bool {
        let mut state = State {
            faults: Vec::new(),
            ..state.clone()
        };
        theirs::run_to_rest(self, &mut state);
        // A pass may be in progress, and its looks may be old.
        for _ in 0..3 {
            ours::run_to_rest(self, &mut state);
        }
        let is_promised = |claim: &&Claim| claim.phase.is_member();
        let mut promised = state.claims.iter().filter(is_promised);
        promised.all(|claim| claim.rows > 0)
    }
}

/// No user gets two coupons.
pub const NO_SECOND_ROW: &str = "no user has a second row";
/// A repaired counter admits nobody beyond the quantity, or beyond what a fault has added to it.
pub const NEVER_OVERSOLD: &str = "no more is sold than the quantity";
/// Their consumer may decide by the column, so it must be right.
pub const COLUMN_KEPT: &str = "at rest, the column equals the rows";
/// A pass whose rules let it repair nothing would keep all other properties.
pub const HEALS: &str = "left alone, every promise within the quantity gets its row";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            left: QUANTITY,
            claims: vec![Claim::default(); self.claims()],
            faults: self.faults.clone(),
            most: QUANTITY,
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        theirs::steps(self, state, steps);
        ours::steps(self, state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        match step {
            Step::Claim(at) => theirs::go_on(self, &mut next, at),
            Step::Retry(at) => theirs::move_to(&mut next, at, Phase::InTopic(1)),
            Step::Dies(fault, at) => theirs::die(self, &mut next, fault, at),
            Step::CounterRises => theirs::raise_counter(&mut next),
            Step::Pass => ours::go_on(self, &mut next),
            Step::Repair(at) => ours::insert(self, &mut next, at),
            Step::RepairCounter => ours::repair_counter(self, &mut next),
            Step::PassEnds => ours::end(&mut next),
        }
        next.claims.sort_unstable();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(NO_SECOND_ROW, |_, state: &State| {
                state.claims.iter().all(|claim| claim.rows < 2)
            }),
            Property::always(NEVER_OVERSOLD, |_, state: &State| {
                state.taken() <= state.most
            }),
            Property::always(COLUMN_KEPT, |model: &Self, state: &State| {
                !model.has_column() || !state.is_at_rest() || state.column == state.rows()
            }),
            Property::always(HEALS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("all is sold", |_, state: &State| {
                state.is_at_rest() && state.rows() == QUANTITY
            }),
        ];
        let loses = [Fault::LoseMessage, Fault::LoseHandled, Fault::LoseCounted];
        if loses.iter().any(|fault| self.faults.contains(fault)) {
            let name = "a lost promise gets its row";
            all.push(Property::sometimes(name, |_, state: &State| {
                let mut lost = state.claims.iter().filter(|it| it.phase == Phase::Lost);
                lost.any(|claim| claim.rows > 0)
            }));
        }
        if self.faults.contains(&Fault::Leak) {
            let name = "a counter is raised";
            all.push(Property::sometimes(name, |_, state: &State| state.raised));
        }
        if self.faults.contains(&Fault::CounterRises) {
            let name = "a counter is lowered";
            all.push(Property::sometimes(name, |_, state: &State| state.lowered));
        }
        all
    }
}
