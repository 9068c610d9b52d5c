//! Revoking a claim: one slot, its first holder, and the next one. The steps of a revocation
//! (docs/decisions/0013-revoking.md) are interleaved with late messages, crashes, stale passes, and
//! a Redis that is flushed or goes back in time.

mod cases;
mod pass;

use stateright::{Model, Property};

pub use cases::{right, wrong};

/// The user whose claim is revoked, and the next user.
const FIRST: u8 = 0;
const PEOPLE: [u8; 2] = [FIRST, 1];

/// A user and the time of admission: a claim of the slot.
type Claim = (u8, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The slot is released before MySQL has recorded the revocation.
    RedisFirst,
    /// Rows are written without checking the revocations.
    InsertUnchecked,
    /// A user is restored to Redis without checking the user's revocations.
    PutBackUnchecked,
    /// A Redis that has lost data opens without the revocations.
    NotRestored,
    /// A pass does not look for revoked users in Redis.
    NotCompared,
    /// The ban ends before the time of the release.
    LiftedEarly,
    /// A late release does not check whether its revocation has ended.
    ReleaseUnfenced,
    /// A revocation that lets the user claim again does not ban claims in progress.
    NoBan,
}

#[derive(Debug, Clone)]
pub struct Revoking {
    pub may_claim_again: bool,
    /// Number of APIs that revoke.
    pub revokers: usize,
    pub passes: usize,
    pub faults: Faults,
    pub wrong: Option<Wrong>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Number of times that an API or a pass dies between two steps.
    pub crashes: u8,
    /// Number of messages that are delivered again.
    pub repeats: u8,
    pub flushes: u8,
    pub gone_back: u8,
}

/// A revocation, as MySQL and Redis record it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Ban {
    #[default]
    None,
    /// Every claim of the user is void.
    Open,
    /// Claims up to this time are void.
    Until(u8),
}

