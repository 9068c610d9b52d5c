//! A good history of a coupon with an allow list, spoiled in one way at a time.

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, RecordedScope, Verdict, Violation,
};

use super::spoiled::{DROP, accepted, asks, good, insert, judged, last, row};

fn changes(op: u64, person: &str, on: bool, ends: RecordedEvent) -> [RecordedEvent; 2] {
    [
        RecordedEvent::Listing {
            op,
            coupon: 1,
            person: person.into(),
            on,
        },
        ends,
    ]
}

fn ok(op: u64) -> RecordedEvent {
    RecordedEvent::Ok {
        op,
        answer: RecordedAnswer::ListChanged,
    }
}

fn unknown(op: u64) -> RecordedEvent {
    RecordedEvent::Unknown {
        op,
        reason: "timeout".into(),
    }
}

fn failed(op: u64) -> RecordedEvent {
    RecordedEvent::Failed {
        op,
        reason: "invalid".into(),
    }
}

fn already(slot: i64) -> RecordedAnswer {
    RecordedAnswer::AlreadyClaimed { drop: DROP, slot }
}

fn on_list(people: &[&str]) -> RecordedEvent {
    RecordedEvent::AllowList {
        coupon: 1,
        people: people.iter().map(|&person| person.into()).collect(),
    }
}

/// Three slots. a has one and is removed from the list, b is removed, x is added and gets one, c is
/// on the list and has not asked yet.
fn listed() -> Vec<RecordedEvent> {
    let mut events = vec![RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity: 3,
        once_per: RecordedScope::Drop,
    }];
    events.push(on_list(&["a", "b", "c"]));
    events.extend(asks(1, "a", accepted(1)));
    events.extend(asks(2, "x", RecordedAnswer::NotAllowed));
    events.extend(changes(3, "b", false, ok(3)));
    events.extend(asks(4, "b", RecordedAnswer::NotAllowed));
    events.extend(changes(5, "x", true, ok(5)));
    events.extend(asks(6, "x", accepted(2)));
    events.extend(changes(7, "a", false, ok(7)));
    events.extend(asks(8, "a", already(1)));
    events.push(RecordedEvent::Final {
        drop: DROP,
        rows: vec![row(1, "a"), row(2, "x")],
    });
    events
}

/// The violations if these events happen before the end.
fn with<const N: usize>(more: [&[RecordedEvent]; N]) -> Vec<Violation> {
    let mut events = listed();
    insert(&mut events, more.concat());
    found(events)
}

fn found(events: Vec<RecordedEvent>) -> Vec<Violation> {
    match judged(events) {
        Verdict::Violated(found) => found,
        verdict => {
            assert_eq!(verdict, Verdict::Pass);
            Vec::new()
        }
    }
}

#[test]
fn a_good_history_passes() {
    assert_eq!(judged(listed()), Verdict::Pass);
}

