//! The admission gate: two coupons with gates of their own, lives of Redis, two daemons that reopen
//! admission, each of which may stand still between any two steps and go on later.
//!
//! An API may call every script that any life ever loaded, as if it had read the gate long ago and
//! never since. So nothing here rests on an API noticing a loss in time.

use stateright::{Model, Property};

pub const COUPONS: usize = 2;
/// Slots of a coupon.
const SLOTS: u8 = 1;
/// More lives than the faults allow for.
const EPOCHS: usize = 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Redis restarts, with a truncated AOF or a whole one.
    pub restarts: u8,
    /// The other server is promoted, with what it had at an earlier moment or all. A second time it
    /// is the first server again: its process, its script cache, other data.
    pub promotions: u8,
    /// Redis is emptied in the same process.
    pub flushes: u8,
    /// A daemon dies.
    pub deaths: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A coupon is opened with claims from before the loss still in flight.
    NoWait,
    /// The clock of the first loss counts for the later ones too.
    OneClock,
    /// The script admits to every coupon, in whatever epoch it was verified.
    VerifiedNotCompared,
    /// The script does not ask which promotion of its server this is. Coupons that were verified in
    /// the life before are closed when one begins, but an API may be faster.
    ServerNotCompared,
    /// A coupon is opened without looking at its generation.
    OpenUnfenced,
    /// A coupon is opened in the life that stands, which need not be the one it was verified in.
    OpenInLaterLife,
    /// A pass opens the gate only after a coupon that it verified itself, or when all are.
    GateAfterOwnCoupon,
    /// The life in which a new coupon is opened is read only after the coupon was made.
    NewLifeReadLate,
    /// A life begins although another daemon has begun one since.
    NoCompareAndSet,
}

/// The protocol of the gate.
#[derive(Debug, Clone)]
pub struct Gate {
    pub faults: Faults,
    pub daemons: usize,
    /// The second coupon is made while everything goes on.
    pub new_coupon: bool,
    /// The second coupon cannot be verified.
    pub stuck: bool,
    pub wrong: Option<Wrong>,
}

/// `fc:epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    epoch: u8,
    server: u8,
    loaded: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Coupon {
    generation: u8,
    /// The epoch it was verified in.
    verified: u8,
    loaded: bool,
    /// The highest slot given out.
    count: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Keys {
    life: Option<Life>,
    coupons: [Coupon; COUPONS],
}

/// A process of Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Process {
    number: u8,
    /// By epoch: for which server the script was loaded, 0 for none.
    scripts: [u8; EPOCHS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    /// A life is to begin; what stood in `fc:epoch`.
    Begin(Option<Life>),
    /// For what may be in flight.
    Wait,
    /// A part of a coupon is rebuilt, so that admission sees it.
    Load(usize),
    /// The rest of it.
    Complete(usize),
    Check(usize),
    Open(usize),
    /// The gate: the script, then `fc:epoch`; which coupon comes next.
    LoadScript(usize),
    OpenGate(usize),
}

/// A pass, on a connection that ends with the process of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Pass {
    process: u8,
    server: u8,
    epoch: u8,
    gate_open: bool,
    unverified: [bool; COUPONS],
    generations: [u8; COUPONS],
    held: [u8; COUPONS],
    stage: Stage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Daemon {
    /// The life whose loss it has noted last, and what was in flight then and still is.
    clock: Option<(u8, [bool; COUPONS])>,
    pass: Option<Pass>,
}

/// A new coupon on its way into Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum New {
    NotMade,
    /// To be opened in this epoch; 0 for none.
    LifeRead(u8),
    /// MySQL has it.
    Made(u8),
    /// With this generation and that epoch.
    Fenced(u8, u8),
    Loaded(u8, u8),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    keys: Keys,
    copy: Option<Keys>,
    process: Process,
    /// The server that is no master.
    other: Process,
    processes: u8,
    /// One process from one promotion to the next.
    server: u8,
    epochs: u8,
    generations: u8,
    new: New,
    /// The highest slot promised of each coupon, or about to be.
    given: [u8; COUPONS],
    /// Whether no second store has it yet.
    in_flight: [bool; COUPONS],
    daemons: Vec<Daemon>,
    faults: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Claim(usize),
    /// The claim gets to a second store.
    Land(usize),
    /// An API makes the new coupon known.
    Make,
    /// A daemon's next step.
    Daemon(usize),
    DaemonDies(usize),
    Copy,
    Restart {
        older: bool,
    },
    Promote {
        older: bool,
    },
    Flush,
}

