//! The admission gate: two coupons with a gate each, Redis servers that are lost, demoted and
//! promoted, and two daemons that rebuild coupons in new eras. A daemon may pause between any two
//! steps.
//!
//! A claim may arrive at any time, at the master and at the server that was demoted last. Therefore
//! no rule may depend on an API noticing a loss in time.

pub mod cases;
mod daemon;

use stateright::{Model, Property};

use daemon::Daemon;

pub const COUPONS: usize = 2;
/// Slots per coupon.
const SLOTS: u8 = 1;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Number of restarts of Redis, with a truncated or a complete AOF.
    pub restarts: u8,
    /// Number of times that the other server is promoted with all data or with older data. The
    /// master is then demoted and takes that data.
    pub promotions: u8,
    /// Number of times that Redis is flushed in the same process.
    pub flushes: u8,
    /// Number of times that a daemon dies.
    pub deaths: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A coupon is opened while claims from before the loss are still in flight.
    NoWait,
    /// The wait of the first era also counts for later eras.
    OneClock,
    /// Admission does not compare the gate with its server.
    IdentityUnchecked,
    /// Admission does not check whether its server is a master. After a full synchronisation, a
    /// demoted master has the same identity again as before its promotion.
    RoleUnchecked,
    /// Repairs and openings compare the server but not the era.
    EraNotCompared,
    /// A coupon is opened by a plain write that compares nothing.
    SetVerifiedPlain,
    /// A rebuild takes the current era from MySQL instead of a new one.
    EraKept,
    /// An API opens a new coupon without checking in MySQL whether a daemon has begun a later era.
    NewUnchecked,
    /// A pass continues on another server, over a connection that was re-established.
    LifeNotCompared,
}

/// The protocol of the gate.
#[derive(Debug, Clone)]
pub struct GateProtocol {
    pub faults: Faults,
    pub daemons: usize,
    /// Whether the second coupon is created meanwhile.
    pub new_coupon: bool,
    /// Whether the second coupon cannot be verified.
    pub stuck: bool,
    pub wrong: Option<Wrong>,
}

/// The identity of a server: `run_id`, and the server whose data it had when it was promoted (0:
/// never).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ServerIdentity {
    run: u8,
    promoted_from: u8,
}

/// The value of a coupon's `gate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Gate {
    server: ServerIdentity,
    era: u8,
    is_open: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Coupon {
    gate: Option<Gate>,
    loaded: bool,
    /// The highest slot that was given out.
    count: u8,
}

type Keys = [Coupon; COUPONS];

/// The progress of a new coupon that is being written to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum New {
    NotMade,
    /// MySQL has the coupon.
    Made,
    /// The coupon is in its first era on this server.
    Begun(ServerIdentity),
    Loaded(ServerIdentity),
    /// MySQL has no later era.
    Checked(ServerIdentity),
    Done,
}

/// The era of a coupon that was just created.
const FIRST_ERA: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    keys: Keys,
    copy: Option<Keys>,
    master: ServerIdentity,
    /// The server that is not the master.
    other: ServerIdentity,
    other_keys: Keys,
    runs: u8,
    promotions: u8,
    /// The era of each coupon in MySQL.
    eras: [u8; COUPONS],
    new: New,
    /// For each coupon, the highest slot that is promised or about to be promised.
    given: [u8; COUPONS],
    /// For each coupon, whether no second store has the claim yet.
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
    /// A daemon performs its next step.
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
    fn held(&self, coupon: usize) -> u8 {
        self.given[coupon] - u8::from(self.in_flight[coupon])
    }

    fn exists(&self, coupon: usize) -> bool {
        coupon == 0 || self.new != New::NotMade
    }

    fn land(&mut self, coupon: usize) {
        self.in_flight[coupon] = false;
        for daemon in &mut self.daemons {
            if let Some((_, flying)) = &mut daemon.clocks[coupon] {
                *flying = false;
            }
        }
    }

    fn forget_clocks(&mut self, coupon: usize) {
        let stands = self.keys[coupon].gate.map(|gate| gate.era);
        for daemon in &mut self.daemons {
            let own = daemon.pass.map(|pass| pass.eras[coupon]);
            let matters = |(era, _): &(u8, bool)| [stands, own].contains(&Some(*era));
            daemon.clocks[coupon] = daemon.clocks[coupon].filter(matters);
        }
    }

    /// Renumbers a coupon's eras from the first one on, without gaps.
    fn number_eras(&mut self, coupon: usize) {
        let gates = [Some(self.keys), self.copy, Some(self.other_keys)];
        let gates = gates.iter().flatten().filter_map(|keys| keys[coupon].gate);
        let mut eras: Vec<u8> = gates.map(|gate| gate.era).collect();
        eras.extend([FIRST_ERA, self.eras[coupon]]);
        for daemon in &self.daemons {
            eras.extend(daemon.eras(coupon));
        }
        eras.retain(|era| *era > 0);
        eras.sort_unstable();
        eras.dedup();
        let number = |era: u8| match eras.binary_search(&era) {
            Ok(at) => u8::try_from(at).unwrap_or(u8::MAX - 1) + 1,
            Err(_) => 0,
        };
        let rename = |gate: &mut Option<Gate>| {
            if let Some(gate) = gate {
                gate.era = number(gate.era);
            }
        };
        rename(&mut self.keys[coupon].gate);
        rename(&mut self.other_keys[coupon].gate);
        if let Some(copy) = &mut self.copy {
            rename(&mut copy[coupon].gate);
        }
        self.eras[coupon] = number(self.eras[coupon]);
        for daemon in &mut self.daemons {
            daemon.number_eras(coupon, number);
        }
    }

    fn take_older(&mut self, older: bool) {
        if older {
            self.keys = self.copy.take().unwrap_or_default();
        }
    }
}

