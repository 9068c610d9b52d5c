//! The urgent lane: closes, begins eras, rebuilds and opens. Each step is atomic. Two passes run at
//! once if one of them lost its lock while it was suspended.

use super::{
    DROPS, Deadline, Drops, FIRST_ERA, Fault, Gate, Omitted, Protocol, Server, State, Word,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    /// Reads the coupon's gate and decides the next stage.
    Look,
    /// Closes the gate that was read, by compare-and-set. `true` if nothing was wrong with it.
    Close(Option<Gate>, bool),
    /// Takes an era from MySQL, at a gate that is closed.
    TakeEra(Option<Gate>),
    /// Begins the era in Redis.
    Begin(Option<Gate>),
    /// Waits until the claims that were in flight when the era began have landed.
    Wait,
    /// Reads the rows of a drop.
    Read(usize),
    /// Writes a part of the drop, which admission can see already.
    Load(usize, bool),
    /// Writes the rest.
    Complete(usize, bool),
    Open,
    /// Sends the opening again, because its answer was lost.
    OpenAgain,
    /// Loads a drop that was made ahead, at an open gate.
    LoadAhead(usize),
}

/// A pass over the coupons, on a connection that ends with the Redis process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pass {
    server: Server,
    coupon: usize,
    era: u8,
    /// The claims in flight when the era began.
    waits_for: [Option<Deadline>; DROPS],
    stage: Stage,
}

impl Pass {
    pub(super) fn landed(&mut self, drop: usize) {
        self.waits_for[drop] = None;
    }

    fn fence(&self, word: Word) -> Gate {
        Gate {
            server: self.server,
            era: self.era,
            word,
        }
    }

    /// Continues with the next coupon, or ends.
    fn next_coupon(self, protocol: &Protocol, state: &State) -> Option<Self> {
        let next = Self::on(self.server, self.coupon + 1);
        (next.coupon < protocol.coupons(state)).then_some(next)
    }

    fn on(server: Server, coupon: usize) -> Self {
        Self {
            server,
            coupon,
            era: 0,
            waits_for: [None; DROPS],
            stage: Stage::Look,
        }
    }
}

pub(super) fn may_go(protocol: &Protocol, state: &State, pass: Option<Pass>) -> bool {
    let is_busy = state.passes.iter().any(Option::is_some);
    let Some(pass) = pass else {
        return !is_busy || state.may(Fault::LockLost);
    };
    if pass.stage != Stage::Wait {
        return true;
    }
    let counts = |deadline: Deadline| match deadline {
        Deadline::Short => true,
        Deadline::Long => !protocol.omits(Omitted::LongestDeadline),
    };
    let is_over = pass.server != state.master;
    is_over
        || protocol.omits(Omitted::Wait)
        || !protocol
            .drops_of(state, pass.coupon)
            .any(|drop| pass.waits_for[drop].is_some_and(counts))
}

pub(super) fn next_step(protocol: &Protocol, state: &mut State, at: usize) {
    let is_second = state.passes[at].is_none() && state.passes.iter().any(Option::is_some);
    if is_second {
        state.spend(Fault::LockLost);
    }
    let pass = state.passes[at].unwrap_or_else(|| Pass::on(state.master, 0));
    // The connection ends with the server.
    state.passes[at] = if pass.server == state.master {
        go_on(protocol, state, pass)
    } else {
        None
    };
}

