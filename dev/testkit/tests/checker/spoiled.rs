//! A good history, spoiled in one way at a time: each is detected, with the right violation.

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, RecordedRow, RecordedScope, Verdict, Violation, check,
};

pub(crate) const DROP: u64 = 9;

pub(crate) fn row(slot: i64, person: &str) -> RecordedRow {
    RecordedRow {
        slot,
        person: person.into(),
    }
}

pub(crate) fn asks(op: u64, person: &str, answer: RecordedAnswer) -> [RecordedEvent; 2] {
    [
        RecordedEvent::Invoked {
            op,
            coupon: 1,
            drop: Some(DROP),
            person: person.into(),
        },
        RecordedEvent::Ok { op, answer },
    ]
}

pub(crate) fn accepted(slot: i64) -> RecordedAnswer {
    RecordedAnswer::Accepted { drop: DROP, slot }
}

/// A hundred slots, all taken; somebody waits and somebody was refused.
pub(crate) fn good() -> Vec<RecordedEvent> {
    let mut events = vec![RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity: 100,
        once_per: RecordedScope::Drop,
    }];
    events.extend(
        (1_u64..=100).flat_map(|n| asks(n, &format!("u-{n}"), accepted(i64::try_from(n).unwrap()))),
    );
    events.extend(asks(
        101,
        "u-1",
        RecordedAnswer::AlreadyClaimed {
            drop: DROP,
            slot: 1,
        },
    ));
    events.extend(asks(
        102,
        "u-waits",
        RecordedAnswer::Waiting { position: 1 },
    ));
    events.extend(asks(103, "u-late", RecordedAnswer::SoldOut));
    let rows = |upto: i64| {
        (1..=upto)
            .map(|n| row(n, &format!("u-{n}")))
            .collect::<Vec<_>>()
    };
    events.push(RecordedEvent::Read {
        drop: DROP,
        rows: rows(60),
    });
    events.push(RecordedEvent::Counted {
        drop: DROP,
        rows: 80,
    });
    events.push(RecordedEvent::Final {
        drop: DROP,
        rows: rows(100),
    });
    events
}

pub(crate) fn last(events: &mut [RecordedEvent]) -> &mut Vec<RecordedRow> {
    let Some(RecordedEvent::Final { rows, .. }) = events.last_mut() else {
        panic!("a history ends with its end")
    };
    rows
}

pub(crate) fn judged(events: Vec<RecordedEvent>) -> Verdict {
    check(&History::of(events).unwrap()).verdict
}

fn violations(spoil: impl FnOnce(&mut Vec<RecordedEvent>)) -> Vec<Violation> {
    let mut events = good();
    spoil(&mut events);
    match judged(events) {
        Verdict::Violated(found) => found,
        other => panic!("a spoiled history is {other:?}"),
    }
}

/// Inserts events before the end, so that they count.
pub(crate) fn insert(
    events: &mut Vec<RecordedEvent>,
    more: impl IntoIterator<Item = RecordedEvent>,
) {
    let at = events.len() - 1;
    events.splice(at..at, more);
}

#[test]
fn a_good_history_passes() {
    assert_eq!(judged(good()), Verdict::Pass);
}

#[test]
fn a_lost_row_is_lost_and_one_too_few() {
    let found = violations(|events| _ = last(events).remove(36));
    assert!(
        found.contains(&Violation::Lost {
            drop: DROP,
            slot: 37,
            person: "u-37".into()
        }),
        "{found:?}"
    );
    assert!(
        found.contains(&Violation::TooFew {
            drop: DROP,
            rows: 99,
            quantity: 100,
            asked: 102
        }),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::Vanished { slot: 37, .. })),
        "the row was read before: {found:?}"
    );
}

#[test]
fn a_promise_listed_as_broken_is_not_lost() {
    let mut events = good();
    last(&mut events)[98] = row(99, "u-waits");
    assert!(
        matches!(judged(events.clone()), Verdict::Violated(_)),
        "not listed"
    );
    insert(
        &mut events,
        [RecordedEvent::Broken {
            drop: DROP,
            person: "u-99".into(),
            slot: Some(98),
        }],
    );
    assert!(
        matches!(judged(events.clone()), Verdict::Violated(_)),
        "another slot was listed"
    );
    insert(
        &mut events,
        [RecordedEvent::Broken {
            drop: DROP,
            person: "u-99".into(),
            slot: Some(99),
        }],
    );
    assert_eq!(judged(events), Verdict::Pass);
}