impl GateProtocol {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// Whether this server answers claims on a coupon.
    fn answers(&self, server: ServerIdentity, keys: &Keys, coupon: usize) -> bool {
        let Coupon { gate, loaded, .. } = keys[coupon];
        let is_open = |gate: Gate| {
            gate.is_open && (gate.server == server || self.is(Wrong::IdentityUnchecked))
        };
        loaded && gate.is_some_and(is_open)
    }

    fn admits(&self, state: &State, coupon: usize) -> bool {
        self.answers(state.master, &state.keys, coupon)
    }

    /// Whether a script with this fence takes effect.
    fn is_in_era(&self, state: &State, coupon: usize, server: ServerIdentity, era: u8) -> bool {
        let is_same = state.master == server;
        if self.is(Wrong::EraNotCompared) {
            return is_same;
        }
        let stands = state.keys[coupon].gate;
        is_same && stands.is_some_and(|gate| (gate.server, gate.era) == (server, era))
    }

    fn begin_era(
        state: &mut State,
        coupon: usize,
        seen: Option<Gate>,
        server: ServerIdentity,
        era: u8,
    ) -> bool {
        let begins = state.keys[coupon].gate == seen && state.master == server;
        if begins {
            state.keys[coupon].gate = Some(Gate {
                server,
                era,
                is_open: false,
            });
        }
        begins
    }

    fn open_coupon(
        &self,
        state: &mut State,
        coupon: usize,
        server: ServerIdentity,
        era: u8,
    ) -> bool {
        let opens = self.is_in_era(state, coupon, server, era) || self.is(Wrong::SetVerifiedPlain);
        if opens {
            state.keys[coupon].gate = Some(Gate {
                server,
                era,
                is_open: true,
            });
        }
        opens
    }

    /// Performs the next step of an API that creates a coupon and opens it in its first era.
    fn make(&self, state: &mut State) {
        state.new = match state.new {
            New::NotMade => {
                state.eras[1] = FIRST_ERA;
                New::Made
            }
            New::Made => {
                let server = state.master;
                if Self::begin_era(state, 1, None, server, FIRST_ERA) {
                    New::Begun(server)
                } else {
                    New::Done
                }
            }
            New::Begun(server) => {
                let is_whole = self.is_in_era(state, 1, server, FIRST_ERA);
                state.keys[1].loaded |= is_whole;
                New::Loaded(server)
            }
            New::Loaded(server) if state.eras[1] == FIRST_ERA || self.is(Wrong::NewUnchecked) => {
                New::Checked(server)
            }
            New::Checked(server) => {
                self.open_coupon(state, 1, server, FIRST_ERA);
                New::Done
            }
            New::Loaded(_) | New::Done => New::Done,
        };
    }

