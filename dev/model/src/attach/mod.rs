//! Attach: somebody else's coupon system, whose counter goes down, with more claims than its stock;
//! and the reconciler that remembers what it saw, waits, and writes rows without being asked.
//!
//! There is no clock. A phase is bounded (`Phase::is_bounded`) if it ends within `in_flight`, so a
//! wait lasts until each claim that was in such a phase has left it. A message may wait in a topic
//! forever.
//!
//! Three harms remain with all rules, so these worlds leave them out: a row that comes and goes
//! between two looks of one process while none goes that a look has seen (`theirs::steps`), a row
//! that moves to a user who was promised one, and a coupon that is given back in the millisecond
//! between the last read of Redis and the commit. Their API therefore takes it from Redis first.

pub mod cases;
mod ours;
mod theirs;

use stateright::{Model, Property};

use ours::{Known, Round};

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

/// What their unique key covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The user of each row.
    AllRows,
    /// The user of each row that counts.
    LiveRows,
    /// The id of the request.
    Request,
    None,
}

/// Somebody else's system, and the file that describes it.
#[derive(Debug, Clone, Copy)]
pub struct System {
    pub stock: u8,
    /// The users who claim.
    pub users: u8,
    pub commit: Commit,
    pub column: Column,
    /// A message whose row fails moves to a retry topic.
    pub retries: bool,
    pub key: Key,
    /// A consumer whose row is refused as a duplicate gives the seat back.
    pub compensates: bool,
    /// The file names the counter.
    pub count: bool,
    /// `issue` moves the column.
    pub issue_moves: bool,
    /// `resolve` closes every failed event, because its condition is not unique.
    pub resolves_all: bool,
}

/// What may happen as often as a world lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A producer dies with a message.
    LoseMessage,
    /// A consumer dies with a message, which is read again if it was not committed.
    LoseHandled,
    /// A consumer dies between the transactions of column and row.
    LoseCounted,
    /// A consumer fails, and writes a failed event.
    Fail,
    /// A consumer refuses the user and gives the seat back, but the user stays in Redis.
    Refuse,
    /// The counter goes back to an older value, which is one higher.
    CounterRises,
    /// Redis goes back to an older state without this claim.
    MemberLost,
    GiveBack,
    /// The row counts no more, its seat is sold again, and the user stays in Redis.
    Cancel,
    /// The row moves to somebody who was promised nothing.
    Transfer,
    /// All rows are deleted.
    Purge,
    /// The reconciler forgets what it saw.
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omitted {
    /// A round begins `in_flight` after the first look at a difference. Before that, a producer
    /// may still hold the message.
    EndsAfterWait,
    /// A round ends `in_flight` after the last stage has passed: a message that is committed or
    /// popped may not be written yet.
    WaitAfterPassed,
    /// It also waits for `in_flight` after each other stage: a message that is committed or popped
    /// may not be in the next stage yet.
    WaitBetweenStages,
    /// A stage's end is read once the messages of the previous stage have passed.
    StagesInOrder,
    /// A user gets a row unasked only if this process saw them arrive.
    NewOnly,
    /// Nobody has a row that counts without a promise.
    NoStrangers,
    /// No look of this process saw somebody without a row who had one. A user who has left Redis
    /// since is no proof that all others are new.
    NoVanished,
    /// The user is read again before the commit.
    StillPromised,
    /// Rows that count and promises without a row are not more than the quantity, neither at the
    /// look (an empty counter agrees with too many promises) nor before the commit.
    OwedWithinQuantity,
    /// The counter says what is owed.
    CounterAgrees,
    /// `issued` selects every row, those that count no more, too.
    AllRowsSelected,
    /// The database refuses a second row for a user who has one of theirs. This is the second
    /// layer behind [`Self::QueueWritten`], so its world omits both.
    ProbeTheirRow,
    /// Each stage of the queue is in the file.
    QueueWritten,
    /// Each statement changes exactly one row.
    OneRowEach,
    /// No check returns a row before a pass writes, nor in the transaction of its first row before
    /// the statements: a consumer may be between column and row.
    CheckBefore,
    /// The checks run in that transaction after the statements.
    CheckInside,
}

