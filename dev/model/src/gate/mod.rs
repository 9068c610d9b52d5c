//! The gate: one coupon with two drops, or two coupons with one drop each; Redis servers that are
//! emptied, restarted, demoted and promoted; a MySQL that fails over to older data; and reconcilers
//! whose urgent lane closes, rebuilds and opens coupons. A reconciler may be suspended between any
//! two steps.
//!
//! A claim may arrive at any time, at the master and at the server that was demoted last. Therefore
//! no rule may rely on an API to notice a loss in time.

pub mod cases;
mod urgent;

use stateright::{Model, Property};

use urgent::Pass;

/// Number of drops, of one slot each.
pub const DROPS: usize = 2;
/// The era of a coupon that was just created.
const FIRST_ERA: u8 = 1;

/// A fault, which may happen as often as a world lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Redis restarts with all its data, or with older data.
    Restart,
    RestartOlder,
    /// The other server is promoted with all data, or with older data. The master is demoted.
    Promote,
    PromoteOlder,
    /// Redis is emptied in the same process.
    Flush,
    /// A pass finds the first drop dirty, while its gate is open.
    Damage,
    /// MySQL fails over to a replica that has the first eras.
    Failover,
    /// A reconciler dies.
    Death,
    /// A suspended reconciler loses the urgent lane's lock, so that two work at once.
    LockLost,
    /// The answer to an opening is lost, so that it is sent again.
    Repeat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omitted {
    /// A coupon is judged once the claims from before its closing are in a second store.
    Wait,
    /// The wait begins with the answer that the era has begun at a closed gate.
    WaitFromEra,
    /// The wait is the longest deadline that a process announced.
    LongestDeadline,
    /// Admission compares the gate with the server.
    Identity,
    /// Admission checks that its server is a master. After a full synchronisation, a demoted master
    /// has the same identity as before its promotion.
    Role,
    /// Pages and openings compare the era.
    EraCompared,
    /// The gate opens by compare-and-set.
    OpenCompared,
    /// Each rebuild takes a new era.
    EraOfItsOwn,
    /// A new era is above the gate's, not only above MySQL's.
    EraAboveGate,
    /// A higher era on the same server is adopted.
    HigherEraAdopted,
    /// A gate that was closed before its new era is known cannot be opened in the old era.
    ShutApart,
    /// A coupon opens once all its drops are rebuilt.
    AllDrops,
    /// An API that made a coupon opens it only if MySQL has no later era.
    NewChecked,
    /// A drop that was made ahead is loaded at an open gate, in the gate's era.
    LoadedAtOpenGate,
    /// Every coupon that should be open and is not is urgent, whatever the reason.
    EveryClosedIsUrgent,
    /// A coupon that cannot be verified stops no other.
    Bulkhead,
}

/// The coupons of the two drops, and when the second drop is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drops {
    OfOneCoupon,
    /// The second drop is made ahead while the first one is open.
    MadeAhead,
    OfTwoCoupons,
    /// The second coupon is created meanwhile.
    OfNewCoupon,
    /// The first of two coupons cannot be verified.
    FirstIsStuck,
}

/// The protocol of the gate.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub faults: Vec<Fault>,
    pub reconcilers: usize,
    pub drops: Drops,
    pub omitted: Option<Omitted>,
}

/// A server's identity: `run_id`, and the server whose data it had when it was promoted (0: never).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Server {
    run: u8,
    promoted_from: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Word {
    Open,
    Closed,
    /// Closed, and the next era is not known yet.
    Shut,
}

/// The value of a coupon's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Gate {
    server: Server,
    era: u8,
    word: Word,
}

/// The data of a Redis server: the gates by coupon, and whether each drop's slot was given out
/// (none if its keys do not exist).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Keys {
    gates: [Option<Gate>; DROPS],
    given: [Option<bool>; DROPS],
}

/// The deadline of a claim that no second store has yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Deadline {
    Short,
    /// The deadline of an API that announced a longer one.
    Long,
}