    fn happen(&self, state: &mut State, fault: Step) {
        match fault {
            Step::DaemonDies(at) => {
                state.faults.deaths -= 1;
                state.daemons[at] = Daemon::default();
            }
            Step::Copy => state.copy = Some(state.keys),
            Step::Restart { older } => {
                state.faults.restarts -= 1;
                state.runs += 1;
                let ended = state.master.run;
                for daemon in &mut state.daemons {
                    let ends = |pass: &daemon::Pass| {
                        pass.server.run != ended || self.is(Wrong::LifeNotCompared)
                    };
                    daemon.pass = daemon.pass.filter(ends);
                }
                state.master = ServerIdentity {
                    run: state.runs,
                    promoted_from: 0,
                };
                state.take_older(older);
            }
            Step::Promote { older } => {
                state.faults.promotions -= 1;
                state.promotions += 1;
                let demoted = state.master;
                state.master = ServerIdentity {
                    promoted_from: state.promotions,
                    ..state.other
                };
                state.take_older(older);
                // The full synchronisation copies the identity.
                state.other = ServerIdentity {
                    promoted_from: 0,
                    ..demoted
                };
                state.other_keys = state.keys;
            }
            Step::Flush => {
                state.faults.flushes -= 1;
                state.keys = Keys::default();
            }
            _ => {}
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Claim(coupon) => {
                let count = &mut state.keys[coupon].count;
                *count += 1;
                state.given[coupon] = state.given[coupon].max(*count);
                state.in_flight[coupon] = true;
            }
            Step::Land(coupon) => state.land(coupon),
            Step::Make => self.make(state),
            Step::Daemon(at) => self.daemon(state, at),
            fault => self.happen(state, fault),
        }
        // Normalises the state: forgets clocks of eras that are over, and numbers eras without
        // gaps.
        for coupon in 0..COUPONS {
            if !self.is(Wrong::OneClock) {
                state.forget_clocks(coupon);
            }
            state.number_eras(coupon);
        }
        state.daemons.sort_unstable();
        if state.faults.restarts + state.faults.promotions == 0 {
            state.copy = None;
        }
    }

    /// Whether every verifiable coupon opens once faults stop, everything in progress ends, and a
    /// daemon runs one or two passes.
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
        (0..COUPONS).all(|coupon| self.admits(&state, coupon) || self.stuck && coupon == 1)
    }
}

/// A coupon is never open for admission without the claims that it promised.
pub const NEVER_UNVERIFIED: &str = "no coupon is open unverified";
/// A demoted server answers no claim from its old data.
pub const NEVER_BY_OLD_DATA: &str = "no replica answers";
/// A coupon that cannot be verified does not keep other coupons closed.
pub const REOPENS: &str = "left alone, every coupon that can be verified opens";

impl Model for GateProtocol {
    type State = State;
    type Action = Step;

    /// Returns a state in which both coupons are loaded and closed, in an era that is over.
    fn init_states(&self) -> Vec<State> {
        let coupon = Coupon {
            loaded: true,
            ..Coupon::default()
        };
        let second = if self.new_coupon {
            Coupon::default()
        } else {
            coupon
        };
        vec![State {
            keys: [coupon, second],
            copy: None,
            master: ServerIdentity {
                run: 1,
                promoted_from: 0,
            },
            other: ServerIdentity {
                run: 2,
                promoted_from: 0,
            },
            other_keys: Keys::default(),
            runs: 2,
            promotions: 0,
            eras: [FIRST_ERA, FIRST_ERA],
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
            let left = state.keys[coupon].count < SLOTS && !state.in_flight[coupon];
            steps.extend((left && self.admits(state, coupon)).then_some(Step::Claim(coupon)));
            steps.extend(state.in_flight[coupon].then_some(Step::Land(coupon)));
        }
        steps.extend((state.new != New::Done).then_some(Step::Make));
        for (at, daemon) in state.daemons.iter().enumerate() {
            steps.extend(self.may_go(state, daemon).then_some(Step::Daemon(at)));
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
            (0..COUPONS).all(|c| !model.admits(state, c) || state.keys[c].count >= state.given[c])
        };
        let by_old_data = |model: &Self, state: &State| {
            !model.is(Wrong::RoleUnchecked)
                || (0..COUPONS).all(|c| {
                    !model.answers(state.other, &state.other_keys, c)
                        || state.other_keys[c].count >= state.given[c]
                })
        };
        vec![
            Property::always(NEVER_UNVERIFIED, verified),
            Property::always(NEVER_BY_OLD_DATA, by_old_data),
            Property::always(REOPENS, |model: &Self, state: &State| model.heals(state)),
            Property::sometimes("a coupon is sold out", |_, state: &State| {
                state.given[0] == SLOTS
            }),
        ]
    }
}