#[test]
fn duplicate_people_and_duplicate_slots_are_detected() {
    let found = violations(|events| last(events)[1].person = "u-1".into());
    let doubled = Violation::PersonDoubled {
        person: "u-1".into(),
        one_drop: DROP,
        one: 1,
        other_drop: DROP,
        other: 2,
    };
    assert!(found.contains(&doubled), "{found:?}");
    let found = violations(|events| last(events)[1].slot = 1);
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::SlotDoubled { slot: 1, .. })),
        "{found:?}"
    );
}

#[test]
fn two_drops_of_a_once_per_coupon_person_are_detected() {
    for (once_per, fine) in [(RecordedScope::Drop, true), (RecordedScope::Coupon, false)] {
        let drop = |drop| RecordedEvent::Drop {
            drop,
            coupon: 1,
            quantity: 1,
            once_per,
        };
        let invoked = RecordedEvent::Invoked {
            op: 1,
            coupon: 1,
            drop: None,
            person: "u".into(),
        };
        let told = RecordedEvent::Ok {
            op: 1,
            answer: RecordedAnswer::Accepted { drop: 1, slot: 1 },
        };
        let end = |drop| RecordedEvent::Final {
            drop,
            rows: vec![row(1, "u")],
        };
        let verdict = judged(vec![drop(1), drop(2), invoked, told, end(1), end(2)]);
        assert_eq!(verdict == Verdict::Pass, fine, "{verdict:?}");
    }
}

#[test]
fn swapped_people_are_detected() {
    let found = violations(|events| {
        last(events)[80].person = "u-82".into();
        last(events)[81].person = "u-81".into();
    });
    let swapped = |slot, person: &str, row| Violation::OtherSlot {
        drop: DROP,
        slot,
        person: person.into(),
        row,
    };
    assert_eq!(found, [swapped(81, "u-81", 82), swapped(82, "u-82", 81)]);
}

#[test]
fn slots_101_and_0_are_detected() {
    for slot in [101, 0, -1] {
        let found = violations(|events| last(events)[99].slot = slot);
        assert!(
            found
                .iter()
                .any(|v| matches!(v, Violation::NoSuchSlot { slot: s, .. } if *s == slot)),
            "{found:?}"
        );
    }
    let found = violations(|events| last(events).push(row(101, "u-waits")));
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::TooMany { rows: 101, .. })),
        "{found:?}"
    );
}

#[test]
fn a_temporary_surplus_is_detected_although_the_end_is_right() {
    let found = violations(|events| {
        insert(
            events,
            [RecordedEvent::Counted {
                drop: DROP,
                rows: 101,
            }],
        );
    });
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::TooMany { rows: 101, .. })),
        "{found:?}"
    );
}

#[test]
fn a_raised_quantity_counts_from_its_line_on() {
    let raise = RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity: 101,
        once_per: RecordedScope::Drop,
    };
    let mut events = good();
    last(&mut events).push(row(101, "u-waits"));
    let mut late = events.clone();
    insert(
        &mut events,
        [
            raise.clone(),
            RecordedEvent::Counted {
                drop: DROP,
                rows: 101,
            },
        ],
    );
    assert_eq!(judged(events), Verdict::Pass);
    insert(
        &mut late,
        [
            RecordedEvent::Counted {
                drop: DROP,
                rows: 101,
            },
            raise,
        ],
    );
    assert!(
        matches!(judged(late), Verdict::Violated(_)),
        "101 rows were there before it was raised"
    );
}

#[test]
fn a_row_for_an_unknown_person_is_detected() {
    let found = violations(|events| last(events)[99].person = "u-nobody".into());
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::NeverAsked { slot: 100, .. })),
        "{found:?}"
    );
}