impl Pass {
    /// Goes on with the next coupon that is not verified, or ends.
    fn next(self, from: usize) -> Option<Self> {
        let open_gate = !self.gate_open && self.unverified == [false; COUPONS];
        let coupon = (from..COUPONS).find(|coupon| self.unverified[*coupon]).map(Stage::Load);
        let stage = coupon.or(open_gate.then_some(Stage::LoadScript(COUPONS)))?;
        let mut next = Self { stage, ..self };
        // Nothing more is done with the ones before.
        let past = from.min(COUPONS);
        next.generations[..past].fill(0);
        next.held[..past].fill(0);
        Some(next)
    }
}

impl State {
    fn life(&self) -> Option<Life> {
        self.keys.life.filter(|life| life.server == self.server)
    }

    fn has_script(&self, life: Life) -> bool {
        self.process.scripts[usize::from(life.epoch)] == self.server
    }

    fn gate_is_open(&self) -> bool {
        self.life().is_some_and(|life| self.has_script(life))
    }

    fn ensure_generation(&mut self, coupon: usize) -> u8 {
        let key = &mut self.keys.coupons[coupon].generation;
        if *key == 0 {
            self.generations += 1;
            *key = self.generations;
        }
        *key
    }

    fn held(&self, coupon: usize) -> u8 {
        self.given[coupon] - u8::from(self.in_flight[coupon])
    }

    fn exists(&self, coupon: usize) -> bool {
        coupon == 0 || !matches!(self.new, New::NotMade | New::LifeRead(_))
    }

    fn land(&mut self, coupon: usize) {
        self.in_flight[coupon] = false;
        for (_, flying) in self.daemons.iter_mut().filter_map(|daemon| daemon.clock.as_mut()) {
            flying[coupon] = false;
        }
    }

    fn become_server(&mut self, older: bool) {
        self.server += 1;
        if older {
            self.keys = self.copy.take().unwrap_or_default();
        }
    }
}

impl Gate {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// Whether a claim is admitted that comes from an API with the best script there is for it.
    fn admits(&self, state: &State, coupon: usize) -> bool {
        let (Coupon { verified, loaded, .. }, scripts) = (state.keys.coupons[coupon], state.process.scripts);
        let script = scripts[usize::from(verified)];
        loaded
            && match self.wrong {
                Some(Wrong::VerifiedNotCompared) => scripts.contains(&state.server),
                Some(Wrong::ServerNotCompared) => script > 0,
                _ => script == state.server,
            }
    }

    /// An API that makes a coupon. It opens it in a life that stood before anybody could know of the
    /// coupon and still stood when the coupon's generation was known.
    fn make(&self, state: &mut State) {
        let epoch = |state: &State| state.life().map_or(0, |life| life.epoch);
        state.new = match state.new {
            New::NotMade => New::LifeRead(epoch(state)),
            New::LifeRead(epoch) => New::Made(epoch),
            New::Made(epoch) => New::Fenced(state.ensure_generation(1), epoch),
            New::Fenced(generation, before) => {
                state.keys.coupons[1].loaded |= state.keys.coupons[1].generation == generation;
                let same = before == epoch(state) || self.is(Wrong::NewLifeReadLate);
                New::Loaded(generation, if same { epoch(state) } else { 0 })
            }
            New::Loaded(generation, epoch) if epoch > 0 => {
                self.set_verified(state, 1, generation, epoch);
                New::Done
            }
            New::Loaded(..) | New::Done => New::Done,
        };
    }

    fn set_verified(&self, state: &mut State, coupon: usize, generation: u8, epoch: u8) -> bool {
        let fenced = state.keys.coupons[coupon].generation == generation || self.is(Wrong::OpenUnfenced);
        if fenced {
            state.keys.coupons[coupon].verified = epoch;
        }
        fenced
    }

    fn may_go(&self, state: &State, daemon: Daemon) -> bool {
        match daemon.pass {
            None => true,
            Some(Pass { stage: Stage::Wait, epoch, .. }) => {
                let clock = daemon.clock.filter(|(of, _)| *of == epoch || self.is(Wrong::OneClock));
                self.is(Wrong::NoWait) || clock.is_none_or(|(_, flying)| flying == [false; COUPONS])
            }
            // On a server that is not master now, it can also wait until it is.
            Some(pass) => pass.process == state.process.number || state.faults.promotions == 0,
        }
    }

