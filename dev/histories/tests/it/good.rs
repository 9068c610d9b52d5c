//! Histories of a system that keeps its promises, made by playing claims against a simple one.

use std::collections::HashMap;

use firstcome_histories::{Answer, Event, OncePer, Row};
use proptest::prelude::*;

pub(crate) const COUPON: u64 = 1;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Claim {
        drop: u64,
        person: u8,
        seen: Seen,
    },
    Read(u64),
    Count(u64),
    /// The newest admission can't stand: listed, and first on the waiting list.
    Break(u64),
    /// What is free goes to who waits.
    Promote(u64),
}

/// What the person gets to see of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    Answer,
    /// It ran, and the answer got lost.
    Nothing,
    NeverSent,
    /// Refused at the door.
    Refused,
}

#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) once_per: OncePer,
    pub(crate) quantity: u64,
    pub(crate) waiting_list: usize,
    pub(crate) steps: Vec<Step>,
}

pub(crate) fn script() -> impl Strategy<Value = Script> {
    let drop = || 1..=2_u64;
    let seen = prop_oneof![6 => Just(Seen::Answer), 1 => Just(Seen::Nothing), 1 => Just(Seen::NeverSent), 1 => Just(Seen::Refused)];
    let step = prop_oneof![
        10 => (drop(), 0..12_u8, seen).prop_map(|(drop, person, seen)| Step::Claim { drop, person, seen }),
        2 => drop().prop_map(Step::Read),
        1 => drop().prop_map(Step::Count),
        1 => drop().prop_map(Step::Break),
        1 => drop().prop_map(Step::Promote),
    ];
    let once_per = prop_oneof![Just(OncePer::Drop), Just(OncePer::Coupon)];
    (once_per, 1..5_u64, 0..4_usize, prop::collection::vec(step, 1..60))
        .prop_map(|(once_per, quantity, waiting_list, steps)| Script { once_per, quantity, waiting_list, steps })
}

#[derive(Default)]
struct Side {
    held: Vec<(u64, String)>,
    issued: usize,
    given: u64,
    free: Vec<u64>,
    waiting: Vec<String>,
}

struct World<'a> {
    script: &'a Script,
    sides: HashMap<u64, Side>,
    events: Vec<Event>,
    ops: u64,
}

/// Plays a script to its healed end.
pub(crate) fn play(script: &Script) -> Vec<Event> {
    let Script { once_per, quantity, .. } = *script;
    let sides = [(1, Side::default()), (2, Side::default())].into();
    let announce = |drop| Event::Drop { drop, coupon: COUPON, quantity, once_per };
    let mut world = World { script, sides, events: vec![announce(1), announce(2)], ops: 0 };
    for step in &script.steps {
        world.step(step);
    }
    for drop in [1, 2] {
        world.promote(drop);
        let side = &world.sides[&drop];
        let rows = side.held.iter().map(row).collect();
        world.events.push(Event::Final { drop, rows });
    }
    world.events
}

fn row((slot, person): &(u64, String)) -> Row {
    Row { slot: i64::try_from(*slot).unwrap(), person: person.clone() }
}

impl World<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Claim { drop, person, seen } => self.claim(*drop, format!("u-{person}"), *seen),
            Step::Read(drop) => {
                let rows = self.issue(*drop);
                self.events.push(Event::Read { drop: *drop, rows });
            }
            Step::Count(drop) => {
                let rows = self.issue(*drop).len() as u64;
                self.events.push(Event::Counted { drop: *drop, rows });
            }
            Step::Break(drop) => {
                let side = self.sides.get_mut(drop).unwrap();
                // A row is never taken back. And who waits here and gets one elsewhere leaves a
                // slot to people who were told that it is sold out; they would have to ask again.
                if self.script.once_per == OncePer::Drop && side.issued < side.held.len() {
                    let (slot, person) = side.held.pop().unwrap();
                    side.free.push(slot);
                    side.waiting.insert(0, person.clone());
                    let slot = i64::try_from(slot).ok();
                    self.events.push(Event::Broken { drop: *drop, person, slot });
                }
            }
            Step::Promote(drop) => self.promote(*drop),
        }
    }

    /// The rows written so far: half of what is missing, to show that they lag.
    fn issue(&mut self, drop: u64) -> Vec<Row> {
        let side = self.sides.get_mut(&drop).unwrap();
        side.issued += (side.held.len() - side.issued).div_ceil(2);
        side.held[..side.issued].iter().map(row).collect()
    }

    fn claim(&mut self, drop: u64, person: String, seen: Seen) {
        self.ops += 1;
        let op = self.ops;
        self.events.push(Event::Invoked { op, coupon: COUPON, drop: Some(drop), person: person.clone() });
        let unknown = || Event::Unknown { op, reason: "timeout".into() };
        let ended = match seen {
            Seen::Refused => Event::Failed { op, reason: "paused".into() },
            Seen::NeverSent => unknown(),
            Seen::Nothing => {
                self.admit(drop, person);
                unknown()
            }
            Seen::Answer => Event::Ok { op, answer: self.admit(drop, person) },
        };
        self.events.push(ended);
    }

    fn admit(&mut self, drop: u64, person: String) -> Answer {
        if let Some((drop, slot)) = self.held(drop, &person) {
            return Answer::AlreadyClaimed { drop, slot: i64::try_from(slot).unwrap() };
        }
        let side = self.sides.get_mut(&drop).unwrap();
        if side.waiting.is_empty()
            && let Some(slot) = next(side, self.script.quantity)
        {
            side.held.push((slot, person));
            return Answer::Accepted { drop, slot: i64::try_from(slot).unwrap() };
        }
        let place = side.waiting.iter().position(|waits| *waits == person);
        let left = usize::try_from(self.script.quantity).unwrap() - side.held.len();
        // Nobody is told that it is sold out while slots are left for more people than wait.
        if place.is_none() && side.waiting.len() >= self.script.waiting_list.max(left) {
            return Answer::SoldOut;
        }
        let place = place.unwrap_or_else(|| {
            side.waiting.push(person);
            side.waiting.len() - 1
        });
        Answer::Waiting { position: place as u64 + 1 }
    }

    fn held(&self, drop: u64, person: &str) -> Option<(u64, u64)> {
        let in_drop = |drop: u64| {
            let mut held = self.sides[&drop].held.iter();
            held.find(|(_, holder)| holder == person).map(|(slot, _)| (drop, *slot))
        };
        let elsewhere = || in_drop(3 - drop).filter(|_| self.script.once_per == OncePer::Coupon);
        in_drop(drop).or_else(elsewhere)
    }

    fn promote(&mut self, drop: u64) {
        while let Some(person) = self.sides[&drop].waiting.first().cloned() {
            let holds = self.held(drop, &person).is_some();
            let side = self.sides.get_mut(&drop).unwrap();
            if !holds {
                let Some(slot) = next(side, self.script.quantity) else { return };
                side.held.push((slot, person));
            }
            side.waiting.remove(0);
        }
    }
}

fn next(side: &mut Side, quantity: u64) -> Option<u64> {
    side.free.pop().or_else(|| {
        side.given += u64::from(side.given <= quantity);
        Some(side.given).filter(|slot| *slot <= quantity)
    })
}
