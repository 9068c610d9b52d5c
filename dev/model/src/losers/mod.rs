//! Losers from memory: one drop with two slots, three users, and APIs that answer `sold_out`
//! without Redis while they hold a lease of the drop and a matching set of its holders
//! (docs/decisions/0010).
//!
//! There is no clock. An API's lease ends at any time before Redis's own note of it does, so the
//! note ends only once every lease that it covers has ended.

pub mod cases;

use stateright::{Model, Property};

const SLOTS: usize = 2;
const USERS: u8 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omitted {
    /// No claim gets a slot while the drop is leased.
    GiveWaits,
    /// No waiting user gets a slot while the drop is leased.
    PromoteWaits,
    /// A set of holders counts only for leases with the same number of given slots.
    GivenCompared,
    /// Pages of holders are read on the master, in a script that checks the gate.
    HoldersFenced,
    /// A set of holders counts only for leases of the same era.
    EraCompared,
    /// A lease lasts as long as the reply says, which is shorter if the note was kept.
    LeftFromReply,
    /// A lease ends before the next drop opens.
    EndsAtOpening,
    /// A gate is closed for longer than a lease: start-up refuses shorter deadlines.
    OutlastedByGate,
}

#[derive(Debug, Clone)]
pub struct Protocol {
    pub apis: usize,
    /// Number of slots that users may give back.
    pub returns: u8,
    /// Number of losses of the server. After each, the coupon is rebuilt in a new era.
    pub losses: u8,
    /// Whether a user with a broken promise is put on the waiting list.
    pub is_owed: bool,
    /// Whether another drop with one slot opens.
    pub opens_another: bool,
    pub omitted: Option<Omitted>,
}

/// A set of users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Users(u8);

/// What makes a set of holders and a lease comparable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Version {
    era: u8,
    given: u8,
}

/// The holders as read by an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Set {
    version: Version,
    /// Number of pages read, of one slot each.
    pages: usize,
    users: Users,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    version: Version,
    /// Whether it ends before Redis's note does.
    is_covered: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Api {
    lease: Option<Lease>,
    set: Option<Set>,
}

/// The other drop, of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Another {
    #[default]
    NotOpen,
    Free,
    Held(u8),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The user of each slot.
    slots: [Option<u8>; SLOTS],
    /// An older state of the slots, on a server that is not the master.
    replica: [Option<u8>; SLOTS],
    version: Version,
    is_gate_open: bool,
    /// Redis's note that the drop is leased.
    is_leased: bool,
    waiting: Option<u8>,
    another: Another,
    apis: Vec<Api>,
    returns: u8,
    losses: u8,
    may_owe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Claim(u8),
    Return(u8),
    Owe(u8),
    Promote,
    /// Redis leases the drop to an API, and rewrites or keeps its note.
    Lease {
        api: usize,
        keeps_note: bool,
    },
    LeaseEnds(usize),
    NoteEnds,
    /// An API reads the next page of holders.
    ReadPage(usize),
    Replicate,
    Lose,
    Rebuild,
    OpenAnother,
}

impl Users {
    fn has(self, user: u8) -> bool {
        self.0 & (1 << user) != 0
    }

    fn with(self, user: Option<u8>) -> Self {
        Self(self.0 | user.map_or(0, |user| 1 << user))
    }
}

impl State {
    /// The lowest free slot.
    fn free(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    fn holds(&self, user: u8) -> bool {
        self.slots.contains(&Some(user)) || self.another == Another::Held(user)
    }

    fn give(&mut self, user: u8) {
        if let Some(slot) = self.free() {
            self.slots[slot] = Some(user);
            self.version.given += 1;
        }
    }

    /// Whether a user without a coupon could get one, if nothing were leased.
    fn has_slot(&self) -> bool {
        match self.another {
            Another::NotOpen => self.free().is_some(),
            Another::Free => true,
            Another::Held(_) => false,
        }
    }

    /// Whether Redis may lease the drop.
    fn is_sold_out(&self) -> bool {
        let is_open = self.is_gate_open && self.another == Another::NotOpen;
        is_open && self.free().is_none() && self.waiting.is_none()
    }

    /// Rebuilds the drop in a new era and opens the gate, which was closed for longer than a lease
    /// lasts. The rows have every holder.
    fn rebuild(&mut self) {
        self.is_gate_open = true;
        self.version = Version {
            era: self.version.era + 1,
            given: 0,
        };
    }

    fn has_lease(&self) -> bool {
        self.is_leased || self.apis.iter().any(|api| api.lease.is_some())
    }
}

impl Protocol {
    fn omits(&self, rule: Omitted) -> bool {
        self.omitted == Some(rule)
    }

    /// The lease and the holders with which an API answers from memory.
    fn answers(&self, api: &Api) -> Option<(Lease, Users)> {
        let lease = api.lease?;
        let set = api.set.filter(|set| set.pages == SLOTS)?;
        let is_era = set.version.era == lease.version.era || self.omits(Omitted::EraCompared);
        let is_given = set.version.given == lease.version.given;
        let is_same = is_era && (is_given || self.omits(Omitted::GivenCompared));
        is_same.then_some((lease, set.users))
    }

    fn claim(&self, state: &mut State, user: u8) {
        if !state.is_gate_open || state.holds(user) {
            return;
        }
        if state.another != Another::NotOpen {
            if state.another == Another::Free {
                state.another = Another::Held(user);
            }
            return;
        }
        let may_give = !state.is_leased || self.omits(Omitted::GiveWaits);
        if may_give && state.waiting.is_none() {
            state.give(user);
        }
    }