    fn daemon(&self, state: &mut State, at: usize) {
        let pass = match state.daemons[at].pass.take() {
            None => Some(Self::begin(state)),
            Some(pass) if pass.process != state.process.number => None,
            Some(pass) => self.go_on(state, pass),
        };
        state.daemons[at].pass = pass;
        if let Some(Pass { stage: Stage::Wait, epoch, .. }) = pass {
            self.note(state, at, epoch);
        }
    }

    /// Notes a loss: a life that this daemon has not seen yet.
    fn note(&self, state: &mut State, at: usize, epoch: u8) {
        let known = state.daemons[at].clock.is_some_and(|(of, _)| of == epoch || self.is(Wrong::OneClock));
        if !known {
            state.daemons[at].clock = Some((epoch, state.in_flight));
        }
    }

    /// Reads the gate.
    fn begin(state: &State) -> Pass {
        let life = state.life().filter(|life| state.has_script(*life) || !life.loaded);
        Pass {
            process: state.process.number,
            server: state.server,
            epoch: life.map_or(0, |life| life.epoch),
            gate_open: state.gate_is_open(),
            unverified: [false; COUPONS],
            generations: [0; COUPONS],
            held: [0; COUPONS],
            stage: life.map_or(Stage::Begin(state.keys.life), |_| Stage::Wait),
        }
    }

    fn go_on(&self, state: &mut State, pass: Pass) -> Option<Pass> {
        match pass.stage {
            Stage::Begin(seen) => self.begin_life(state, pass, seen),
            Stage::Wait => self.collect(state, pass),
            Stage::Load(coupon) | Stage::Complete(coupon) => {
                let (keys, held) = (&mut state.keys.coupons[coupon], pass.held[coupon]);
                if keys.generation != pass.generations[coupon] {
                    return pass.next(coupon + 1);
                }
                if pass.stage == Stage::Load(coupon) {
                    keys.loaded = true;
                    return Some(Pass { stage: Stage::Complete(coupon), ..pass });
                }
                keys.count = keys.count.max(held);
                Some(Pass { stage: Stage::Check(coupon), ..pass })
            }
            Stage::Check(coupon) => self.check(state, pass, coupon),
            Stage::Open(coupon) => self.open(state, pass, coupon),
            Stage::LoadScript(next) => {
                state.process.scripts[usize::from(pass.epoch)] = pass.server;
                Some(Pass { stage: Stage::OpenGate(next), ..pass })
            }
            Stage::OpenGate(next) => {
                let life = state.keys.life.as_mut()?;
                life.loaded |= (life.epoch, life.server) == (pass.epoch, pass.server);
                life.loaded.then_some(Pass { gate_open: true, ..pass })?.next(next)
            }
        }
    }

    fn begin_life(&self, state: &mut State, pass: Pass, seen: Option<Life>) -> Option<Pass> {
        if self.is(Wrong::ServerNotCompared) {
            for coupon in &mut state.keys.coupons {
                coupon.verified *= u8::from(seen.is_none_or(|over| over.epoch != coupon.verified));
            }
        }
        if state.keys.life == seen || self.is(Wrong::NoCompareAndSet) {
            state.epochs += 1;
            state.keys.life = Some(Life { epoch: state.epochs, server: pass.server, loaded: false });
        }
        let life = state.keys.life.filter(|life| life.server == pass.server)?;
        Some(Pass { epoch: life.epoch, stage: Stage::Wait, ..pass })
    }

    /// Generations, then what the second stores have.
    fn collect(&self, state: &mut State, mut pass: Pass) -> Option<Pass> {
        let mut any_verified = false;
        for coupon in (0..COUPONS).filter(|coupon| state.exists(*coupon)).collect::<Vec<_>>() {
            pass.generations[coupon] = state.ensure_generation(coupon);
            pass.held[coupon] = state.held(coupon);
            pass.unverified[coupon] = state.keys.coupons[coupon].verified != pass.epoch;
            any_verified |= !pass.unverified[coupon];
        }
        if any_verified && !pass.gate_open && !self.is(Wrong::GateAfterOwnCoupon) {
            return Some(Pass { stage: Stage::LoadScript(0), ..pass });
        }
        pass.next(0)
    }

    /// Whether this is the same life still and the coupon is whole.
    fn check(&self, state: &State, pass: Pass, coupon: usize) -> Option<Pass> {
        let keys = state.keys.coupons[coupon];
        state.life().filter(|life| (life.epoch, life.server) == (pass.epoch, pass.server))?;
        if keys.loaded && keys.count >= pass.held[coupon] && !(self.stuck && coupon == 1) {
            return Some(Pass { stage: Stage::Open(coupon), ..pass });
        }
        pass.next(coupon + 1)
    }