#[test]
fn a_row_for_a_person_who_was_always_refused_is_detected() {
    let found = violations(|events| last(events)[99].person = "u-late".into());
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::NeverAdmitted { slot: 100, .. })),
        "{found:?}"
    );
}

#[test]
fn a_row_before_its_person_asked_is_detected() {
    let found = violations(|events| {
        let early = RecordedEvent::Read {
            drop: DROP,
            rows: vec![row(5, "u-5")],
        };
        events.insert(1, early);
    });
    assert!(
        matches!(found[..], [Violation::NeverAsked { slot: 5, .. }]),
        "{found:?}"
    );
}

#[test]
fn too_few_rows_while_somebody_waits_are_detected() {
    let drop = RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity: 100,
        once_per: RecordedScope::Drop,
    };
    let mut events = vec![drop];
    events.extend(asks(1, "u-1", accepted(1)));
    let end = RecordedEvent::Final {
        drop: DROP,
        rows: vec![row(1, "u-1")],
    };
    assert_eq!(
        judged([&events[..], std::slice::from_ref(&end)].concat()),
        Verdict::Pass,
        "nobody else wanted one"
    );
    events.extend(asks(2, "u-2", RecordedAnswer::Waiting { position: 1 }));
    events.push(end);
    let few = Violation::TooFew {
        drop: DROP,
        rows: 1,
        quantity: 100,
        asked: 2,
    };
    assert_eq!(judged(events), Verdict::Violated(vec![few]));
}

#[test]
fn contradictory_answers_are_detected() {
    let found = violations(|events| {
        insert(
            events,
            asks(
                200,
                "u-5",
                RecordedAnswer::AlreadyClaimed {
                    drop: DROP,
                    slot: 6,
                },
            ),
        );
    });
    assert!(
        found.iter().any(|v| matches!(
            v,
            Violation::Contradiction {
                one: 5,
                other: 6,
                ..
            }
        )),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::PromisedTwice { slot: 6, .. })),
        "{found:?}"
    );
}

#[test]
fn an_empty_history_proves_nothing() {
    assert!(matches!(judged(Vec::new()), Verdict::Unknown(_)));
    let mut unanswered = good();
    for event in &mut unanswered {
        if let RecordedEvent::Ok { op, .. } = event {
            *event = RecordedEvent::Unknown {
                op: *op,
                reason: "timeout".into(),
            };
        }
    }
    assert!(
        matches!(judged(unanswered), Verdict::Unknown(_)),
        "nobody was promised anything"
    );
}

#[test]
fn a_history_without_its_end_proves_only_violations() {
    let mut events = good();
    events.pop();
    assert!(matches!(judged(events.clone()), Verdict::Unknown(_)));
    events.push(RecordedEvent::Counted {
        drop: DROP,
        rows: 101,
    });
    assert!(matches!(judged(events), Verdict::Violated(_)));
}

#[test]
fn a_malformed_history_is_unreadable() {
    let drop = RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity: 1,
        once_per: RecordedScope::Drop,
    };
    let answer = RecordedEvent::Ok {
        op: 1,
        answer: accepted(1),
    };
    assert!(
        History::of([drop.clone(), answer.clone()]).is_err(),
        "never invoked"
    );
    let invoked = || RecordedEvent::Invoked {
        op: 1,
        coupon: 1,
        drop: None,
        person: "u".into(),
    };
    assert!(
        History::of([drop.clone(), invoked(), answer.clone(), answer.clone()]).is_err(),
        "ended twice"
    );
    assert!(
        History::of([drop, invoked(), invoked()]).is_err(),
        "invoked twice"
    );
    assert!(History::of([invoked(), answer]).is_err(), "without a drop");
}

fn revokes(op: u64, person: &str, ends: RecordedEvent) -> [RecordedEvent; 2] {
    [
        RecordedEvent::Revoking {
            op,
            coupon: 1,
            drop: Some(DROP),
            person: person.into(),
            again: false,
        },
        ends,
    ]
}

fn revoked(op: u64) -> RecordedEvent {
    RecordedEvent::Ok {
        op,
        answer: RecordedAnswer::Revoked { drop: DROP },
    }
}

