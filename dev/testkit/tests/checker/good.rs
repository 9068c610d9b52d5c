//! Generates histories of a correct system from a simple model to which claims are applied.

use std::collections::HashMap;

use firstcome_testkit::histories::{RecordedAnswer, RecordedEvent, RecordedRow, RecordedScope};
use proptest::prelude::*;

pub(crate) const COUPON: u64 = 1;

#[derive(Debug, Clone)]
pub(crate) enum ScenarioStep {
    Claim {
        drop: u64,
        person: u8,
        seen: SeenAnswer,
    },
    Read(u64),
    Count(u64),
    /// The newest admission cannot be kept: it is listed as broken, and its user is first on the
    /// waiting list.
    Break(u64),
    /// Free slots go to waiting users.
    Promote(u64),
}

/// The result as the user sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SeenAnswer {
    Answer,
    /// The claim took effect, but its answer was lost.
    Nothing,
    NeverSent,
    /// The claim was refused before it took effect.
    Refused,
}

#[derive(Debug, Clone)]
pub(crate) struct PlayedScript {
    pub(crate) once_per: RecordedScope,
    pub(crate) quantity: u64,
    pub(crate) waiting_list: usize,
    pub(crate) steps: Vec<ScenarioStep>,
}

pub(crate) fn script() -> impl Strategy<Value = PlayedScript> {
    let drop = || 1..=2_u64;
    let seen = prop_oneof![6 => Just(SeenAnswer::Answer), 1 => Just(SeenAnswer::Nothing), 1 => Just(SeenAnswer::NeverSent), 1 => Just(SeenAnswer::Refused)];
    let step = prop_oneof![
        10 => (drop(), 0..12_u8, seen).prop_map(|(drop, person, seen)| ScenarioStep::Claim { drop, person, seen }),
        2 => drop().prop_map(ScenarioStep::Read),
        1 => drop().prop_map(ScenarioStep::Count),
        1 => drop().prop_map(ScenarioStep::Break),
        1 => drop().prop_map(ScenarioStep::Promote),
    ];
    let once_per = prop_oneof![Just(RecordedScope::Drop), Just(RecordedScope::Coupon)];
    (
        once_per,
        1..5_u64,
        0..4_usize,
        prop::collection::vec(step, 1..60),
    )
        .prop_map(|(once_per, quantity, waiting_list, steps)| PlayedScript {
            once_per,
            quantity,
            waiting_list,
            steps,
        })
}

#[derive(Default)]
struct Side {
    held: Vec<(u64, String)>,
    issued: usize,
    given: u64,
    free: Vec<u64>,
    waiting: Vec<String>,
}

struct ScenarioWorld<'a> {
    script: &'a PlayedScript,
    sides: HashMap<u64, Side>,
    events: Vec<RecordedEvent>,
    ops: u64,
}

/// Runs a script to its end, after which every fault is over.
pub(crate) fn play(script: &PlayedScript) -> Vec<RecordedEvent> {
    let PlayedScript {
        once_per, quantity, ..
    } = *script;
    let sides = [(1, Side::default()), (2, Side::default())].into();
    let announce = |drop| RecordedEvent::Drop {
        drop,
        coupon: COUPON,
        quantity,
        once_per,
    };
    let mut world = ScenarioWorld {
        script,
        sides,
        events: vec![announce(1), announce(2)],
        ops: 0,
    };
    for step in &script.steps {
        world.step(step);
    }
    for drop in [1, 2] {
        world.promote(drop);
        let side = &world.sides[&drop];
        let rows = side
            .held
            .iter()
            .map(|(slot, person)| row(*slot, person))
            .collect();
        world.events.push(RecordedEvent::Final { drop, rows });
    }
    world.events
}

fn row(slot: u64, person: &str) -> RecordedRow {
    RecordedRow {
        slot: i64::try_from(slot).unwrap(),
        person: person.to_owned(),
    }
}

