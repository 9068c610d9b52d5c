//! One coupon over several shards (docs/SCALING.md; a design, not implemented). Each shard has a
//! stripe of the coupon's slots and decides alone for its own users; free slots move to stripes
//! with waiting users. MySQL's ledger records the owner of each slot.

use stateright::{Model, Property};

const STRIPES: usize = 2;
const SLOTS: usize = 2;
const PEOPLE: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A person may claim at any stripe.
    AnyStripe,
    /// The giver forgets a slot at once, instead of after the ledger has recorded the move.
    NoOutbox,
    /// The taker uses a slot before the ledger has recorded the move.
    TakenBeforeRecorded,
    /// The taker does not check the number of the move.
    TakenTwice,
    /// The ledger accepts a move that began before the giver was rebuilt.
    NoFence,
    /// A slot that the ledger has moved but the taker has not taken is never picked up.
    LedgerNotRead,
    /// A stripe is rebuilt from its own copy, not from the ledger.
    CopyBelieved,
    /// A stripe is rebuilt while earlier admissions may still become rows.
    NoSafetyWait,
}

/// The protocol of stripes.
#[derive(Debug, Clone)]
pub struct Stripes {
    /// Moves that may begin, and how often a mover dies between two steps.
    pub moves: u8,
    pub deaths: u8,
    /// How often a shard goes back to its replica's copy.
    pub losses: u8,
    /// Number of returned coupons.
    pub returns: u8,
    pub wrong: Option<Wrong>,
}

/// The location of a slot, as one stripe sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Elsewhere,
    Free,
    Held(usize),
    /// Given to another stripe by the move with this number.
    Out(usize, u8),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Stripe {
    places: [Place; SLOTS],
    /// By slot: the last move known to this stripe.
    known: [u8; SLOTS],
    waiting: Vec<usize>,
}

impl Stripe {
    fn knows(&self, person: usize) -> bool {
        self.places.contains(&Place::Held(person)) || self.waiting.contains(&person)
    }

    fn free(&self) -> Option<usize> {
        self.places.iter().position(|place| *place == Place::Free)
    }
}

/// A move in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moving {
    slot: usize,
    from: usize,
    to: usize,
    number: u8,
    /// The giver's epoch.
    epoch: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    stripes: [Stripe; STRIPES],
    copies: [Stripe; STRIPES],
    closed: [bool; STRIPES],
    /// MySQL: the owner of each slot and the number of its moves; the rebuilds of each stripe.
    owners: [(usize, u8); SLOTS],
    epochs: [u8; STRIPES],
    rows: [[bool; SLOTS]; PEOPLE],
    /// Admissions that are neither rows nor refused yet.
    in_flight: Vec<(usize, usize, usize)>,
    moving: Vec<Moving>,
    left: [u8; 4],
}

const MOVES: usize = 0;
const DEATHS: usize = 1;
const LOSSES: usize = 2;
const RETURNS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Somebody claims at a stripe.
    Ask(usize, usize),
    /// The oldest admission in flight becomes a row, and its person is answered.
    Issue,
    GiveBack(usize),
    /// A mover takes a free slot out of a stripe.
    Begin(usize, usize),
    Record(Moving),
    Take(Moving),
    /// The giver forgets the slot that the ledger has recorded as moved.
    Settle(Moving),
    MoverDies(Moving),
    /// A pass gives a stripe the slot that the ledger assigns to it.
    Pass(usize),
    Copy(usize),
    Lose(usize),
    Rebuild(usize),
}

fn home(person: usize) -> usize {
    person % STRIPES
}

impl Stripes {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    fn ask(state: &mut State, person: usize, at: usize) {
        if state.stripes[at].knows(person) {
            return;
        }
        state.stripes[at].waiting.push(person);
        Self::promote(state, at);
    }

    /// Free slots go to waiting people, in their order.
    fn promote(state: &mut State, at: usize) {
        let stripe = &mut state.stripes[at];
        while let (Some(slot), false) = (stripe.free(), stripe.waiting.is_empty()) {
            let person = stripe.waiting.remove(0);
            stripe.places[slot] = Place::Held(person);
            state.in_flight.push((at, person, slot));
        }
    }