/// u-1 returns their slot, and the waiting person gets it.
fn given_back(ends: RecordedEvent) -> Vec<RecordedEvent> {
    let mut events = good();
    insert(&mut events, revokes(200, "u-1", ends));
    insert(
        &mut events,
        asks(
            201,
            "u-waits",
            RecordedAnswer::AlreadyClaimed {
                drop: DROP,
                slot: 1,
            },
        ),
    );
    last(&mut events)[0] = row(1, "u-waits");
    events
}

#[test]
fn a_returned_slot_goes_to_the_next_and_never_comes_back() {
    let unknown = || RecordedEvent::Unknown {
        op: 200,
        reason: "timeout".into(),
    };
    assert_eq!(judged(given_back(revoked(200))), Verdict::Pass);
    assert_eq!(
        judged(given_back(unknown())),
        Verdict::Pass,
        "the revocation may have taken effect"
    );
    let mut events = good();
    insert(&mut events, revokes(200, "u-1", unknown()));
    assert_eq!(judged(events), Verdict::Pass, "or not");

    let none = RecordedEvent::Failed {
        op: 200,
        reason: "not_found".into(),
    };
    let Verdict::Violated(found) = judged(given_back(none)) else {
        panic!("its promise is lost")
    };
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::Lost { slot: 1, .. })),
        "{found:?}"
    );

    let found = violations(|events| insert(events, revokes(200, "u-1", revoked(200))));
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::RevokedHeld { slot: 1, .. })),
        "{found:?}"
    );

    let mut events = given_back(revoked(200));
    insert(
        &mut events,
        asks(
            202,
            "u-1",
            RecordedAnswer::AlreadyClaimed {
                drop: DROP,
                slot: 1,
            },
        ),
    );
    let Verdict::Violated(found) = judged(events) else {
        panic!("the slot is promised after its revocation")
    };
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::RevokedPromised { slot: 1, .. })),
        "{found:?}"
    );

    let mut events = given_back(revoked(200));
    last(&mut events).remove(0);
    let Verdict::Violated(found) = judged(events) else {
        panic!("its slot is lost")
    };
    assert!(
        found.iter().any(|v| matches!(v, Violation::TooFew { .. })),
        "{found:?}"
    );
}

/// u-1 is revoked, may claim again, and gets slot 7, which was finally revoked from u-7.
fn claims_again(ends: RecordedEvent) -> Vec<RecordedEvent> {
    let mut events = good();
    insert(&mut events, revokes(200, "u-7", revoked(200)));
    let again = RecordedEvent::Revoking {
        op: 201,
        coupon: 1,
        drop: Some(DROP),
        person: "u-1".into(),
        again: true,
    };
    insert(&mut events, [again, ends]);
    insert(
        &mut events,
        asks(
            202,
            "u-waits",
            RecordedAnswer::AlreadyClaimed {
                drop: DROP,
                slot: 1,
            },
        ),
    );
    insert(&mut events, asks(203, "u-1", accepted(7)));
    last(&mut events)[0] = row(1, "u-waits");
    last(&mut events)[6] = row(7, "u-1");
    events
}

#[test]
fn a_user_who_may_claim_again_keeps_the_new_promise() {
    let unknown = || RecordedEvent::Unknown {
        op: 201,
        reason: "timeout".into(),
    };
    assert_eq!(judged(claims_again(revoked(201))), Verdict::Pass);
    assert_eq!(judged(claims_again(unknown())), Verdict::Pass);

    let spoiled = |ends: RecordedEvent| {
        let mut events = claims_again(ends);
        last(&mut events)[6] = row(7, "u-late");
        judged(events)
    };
    let Verdict::Violated(found) = spoiled(revoked(201)) else {
        panic!("the second promise is lost")
    };
    assert!(
        found
            .iter()
            .any(|v| matches!(v, Violation::Lost { slot: 7, .. })),
        "{found:?}"
    );
    let lost = |found: &[Violation]| found.iter().any(|v| matches!(v, Violation::Lost { .. }));
    let verdict = spoiled(unknown());
    assert!(
        !matches!(&verdict, Verdict::Violated(found) if lost(found)),
        "the revocation may take effect late: {verdict:?}"
    );
}