#[test]
#[allow(clippy::too_many_lines, reason = "one history")]
fn users_off_the_list_at_every_request_are_promised_nothing() {
    let given = |person: &str| Violation::GivenUnlisted {
        coupon: 1,
        person: person.into(),
        line: 0,
    };
    let of_any_line = |found: Vec<Violation>| -> Vec<Violation> {
        let without_line = |one| match one {
            Violation::GivenUnlisted { coupon, person, .. } => Violation::GivenUnlisted {
                coupon,
                person,
                line: 0,
            },
            Violation::HeldUnlisted {
                drop, slot, person, ..
            } => Violation::HeldUnlisted {
                drop,
                slot,
                person,
                line: 0,
            },
            other => other,
        };
        found.into_iter().map(without_line).collect()
    };
    let held = |person: &str| Violation::HeldUnlisted {
        drop: DROP,
        slot: 3,
        person: person.into(),
        line: 0,
    };
    let with_row = |person: &str, before: &[RecordedEvent], asked: &[RecordedEvent]| {
        let mut events = listed();
        insert(&mut events, [before, asked].concat());
        last(&mut events).push(row(3, person));
        of_any_line(found(events))
    };
    let gets = |person: &str| asks(20, person, accepted(3));
    assert_eq!(
        with_row("b", &[], &gets("b")),
        [given("b"), held("b")],
        "taken off"
    );
    assert_eq!(
        with_row("y", &[], &gets("y")),
        [given("y"), held("y")],
        "never on the list"
    );
    assert_eq!(
        with_row("b", &changes(9, "b", true, failed(9)), &gets("b")),
        [given("b"), held("b")]
    );
    for ends in [ok(9), unknown(9)] {
        assert_eq!(
            with_row("b", &changes(9, "b", true, ends), &gets("b")),
            [],
            "the change may be in effect"
        );
    }
    let twice = [
        changes(9, "y", true, ok(9)),
        changes(10, "y", false, ok(10)),
    ]
    .concat();
    assert_eq!(
        with_row("y", &twice, &gets("y")),
        [given("y"), held("y")],
        "added and removed again"
    );
    let maybe = [
        changes(9, "y", true, unknown(9)),
        changes(10, "y", false, ok(10)),
    ]
    .concat();
    assert_eq!(
        with_row("y", &maybe, &gets("y")),
        [],
        "the change may take effect late"
    );

    // A request without an answer.
    let silent = RecordedEvent::Invoked {
        op: 20,
        coupon: 1,
        drop: Some(DROP),
        person: "y".into(),
    };
    assert_eq!(
        with_row("y", &[], std::slice::from_ref(&silent)),
        [held("y")]
    );
    let on_meanwhile = [std::slice::from_ref(&silent), &changes(9, "y", true, ok(9))].concat();
    assert_eq!(
        with_row("y", &[], &on_meanwhile),
        [],
        "the request may be executed late"
    );
    let off_meanwhile = [
        &changes(9, "c", false, ok(9))[..],
        &asks(21, "c", already(3)),
    ]
    .concat();
    let silent = RecordedEvent::Invoked {
        op: 20,
        coupon: 1,
        drop: Some(DROP),
        person: "c".into(),
    };
    assert_eq!(
        with_row("c", &[silent], &off_meanwhile),
        [],
        "it was admitted before"
    );

    // Given in this very request, whatever happened before.
    let before = [
        asks(19, "c", RecordedAnswer::Waiting { position: 1 }),
        changes(9, "c", false, ok(9)),
    ]
    .concat();
    assert_eq!(
        with_row("c", &before, &asks(21, "c", already(3))),
        [],
        "promoted: waiting users keep their place"
    );
    assert_eq!(with_row("c", &before, &gets("c")), [given("c")]);
    let waits = with([&asks(20, "b", RecordedAnswer::Waiting { position: 1 })]);
    assert!(of_any_line(waits).contains(&given("b")));
}

#[test]
fn a_change_during_the_request_makes_both_answers_possible() {
    let during = |person: &str, on: bool, answer: RecordedAnswer, ends_first: bool| {
        let [asked, answered] = asks(20, person, answer);
        let [invoked, done] = changes(9, person, on, ok(9));
        let ends = if ends_first {
            [done, answered]
        } else {
            [answered, done]
        };
        let mut events = listed();
        insert(&mut events, [asked, invoked].into_iter().chain(ends));
        last(&mut events).push(row(3, person));
        found(events)
    };
    for ends_first in [true, false] {
        assert_eq!(during("b", true, accepted(3), ends_first), []);
        assert_eq!(during("c", false, accepted(3), ends_first), []);
    }
    let turned_away = asks(20, "c", RecordedAnswer::NotAllowed);
    let [invoked, done] = changes(9, "c", false, ok(9));
    assert_eq!(with([&[invoked], &turned_away, &[done]]), []);
}

#[test]
fn users_on_the_list_during_the_whole_request_are_not_refused() {
    let no = asks(20, "c", RecordedAnswer::NotAllowed);
    let is_turned_away =
        |found: &[Violation]| matches!(found, [Violation::TurnedAway { coupon: 1, .. }]);
    assert!(is_turned_away(&with([&no])));
    assert!(is_turned_away(&with([
        &changes(9, "c", false, failed(9)),
        &no
    ])));
    assert!(is_turned_away(&with([
        &changes(9, "c", false, ok(9)),
        &changes(10, "c", true, ok(10)),
        &no
    ])));
    assert!(
        is_turned_away(&with([&no, &changes(9, "c", false, ok(9))])),
        "only afterwards"
    );
    assert!(is_turned_away(&with([
        &changes(9, "b", true, ok(9)),
        &asks(20, "b", RecordedAnswer::NotAllowed)
    ])));
    assert_eq!(with([&changes(9, "c", false, ok(9)), &no]), []);
    assert_eq!(
        with([&changes(9, "c", false, unknown(9)), &no]),
        [],
        "the change may be in effect"
    );
    let never_ended = RecordedEvent::Listing {
        op: 9,
        coupon: 1,
        person: "c".into(),
        on: false,
    };
    let added_again = changes(10, "c", true, ok(10));
    assert_eq!(
        with([std::slice::from_ref(&never_ended), &added_again, &no]),
        [],
        "the change may take effect late"
    );
}

