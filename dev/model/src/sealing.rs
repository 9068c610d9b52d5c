//! Sealing a drop. By Redis's clock, a drop may be closed and open again once the clock is
//! corrected. Passes skip a sealed drop, so a claim that only Redis has would be lost without
//! notice.

use stateright::{Model, Property};

const PEOPLE: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Every slot of a sealed drop counts as durable, even if it was given out just now.
    SealedIsDurable,
    /// A dead letter does not unseal its drop.
    NeverUnsealed,
    /// A drop is sealed by Redis's clock alone, ignoring the host's.
    OneClock,
}

/// The protocol of sealing.
#[derive(Debug, Clone)]
pub struct Sealing {
    /// Number of times that Redis's clock jumps past the end of the window, or back.
    pub clock_jumps: u8,
    /// Number of times that Kafka fails to acknowledge, so that the dead-letter table stores the
    /// claim.
    pub lost: u8,
    pub wrong: Option<Wrong>,
}

/// The location of a user's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Claim {
    None,
    /// The claim is in Redis, and in flight in an API.
    Admitted,
    Topic,
    DeadLetter,
    Row,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Whether the drop is closed by Redis's clock.
    closed: bool,
    /// Whether the drop is over by the host's clock, which is correct.
    over: bool,
    sealed: bool,
    /// Whether the drop was sealed when the API read its view.
    seen_sealed: bool,
    /// Whether a pass has found the drop exact.
    sealing: bool,
    claims: [Claim; PEOPLE],
    promised: [bool; PEOPLE],
    clock_jumps: u8,
    lost: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Ask(usize),
    Publish(usize),
    /// Kafka is unavailable, and the dead-letter table stores the claim.
    Keep(usize),
    Consume(usize),
    /// The API reads the catalogue.
    Read,
    Pass,
    Clock,
    /// The window ends.
    End,
}

impl Sealing {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// Handles a new claim or a retry. A retry gets the promise if the user has a row. Otherwise
    /// the claim is published.
    fn ask(&self, state: &mut State, person: usize) {
        let claim = &mut state.claims[person];
        if *claim == Claim::None && !state.closed {
            *claim = Claim::Admitted;
        }
        let durable =
            *claim == Claim::Row || (state.seen_sealed && self.is(Wrong::SealedIsDurable));
        state.promised[person] |= *claim != Claim::None && durable;
    }

    fn pass(&self, state: &mut State) {
        let rows = state
            .claims
            .iter()
            .all(|claim| matches!(claim, Claim::None | Claim::Row));
        if std::mem::take(&mut state.sealing) {
            state.sealed = true;
        } else if state.sealed
            && (!state.claims.contains(&Claim::DeadLetter) || self.is(Wrong::NeverUnsealed))
        {
            // Passes skip sealed drops.
        } else {
            state.sealed = false;
            state.sealing = state.closed && (state.over || self.is(Wrong::OneClock)) && rows;
            for claim in state
                .claims
                .iter_mut()
                .filter(|claim| matches!(claim, Claim::DeadLetter | Claim::Admitted))
            {
                *claim = Claim::Row;
            }
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Ask(person) => self.ask(state, person),
            Step::Publish(person) => {
                state.claims[person] = Claim::Topic;
                state.promised[person] = true;
            }
            Step::Keep(person) => {
                state.lost -= 1;
                state.claims[person] = Claim::DeadLetter;
                state.promised[person] = true;
            }
            Step::Consume(person) => state.claims[person] = Claim::Row,
            Step::Read => state.seen_sealed = state.sealed,
            Step::Pass => self.pass(state),
            Step::Clock => {
                state.clock_jumps -= 1;
                state.closed = !state.closed;
            }
            Step::End => {
                state.closed = true;
                state.over = true;
            }
        }
    }

    fn heals(&self, state: &State) -> bool {
        let mut state = state.clone();
        for claim in state
            .claims
            .iter_mut()
            .filter(|claim| **claim == Claim::Topic)
        {
            *claim = Claim::Row;
        }
        (0..3).for_each(|_| self.pass(&mut state));
        (0..PEOPLE).all(|person| !state.promised[person] || state.claims[person] == Claim::Row)
    }
}

pub const HELD_TWICE: &str = "a second store besides Redis holds every promise";
pub const HEALS: &str = "left alone, every promise has its row";
pub const NEVER_EARLY: &str = "no drop is sealed before it closes";

impl Model for Sealing {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            closed: false,
            over: false,
            sealed: false,
            seen_sealed: false,
            sealing: false,
            claims: [Claim::None; PEOPLE],
            promised: [false; PEOPLE],
            clock_jumps: self.clock_jumps,
            lost: self.lost,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for person in 0..PEOPLE {
            steps.push(Step::Ask(person));
            match state.claims[person] {
                Claim::Admitted => {
                    steps.push(Step::Publish(person));
                    steps.extend((state.lost > 0).then_some(Step::Keep(person)));
                }
                Claim::Topic => steps.push(Step::Consume(person)),
                _ => {}
            }
        }
        steps.extend([Step::Read, Step::Pass]);
        steps.extend((!state.over).then_some(Step::End));
        steps.extend((state.clock_jumps > 0).then_some(Step::Clock));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let held = |_: &Self, state: &State| {
            (0..PEOPLE)
                .all(|person| !state.promised[person] || state.claims[person] > Claim::Admitted)
        };
        vec![
            Property::always(HELD_TWICE, held),
            Property::always(HEALS, |model: &Self, state: &State| model.heals(state)),
            Property::always(NEVER_EARLY, |_, state: &State| !state.sealed || state.over),
            Property::sometimes("the drop is sealed", |_, state: &State| state.sealed),
        ]
    }
}

/// Returns the correct protocol, with the faults that it must survive.
pub fn right() -> Vec<(&'static str, Sealing)> {
    vec![(
        "a clock jumps, Kafka is down",
        Sealing {
            clock_jumps: 3,
            lost: 1,
            wrong: None,
        },
    )]
}

/// Protocols that each lack one rule.
pub fn wrong() -> Vec<(Wrong, Sealing)> {
    let rules = [
        Wrong::SealedIsDurable,
        Wrong::NeverUnsealed,
        Wrong::OneClock,
    ];
    rules
        .map(|wrong| {
            (
                wrong,
                Sealing {
                    clock_jumps: 2,
                    lost: 1,
                    wrong: Some(wrong),
                },
            )
        })
        .into()
}