/// The progress of a claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    #[default]
    ToCome,
    SoldOut,
    /// Its user is in Redis. The producer has its message.
    Buffered,
    /// Its message is in the topic or retry topic with this number.
    InTopic(u8),
    /// A consumer has its message.
    Handled(u8),
    /// Its column was moved, its row was not inserted.
    Counted(u8),
    Written,
    Lost,
    /// It is in the table of failed events.
    Failed,
    Refused,
    /// It left Redis; its row is about to go.
    Leaving,
    GivenBack,
}

/// A claim, and what the reconciler knows about it. Claims are interchangeable, so a state keeps
/// them sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Claim {
    phase: Phase,
    is_member: bool,
    theirs: u8,
    ours: u8,
    cancelled: u8,
    /// It had a row that was cancelled, moved or purged.
    had_row: bool,
    /// Its failed event was closed.
    is_resolved: bool,
    known: Known,
    /// The last look saw it without a row, and so did the look that began the round.
    is_open: bool,
    /// The round waits until it moves on.
    is_awaited: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The counter: what is left.
    left: i8,
    /// The column: what was given.
    column: i8,
    /// How far their own faults have moved the column away from the rows.
    column_off: i8,
    claims: Vec<Claim>,
    /// Rows of people who were promised nothing.
    strangers: u8,
    /// This process has looked.
    has_looked: bool,
    /// A look of this process saw a user without a row who had one.
    has_vanished: bool,
    round: Option<Round>,
    events: Vec<Event>,
    /// The most that may be sold: more than the stock only after a fault of theirs.
    most: i8,
    harm: Option<Harm>,
}

/// Why a row of ours is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Harm {
    HasLeft,
    WasRefused,
    HadRow,
    BeyondQuantity,
    /// `resolve` closed the event of another user.
    OtherEvent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The next step of a claim.
    Claim(usize),
    /// A message moves to the retry topic.
    Retry(usize),
    Happens(Event, usize),
    /// A look of the reconciler, which begins a round if there is none.
    Look,
    /// A wait of the round ends.
    WaitEnds,
    /// The reconciler inserts a row for this claim.
    Insert(usize),
    /// A round ends, or its process has forgotten its plan.
    RoundEnds,
}

/// A system, what happens to it, and a reconciler.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub system: System,
    pub events: Vec<Event>,
    pub omitted: Option<Omitted>,
}

impl Phase {
    /// Whether it ends within `in_flight`.
    fn is_bounded(self) -> bool {
        matches!(
            self,
            Self::Buffered | Self::Handled(_) | Self::Counted(_) | Self::Leaving
        )
    }

    /// Whether its row is still to come.
    fn is_moving(self) -> bool {
        matches!(
            self,
            Self::Buffered | Self::InTopic(_) | Self::Handled(_) | Self::Counted(_)
        )
    }
}

impl Claim {
    /// Its rows that count.
    fn rows(&self) -> u8 {
        self.theirs + self.ours
    }
}

impl State {
    fn rows(&self) -> i8 {
        let rows: u8 = self.claims.iter().map(Claim::rows).sum();
        (rows + self.strangers).cast_signed()
    }

    /// What was sold, is about to be, or may still be.
    fn sold(&self) -> i8 {
        let is_coming = |claim: &&Claim| claim.phase.is_moving() && claim.rows() == 0;
        let coming = self.claims.iter().filter(is_coming).count();
        let is_leaving = |claim: &&Claim| claim.phase == Phase::Leaving;
        let leaving = self.claims.iter().filter(is_leaving).map(Claim::rows).sum();
        self.rows() - u8::cast_signed(leaving) + to_i8(coming) + self.left
    }

    /// Whether nothing of theirs moves.
    fn is_at_rest(&self) -> bool {
        let is_busy = |claim: &Claim| claim.phase.is_bounded() || claim.phase.is_moving();
        !self.claims.iter().any(is_busy)
    }
}