/// The progress of a new coupon, or of a drop made ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum New {
    #[default]
    NotMade,
    InMysql,
    Begun(Server),
    Loaded(Server),
    Checked(Server),
    Done,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    keys: Keys,
    copy: Option<Keys>,
    master: Server,
    other: Server,
    other_keys: Keys,
    runs: u8,
    promotions: u8,
    /// The era of each coupon in MySQL.
    eras: [u8; DROPS],
    new: New,
    /// Whether each drop's slot is promised or about to be.
    promised: [bool; DROPS],
    in_flight: [Option<Deadline>; DROPS],
    passes: Vec<Option<Pass>>,
    faults: Vec<Fault>,
    /// Whether Redis lost something or changed its server since the coupon was opened, or a drop is
    /// dirty: the coupon may close.
    damaged: [bool; DROPS],
    /// Whether the first drop differs from its rows.
    dirty: bool,
    closed_clean: bool,
    opened_dirty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Claim {
        drop: usize,
        is_slow: bool,
    },
    /// A claim reaches a second store.
    Land(usize),
    /// An API makes the new coupon or drop.
    Make,
    /// A reconciler's next step.
    Urgent(usize),
    Dies(usize),
    Copy,
    Happen(Fault),
}

impl State {
    /// Whether a second store has the drop's claim, so that the rows include it.
    fn row(&self, drop: usize) -> bool {
        self.promised[drop] && self.in_flight[drop].is_none()
    }

    fn exists(&self, drop: usize) -> bool {
        drop == 0 || self.new != New::NotMade
    }

    fn land(&mut self, drop: usize) {
        self.in_flight[drop] = None;
        for pass in self.passes.iter_mut().flatten() {
            pass.landed(drop);
        }
    }

    fn may(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn spend(&mut self, fault: Fault) {
        let at = self.faults.iter().position(|it| *it == fault);
        at.map(|at| self.faults.remove(at));
    }

    fn restart(&mut self) {
        self.runs += 1;
        self.master = Server {
            run: self.runs,
            promoted_from: 0,
        };
    }

    fn promote(&mut self) {
        self.promotions += 1;
        let promoted = Server {
            promoted_from: self.promotions,
            ..self.other
        };
        let demoted = std::mem::replace(&mut self.master, promoted);
        // The full synchronisation copies the identity.
        self.other = Server {
            promoted_from: 0,
            ..demoted
        };
        self.other_keys = self.keys;
    }

    fn happen(&mut self, fault: Fault) {
        self.spend(fault);
        if matches!(fault, Fault::RestartOlder | Fault::PromoteOlder) {
            self.keys = self.copy.take().unwrap_or_default();
        }
        match fault {
            Fault::Restart | Fault::RestartOlder => self.restart(),
            Fault::Promote | Fault::PromoteOlder => self.promote(),
            Fault::Flush => self.keys = Keys::default(),
            Fault::Damage => self.dirty = true,
            Fault::Failover => self.eras = [FIRST_ERA; DROPS],
            Fault::Death | Fault::LockLost | Fault::Repeat => {}
        }
        if fault != Fault::Failover {
            self.damaged = [true; DROPS];
        }
    }
}

impl Protocol {
    fn omits(&self, rule: Omitted) -> bool {
        self.omitted == Some(rule)
    }

    fn coupon_of(&self, drop: usize) -> usize {
        match self.drops {
            Drops::OfOneCoupon | Drops::MadeAhead => 0,
            Drops::OfTwoCoupons | Drops::OfNewCoupon | Drops::FirstIsStuck => drop,
        }
    }

    /// The coupon's drops in MySQL.
    fn drops_of(&self, state: &State, coupon: usize) -> impl Iterator<Item = usize> {
        let all = (0..DROPS).filter(|drop| state.exists(*drop));
        let its: Vec<usize> = all.filter(|drop| self.coupon_of(*drop) == coupon).collect();
        its.into_iter()
    }

    fn coupons(&self, state: &State) -> usize {
        if self.coupon_of(1) == 1 && state.exists(1) {
            2
        } else {
            1
        }
    }

