//! A daemon's pass that reopens admission; each step is atomic.

use super::{COUPONS, Gate, Life, State, Wrong};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    /// About to begin a life; the earlier content of `fc:epoch`.
    Begin(Option<Life>),
    /// Waiting for claims in flight.
    Wait,
    /// Rebuilding a part of a coupon, which admission can see.
    Load(usize),
    /// Rebuilding the rest.
    Complete(usize),
    Check(usize),
    Open(usize),
    /// Opening the gate: the script, then `fc:epoch`; with the next coupon.
    LoadScript(usize),
    OpenGate(usize),
}

/// A pass, on a connection that ends with the process of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pass {
    pub(super) process: u8,
    server: u8,
    pub(super) epoch: u8,
    gate_open: bool,
    unverified: [bool; COUPONS],
    generations: [u8; COUPONS],
    held: [u8; COUPONS],
    stage: Stage,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Daemon {
    /// The life whose loss it last noted, and the claims in flight then that still are.
    pub(super) clock: Option<(u8, [bool; COUPONS])>,
    pub(super) pass: Option<Pass>,
}

impl Pass {
    /// Continues with the next unverified coupon, or ends.
    fn next(self, from: usize) -> Option<Self> {
        let open_gate = !self.gate_open && self.unverified == [false; COUPONS];
        let coupon = (from..COUPONS)
            .find(|coupon| self.unverified[*coupon])
            .map(Stage::Load);
        let stage = coupon.or(open_gate.then_some(Stage::LoadScript(COUPONS)))?;
        let mut next = Self { stage, ..self };
        // The earlier ones are finished.
        let past = from.min(COUPONS);
        next.generations[..past].fill(0);
        next.held[..past].fill(0);
        Some(next)
    }
}

impl Gate {
    pub(super) fn may_go(&self, state: &State, daemon: Daemon) -> bool {
        match daemon.pass {
            None => true,
            Some(Pass {
                stage: Stage::Wait,
                epoch,
                ..
            }) => {
                let clock = daemon
                    .clock
                    .filter(|(of, _)| *of == epoch || self.is(Wrong::OneClock));
                self.is(Wrong::NoWait) || clock.is_none_or(|(_, flying)| flying == [false; COUPONS])
            }
            // If its server is no longer the master, it can also wait until it is again.
            Some(pass) => {
                pass.process == state.process.number
                    || state.faults.promotions == 0
                    || self.is(Wrong::LifeNotCompared)
            }
        }
    }

    pub(super) fn daemon(&self, state: &mut State, at: usize) {
        let pass = match state.daemons[at].pass.take() {
            None => Some(Self::begin(state)),
            Some(pass) if self.is(Wrong::LifeNotCompared) => self.go_on(
                state,
                Pass {
                    process: state.process.number,
                    ..pass
                },
            ),
            Some(pass) if pass.process != state.process.number => None,
            Some(pass) => self.go_on(state, pass),
        };
        state.daemons[at].pass = pass;
        if let Some(Pass {
            stage: Stage::Wait,
            epoch,
            ..
        }) = pass
        {
            self.note(state, at, epoch);
        }
    }

    /// Notes a loss: a life that this daemon has not seen yet.
    fn note(&self, state: &mut State, at: usize, epoch: u8) {
        let known = state.daemons[at]
            .clock
            .is_some_and(|(of, _)| of == epoch || self.is(Wrong::OneClock));
        if !known {
            state.daemons[at].clock = Some((epoch, state.in_flight));
        }
    }

    /// Reads the gate.
    fn begin(state: &State) -> Pass {
        let life = state
            .life()
            .filter(|life| state.has_script(*life) || !life.loaded);
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
                let keys = &mut state.keys.coupons[coupon];
                let held = pass.held[coupon];
                if keys.generation != pass.generations[coupon] {
                    return pass.next(coupon + 1);
                }
                if pass.stage == Stage::Load(coupon) {
                    keys.loaded = true;
                    return Some(Pass {
                        stage: Stage::Complete(coupon),
                        ..pass
                    });
                }
                keys.count = keys.count.max(held);
                Some(Pass {
                    stage: Stage::Check(coupon),
                    ..pass
                })
            }
            Stage::Check(coupon) => self.check(state, pass, coupon),
            Stage::Open(coupon) => self.open(state, pass, coupon),
            Stage::LoadScript(next) => {
                state.process.scripts[usize::from(pass.epoch)] = pass.server;
                Some(Pass {
                    stage: Stage::OpenGate(next),
                    ..pass
                })
            }
            Stage::OpenGate(next) => {
                let life = state.keys.life.as_mut()?;
                life.loaded |= (life.epoch, life.server) == (pass.epoch, pass.server);
                life.loaded
                    .then_some(Pass {
                        gate_open: true,
                        ..pass
                    })?
                    .next(next)
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
            state.keys.life = Some(Life {
                epoch: state.epochs,
                server: pass.server,
                loaded: false,
            });
        }
        let life = state.keys.life.filter(|life| life.server == pass.server)?;
        Some(Pass {
            epoch: life.epoch,
            stage: Stage::Wait,
            ..pass
        })
    }

    /// Reads the generations, then the second stores.
    fn collect(&self, state: &mut State, mut pass: Pass) -> Option<Pass> {
        let mut any_verified = false;
        for coupon in (0..COUPONS)
            .filter(|coupon| state.exists(*coupon))
            .collect::<Vec<_>>()
        {
            pass.generations[coupon] = state.ensure_generation(coupon);
            pass.held[coupon] = state.held(coupon);
            pass.unverified[coupon] = state.keys.coupons[coupon].verified != pass.epoch;
            any_verified |= !pass.unverified[coupon];
        }
        if any_verified && !pass.gate_open && !self.is(Wrong::GateAfterOwnCoupon) {
            return Some(Pass {
                stage: Stage::LoadScript(0),
                ..pass
            });
        }
        pass.next(0)
    }

    /// Whether the life is unchanged and the coupon is complete.
    fn check(&self, state: &State, pass: Pass, coupon: usize) -> Option<Pass> {
        let keys = state.keys.coupons[coupon];
        let is_same = state
            .life()
            .is_some_and(|life| (life.epoch, life.server) == (pass.epoch, pass.server));
        if !is_same && !self.is(Wrong::LifeNotCompared) {
            return None;
        }
        if keys.loaded && keys.count >= pass.held[coupon] && !(self.stuck && coupon == 1) {
            return Some(Pass {
                stage: Stage::Open(coupon),
                ..pass
            });
        }
        pass.next(coupon + 1)
    }

    fn open(&self, state: &mut State, mut pass: Pass, coupon: usize) -> Option<Pass> {
        let stands = state.keys.life.map_or(0, |life| life.epoch);
        let epoch = if self.is(Wrong::OpenInLaterLife) {
            stands
        } else {
            pass.epoch
        };
        if !self.set_verified(state, pass.generations[coupon], coupon, epoch) {
            return None;
        }
        pass.unverified[coupon] = false;
        if pass.gate_open {
            return pass.next(coupon + 1);
        }
        Some(Pass {
            stage: Stage::LoadScript(coupon + 1),
            ..pass
        })
    }
}
