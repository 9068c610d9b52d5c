//! Every history of a correct system passes, and every spoiled one fails.

use std::collections::HashSet;

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, RecordedRow, Verdict, check,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::good::{COUPON, play, script};

#[derive(Debug, Clone, Copy)]
enum Spoil {
    Lose,
    DoublePerson,
    DoubleSlot,
    SwapPerson,
    SlotAbove,
    SlotZero,
    Nobody,
    Contradict,
    Empty,
}

const SPOILS: [Spoil; 9] = [
    Spoil::Lose,
    Spoil::DoublePerson,
    Spoil::DoubleSlot,
    Spoil::SwapPerson,
    Spoil::SlotAbove,
    Spoil::SlotZero,
    Spoil::Nobody,
    Spoil::Contradict,
    Spoil::Empty,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_history_in_which_every_promise_is_kept_passes(script in script()) {
        let judgement = check(&History::of(play(&script)).unwrap());
        if judgement.figures.promises > 0 {
            prop_assert_eq!(judgement.verdict, Verdict::Pass);
        } else {
            prop_assert!(matches!(judgement.verdict, Verdict::Unknown(_)), "{:?}", judgement);
        }
    }

    #[test]
    fn no_spoiled_history_passes(script in script(), spoil in select(&SPOILS[..]), which in any::<Index>()) {
        let mut events = play(&script);
        let promised = kept(&events);
        prop_assume!(!promised.is_empty());
        let (at, row) = promised[which.index(promised.len())];
        apply(spoil, at, &mut events, row, i64::try_from(script.quantity).unwrap());
        let judgement = check(&History::of(events).unwrap());
        match spoil {
            Spoil::Empty => prop_assert!(matches!(judgement.verdict, Verdict::Unknown(_)), "{:?}", judgement),
            _ => prop_assert!(matches!(judgement.verdict, Verdict::Violated(_)), "{:?}", judgement),
        }
    }
}

/// Returns the final rows that were promised to a user, as event and row index.
fn kept(events: &[RecordedEvent]) -> Vec<(usize, usize)> {
    let mut people = std::collections::HashMap::new();
    let mut promised = HashSet::new();
    let mut broken = HashSet::new();
    for event in events {
        match event {
            RecordedEvent::Invoked { op, person, .. } => _ = people.insert(*op, person.as_str()),
            RecordedEvent::Ok {
                op,
                answer:
                    RecordedAnswer::Accepted { drop, slot }
                    | RecordedAnswer::AlreadyClaimed { drop, slot },
            } => {
                promised.insert((*drop, *slot, people[op]));
            }
            // A promise that was listed as broken may be taken away again.
            RecordedEvent::Broken {
                drop,
                person,
                slot: Some(slot),
            } => {
                _ = broken.insert((*drop, *slot, person.as_str()));
            }
            _ => {}
        }
    }
    let places = events
        .iter()
        .enumerate()
        .filter_map(|(at, event)| match event {
            RecordedEvent::Final { drop, rows } => Some((at, *drop, rows)),
            _ => None,
        });
    places
        .flat_map(|(at, drop, rows)| {
            rows.iter()
                .enumerate()
                .map(move |(n, row)| (at, n, drop, row))
        })
        .filter(|(_, _, drop, row)| {
            let promise = (*drop, row.slot, row.person.as_str());
            promised.contains(&promise) && !broken.contains(&promise)
        })
        .map(|(at, n, _, _)| (at, n))
        .collect()
}

fn apply(spoil: Spoil, at: usize, events: &mut Vec<RecordedEvent>, row: usize, quantity: i64) {
    let RecordedEvent::Final { drop, rows } = &mut events[at] else {
        panic!("a place of a last row")
    };
    let RecordedRow { slot, person } = rows[row].clone();
    match spoil {
        Spoil::Lose => _ = rows.remove(row),
        Spoil::DoublePerson => rows.push(RecordedRow {
            slot: slot % quantity + 1,
            person,
        }),
        Spoil::DoubleSlot => rows.push(RecordedRow {
            slot,
            person: "u-99".into(),
        }),
        Spoil::SwapPerson => match rows.iter().position(|other| other.person != person) {
            Some(other) => {
                rows[row].person = std::mem::replace(&mut rows[other].person, person);
            }
            None => rows[row].person = "u-99".into(),
        },
        Spoil::SlotAbove => rows[row].slot = quantity + 1,
        Spoil::SlotZero => rows[row].slot = 0,
        Spoil::Nobody => rows[row].person = "u-99".into(),
        Spoil::Contradict => {
            let told = RecordedAnswer::AlreadyClaimed {
                drop: *drop,
                slot: slot + 1,
            };
            let invoked = RecordedEvent::Invoked {
                op: 10_000,
                coupon: COUPON,
                drop: None,
                person,
            };
            events.splice(
                at..at,
                [
                    invoked,
                    RecordedEvent::Ok {
                        op: 10_000,
                        answer: told,
                    },
                ],
            );
        }
        Spoil::Empty => events.retain(|event| !matches!(event, RecordedEvent::Ok { .. })),
    }
}