#[test]
fn removal_from_the_list_revokes_nothing() {
    let mut events = listed();
    last(&mut events).remove(0);
    assert!(found(events).contains(&Violation::Lost {
        drop: DROP,
        slot: 1,
        person: "a".into()
    }));
    let no = asks(20, "a", RecordedAnswer::NotAllowed);
    assert!(matches!(
        &with([&no])[..],
        [Violation::Denied { slot: 1, .. }]
    ));
    for other in [
        RecordedAnswer::SoldOut,
        RecordedAnswer::Waiting { position: 3 },
    ] {
        assert!(
            matches!(
                &with([&asks(20, "a", other.clone())])[..],
                [Violation::Denied { slot: 1, .. }]
            ),
            "{other:?}"
        );
    }
    let broken = RecordedEvent::Broken {
        drop: DROP,
        person: "a".into(),
        slot: Some(1),
    };
    assert_eq!(
        with([&no, &[broken]]),
        [],
        "a promise listed as broken does not count"
    );
    let revoking = RecordedEvent::Revoking {
        op: 21,
        coupon: 1,
        drop: Some(DROP),
        person: "a".into(),
        again: true,
    };
    let revoked = RecordedEvent::Ok {
        op: 21,
        answer: RecordedAnswer::Revoked { drop: DROP },
    };
    let mut events = listed();
    insert(&mut events, [revoking, revoked].into_iter().chain(no));
    last(&mut events).remove(0);
    assert_eq!(
        found(events),
        [],
        "they might claim again, if they were on the list"
    );
}

#[test]
fn only_allowed_users_count_as_wanting_one() {
    let few = |asked| Violation::TooFew {
        drop: DROP,
        rows: 2,
        quantity: 3,
        asked,
    };
    let sold_out = asks(20, "c", RecordedAnswer::SoldOut);
    assert_eq!(with([&sold_out]), [few(3)]);
    assert_eq!(
        with([
            &asks(20, "y", RecordedAnswer::NotAllowed),
            &asks(21, "z", RecordedAnswer::NotAllowed)
        ]),
        []
    );
    let taken_off = changes(9, "c", false, ok(9));
    let no = asks(21, "c", RecordedAnswer::NotAllowed);
    assert_eq!(
        with([&sold_out, &taken_off]),
        [few(3)],
        "there was no later answer"
    );
    assert_eq!(with([&sold_out, &taken_off, &no]), []);
    let on_again = [
        changes(10, "c", true, ok(10)),
        asks(22, "c", RecordedAnswer::SoldOut),
    ]
    .concat();
    assert_eq!(with([&sold_out, &taken_off, &no, &on_again]), [few(3)]);
    let waits = asks(20, "c", RecordedAnswer::Waiting { position: 1 });
    assert_eq!(
        with([&waits, &taken_off]),
        [few(3)],
        "waiting users keep their place"
    );
}

#[test]
fn a_coupon_for_everybody_refuses_nobody() {
    let mut events = good();
    insert(
        &mut events,
        asks(200, "u-stranger", RecordedAnswer::NotAllowed),
    );
    assert!(matches!(
        &found(events)[..],
        [Violation::TurnedAway { coupon: 1, .. }]
    ));
}

#[test]
fn a_list_announced_late_or_twice_or_never_makes_a_history_unreadable() {
    let drop = || RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity: 1,
        once_per: RecordedScope::Drop,
    };
    let [asked, _] = asks(1, "a", accepted(1));
    assert!(History::of([drop(), asked, on_list(&["a"])]).is_err());
    assert!(History::of([drop(), on_list(&["a"]), on_list(&["a"])]).is_err());
    let [changed, _] = changes(1, "a", true, ok(1));
    assert!(History::of([drop(), changed]).is_err());
}