impl Ban {
    fn voids(self, claim: Claim) -> bool {
        let (person, at) = claim;
        person == FIRST && (self == Self::Open || matches!(self, Self::Until(until) if at <= until))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Redis {
    holder: Option<Claim>,
    ban: Ban,
    life: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Revoker {
    Idle,
    /// MySQL has recorded the revocation. The value is the time that was read before.
    Written(u8),
    /// The slot was released at this time.
    Released(u8),
    /// MySQL has recorded the end of the ban.
    Lifted(u8),
}

/// The view of a pass. The pass acts on it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Seen {
    row: Option<Claim>,
    message: Option<Claim>,
    holder: Option<Claim>,
    ban: Ban,
    life: u8,
    closed: bool,
    step: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    redis: Redis,
    copy: Option<Redis>,
    open: bool,
    /// Redis's clock. Every admission and release advances it.
    clock: u8,
    /// Messages on the topic, in order, and the number of committed messages.
    topic: Vec<Claim>,
    read: u8,
    row: Option<Claim>,
    ban: Ban,
    revokers: Vec<Revoker>,
    passes: Vec<Option<Seen>>,
    faults: Faults,
    promised: Vec<Claim>,
    /// The time up to which claims are void forever, once the revocation is confirmed.
    answered: Option<u8>,
    /// Whether a void claim was promised after that.
    told_void: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Ask(u8),
    Consume,
    Repeat,
    /// An API performs the next step of a revocation.
    Revoke(usize),
    RevokerDies(usize),
    Look(usize),
    Repair(usize),
    PassDies(usize),
    Flush,
    Copy,
    GoBack,
}

impl Revoking {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    fn ask(&self, state: &mut State, person: u8) {
        if !state.open {
            return;
        }
        // Redis's clock is past the end of the ban, because it has advanced since.
        if state.redis.ban.voids((person, state.clock + 1)) && !self.is(Wrong::NoBan) {
            return;
        }
        match state.redis.holder {
            None => {
                state.clock += 1;
                let claim = (person, state.clock);
                state.redis.holder = Some(claim);
                state.topic.push(claim);
                state.promised.push(claim);
            }
            Some(claim) if claim.0 == person => {
                state.told_void |=
                    person == FIRST && state.answered.is_some_and(|until| claim.1 <= until);
            }
            Some(_) => {}
        }
    }

    /// Inserts a row and checks it afterwards, in one transaction.
    fn insert(&self, state: &mut State, claim: Claim) {
        let is_void = state.ban.voids(claim) && !self.is(Wrong::InsertUnchecked);
        if state.row.is_none() && !is_void {
            state.row = Some(claim);
        }
    }

    fn write(state: &mut State) {
        // A repeated request finds the existing revocation.
        if state.ban == Ban::None {
            state.ban = Ban::Open;
        }
        state.row = state.row.filter(|row| !state.ban.voids(*row));
    }

    /// Models the script. If Redis knows that the ban has ended, the script only releases
    /// admissions from before its end.
    fn release(&self, state: &mut State) -> u8 {
        if self.is(Wrong::ReleaseUnfenced) || !matches!(state.redis.ban, Ban::Until(_)) {
            state.redis.ban = Ban::Open;
        }
        if state
            .redis
            .holder
            .is_some_and(|claim| state.redis.ban.voids(claim))
        {
            state.redis.holder = None;
        }
        if let Ban::Until(until) = state.redis.ban {
            until
        } else {
            state.clock
        }
    }

    fn lift(state: &mut State, until: u8) {
        if state.ban == Ban::Open {
            state.ban = Ban::Until(until);
        }
    }

    fn revoke(&self, state: &mut State, at: usize) {
        let redis_first = self.is(Wrong::RedisFirst);
        state.revokers[at] = match state.revokers[at] {
            Revoker::Idle if redis_first => {
                let clock = self.release(state);
                Revoker::Written(clock)
            }
            Revoker::Idle => {
                let before = state.clock.saturating_sub(1);
                Self::write(state);
                Revoker::Written(before)
            }
            Revoker::Written(before) => {
                let until = if redis_first {
                    Self::write(state);
                    before
                } else {
                    self.release(state)
                };
                Revoker::Released(if self.is(Wrong::LiftedEarly) {
                    before
                } else {
                    until
                })
            }
            Revoker::Released(until) => {
                if self.may_claim_again {
                    Self::lift(state, until);
                    Revoker::Lifted(until)
                } else {
                    Self::answer(state)
                }
            }
            Revoker::Lifted(_) => {
                if matches!(state.redis.ban, Ban::Open) {
                    state.redis.ban = state.ban;
                }
                Self::answer(state)
            }
        };
    }

    fn answer(state: &mut State) -> Revoker {
        let until = if let Ban::Until(until) = state.ban {
            until
        } else {
            u8::MAX
        };
        state.answered = Some(state.answered.map_or(until, |earlier| earlier.min(until)));
        Revoker::Idle
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Ask(person) => self.ask(state, person),
            Step::Consume => {
                let claim = state.topic[usize::from(state.read)];
                state.read += 1;
                self.insert(state, claim);
            }
            Step::Repeat => {
                state.faults.repeats -= 1;
                state.read -= 1;
            }
            Step::Revoke(at) => self.revoke(state, at),
            Step::RevokerDies(at) => {
                state.faults.crashes -= 1;
                state.revokers[at] = Revoker::Idle;
            }
            Step::Look(at) => Self::look(state, at),
            Step::Repair(at) => self.repair(state, at),
            Step::PassDies(at) => {
                state.faults.crashes -= 1;
                state.passes[at] = None;
            }
            Step::Flush => {
                state.faults.flushes -= 1;
                state.redis = Redis {
                    life: state.redis.life + 1,
                    ..Redis::default()
                };
                state.open = false;
            }
            Step::Copy => state.copy = Some(state.redis),
            Step::GoBack => {
                state.faults.gone_back -= 1;
                let copy = state.copy.take().unwrap_or_default();
                state.redis = Redis {
                    life: state.redis.life + 1,
                    ..copy
                };
                state.open = false;
            }
        }
    }

    /// Whether the state becomes consistent once no further revocation starts, pending ones finish,
    /// all messages arrive, passes run, and the next user claims.
    fn heals(&self, state: &State) -> bool {
        let mut state = state.clone();
        for at in 0..self.revokers {
            while state.revokers[at] != Revoker::Idle {
                self.revoke(&mut state, at);
            }
        }
        for at in 0..self.passes {
            while state.passes[at].is_some() {
                self.repair(&mut state, at);
            }
        }
        for _ in 0..5 {
            while usize::from(state.read) < state.topic.len() {
                self.take(&mut state, Step::Consume);
            }
            Self::look(&mut state, 0);
            while state.passes[0].is_some() {
                self.repair(&mut state, 0);
            }
            self.ask(&mut state, 1);
        }
        let holder = state.redis.holder;
        let kept = |claim: &Claim| state.ban.voids(*claim) || state.row == Some(*claim);
        state.open && holder.is_some() && holder == state.row && state.promised.iter().all(kept)
    }
}

pub const NOT_HELD: &str = "nobody holds a claim whose revocation was confirmed";
pub const NOT_TOLD: &str = "a claim whose revocation was confirmed is no longer promised";
pub const HEALS: &str =
    "left alone, the next person gets the slot, and every other promise has its row";

impl Model for Revoking {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            redis: Redis::default(),
            copy: None,
            open: true,
            clock: 0,
            topic: Vec::new(),
            read: 0,
            row: None,
            ban: Ban::None,
            revokers: vec![Revoker::Idle; self.revokers],
            passes: vec![None; self.passes],
            faults: self.faults,
            promised: Vec::new(),
            answered: None,
            told_void: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        // Only two claims of the first user and one of the next user can differ.
        steps.extend(
            PEOPLE
                .iter()
                .filter(|_| state.clock < 3)
                .map(|person| Step::Ask(*person)),
        );
        let holds = state
            .row
            .or(state.redis.holder)
            .is_some_and(|claim| claim.0 == FIRST && !state.ban.voids(claim));
        for (at, revoker) in state.revokers.iter().enumerate() {
            let begun = *revoker != Revoker::Idle;
            let unfinished = state.ban == Ban::Open || state.ban != state.redis.ban;
            let may_begin =
                (holds && state.ban == Ban::None) || (state.ban != Ban::None && unfinished);
            steps.extend((begun || may_begin).then_some(Step::Revoke(at)));
            steps.extend((begun && state.faults.crashes > 0).then_some(Step::RevokerDies(at)));
        }
        for (at, pass) in state.passes.iter().enumerate() {
            steps.push(if pass.is_some() {
                Step::Repair(at)
            } else {
                Step::Look(at)
            });
            steps
                .extend((pass.is_some() && state.faults.crashes > 0).then_some(Step::PassDies(at)));
        }
        let faults = state.faults;
        let conditions = [
            (Step::Consume, usize::from(state.read) < state.topic.len()),
            (Step::Repeat, faults.repeats > 0 && state.read > 0),
            (Step::Flush, faults.flushes > 0),
            (Step::Copy, faults.gone_back > 0 && state.copy.is_none()),
            (Step::GoBack, faults.gone_back > 0 && state.copy.is_some()),
        ];
        steps.extend(
            conditions
                .into_iter()
                .filter(|(_, can)| *can)
                .map(|(step, _)| step),
        );
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        next.revokers.sort_unstable();
        next.passes.sort_unstable();
        next.promised.sort_unstable();
        next.promised.dedup();
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let held = |_: &Self, state: &State| {
            let void =
                |row: Claim| row.0 == FIRST && state.answered.is_some_and(|until| row.1 <= until);
            !state.row.is_some_and(void)
        };
        vec![
            Property::always(NOT_HELD, held),
            Property::always(NOT_TOLD, |_, state: &State| !state.told_void),
            Property::always(HEALS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("the next person has it", |_, state: &State| {
                state.row.is_some_and(|row| row.0 != FIRST)
            }),
        ]
    }
}