    fn give_back(state: &mut State, person: usize) {
        for at in 0..STRIPES {
            let held = state.stripes[at]
                .places
                .iter()
                .position(|place| *place == Place::Held(person));
            if let Some(slot) = held.filter(|slot| state.rows[person][*slot]) {
                state.rows[person][slot] = false;
                state.stripes[at].places[slot] = Place::Free;
                Self::promote(state, at);
            }
        }
    }

    fn begin(&self, state: &mut State, from: usize, to: usize) {
        let stripe = &mut state.stripes[from];
        let Some(slot) = stripe.free() else { return };
        let number = stripe.known[slot] + 1;
        stripe.known[slot] = number;
        stripe.places[slot] = if self.is(Wrong::NoOutbox) {
            Place::Elsewhere
        } else {
            Place::Out(to, number)
        };
        state.moving.push(Moving {
            slot,
            from,
            to,
            number,
            epoch: state.epochs[from],
        });
        state.moving.sort_unstable();
    }

    fn record(&self, state: &mut State, moving: Moving) {
        let Moving {
            slot,
            from,
            to,
            number,
            epoch,
        } = moving;
        let is_of_now = state.epochs[from] == epoch || self.is(Wrong::NoFence);
        if state.owners[slot] == (from, number - 1) && is_of_now {
            state.owners[slot] = (to, number);
        }
    }

    fn take(&self, state: &mut State, moving: Moving) {
        let Moving {
            slot, to, number, ..
        } = moving;
        let recorded = state.owners[slot].1 >= number || self.is(Wrong::TakenBeforeRecorded);
        let is_new = state.stripes[to].known[slot] < number || self.is(Wrong::TakenTwice);
        if recorded && is_new && !state.closed[to] {
            state.stripes[to].known[slot] = number;
            state.stripes[to].places[slot] = Place::Free;
            Self::promote(state, to);
        }
    }

    /// Like the last step of a move, whose mover may have died when the giver was rebuilt.
    fn pass(&self, state: &mut State, slot: usize) {
        let (to, number) = state.owners[slot];
        if number > 0 && !self.is(Wrong::LedgerNotRead) {
            self.take(
                state,
                Moving {
                    slot,
                    from: to,
                    to,
                    number,
                    epoch: 0,
                },
            );
        }
    }

    fn settle(state: &mut State, moving: Moving) {
        let Moving {
            slot,
            from,
            to,
            number,
            ..
        } = moving;
        let place = &mut state.stripes[from].places[slot];
        if state.owners[slot].1 >= number && *place == Place::Out(to, number) && !state.closed[from]
        {
            *place = Place::Elsewhere;
        }
    }

    fn rebuild(&self, state: &mut State, at: usize) {
        state.epochs[at] += 1;
        if !self.is(Wrong::CopyBelieved) {
            for slot in 0..SLOTS {
                let (owner, number) = state.owners[slot];
                let holder = (0..PEOPLE).find(|person| state.rows[*person][slot]);
                state.stripes[at].known[slot] = number;
                state.stripes[at].places[slot] = match holder {
                    _ if owner != at => Place::Elsewhere,
                    Some(person) => Place::Held(person),
                    None => Place::Free,
                };
            }
        }
        let stripe = &mut state.stripes[at];
        let places = stripe.places;
        stripe
            .waiting
            .retain(|person| !places.contains(&Place::Held(*person)));
        state.closed[at] = false;
        Self::promote(state, at);
    }

    fn may_rebuild(&self, state: &State, at: usize) -> bool {
        let waits = state.in_flight.iter().any(|(stripe, ..)| *stripe == at)
            && !self.is(Wrong::NoSafetyWait);
        state.closed[at] && !waits
    }