fn to_i8(number: usize) -> i8 {
    i8::try_from(number).unwrap_or(i8::MAX)
}

impl Protocol {
    fn omits(&self, rule: Omitted) -> bool {
        self.omitted == Some(rule)
            || (rule == Omitted::QueueWritten && self.omitted == Some(Omitted::ProbeTheirRow))
    }

    fn stages(&self) -> u8 {
        if self.system.retries { 2 } else { 1 }
    }

    fn has_column(&self) -> bool {
        self.system.column != Column::None
    }

    /// Whether an insert moves the column, by the statement or by a trigger.
    fn insert_moves(&self) -> i8 {
        i8::from(self.system.issue_moves) + i8::from(self.system.column == Column::Trigger)
    }

    /// Whether the file is right and the database proves it, so that nothing but an event stops a
    /// repair.
    fn may_repair(&self) -> bool {
        matches!(self.system.key, Key::AllRows | Key::LiveRows)
            && self.insert_moves() == i8::from(self.has_column())
            && !self.system.resolves_all
    }

    /// Whether each new user whose message was lost has a row once what has begun is completed and
    /// rounds have run.
    fn heals(&self, state: &State) -> bool {
        let mut state = State {
            events: Vec::new(),
            ..state.clone()
        };
        theirs::run_to_rest(self, &mut state);
        // A round may be in progress, and its look may be old.
        for _ in 0..2 {
            ours::run_to_rest(self, &mut state);
        }
        !self.may_repair() || !ours::owes(self, &state)
    }
}

/// No user gets two coupons.
pub const NO_SECOND_ROW: &str = "no user has a second row";
/// A seat that is given back because of our row is sold twice.
pub const NEVER_OVERSOLD: &str = "no more is sold than the quantity";
/// Nobody gets a row who left, was refused or had one, or beyond the quantity.
pub const NO_HARM: &str = "each row of ours was owed";
/// Their consumer may decide by the column, so it must be right.
pub const COLUMN_KEPT: &str = "at rest, the column differs from the rows by their own faults only";
/// Rules that let nothing be repaired would keep all other properties.
pub const HEALS: &str = "left alone, every lost message of a new user gets its row";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let stock = self.system.stock.cast_signed();
        vec![State {
            left: stock,
            claims: vec![Claim::default(); self.system.users.into()],
            events: self.events.clone(),
            most: stock,
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        theirs::steps(self, state, steps);
        ours::steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        match step {
            Step::Claim(at) => theirs::go_on(self, &mut next, at),
            Step::Retry(at) => theirs::move_to(&mut next, at, Phase::InTopic(1)),
            Step::Happens(event, at) => theirs::happen(self, &mut next, event, at),
            Step::Look => ours::look(self, &mut next),
            Step::WaitEnds => ours::end_wait(self, &mut next),
            Step::Insert(at) => ours::insert(self, &mut next, at),
            Step::RoundEnds => ours::end(&mut next),
        }
        next.claims.sort_unstable();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(NO_SECOND_ROW, |_, state: &State| {
                state.claims.iter().all(|claim| claim.rows() < 2)
            }),
            Property::always(NEVER_OVERSOLD, |_, state: &State| {
                state.sold() <= state.most
            }),
            Property::always(NO_HARM, |_, state: &State| state.harm.is_none()),
            Property::always(COLUMN_KEPT, |model: &Self, state: &State| {
                !model.has_column()
                    || !state.is_at_rest()
                    || state.column - state.rows() == state.column_off
            }),
            Property::always(HEALS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("all is sold", |_, state: &State| {
                state.is_at_rest() && state.left <= 0
            }),
        ];
        let loses = [Event::LoseMessage, Event::LoseHandled, Event::Fail];
        if self.may_repair() && loses.iter().any(|event| self.events.contains(event)) {
            let name = "a lost promise gets its row";
            all.push(Property::sometimes(name, |_, state: &State| {
                state.claims.iter().any(|claim| claim.ours > 0)
            }));
        }
        all
    }
}