fn go_on(protocol: &Protocol, state: &mut State, mut pass: Pass) -> Option<Pass> {
    let coupon = pass.coupon;
    let closed = pass.fence(Word::Closed);
    pass.stage = match pass.stage {
        Stage::Look => return plan_coupon(protocol, state, pass),
        Stage::Close(seen, is_clean) => {
            state.closed_clean |= is_clean && state.keys.gates[coupon] == seen;
            close(protocol, state, &mut pass, seen)?
        }
        Stage::TakeEra(gate) => {
            let above_gate = gate.filter(|_| !protocol.omits(Omitted::EraAboveGate));
            let highest = state.eras[coupon].max(above_gate.map_or(0, |gate| gate.era));
            let takes = u8::from(!protocol.omits(Omitted::EraOfItsOwn));
            pass.era = highest + takes;
            state.eras[coupon] = pass.era;
            Stage::Begin(gate)
        }
        Stage::Begin(gate) => {
            if state.keys.gates[coupon] != gate {
                return pass.next_coupon(protocol, state);
            }
            state.keys.gates[coupon] = Some(closed);
            if !protocol.omits(Omitted::WaitFromEra) {
                pass.waits_for = state.in_flight;
            }
            Stage::Wait
        }
        Stage::Wait => Stage::Read(protocol.drops_of(state, coupon).next()?),
        Stage::Read(drop) => Stage::Load(drop, state.row(drop)),
        Stage::Load(drop, row) => {
            if !protocol.is_in_era(state, coupon, closed) {
                return pass.next_coupon(protocol, state);
            }
            state.keys.given[drop] = Some(false);
            Stage::Complete(drop, row)
        }
        Stage::Complete(drop, row) => {
            let stuck = protocol.drops == Drops::FirstIsStuck && coupon == 0;
            if stuck && protocol.omits(Omitted::Bulkhead) {
                return None;
            }
            if stuck || !protocol.is_in_era(state, coupon, closed) {
                return pass.next_coupon(protocol, state);
            }
            state.keys.given[drop] = Some(row);
            state.dirty &= drop != 0;
            let next = protocol.drops_of(state, coupon).find(|other| *other > drop);
            match next.filter(|_| !protocol.omits(Omitted::AllDrops)) {
                Some(next) => Stage::Read(next),
                None => Stage::Open,
            }
        }
        Stage::Open => {
            protocol.open_coupon(state, coupon, closed);
            if !state.may(Fault::Repeat) {
                return pass.next_coupon(protocol, state);
            }
            state.spend(Fault::Repeat);
            Stage::OpenAgain
        }
        Stage::OpenAgain => {
            protocol.open_coupon(state, coupon, closed);
            return pass.next_coupon(protocol, state);
        }
        Stage::LoadAhead(drop) => {
            let open = pass.fence(Word::Open);
            if protocol.is_in_era(state, coupon, open) && state.keys.given[drop].is_none() {
                state.keys.given[drop] = Some(false);
            }
            return pass.next_coupon(protocol, state);
        }
    };
    Some(pass)
}

/// Decides the next stage for the coupon.
fn plan_coupon(protocol: &Protocol, state: &mut State, mut pass: Pass) -> Option<Pass> {
    let coupon = pass.coupon;
    let gate = state.keys.gates[coupon];
    if protocol.omits(Omitted::WaitFromEra) {
        pass.waits_for = state.in_flight;
    }
    let adopts = !protocol.omits(Omitted::HigherEraAdopted);
    let stands = |gate: &Gate| {
        let known = gate.era == state.eras[coupon] || adopts && gate.era > state.eras[coupon];
        let dirty = state.dirty && coupon == 0;
        gate.server == pass.server && gate.word == Word::Open && known && !dirty
    };
    // This coupon can never be verified and would begin new eras forever, so the model stops after
    // some of them.
    let stuck = protocol.drops == Drops::FirstIsStuck && coupon == 0;
    if stuck && state.eras[coupon] > FIRST_ERA + 1 && !protocol.omits(Omitted::Bulkhead) {
        return pass.next_coupon(protocol, state);
    }
    let Some(open) = gate.filter(stands) else {
        let is_new =
            gate.is_none_or(|gate| gate.word == Word::Closed && gate.server == pass.server);
        if is_new && coupon == 1 && protocol.omits(Omitted::EveryClosedIsUrgent) {
            return pass.next_coupon(protocol, state);
        }
        let is_open = |gate: Gate| gate.word == Word::Open && gate.era >= state.eras[coupon];
        let is_clean = gate.is_some_and(is_open) && !state.damaged[coupon];
        pass.stage = Stage::Close(gate, is_clean);
        return Some(pass);
    };
    state.eras[coupon] = open.era;
    pass.era = open.era;
    let drops: Vec<usize> = protocol.drops_of(state, coupon).collect();
    let missing = drops
        .into_iter()
        .find(|drop| state.keys.given[*drop].is_none());
    let Some(drop) = missing else {
        return pass.next_coupon(protocol, state);
    };
    // A drop that has not opened, and has no row, has nothing to lose.
    let is_new = drop == 1 && protocol.drops == Drops::MadeAhead && !state.promised[drop];
    pass.stage = if is_new && !protocol.omits(Omitted::LoadedAtOpenGate) {
        Stage::LoadAhead(drop)
    } else {
        Stage::Close(gate, !state.damaged[coupon])
    };
    Some(pass)
}

/// Closes by compare-and-set.
fn close(
    protocol: &Protocol,
    state: &mut State,
    pass: &mut Pass,
    seen: Option<Gate>,
) -> Option<Stage> {
    let gate = &mut state.keys.gates[pass.coupon];
    if *gate != seen {
        return None;
    }
    let was_open = seen.filter(|gate| gate.word == Word::Open);
    if let Some(open) = was_open {
        let apart = !protocol.omits(Omitted::ShutApart);
        let word = if apart { Word::Shut } else { Word::Closed };
        *gate = Some(Gate { word, ..open });
    }
    Some(Stage::TakeEra(*gate))
}
