//! The admission gate: two coupons with separate gates, lives of Redis, and two daemons that reopen
//! admission, each of which may stall between any two steps and continue later.
//!
//! An API may call every script that any life ever loaded, as if it had read the gate long ago and
//! never since. So nothing relies on an API noticing a loss in time.

pub mod cases;
mod daemon;

use stateright::{Model, Property};

use daemon::Daemon;

pub const COUPONS: usize = 2;
/// Slots per coupon.
const SLOTS: u8 = 1;
/// More lives than the faults allow for.
const EPOCHS: usize = 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Redis restarts, with a truncated AOF or a whole one.
    pub restarts: u8,
    /// The other server is promoted, with all data or that of an earlier moment. The second time it
    /// is the first server again: its process, its script cache, other data.
    pub promotions: u8,
    /// Redis is flushed in the same process.
    pub flushes: u8,
    /// A daemon dies.
    pub deaths: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A coupon is opened while claims from before the loss are still in flight.
    NoWait,
    /// The wait after the first loss counts for later ones too.
    OneClock,
    /// The script admits to every coupon, whatever epoch it was verified in.
    VerifiedNotCompared,
    /// The script does not check which promotion of its server this is. Coupons verified in the
    /// previous life are closed when a new one begins, but an API may be faster.
    ServerNotCompared,
    /// A coupon is opened without comparing its generation.
    OpenUnfenced,
    /// A coupon is opened in the current life, although it was verified in an earlier one.
    OpenInLaterLife,
    /// A pass continues in a later life, over a re-established connection, without comparing
    /// epochs.
    LifeNotCompared,
    /// A pass opens the gate only after a coupon that it verified itself, or once all are verified.
    GateAfterOwnCoupon,
    /// The life in which a new coupon is opened is only read after the coupon was created.
    NewLifeReadLate,
    /// A life begins although another daemon has begun one since.
    NoCompareAndSet,
}

/// The protocol of the gate.
#[derive(Debug, Clone)]
pub struct Gate {
    pub faults: Faults,
    pub daemons: usize,
    /// The second coupon is created meanwhile.
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
    /// The epoch in which it was verified.
    verified: u8,
    loaded: bool,
    /// The highest slot given out.
    count: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct GateKeys {
    life: Option<Life>,
    coupons: [Coupon; COUPONS],
}

/// A process of Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct RedisProcess {
    number: u8,
    /// By epoch: the server that the script was loaded for, 0 for none.
    scripts: [u8; EPOCHS],
}

