//! Spoils a good history in one way at a time. The checker must report each with its violation.

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, RecordedScope, Verdict, Violation,
};

use super::events::{
    DROP, accepted, already, asks, assert_found, broken, counted, drop_of, ends_with, found, good,
    insert, invoked, judged, last, ok, row, unknown, waiting,
};

/// Returns the violations in the good history after this change.
fn violations(spoil: impl FnOnce(&mut Vec<RecordedEvent>)) -> Vec<Violation> {
    let mut events = good();
    spoil(&mut events);
    found(events)
}

#[test]
fn wrong_rows_at_the_end_are_reported_with_their_violation() {
    assert_eq!(judged(good()), Verdict::Pass);
    let lost = violations(|events| _ = last(events).remove(36));
    assert_found!(&lost, Violation::Lost { slot: 37, .. });
    assert_found!(
        &lost,
        Violation::TooFew {
            rows: 99,
            asked: 102,
            ..
        }
    );
    assert_found!(&lost, Violation::Vanished { slot: 37, .. });
    assert_found!(
        violations(|events| last(events)[1].person = "u-1".into()),
        Violation::PersonDoubled {
            one: 1,
            other: 2,
            ..
        }
    );
    assert_found!(
        violations(|events| last(events)[1].slot = 1),
        Violation::SlotDoubled { slot: 1, .. }
    );
    for slot in [101, 0, -1] {
        assert_found!(
            violations(|events| last(events)[99].slot = slot),
            Violation::NoSuchSlot { slot: found, .. } if *found == slot
        );
    }
    assert_found!(
        violations(|events| last(events).push(row(101, "u-waits"))),
        Violation::TooMany { rows: 101, .. }
    );
    assert_found!(
        violations(|events| last(events)[99].person = "u-nobody".into()),
        Violation::NeverAsked { slot: 100, .. }
    );
    assert_found!(
        violations(|events| last(events)[99].person = "u-late".into()),
        Violation::NeverAdmitted { slot: 100, .. }
    );
    let exchanged = violations(|events| {
        last(events)[80].person = "u-82".into();
        last(events)[81].person = "u-81".into();
    });
    let other_slot = |slot, person: &str, row| Violation::OtherSlot {
        drop: DROP,
        slot,
        person: person.into(),
        row,
    };
    let expected = [other_slot(81, "u-81", 82), other_slot(82, "u-82", 81)];
    assert_eq!(exchanged, expected);
}

#[test]
fn violations_are_reported_even_if_the_final_rows_are_right() {
    assert_found!(
        violations(|events| insert(events, [counted(101)])),
        Violation::TooMany { rows: 101, .. }
    );
    let early = RecordedEvent::Read {
        drop: DROP,
        rows: vec![row(5, "u-5")],
    };
    let before_asking = violations(|events| events.insert(1, early));
    assert!(
        matches!(before_asking[..], [Violation::NeverAsked { slot: 5, .. }]),
        "{before_asking:?}"
    );
    let contradicted = violations(|events| insert(events, asks(200, "u-5", already(6))));
    assert_found!(
        &contradicted,
        Violation::Contradiction {
            one: 5,
            other: 6,
            ..
        }
    );
    assert_found!(&contradicted, Violation::PromisedTwice { slot: 6, .. });
}

#[test]
fn a_promise_listed_as_broken_does_not_count_as_lost() {
    let mut events = good();
    last(&mut events)[98] = row(99, "u-waits");
    assert_ne!(found(events.clone()), [], "not listed");
    insert(&mut events, [broken("u-99", 98)]);
    assert_ne!(found(events.clone()), [], "another slot is listed");
    insert(&mut events, [broken("u-99", 99)]);
    assert_eq!(found(events), []);
}

#[test]
fn user_with_slots_in_two_drops_of_a_one_per_user_coupon_is_detected() {
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
        let answered = ok(1, RecordedAnswer::Accepted { drop: 1, slot: 1 });
        let end = |drop| RecordedEvent::Final {
            drop,
            rows: vec![row(1, "u")],
        };
        let verdict = judged(vec![drop(1), drop(2), invoked, answered, end(1), end(2)]);
        assert_eq!(verdict == Verdict::Pass, fine, "{verdict:?}");
    }
}

#[test]
fn raised_quantity_applies_only_after_it_is_recorded() {
    let history = |more: [RecordedEvent; 2]| {
        let mut events = good();
        last(&mut events).push(row(101, "u-waits"));
        insert(&mut events, more);
        found(events)
    };
    assert_eq!(history([drop_of(101), counted(101)]), []);
    assert_ne!(
        history([counted(101), drop_of(101)]),
        [],
        "there were 101 rows before the quantity was raised"
    );
}

#[test]
fn too_few_rows_while_users_wait_are_detected() {
    let mut events = vec![drop_of(100)];
    events.extend(asks(1, "u-1", accepted(1)));
    let end = ends_with(vec![row(1, "u-1")]);
    let alone = [&events[..], std::slice::from_ref(&end)].concat();
    assert_eq!(found(alone), [], "no other user claimed");
    events.extend(asks(2, "u-2", waiting(1)));
    events.push(end);
    let few = Violation::TooFew {
        drop: DROP,
        rows: 1,
        quantity: 100,
        asked: 2,
    };
    assert_eq!(found(events), [few]);
}

#[test]
fn an_empty_history_proves_nothing() {
    assert!(matches!(judged(Vec::new()), Verdict::Unknown(_)));
    let mut unanswered = good();
    for event in &mut unanswered {
        if let RecordedEvent::Ok { op, .. } = event {
            *event = unknown(*op);
        }
    }
    assert!(
        matches!(judged(unanswered), Verdict::Unknown(_)),
        "nobody was promised anything"
    );
}

#[test]
fn a_history_without_final_rows_can_only_prove_violations() {
    let mut events = good();
    events.pop();
    assert!(matches!(judged(events.clone()), Verdict::Unknown(_)));
    events.push(counted(101));
    assert!(matches!(judged(events), Verdict::Violated(_)));
}

#[test]
fn a_malformed_history_is_unreadable() {
    let asked = || invoked(1, "u");
    let answered = || ok(1, accepted(1));
    for (events, what) in [
        (vec![drop_of(1), answered()], "never invoked"),
        (
            vec![drop_of(1), asked(), answered(), answered()],
            "ended twice",
        ),
        (vec![drop_of(1), asked(), asked()], "invoked twice"),
        (vec![asked(), answered()], "without a drop"),
    ] {
        assert!(History::of(events).is_err(), "{what}");
    }
}
