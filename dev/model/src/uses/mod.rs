//! Using a code: one slot, a user who returns the coupon, a newcomer who may get the slot, and two
//! orders of shops. Requests of shops may arrive late, repeatedly and in any order.
//!
//! A statement that uses a code is two steps, because another transaction may commit in between:
//! it reads the row, and inserts the use. A pass is one step; [`super::claims`] models its parts.

pub mod cases;

use std::collections::BTreeSet;

use stateright::{Model, Property};

/// Number of references, each of one order.
const REFERENCES: u8 = 2;
/// The user who returns the coupon, and whose claims are void from then on.
const RETURNING: u8 = 0;
const NEWCOMER: u8 = 1;

/// A fault, or something else that only some worlds have. Each may happen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The first user returns the coupon.
    Return,
    /// An operator inserts a row of the user who returned the coupon.
    InsertVoidRow,
    /// An operator deletes the row. A pass writes it again.
    DeleteRow,
    /// Redis restarts, so that a pass rebuilds the drop from its rows.
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omitted {
    /// An undone reference is remembered, even if it never used the code.
    UndoRemembered,
    /// A use locks the row that it reads until it commits.
    UseLocksRow,
    /// A return that finds a use is refused, even if the row is missing.
    ReturnLooksForUse,
    /// A pass moves a void row even if its coupon is used.
    VoidRowGoes,
    /// A use belongs to a claim, not to a slot.
    UseByClaim,
    /// A use outlives its row.
    UseOutlivesRow,
    /// A unique key allows one use at a time; reading the uses first is not enough.
    OneInUse,
}

#[derive(Debug, Clone)]
pub struct Protocol {
    pub faults: Vec<Fault>,
    pub omitted: Option<Omitted>,
}

/// A claim of the slot, by its user and time. Each claim has its own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    user: u8,
    at: u8,
}

/// A request of a shop: the code of a claim, and the reference of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    claim: Claim,
    reference: u8,
}

/// A row of `coupon_uses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Use {
    request: Request,
    is_undone: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    is_open: bool,
    /// The user of the slot in Redis. `None` if it is free.
    holder: Option<Claim>,
    /// Whether `fc:{C}:revoked` has the returning user.
    revoked_in_redis: bool,
    row: Option<Claim>,
    /// Whether `revoked_coupons` has the returning user.
    revoked: bool,
    uses: BTreeSet<Use>,
    /// Requests that shops have sent, and that may arrive again at any time.
    sent: BTreeSet<Request>,
    /// Statements that have read the row.
    reading: BTreeSet<Request>,
    /// Uses that were answered, except undone ones.
    told_used: BTreeSet<Request>,
    told_undone: BTreeSet<Request>,
    /// The claim whose return was answered.
    returned: Option<Claim>,
    /// A code that no shop had used was answered `used`.
    fresh_was_used: bool,
    faults: Vec<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Claim(u8),
    Write,
    Send(u8),
    /// `PUT`: reads the row. It is a late request if the reference was undone before.
    Use(Request),
    InsertUse(Request),
    /// `DELETE`.
    Undo(Request),
    FinishReturn,
    Pass,
    Happen(Fault),
}

impl State {
    fn voids(&self, claim: Claim) -> bool {
        self.revoked && claim.user == RETURNING
    }

    fn find(&self, request: Request) -> Option<Use> {
        let found = self.uses.iter().find(|it| it.request == request);
        found.copied()
    }

    fn has_room(&self) -> bool {
        self.holder.is_none() && self.is_open
    }
}

impl Protocol {
    fn omits(&self, rule: Omitted) -> bool {
        self.omitted == Some(rule)
    }

    fn is_used(&self, state: &State, claim: Claim) -> bool {
        let concerns = |it: &Use| it.request.claim == claim || self.omits(Omitted::UseByClaim);
        state.uses.iter().any(|it| concerns(it) && !it.is_undone)
    }