/// A new coupon that is being written to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum New {
    NotMade,
    /// To be opened in this epoch; 0 for none.
    LifeRead(u8),
    /// Stored in MySQL.
    Made(u8),
    /// With this generation and that epoch.
    Fenced(u8, u8),
    Loaded(u8, u8),
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    keys: GateKeys,
    copy: Option<GateKeys>,
    process: RedisProcess,
    /// The server that is not the master.
    other: RedisProcess,
    processes: u8,
    /// Number of the master's process between two promotions.
    server: u8,
    epochs: u8,
    generations: u8,
    new: New,
    /// By coupon: the highest slot promised or about to be promised.
    given: [u8; COUPONS],
    /// Whether no second store has it yet.
    in_flight: [bool; COUPONS],
    daemons: Vec<Daemon>,
    faults: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Claim(usize),
    /// The claim reaches a second store.
    Land(usize),
    /// An API loads the new coupon.
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
        for (_, flying) in self
            .daemons
            .iter_mut()
            .filter_map(|daemon| daemon.clock.as_mut())
        {
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

    /// Whether a claim is admitted that comes from an API with the most permissive script.
    fn admits(&self, state: &State, coupon: usize) -> bool {
        let Coupon {
            verified, loaded, ..
        } = state.keys.coupons[coupon];
        let scripts = state.process.scripts;
        let script = scripts[usize::from(verified)];
        loaded
            && match self.wrong {
                Some(Wrong::VerifiedNotCompared) => scripts.contains(&state.server),
                Some(Wrong::ServerNotCompared) => script > 0,
                _ => script == state.server,
            }
    }

    /// An API creates a coupon. It opens it in a life that had begun before anybody could know the
    /// coupon and that still lasted when the coupon's generation was known.
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
                self.set_verified(state, generation, 1, epoch);
                New::Done
            }
            New::Loaded(..) | New::Done => New::Done,
        };
    }

    fn set_verified(&self, state: &mut State, generation: u8, coupon: usize, epoch: u8) -> bool {
        let fenced =
            state.keys.coupons[coupon].generation == generation || self.is(Wrong::OpenUnfenced);
        if fenced {
            state.keys.coupons[coupon].verified = epoch;
        }
        fenced
    }

    fn happen(&self, state: &mut State, fault: Step) {
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
                for daemon in state
                    .daemons
                    .iter_mut()
                    .filter(|_| !self.is(Wrong::LifeNotCompared))
                {
                    daemon.pass = daemon
                        .pass
                        .filter(|pass| pass.process != state.process.number);
                }
                state.process = RedisProcess {
                    number: state.processes,
                    ..RedisProcess::default()
                };
                state.become_server(older);
            }
            Step::Promote { older } => {
                faults.promotions -= 1;
                std::mem::swap(&mut state.process, &mut state.other);
                state.become_server(older);
            }
            Step::Flush => {
                faults.flushes -= 1;
                state.keys = GateKeys::default();
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
            fault => self.happen(state, fault),
        }
        // Normalise irrelevant differences.
        let life = state.life().map(|life| life.epoch);
        for Daemon { clock, pass } in state
            .daemons
            .iter_mut()
            .filter(|_| !self.is(Wrong::OneClock))
        {
            // Drop the clock of a life that is over.
            *clock = clock
                .filter(|(of, _)| Some(*of) == life || pass.is_some_and(|pass| pass.epoch == *of));
        }
        state.daemons.sort_unstable();
        if state.faults.restarts + state.faults.promotions == 0 {
            state.copy = None;
        }
    }

    /// Without further faults, every verifiable coupon opens: everything in progress ends, then a
    /// daemon makes a pass or two.
    fn heals(&self, state: &State) -> bool {
        let mut state = State {
            faults: Faults::default(),
            ..state.clone()
        };
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
        state.gate_is_open()
            && (0..COUPONS).all(|coupon| is_open(coupon) || self.stuck && coupon == 1)
    }
}

/// A coupon is never open for admission without the claims that it promised.
pub const NEVER_UNVERIFIED: &str = "no coupon is open unverified";
/// Trouble with one coupon keeps no other coupon closed.
pub const REOPENS: &str = "left alone, every coupon that can be verified opens";

impl Model for Gate {
    type State = State;
    type Action = Step;

    /// A life has begun, and nothing is verified yet.
    fn init_states(&self) -> Vec<State> {
        let coupon = |generation| Coupon {
            generation,
            loaded: true,
            ..Coupon::default()
        };
        let second = if self.new_coupon {
            Coupon::default()
        } else {
            coupon(2)
        };
        vec![State {
            keys: GateKeys {
                life: Some(Life {
                    epoch: 1,
                    server: 1,
                    loaded: false,
                }),
                coupons: [coupon(1), second],
            },
            copy: None,
            process: RedisProcess {
                number: 1,
                ..RedisProcess::default()
            },
            other: RedisProcess {
                number: 2,
                ..RedisProcess::default()
            },
            processes: 2,
            server: 1,
            epochs: 1,
            generations: 2,
            new: if self.new_coupon {
                New::NotMade
            } else {
                New::Done
            },
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
            steps.extend(
                (state.faults.deaths > 0 && daemon.pass.is_some()).then_some(Step::DaemonDies(at)),
            );
        }
        let Faults {
            restarts,
            promotions,
            flushes,
            ..
        } = state.faults;
        steps.extend((restarts + promotions > 0 && state.copy.is_none()).then_some(Step::Copy));
        for older in [false, true]
            .into_iter()
            .filter(|older| !older || state.copy.is_some())
        {
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
            (0..COUPONS)
                .all(|c| !model.admits(state, c) || state.keys.coupons[c].count >= state.given[c])
        };
        vec![
            Property::always(NEVER_UNVERIFIED, verified),
            Property::always(REOPENS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("a coupon is sold out", |_, state: &State| {
                state.given[0] == SLOTS
            }),
        ]
    }
}