    /// Whether this server gives out slots of the drop.
    fn admits(&self, server: Server, keys: &Keys, drop: usize) -> bool {
        let is_open = |gate: Gate| {
            gate.word == Word::Open && (gate.server == server || self.omits(Omitted::Identity))
        };
        keys.given[drop].is_some() && keys.gates[self.coupon_of(drop)].is_some_and(is_open)
    }

    /// Whether a script with this fence takes effect.
    fn is_in_era(&self, state: &State, coupon: usize, fence: Gate) -> bool {
        let is_same = |gate: Gate| gate == fence || self.omits(Omitted::EraCompared);
        state.master == fence.server && state.keys.gates[coupon].is_some_and(is_same)
    }

    fn open_coupon(&self, state: &mut State, coupon: usize, fence: Gate) {
        if self.is_in_era(state, coupon, fence) || self.omits(Omitted::OpenCompared) {
            let word = Word::Open;
            state.keys.gates[coupon] = Some(Gate { word, ..fence });
            state.damaged[coupon] = state.dirty && coupon == 0;
            state.opened_dirty |= state.dirty && coupon == 0;
        }
    }

    /// An API creates the second coupon and opens it in its first era, or makes a drop ahead.
    fn make(&self, state: &mut State) {
        let first = |server| Gate {
            server,
            era: FIRST_ERA,
            word: Word::Closed,
        };
        state.new = match state.new {
            // A pass loads it.
            New::NotMade if self.drops == Drops::MadeAhead => New::Done,
            New::NotMade => New::InMysql,
            New::InMysql if state.keys.gates[1].is_none() => {
                state.keys.gates[1] = Some(first(state.master));
                New::Begun(state.master)
            }
            New::Begun(server) => {
                if self.is_in_era(state, 1, first(server)) {
                    state.keys.given[1] = Some(false);
                }
                New::Loaded(server)
            }
            New::Loaded(server)
                if state.eras[1] == FIRST_ERA || self.omits(Omitted::NewChecked) =>
            {
                New::Checked(server)
            }
            New::Checked(server) => {
                self.open_coupon(state, 1, first(server));
                New::Done
            }
            New::InMysql | New::Loaded(_) | New::Done => New::Done,
        };
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Claim { drop, is_slow } => {
                state.keys.given[drop] = Some(true);
                state.promised[drop] = true;
                state.in_flight[drop] = Some(if is_slow {
                    Deadline::Long
                } else {
                    Deadline::Short
                });
            }
            Step::Land(drop) => state.land(drop),
            Step::Make => self.make(state),
            Step::Urgent(at) => urgent::next_step(self, state, at),
            Step::Dies(at) => {
                state.spend(Fault::Death);
                state.passes[at] = None;
            }
            Step::Copy => state.copy = Some(state.keys),
            Step::Happen(fault) => state.happen(fault),
        }
        state.passes.sort_unstable();
        if !state.may(Fault::RestartOlder) && !state.may(Fault::PromoteOlder) {
            state.copy = None;
        }
    }

    /// Whether every coupon that can be verified opens once faults stop, what is in progress ends,
    /// and passes run.
    fn heals(&self, state: &State) -> bool {
        let mut state = State {
            faults: Vec::new(),
            ..state.clone()
        };
        (0..DROPS).for_each(|drop| state.land(drop));
        while self.makes() && state.new != New::Done {
            self.make(&mut state);
        }
        for at in 0..state.passes.len() {
            while state.passes[at].is_some() {
                urgent::next_step(self, &mut state, at);
            }
        }
        for at in [0, 0, 0] {
            urgent::next_step(self, &mut state, at);
            while state.passes[at].is_some() {
                urgent::next_step(self, &mut state, at);
            }
        }
        let stuck = |drop: usize| self.drops == Drops::FirstIsStuck && drop == 0;
        (0..DROPS).all(|drop| stuck(drop) || self.admits(state.master, &state.keys, drop))
    }