    fn apply(&self, state: &mut State, step: Step) {
        match step {
            Step::Ask(person, at) => Self::ask(state, person, at),
            Step::Issue => {
                let (_, person, slot) = state.in_flight.remove(0);
                state.rows[person][slot] = true;
            }
            Step::GiveBack(person) => {
                state.left[RETURNS] -= 1;
                Self::give_back(state, person);
            }
            Step::Begin(from, to) => {
                state.left[MOVES] -= 1;
                self.begin(state, from, to);
            }
            Step::Record(moving) => self.record(state, moving),
            Step::Take(moving) => self.take(state, moving),
            Step::Settle(moving) => Self::settle(state, moving),
            Step::MoverDies(moving) => {
                state.left[DEATHS] -= 1;
                state.moving.retain(|one| *one != moving);
            }
            Step::Pass(slot) => self.pass(state, slot),
            Step::Copy(at) => state.copies[at] = state.stripes[at].clone(),
            Step::Lose(at) => {
                state.left[LOSSES] -= 1;
                state.stripes[at] = state.copies[at].clone();
                state.closed[at] = true;
            }
            Step::Rebuild(at) => self.rebuild(state, at),
        }
    }

    /// The state after healing without further faults.
    fn healed(&self, state: &State) -> State {
        let mut state = state.clone();
        // A round moves at most one slot per stripe.
        for _ in 0..=2 * (SLOTS + PEOPLE) {
            while !state.in_flight.is_empty() {
                self.apply(&mut state, Step::Issue);
            }
            for at in 0..STRIPES {
                if state.closed[at] {
                    self.rebuild(&mut state, at);
                }
                // Another mover continues with the slots in an outbox.
                for slot in 0..SLOTS {
                    if let Place::Out(to, number) = state.stripes[at].places[slot] {
                        state.moving.push(Moving {
                            slot,
                            from: at,
                            to,
                            number,
                            epoch: state.epochs[at],
                        });
                    }
                }
            }
            for moving in std::mem::take(&mut state.moving) {
                self.record(&mut state, moving);
                self.take(&mut state, moving);
                Self::settle(&mut state, moving);
            }
            (0..SLOTS).for_each(|slot| self.pass(&mut state, slot));
            for to in 0..STRIPES {
                let from =
                    (0..STRIPES).find(|from| *from != to && state.stripes[*from].free().is_some());
                if let (Some(from), false) = (from, state.stripes[to].waiting.is_empty()) {
                    self.begin(&mut state, from, to);
                }
            }
        }
        state
    }
}

pub const ONE_EACH: &str = "no slot has two holders, and nobody two slots";
pub const ALL_THERE: &str = "left alone, each slot is at one stripe";
pub const EXACT: &str = "left alone, nobody waits while a slot is free";
pub const KEPT: &str = "left alone, who has a row holds its slot";