    fn read_row(&self, state: &mut State, request: Request) {
        let is_taken = self.is_used(state, request.claim) && self.omits(Omitted::OneInUse);
        if state.row == Some(request.claim) && !is_taken {
            state.reading.insert(request);
        }
    }

    fn insert_use(&self, state: &mut State, request: Request) {
        state.reading.remove(&request);
        let earlier = state.find(request);
        if earlier.is_some_and(|it| it.is_undone) {
            return;
        }
        let is_taken = self.is_used(state, request.claim) && !self.omits(Omitted::OneInUse);
        if earlier.is_none() && is_taken {
            let of_claim = |it: &Request| it.claim == request.claim && *it != request;
            state.fresh_was_used |= !state.sent.iter().any(of_claim);
            return;
        }
        state.uses.insert(Use {
            request,
            is_undone: false,
        });
        state.told_used.insert(request);
    }

    fn undo(&self, state: &mut State, request: Request) {
        if state.row != Some(request.claim) {
            return;
        }
        state.uses.retain(|it| it.request != request);
        if !self.omits(Omitted::UndoRemembered) {
            state.uses.insert(Use {
                request,
                is_undone: true,
            });
        }
        state.told_used.remove(&request);
        state.told_undone.insert(request);
    }

    /// Runs the revoking transaction, which is refused if the coupon is used. If the row is
    /// missing, it takes the claim from Redis.
    fn return_coupon(&self, state: &mut State) {
        let row = state.row.filter(|row| row.user == RETURNING);
        let claim = row.or(state.holder.filter(|claim| claim.user == RETURNING));
        let looks = !self.omits(Omitted::ReturnLooksForUse);
        if claim.is_some_and(|claim| looks && self.is_used(state, claim)) {
            return;
        }
        state.returned = claim;
        state.revoked = true;
        state.row = state.row.filter(|row| row.user != RETURNING);
    }

    fn pass(&self, state: &mut State) {
        if let Some(row) = state.row
            && state.voids(row)
        {
            let stays = self.omits(Omitted::VoidRowGoes) && self.is_used(state, row);
            state.row = Some(row).filter(|_| stays);
        }
        write(state);
        if !state.is_open {
            // Void users are never projected.
            state.holder = state.row.filter(|row| !state.voids(*row));
            state.revoked_in_redis = state.revoked;
            state.is_open = true;
        }
        if state.revoked {
            finish_return(state);
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Claim(user) => state.holder = Some(Claim { user, at: 1 }),
            Step::Write => write(state),
            Step::Send(reference) => {
                let request = |claim| Request { claim, reference };
                state.sent.extend(state.row.map(request));
            }
            Step::Use(request) => self.read_row(state, request),
            Step::InsertUse(request) => self.insert_use(state, request),
            Step::Undo(request) => self.undo(state, request),
            Step::FinishReturn => finish_return(state),
            Step::Pass => self.pass(state),
            Step::Happen(fault) => {
                state.faults.retain(|it| *it != fault);
                self.happen(state, fault);
            }
        }
    }

    fn happen(&self, state: &mut State, fault: Fault) {
        match fault {
            Fault::Return => self.return_coupon(state),
            Fault::InsertVoidRow => {
                let void = Claim {
                    user: RETURNING,
                    at: 2,
                };
                state.row = state.row.or(Some(void));
            }
            Fault::DeleteRow => {
                if self.omits(Omitted::UseOutlivesRow) {
                    state.uses.clear();
                }
                state.row = None;
            }
            Fault::Restart => state.is_open = false,
        }
    }

    /// Whether the coupon opens, and its slot's user gets a row, once faults stop and a newcomer
    /// claims.
    fn heals(&self, state: &State) -> bool {
        let mut state = state.clone();
        for request in std::mem::take(&mut state.reading) {
            self.insert_use(&mut state, request);
        }
        self.pass(&mut state);
        if state.has_room() {
            self.take(&mut state, Step::Claim(NEWCOMER));
        }
        self.pass(&mut state);
        state.is_open && state.holder.is_some() && state.row == state.holder
    }
}