    fn promote(&self, state: &mut State) {
        let may_give = !state.is_leased || self.omits(Omitted::PromoteWaits);
        if may_give
            && state.is_gate_open
            && state.free().is_some()
            && let Some(user) = state.waiting.take()
        {
            state.give(user);
        }
    }

    fn lease(&self, state: &mut State, api: usize, keeps_note: bool) {
        state.is_leased = true;
        state.apis[api].lease = Some(Lease {
            version: state.version,
            is_covered: !keeps_note || !self.omits(Omitted::LeftFromReply),
        });
    }

    /// A page that differs from the earlier ones in its version begins a new set.
    fn read_page(&self, state: &mut State, api: usize) {
        let version = state.version;
        let begun = state.apis[api].set;
        let begun = begun.filter(|set| set.version == version && set.pages < SLOTS);
        let set = begun.unwrap_or(Set {
            version,
            pages: 0,
            users: Users::default(),
        });
        let slots = if self.omits(Omitted::HoldersFenced) {
            state.replica
        } else {
            state.slots
        };
        state.apis[api].set = Some(Set {
            version,
            pages: set.pages + 1,
            users: set.users.with(slots[set.pages]),
        });
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Claim(user) => self.claim(state, user),
            Step::Return(user) => {
                let slot = state.slots.iter().position(|held| *held == Some(user));
                if let Some(slot) = slot {
                    state.slots[slot] = None;
                    state.returns -= 1;
                }
            }
            Step::Owe(user) => {
                state.waiting = Some(user);
                state.may_owe = false;
            }
            Step::Promote => self.promote(state),
            Step::Lease { api, keeps_note } => self.lease(state, api, keeps_note),
            Step::LeaseEnds(api) => state.apis[api].lease = None,
            Step::NoteEnds => state.is_leased = false,
            Step::ReadPage(api) => self.read_page(state, api),
            Step::Replicate => state.replica = state.slots,
            Step::Lose => {
                state.is_gate_open = false;
                state.is_leased = false;
                state.losses -= 1;
            }
            Step::Rebuild => state.rebuild(),
            Step::OpenAnother => state.another = Another::Free,
        }
    }

    /// Whether every free slot is given once leases end, the coupon is rebuilt, and users claim.
    fn gives_all(&self, state: &State) -> bool {
        let mut state = state.clone();
        for api in &mut state.apis {
            api.lease = None;
        }
        state.is_leased = false;
        state.is_gate_open = true;
        self.promote(&mut state);
        (0..USERS).for_each(|user| self.claim(&mut state, user));
        !state.has_slot()
    }
}

/// A user with a coupon never gets `sold_out` from an API's memory.
pub const NO_HOLDER: &str = "no holder is answered from memory";
/// While an API answers from memory, no slot is available, the drop is leased, or the gate is
/// closed.
pub const NO_SLOT: &str = "memory answers only without a slot, or while it is leased";
pub const ALL_GIVEN: &str = "every free slot is given in the end";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            is_gate_open: true,
            apis: vec![Api::default(); self.apis],
            returns: self.returns,
            losses: self.losses,
            may_owe: self.is_owed,
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for user in 0..USERS {
            steps.push(Step::Claim(user));
            let has_slot = state.slots.contains(&Some(user));
            steps.extend((has_slot && state.returns > 0).then_some(Step::Return(user)));
            let may_owe = state.may_owe && !state.holds(user) && state.is_gate_open;
            steps.extend(may_owe.then_some(Step::Owe(user)));
        }
        steps.push(Step::Promote);
        for (api, Api { lease, .. }) in state.apis.iter().enumerate() {
            if state.is_sold_out() {
                let keeps_note = false;
                steps.push(Step::Lease { api, keeps_note });
                let keeps_note = true;
                steps.extend(state.is_leased.then_some(Step::Lease { api, keeps_note }));
            }
            steps.extend(lease.map(|_| Step::LeaseEnds(api)));
            steps.extend(state.is_gate_open.then_some(Step::ReadPage(api)));
        }
        let is_covered = |api: &Api| api.lease.is_some_and(|lease| lease.is_covered);
        if state.is_leased && !state.apis.iter().any(is_covered) {
            steps.push(Step::NoteEnds);
        }
        steps.extend(
            self.omits(Omitted::HoldersFenced)
                .then_some(Step::Replicate),
        );
        let may_lose = state.is_gate_open && state.losses > 0;
        steps.extend(may_lose.then_some(Step::Lose));
        let is_over = !state.has_lease() || self.omits(Omitted::OutlastedByGate);
        steps.extend((!state.is_gate_open && is_over).then_some(Step::Rebuild));
        let is_closed = !state.has_lease() || self.omits(Omitted::EndsAtOpening);
        let may_open = self.opens_another && state.another == Another::NotOpen && is_closed;
        steps.extend(may_open.then_some(Step::OpenAnother));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_HOLDER, |model: &Self, state: &State| {
                let mut answering = state.apis.iter().filter_map(|api| model.answers(api));
                answering
                    .all(|(_, known)| (0..USERS).all(|user| !state.holds(user) || known.has(user)))
            }),
            Property::always(NO_SLOT, |model: &Self, state: &State| {
                let mut answering = state.apis.iter().filter_map(|api| model.answers(api));
                let is_leased = state.is_leased && state.another == Another::NotOpen;
                let is_sold_out = is_leased || !state.is_gate_open || !state.has_slot();
                is_sold_out || answering.next().is_none()
            }),
            Property::always(ALL_GIVEN, |model: &Self, state: &State| {
                model.gives_all(state)
            }),
            Property::sometimes(
                "an API answers from memory",
                |model: &Self, state: &State| {
                    state.apis.iter().any(|api| model.answers(api).is_some())
                },
            ),
        ]
    }
}