    fn open(&self, state: &mut State, mut pass: Pass, coupon: usize) -> Option<Pass> {
        let stands = state.keys.life.map_or(0, |life| life.epoch);
        let epoch = if self.is(Wrong::OpenInLaterLife) { stands } else { pass.epoch };
        if !self.set_verified(state, coupon, pass.generations[coupon], epoch) {
            return None;
        }
        pass.unverified[coupon] = false;
        if pass.gate_open {
            return pass.next(coupon + 1);
        }
        Some(Pass { stage: Stage::LoadScript(coupon + 1), ..pass })
    }

    fn happen(state: &mut State, fault: Step) {
        let faults = &mut state.faults;
        match fault {
            Step::DaemonDies(at) => {
                faults.deaths -= 1;
                state.daemons[at] = Daemon::default();
            }
            Step::Copy => state.copy = Some(state.keys),
            Step::Restart { older } => {
                faults.restarts -= 1;
                state.processes += 1;
                for daemon in &mut state.daemons {
                    daemon.pass = daemon.pass.filter(|pass| pass.process != state.process.number);
                }
                state.process = Process { number: state.processes, ..Process::default() };
                state.become_server(older);
            }
            Step::Promote { older } => {
                faults.promotions -= 1;
                std::mem::swap(&mut state.process, &mut state.other);
                state.become_server(older);
            }
            Step::Flush => {
                faults.flushes -= 1;
                state.keys = Keys::default();
            }
            _ => {}
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Claim(coupon) => {
                let count = &mut state.keys.coupons[coupon].count;
                *count += 1;
                state.given[coupon] = state.given[coupon].max(*count);
                state.in_flight[coupon] = true;
            }
            Step::Land(coupon) => state.land(coupon),
            Step::Make => self.make(state),
            Step::Daemon(at) => self.daemon(state, at),
            fault => Self::happen(state, fault),
        }
        // What does not matter is made the same.
        let life = state.life().map(|life| life.epoch);
        for Daemon { clock, pass } in state.daemons.iter_mut().filter(|_| !self.is(Wrong::OneClock)) {
            // The clock of a life that is over.
            *clock = clock.filter(|(of, _)| Some(*of) == life || pass.is_some_and(|pass| pass.epoch == *of));
        }
        state.daemons.sort_unstable();
        if state.faults.restarts + state.faults.promotions == 0 {
            state.copy = None;
        }
    }

    /// Left alone, every coupon that can be verified opens: what is under way ends, then a daemon
    /// makes a pass or two.
    fn heals(&self, state: &State) -> bool {
        let mut state = State { faults: Faults::default(), ..state.clone() };
        (0..COUPONS).for_each(|coupon| state.land(coupon));
        while self.new_coupon && state.new != New::Done {
            self.make(&mut state);
        }
        for at in (0..state.daemons.len()).chain([0, 0, 0]) {
            self.daemon(&mut state, at);
            while state.daemons[at].pass.is_some() {
                self.daemon(&mut state, at);
            }
        }
        let is_open = |coupon: usize| {
            let Coupon { verified, .. } = state.keys.coupons[coupon];
            state.life().is_some_and(|life| life.epoch == verified) && self.admits(&state, coupon)
        };
        state.gate_is_open() && (0..COUPONS).all(|coupon| is_open(coupon) || self.stuck && coupon == 1)
    }
}

/// Admission of a coupon never lacks what was promised of it.
pub const NEVER_UNVERIFIED: &str = "no coupon is open unverified";
/// Trouble of one coupon keeps no other closed.
pub const REOPENS: &str = "left alone, every coupon that can be verified opens";

impl Model for Gate {
    type State = State;
    type Action = Step;

