//! Spoils a good history in one way at a time. The checker must report each with its violation.

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, RecordedScope, Rule, Verdict, Violation,
};

use super::events::{
    DROP, accepted, already, asks, assert_found, broken, counted, drop_of, ends_with, found, good,
    insert, invoked, judged, last, ok, row, unknown, waiting,
};

/// A change of the good history, and the rule and the slot that are reported. 0 is the whole drop.
type Spoil = (fn(&mut Vec<RecordedEvent>), Rule, i64);

#[rustfmt::skip]
const SPOILS: [Spoil; 16] = [
    (|events| _ = last(events).remove(36), Rule::Lost, 37),
    (|events| _ = last(events).remove(36), Rule::TooFew, 0),
    (|events| _ = last(events).remove(36), Rule::Vanished, 37),
    (|events| last(events)[1].person = "u-1".into(), Rule::PersonDoubled, 2),
    (|events| last(events)[1].slot = 1, Rule::SlotDoubled, 1),
    (|events| last(events)[99].slot = 101, Rule::NoSuchSlot, 101),
    (|events| last(events)[99].slot = -1, Rule::NoSuchSlot, -1),
    (|events| last(events).push(row(101, "u-waits")), Rule::TooMany, 0),
    (|events| last(events)[99].person = "u-nobody".into(), Rule::NeverAsked, 100),
    (|events| last(events)[99].person = "u-late".into(), Rule::NeverAdmitted, 100),
    (|events| { last(events)[80].slot = 82; last(events)[81].slot = 81; }, Rule::OtherSlot, 81),
    (|events| insert(events, [counted(101)]), Rule::TooMany, 0),
    (|events| events.insert(1, RecordedEvent::Read { drop: DROP, rows: vec![row(5, "u-5")] }),
        Rule::NeverAsked, 5),
    (|events| insert(events, asks(200, "u-5", already(6))), Rule::Contradiction, 6),
    (|events| insert(events, asks(200, "u-5", already(6))), Rule::PromisedTwice, 6),
    (|events| insert(events, asks(200, "u-5", RecordedAnswer::SoldOut)), Rule::Denied, 5),
];

#[test]
fn each_spoiled_history_is_reported_with_its_violation() {
    assert_eq!(judged(good()), Verdict::Pass);
    for (spoil, rule, slot) in SPOILS {
        let mut events = good();
        spoil(&mut events);
        assert_found(&found(events), rule, slot);
    }
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
    let found = found(events);
    assert!(
        matches!(
            found[..],
            [Violation {
                rule: Rule::TooFew,
                ..
            }]
        ),
        "{found:?}"
    );
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