impl Model for Stripes {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let stripe = |at: usize| Stripe {
            places: std::array::from_fn(|slot| {
                if slot % STRIPES == at {
                    Place::Free
                } else {
                    Place::Elsewhere
                }
            }),
            known: [0; SLOTS],
            waiting: Vec::new(),
        };
        let stripes: [Stripe; STRIPES] = std::array::from_fn(stripe);
        vec![State {
            copies: stripes.clone(),
            stripes,
            closed: [false; STRIPES],
            owners: std::array::from_fn(|slot| (slot % STRIPES, 0)),
            epochs: [0; STRIPES],
            rows: [[false; SLOTS]; PEOPLE],
            in_flight: Vec::new(),
            moving: Vec::new(),
            left: [self.moves, self.deaths, self.losses, self.returns],
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for person in 0..PEOPLE {
            let at_home = |at: &usize| *at == home(person) || self.is(Wrong::AnyStripe);
            let stripes = (0..STRIPES).filter(|at| at_home(at) && !state.closed[*at]);
            steps.extend(stripes.map(|at| Step::Ask(person, at)));
            let holds = state.rows[person].contains(&true) && !state.closed[home(person)];
            steps.extend((holds && state.left[RETURNS] > 0).then_some(Step::GiveBack(person)));
        }
        steps.extend((!state.in_flight.is_empty()).then_some(Step::Issue));
        for at in 0..STRIPES {
            if state.closed[at] {
                steps.extend(self.may_rebuild(state, at).then_some(Step::Rebuild(at)));
            } else {
                steps
                    .extend((state.left[MOVES] > 0).then_some(Step::Begin(at, (at + 1) % STRIPES)));
                steps.push(Step::Copy(at));
            }
            steps.extend((state.left[LOSSES] > 0).then_some(Step::Lose(at)));
        }
        steps.extend((0..SLOTS).map(Step::Pass));
        for moving in state.moving.iter().copied() {
            steps.extend([
                Step::Record(moving),
                Step::Take(moving),
                Step::Settle(moving),
            ]);
            steps.extend((state.left[DEATHS] > 0).then_some(Step::MoverDies(moving)));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.apply(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let one_each = |_: &Self, state: &State| {
            let of_person = state
                .rows
                .iter()
                .map(|slots| slots.iter().filter(|slot| **slot).count());
            let of_slot =
                (0..SLOTS).map(|slot| state.rows.iter().filter(|slots| slots[slot]).count());
            of_person.chain(of_slot).all(|count| count <= 1)
        };
        let all_there = |model: &Self, state: &State| {
            let healed = model.healed(state);
            (0..SLOTS).all(|slot| {
                let places = healed.stripes.iter().map(|stripe| stripe.places[slot]);
                places
                    .filter(|place| matches!(place, Place::Free | Place::Held(_)))
                    .count()
                    == 1
            })
        };
        let exact = |model: &Self, state: &State| {
            let healed = model.healed(state);
            let waits = healed
                .stripes
                .iter()
                .any(|stripe| !stripe.waiting.is_empty());
            !waits || healed.stripes.iter().all(|stripe| stripe.free().is_none())
        };
        let kept = |model: &Self, state: &State| {
            let healed = model.healed(state);
            let holds = |person: usize, slot: usize| {
                healed
                    .stripes
                    .iter()
                    .any(|stripe| stripe.places[slot] == Place::Held(person))
            };
            (0..PEOPLE).all(|person| {
                (0..SLOTS).all(|slot| healed.rows[person][slot] == holds(person, slot))
            })
        };
        vec![
            Property::always(ONE_EACH, one_each),
            Property::always(ALL_THERE, all_there),
            Property::always(EXACT, exact),
            Property::always(KEPT, kept),
            Property::sometimes(
                "somebody holds a slot that was moved",
                |_, state: &State| {
                    (0..SLOTS).any(|slot| {
                        state.owners[slot].1 > 0 && state.rows.iter().any(|slots| slots[slot])
                    })
                },
            ),
        ]
    }
}

/// The correct protocol under the faults that it must survive.
pub fn right() -> Vec<(&'static str, Stripes)> {
    vec![
        (
            "movers die, coupons come back",
            Stripes {
                moves: 2,
                deaths: 1,
                losses: 0,
                returns: 1,
                wrong: None,
            },
        ),
        (
            "shards go back",
            Stripes {
                moves: 1,
                deaths: 0,
                losses: 2,
                returns: 0,
                wrong: None,
            },
        ),
        (
            "all of it once",
            Stripes {
                moves: 1,
                deaths: 1,
                losses: 1,
                returns: 1,
                wrong: None,
            },
        ),
    ]
}

/// Each rule left out.
pub fn wrong() -> Vec<(Wrong, Stripes)> {
    let rules = [
        Wrong::AnyStripe,
        Wrong::NoOutbox,
        Wrong::TakenBeforeRecorded,
        Wrong::TakenTwice,
        Wrong::NoFence,
        Wrong::LedgerNotRead,
        Wrong::CopyBelieved,
        Wrong::NoSafetyWait,
    ];
    rules
        .map(|wrong| {
            (
                wrong,
                Stripes {
                    moves: 2,
                    deaths: 1,
                    losses: 1,
                    returns: 1,
                    wrong: Some(wrong),
                },
            )
        })
        .into()
}
