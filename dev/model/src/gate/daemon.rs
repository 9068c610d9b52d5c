//! A daemon's pass that rebuilds coupons and opens them. Each step is atomic.

use super::{COUPONS, Gate, GateProtocol, ServerIdentity, State, Wrong};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    /// Takes an era from MySQL, after it has read this value of `gate`.
    TakeEra(usize, Option<Gate>),
    /// Begins the era in Redis.
    Begin(usize, Option<Gate>),
    /// Waits until the admissions that were in flight when the era was first seen have ended.
    Wait,
    /// Rebuilds a part of a coupon, which is already visible to admission.
    Load(usize),
    /// Rebuilds the rest.
    Complete(usize),
    Open(usize),
}

/// A pass on a connection that ends with the Redis process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pass {
    pub(super) server: ServerIdentity,
    /// The era of each coupon. 0 if there is nothing to do, or nothing can be done.
    pub(super) eras: [u8; COUPONS],
    held: [u8; COUPONS],
    stage: Stage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Daemon {
    /// For each coupon, the last era that the daemon has recorded, and whether a claim from before
    /// it is still in flight.
    pub(super) clocks: [Option<(u8, bool)>; COUPONS],
    pub(super) pass: Option<Pass>,
}

impl Daemon {
    /// Returns the coupon's gate as it was read before its era began.
    fn seen(&mut self, of: usize) -> Option<&mut Gate> {
        match &mut self.pass.as_mut()?.stage {
            Stage::TakeEra(coupon, seen) | Stage::Begin(coupon, seen) if *coupon == of => {
                seen.as_mut()
            }
            _ => None,
        }
    }

    /// Returns the eras of a coupon that the pass knows.
    pub(super) fn eras(mut self, coupon: usize) -> Vec<u8> {
        let known = self.clocks[coupon].map(|(era, _)| era);
        let own = self.pass.map(|pass| pass.eras[coupon]);
        let seen = self.seen(coupon).map(|gate| gate.era);
        [known, own, seen].into_iter().flatten().collect()
    }

    pub(super) fn number_eras(&mut self, coupon: usize, number: impl Fn(u8) -> u8) {
        if let Some((era, _)) = &mut self.clocks[coupon] {
            *era = number(*era);
        }
        if let Some(gate) = self.seen(coupon) {
            gate.era = number(gate.era);
        }
        if let Some(pass) = &mut self.pass {
            pass.eras[coupon] = number(pass.eras[coupon]);
        }
    }
}

impl Pass {
    fn on(server: ServerIdentity) -> Self {
        Self {
            server,
            eras: [0; COUPONS],
            held: [0; COUPONS],
            stage: Stage::Wait,
        }
    }

    /// Continues with the next coupon that is in an era of this pass, or ends.
    fn rebuild(mut self, from: usize) -> Option<Self> {
        // The previous coupons are done.
        self.eras[..from.min(COUPONS)].fill(0);
        self.held[..from.min(COUPONS)].fill(0);
        let next = (from..COUPONS).find(|coupon| self.eras[*coupon] > 0)?;
        self.stage = Stage::Load(next);
        Some(self)
    }
}

impl GateProtocol {
    pub(super) fn may_go(&self, state: &State, daemon: &Daemon) -> bool {
        let Some(pass) = daemon.pass else {
            return true;
        };
        if pass.stage == Stage::Wait && !self.is(Wrong::NoWait) {
            let flies = |coupon: usize| {
                pass.eras[coupon] > 0 && daemon.clocks[coupon].is_some_and(|(_, flying)| flying)
            };
            return !(0..COUPONS).any(flies);
        }
        // A pass on a server that is no longer the master may also wait until it is the master
        // again.
        pass.server.run == state.master.run
            || state.faults.promotions == 0
            || self.is(Wrong::LifeNotCompared)
    }

    pub(super) fn daemon(&self, state: &mut State, at: usize) {
        let mut daemon = state.daemons[at];
        let is_over =
            |pass: Pass| pass.server.run != state.master.run && !self.is(Wrong::LifeNotCompared);
        daemon.pass = match daemon.pass {
            None => Self::look(state, Pass::on(state.master), 0),
            Some(pass) if is_over(pass) => None,
            Some(pass) => self.go_on(state, pass),
        };
        if let Some(Pass {
            stage: Stage::Wait,
            eras,
            ..
        }) = daemon.pass
        {
            for (coupon, era) in eras.into_iter().enumerate().filter(|(_, era)| *era > 0) {
                let clock = &mut daemon.clocks[coupon];
                let is_known = clock.is_some_and(|(of, _)| of == era || self.is(Wrong::OneClock));
                if !is_known {
                    *clock = Some((era, state.in_flight[coupon]));
                }
            }
        }
        state.daemons[at] = daemon;
    }

    /// Reads the gates of this coupon and the following ones, to find the coupons that are in an
    /// era of this server and those that must begin one.
    fn look(state: &State, mut pass: Pass, from: usize) -> Option<Pass> {
        for coupon in (from..COUPONS).filter(|coupon| state.exists(*coupon)) {
            let keys = state.keys[coupon];
            let stands = keys
                .gate
                .filter(|gate| gate.server == pass.server && gate.era == state.eras[coupon]);
            match stands {
                None => {
                    pass.stage = Stage::TakeEra(coupon, keys.gate);
                    return Some(pass);
                }
                Some(gate) if !gate.is_open || !keys.loaded => pass.eras[coupon] = gate.era,
                Some(_) => {}
            }
        }
        pass.stage = Stage::Wait;
        (pass.eras != [0; COUPONS]).then_some(pass)
    }

    fn go_on(&self, state: &mut State, mut pass: Pass) -> Option<Pass> {
        match pass.stage {
            Stage::TakeEra(coupon, seen) => {
                if !self.is(Wrong::EraKept) {
                    state.eras[coupon] += 1;
                }
                pass.eras[coupon] = state.eras[coupon];
                pass.stage = Stage::Begin(coupon, seen);
                Some(pass)
            }
            Stage::Begin(coupon, seen) => {
                let server = pass.server;
                let era = pass.eras[coupon];
                if !Self::begin_era(state, coupon, seen, server, era) {
                    pass.eras[coupon] = 0;
                }
                Self::look(state, pass, coupon + 1)
            }
            Stage::Wait => {
                for coupon in 0..COUPONS {
                    if pass.eras[coupon] > 0 {
                        pass.held[coupon] = state.held(coupon);
                    }
                }
                pass.rebuild(0)
            }
            Stage::Load(coupon) => {
                if !self.is_in_era(state, coupon, pass.server, pass.eras[coupon]) {
                    return pass.rebuild(coupon + 1);
                }
                state.keys[coupon].loaded = true;
                pass.stage = Stage::Complete(coupon);
                Some(pass)
            }
            Stage::Complete(coupon) => {
                if !self.is_in_era(state, coupon, pass.server, pass.eras[coupon])
                    || self.stuck && coupon == 1
                {
                    return pass.rebuild(coupon + 1);
                }
                let count = &mut state.keys[coupon].count;
                *count = (*count).max(pass.held[coupon]);
                pass.stage = Stage::Open(coupon);
                Some(pass)
            }
            Stage::Open(coupon) => {
                self.open_coupon(state, coupon, pass.server, pass.eras[coupon]);
                pass.rebuild(coupon + 1)
            }
        }
    }
}