    /// A life has begun, and nothing is verified yet.
    fn init_states(&self) -> Vec<State> {
        let coupon = |generation| Coupon { generation, loaded: true, ..Coupon::default() };
        let second = if self.new_coupon { Coupon::default() } else { coupon(2) };
        vec![State {
            keys: Keys { life: Some(Life { epoch: 1, server: 1, loaded: false }), coupons: [coupon(1), second] },
            copy: None,
            process: Process { number: 1, ..Process::default() },
            other: Process { number: 2, ..Process::default() },
            processes: 2,
            server: 1,
            epochs: 1,
            generations: 2,
            new: if self.new_coupon { New::NotMade } else { New::Done },
            given: [0; COUPONS],
            in_flight: [false; COUPONS],
            daemons: vec![Daemon::default(); self.daemons],
            faults: self.faults,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for coupon in 0..COUPONS {
            let left = state.keys.coupons[coupon].count < SLOTS && !state.in_flight[coupon];
            steps.extend((left && self.admits(state, coupon)).then_some(Step::Claim(coupon)));
            steps.extend(state.in_flight[coupon].then_some(Step::Land(coupon)));
        }
        steps.extend((state.new != New::Done).then_some(Step::Make));
        for (at, daemon) in state.daemons.iter().enumerate() {
            steps.extend(self.may_go(state, *daemon).then_some(Step::Daemon(at)));
            steps.extend((state.faults.deaths > 0 && daemon.pass.is_some()).then_some(Step::DaemonDies(at)));
        }
        let Faults { restarts, promotions, flushes, .. } = state.faults;
        steps.extend((restarts + promotions > 0 && state.copy.is_none()).then_some(Step::Copy));
        for older in [false, true].into_iter().filter(|older| !older || state.copy.is_some()) {
            steps.extend((restarts > 0).then_some(Step::Restart { older }));
            steps.extend((promotions > 0).then_some(Step::Promote { older }));
        }
        steps.extend((flushes > 0).then_some(Step::Flush));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let verified = |model: &Self, state: &State| {
            (0..COUPONS).all(|c| !model.admits(state, c) || state.keys.coupons[c].count >= state.given[c])
        };
        vec![
            Property::always(NEVER_UNVERIFIED, verified),
            Property::always(REOPENS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("a coupon is sold out", |_, state: &State| state.given[0] == SLOTS),
        ]
    }
}

const NONE: Faults = Faults { restarts: 0, promotions: 0, flushes: 0, deaths: 0 };

/// The right protocol under the faults it is to withstand.
pub fn right() -> Vec<(&'static str, Gate)> {
    let gate = Gate { faults: NONE, daemons: 2, new_coupon: false, stuck: false, wrong: None };
    let emptied = Faults { flushes: 1, ..NONE };
    vec![
        (
            "two daemons, Redis is emptied and restarts with less",
            Gate { faults: Faults { restarts: 1, ..emptied }, ..gate.clone() },
        ),
        (
            "two daemons, a server is demoted and promoted again",
            Gate { faults: Faults { promotions: 2, ..NONE }, ..gate.clone() },
        ),
        (
            "a server is demoted and promoted again, and emptied",
            Gate { faults: Faults { promotions: 2, ..emptied }, daemons: 1, ..gate.clone() },
        ),
        (
            "a coupon is made, Redis is emptied or restarts",
            Gate { faults: Faults { restarts: 1, flushes: 1, ..NONE }, daemons: 1, new_coupon: true, ..gate.clone() },
        ),
        (
            "a coupon cannot be verified, a daemon dies",
            Gate { faults: Faults { deaths: 1, ..emptied }, stuck: true, ..gate.clone() },
        ),
        (
            "two daemons begin lives without compare-and-set, which is only noise",
            Gate { faults: emptied, wrong: Some(Wrong::NoCompareAndSet), ..gate },
        ),
    ]
}

/// Each rule left out, with the faults under which that shows.
pub fn wrong() -> Vec<(Wrong, Gate)> {
    let emptied = Faults { flushes: 1, ..NONE };
    let cases = [
        (Wrong::NoWait, 1, emptied),
        (Wrong::OneClock, 1, emptied),
        (Wrong::VerifiedNotCompared, 1, emptied),
        (Wrong::ServerNotCompared, 1, Faults { promotions: 2, ..NONE }),
        (Wrong::OpenUnfenced, 2, emptied),
        (Wrong::OpenInLaterLife, 2, Faults { promotions: 2, ..NONE }),
        (Wrong::GateAfterOwnCoupon, 1, Faults { deaths: 1, ..NONE }),
        (Wrong::NewLifeReadLate, 1, emptied),
    ];
    let gate = |(wrong, daemons, faults)| {
        let stuck = wrong == Wrong::GateAfterOwnCoupon;
        let new_coupon = wrong == Wrong::NewLifeReadLate;
        (wrong, Gate { faults, daemons, new_coupon, stuck, wrong: Some(wrong) })
    };
    cases.map(gate).into()
}