    /// Whether a server that admits has every slot that was given out.
    fn is_verified(&self, state: &State, server: Server, keys: &Keys) -> bool {
        let knows = |drop: usize| !state.promised[drop] || keys.given[drop] == Some(true);
        (0..DROPS).all(|drop| !self.admits(server, keys, drop) || knows(drop))
    }

    fn makes(&self) -> bool {
        matches!(self.drops, Drops::MadeAhead | Drops::OfNewCoupon)
    }
}

/// No drop is open for admission without the claims that it promised.
pub const NEVER_UNVERIFIED: &str = "no coupon is open unverified";
/// A demoted server answers no claim from its old data.
pub const NEVER_BY_OLD_DATA: &str = "no replica answers";
/// Only a loss of Redis, a change of its server or a dirty drop closes an open coupon.
pub const NOT_CLOSED: &str = "no clean coupon is closed";
/// A coupon that was closed because a drop was dirty opens only after that drop is rebuilt.
pub const NOT_DIRTY: &str = "no dirty coupon is opened";
/// A coupon that cannot be verified does not keep other coupons closed.
pub const REOPENS: &str = "left alone, every coupon that can be verified opens";

impl Model for Protocol {
    type State = State;
    type Action = Step;

    /// Returns a state in which every drop is loaded and open.
    fn init_states(&self) -> Vec<State> {
        let master = Server {
            run: 1,
            promoted_from: 0,
        };
        let open = Some(Gate {
            server: master,
            era: FIRST_ERA,
            word: Word::Open,
        });
        let exists = !self.makes();
        let keys = Keys {
            gates: [open, open.filter(|_| exists && self.coupon_of(1) == 1)],
            given: [Some(false), exists.then_some(false)],
        };
        vec![State {
            keys,
            master,
            other: Server { run: 2, ..master },
            runs: 2,
            eras: [FIRST_ERA; DROPS],
            new: if exists { New::Done } else { New::NotMade },
            passes: vec![None; self.reconcilers],
            faults: self.faults.clone(),
            ..State::default()
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for drop in 0..DROPS {
            let left = state.keys.given[drop] == Some(false) && state.in_flight[drop].is_none();
            for is_slow in [false, true] {
                let admits = left && self.admits(state.master, &state.keys, drop);
                let differs = !is_slow || self.omits(Omitted::LongestDeadline);
                steps.extend((admits && differs).then_some(Step::Claim { drop, is_slow }));
            }
            steps.extend(state.in_flight[drop].is_some().then_some(Step::Land(drop)));
        }
        steps.extend((state.new != New::Done).then_some(Step::Make));
        for (at, pass) in state.passes.iter().enumerate() {
            steps.extend(urgent::may_go(self, state, *pass).then_some(Step::Urgent(at)));
            let dies = state.may(Fault::Death) && pass.is_some();
            steps.extend(dies.then_some(Step::Dies(at)));
        }
        let older = [Fault::RestartOlder, Fault::PromoteOlder];
        let copies = older.into_iter().any(|fault| state.may(fault)) && state.copy.is_none();
        steps.extend(copies.then_some(Step::Copy));
        let can_happen = |fault: &&Fault| match fault {
            Fault::RestartOlder | Fault::PromoteOlder => state.copy.is_some(),
            Fault::Death | Fault::LockLost | Fault::Repeat => false,
            Fault::Damage => self.admits(state.master, &state.keys, 0),
            _ => true,
        };
        let faults = state.faults.iter().filter(can_happen);
        steps.extend(faults.map(|fault| Step::Happen(*fault)));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_UNVERIFIED, |model: &Self, state: &State| {
                model.is_verified(state, state.master, &state.keys)
            }),
            Property::always(NEVER_BY_OLD_DATA, |model: &Self, state: &State| {
                let answers = model.omits(Omitted::Role);
                !answers || model.is_verified(state, state.other, &state.other_keys)
            }),
            Property::always(NOT_CLOSED, |_, state: &State| !state.closed_clean),
            Property::always(NOT_DIRTY, |_, state: &State| !state.opened_dirty),
            Property::always(REOPENS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("both drops are sold out", |_, state: &State| {
                state.promised == [true; DROPS]
            }),
        ]
    }
}