/// Writes a row for the user of the slot, if there is none and the claim is not void.
fn write(state: &mut State) {
    let valid = state.holder.filter(|claim| !state.voids(*claim));
    state.row = state.row.or(valid);
}

/// Runs `revoke.lua`.
fn finish_return(state: &mut State) {
    state.revoked_in_redis = true;
    state.holder = state.holder.filter(|claim| claim.user != RETURNING);
}

/// At most one order has an answered use of a code.
pub const ONE_USE: &str = "one live reference a claim";
/// An order that was undone never uses the code, whatever arrives late.
pub const NOT_AFTER_UNDO: &str = "no use after its undo was answered";
/// A coupon whose return was answered is not in use.
pub const NOT_RETURNED: &str = "no used coupon is returned";
/// A code that nobody has used can be used.
pub const FRESH: &str = "a fresh code is not used";
/// A used void row neither keeps its coupon closed nor takes a newcomer's slot.
pub const HEALS: &str = "left alone, the coupon opens and its user gets a row";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            is_open: true,
            faults: self.faults.clone(),
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.has_room() {
            let users = [RETURNING, NEWCOMER].into_iter();
            let may = |user: &u8| *user != RETURNING || !state.revoked_in_redis;
            steps.extend(users.filter(may).map(Step::Claim));
        }
        steps.extend((0..REFERENCES).map(Step::Send));
        let sent = state.sent.iter();
        steps.extend(sent.flat_map(|it| [Step::Use(*it), Step::Undo(*it)]));
        steps.extend(state.reading.iter().map(|it| Step::InsertUse(*it)));
        steps.extend([Step::Write, Step::Pass]);
        steps.extend(state.revoked.then_some(Step::FinishReturn));
        // Uses hold shared locks of the row: deletions wait for them, other uses do not.
        let is_locked = !state.reading.is_empty() && !self.omits(Omitted::UseLocksRow);
        let can_happen = |fault: &&Fault| match fault {
            Fault::Return => {
                let holds = |claim: Option<Claim>| claim.is_some_and(|it| it.user == RETURNING);
                (holds(state.row) || holds(state.holder)) && !is_locked
            }
            Fault::DeleteRow => state.row.is_some() && !is_locked,
            Fault::InsertVoidRow => state.revoked && state.row.is_none(),
            Fault::Restart => true,
        };
        let faults = state.faults.iter().filter(can_happen);
        steps.extend(faults.map(|fault| Step::Happen(*fault)));
        if is_locked {
            steps.retain(|step| *step != Step::Pass);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_USE, |_, state: &State| {
                let told = &state.told_used;
                let claims: BTreeSet<Claim> = told.iter().map(|it| it.claim).collect();
                claims.len() == told.len()
            }),
            Property::always(NOT_AFTER_UNDO, |_, state: &State| {
                let mut undone = state.told_undone.iter();
                undone.all(|it| state.find(*it).is_none_or(|it| it.is_undone))
            }),
            Property::always(NOT_RETURNED, |_, state: &State| {
                let returned = |it: &Use| state.returned == Some(it.request.claim);
                !state.uses.iter().any(|it| returned(it) && !it.is_undone)
            }),
            Property::always(FRESH, |_, state: &State| !state.fresh_was_used),
            Property::always(HEALS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes(
                "an order uses a code after another's undo",
                |_, state: &State| {
                    let mut undone = state.told_undone.iter();
                    undone.any(|one| state.told_used.iter().any(|it| it.claim == one.claim))
                },
            ),
            Property::sometimes(
                "a late request of an undone order is refused",
                |_, state: &State| {
                    let mut undone = state.told_undone.iter();
                    undone.any(|it| state.reading.contains(it))
                },
            ),
        ]
    }
}