impl ScenarioWorld<'_> {
    fn step(&mut self, step: &ScenarioStep) {
        match step {
            ScenarioStep::Claim { drop, person, seen } => {
                self.claim(*drop, format!("u-{person}"), *seen);
            }
            ScenarioStep::Read(drop) => {
                let rows = self.issue(*drop);
                self.events.push(RecordedEvent::Read { drop: *drop, rows });
            }
            ScenarioStep::Count(drop) => {
                let rows = self.issue(*drop).len() as u64;
                self.events
                    .push(RecordedEvent::Counted { drop: *drop, rows });
            }
            ScenarioStep::Break(drop) => {
                let side = self.sides.get_mut(drop).unwrap();
                // Rows are never deleted. If a waiting user got a slot in the other drop, a place
                // would become free for users who got `sold_out`, and who would have to claim
                // again.
                if self.script.once_per == RecordedScope::Drop && side.issued < side.held.len() {
                    let (slot, person) = side.held.pop().unwrap();
                    side.free.push(slot);
                    side.waiting.insert(0, person.clone());
                    let slot = i64::try_from(slot).ok();
                    self.events.push(RecordedEvent::Broken {
                        drop: *drop,
                        person,
                        slot,
                    });
                }
            }
            ScenarioStep::Promote(drop) => self.promote(*drop),
        }
    }

    /// Returns the rows written so far. Adds half of the missing ones each time, to simulate
    /// lag.
    fn issue(&mut self, drop: u64) -> Vec<RecordedRow> {
        let side = self.sides.get_mut(&drop).unwrap();
        side.issued += (side.held.len() - side.issued).div_ceil(2);
        side.held[..side.issued]
            .iter()
            .map(|(slot, person)| row(*slot, person))
            .collect()
    }

    fn claim(&mut self, drop: u64, person: String, seen: SeenAnswer) {
        self.ops += 1;
        let op = self.ops;
        self.events.push(RecordedEvent::Invoked {
            op,
            coupon: COUPON,
            drop: Some(drop),
            person: person.clone(),
        });
        let unknown = || RecordedEvent::Unknown {
            op,
            reason: "timeout".into(),
        };
        let ended = match seen {
            SeenAnswer::Refused => RecordedEvent::Failed {
                op,
                reason: "paused".into(),
            },
            SeenAnswer::NeverSent => unknown(),
            SeenAnswer::Nothing => {
                self.admit(drop, person);
                unknown()
            }
            SeenAnswer::Answer => RecordedEvent::Ok {
                op,
                answer: self.admit(drop, person),
            },
        };
        self.events.push(ended);
    }

    fn admit(&mut self, drop: u64, person: String) -> RecordedAnswer {
        if let Some((drop, slot)) = self.held(drop, &person) {
            return RecordedAnswer::AlreadyClaimed {
                drop,
                slot: i64::try_from(slot).unwrap(),
            };
        }
        let side = self.sides.get_mut(&drop).unwrap();
        if side.waiting.is_empty()
            && let Some(slot) = next(side, self.script.quantity)
        {
            side.held.push((slot, person));
            return RecordedAnswer::Accepted {
                drop,
                slot: i64::try_from(slot).unwrap(),
            };
        }
        let place = side.waiting.iter().position(|waits| *waits == person);
        let left = usize::try_from(self.script.quantity).unwrap() - side.held.len();
        // The model never answers `sold_out` while more slots are left than users wait.
        if place.is_none() && side.waiting.len() >= self.script.waiting_list.max(left) {
            return RecordedAnswer::SoldOut;
        }
        let place = place.unwrap_or_else(|| {
            side.waiting.push(person);
            side.waiting.len() - 1
        });
        RecordedAnswer::Waiting {
            position: place as u64 + 1,
        }
    }

    fn held(&self, drop: u64, person: &str) -> Option<(u64, u64)> {
        let in_drop = |drop: u64| {
            let mut held = self.sides[&drop].held.iter();
            held.find(|(_, holder)| holder == person)
                .map(|(slot, _)| (drop, *slot))
        };
        let elsewhere =
            || in_drop(3 - drop).filter(|_| self.script.once_per == RecordedScope::Coupon);
        in_drop(drop).or_else(elsewhere)
    }

    fn promote(&mut self, drop: u64) {
        while let Some(person) = self.sides[&drop].waiting.first().cloned() {
            let holds = self.held(drop, &person).is_some();
            let side = self.sides.get_mut(&drop).unwrap();
            if !holds {
                let Some(slot) = next(side, self.script.quantity) else {
                    return;
                };
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
