//! Takes a good history of a coupon with an allow list, and spoils it in one way at a time.

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, Rule, Verdict, Violation,
};

use super::events::{
    DROP, accepted, already, asks, broken, drop_of, ends_with, failed, found, good, insert,
    invoked, judged, last, ok, row, unknown, waiting,
};

fn listing(op: u64, person: &str, on: bool) -> RecordedEvent {
    RecordedEvent::Listing {
        op,
        coupon: 1,
        person: person.into(),
        on,
    }
}

fn changes(op: u64, person: &str, on: bool, ends: RecordedEvent) -> [RecordedEvent; 2] {
    [listing(op, person, on), ends]
}

/// Returns the events of a successful change of the list.
fn changed(op: u64, person: &str, on: bool) -> [RecordedEvent; 2] {
    changes(op, person, on, done(op))
}

fn done(op: u64) -> RecordedEvent {
    ok(op, RecordedAnswer::ListChanged)
}

fn refused(op: u64, person: &str) -> [RecordedEvent; 2] {
    asks(op, person, RecordedAnswer::NotAllowed)
}

fn on_list(people: &[&str]) -> RecordedEvent {
    RecordedEvent::AllowList {
        coupon: 1,
        people: people.iter().map(|&person| person.into()).collect(),
    }
}

/// Returns a history with three slots. a has one and is removed from the list, b is removed, x is
/// added and gets a slot, and c is on the list and has not claimed yet.
fn listed() -> Vec<RecordedEvent> {
    let mut events = vec![drop_of(3), on_list(&["a", "b", "c"])];
    events.extend(asks(1, "a", accepted(1)));
    events.extend(refused(2, "x"));
    events.extend(changed(3, "b", false));
    events.extend(refused(4, "b"));
    events.extend(changed(5, "x", true));
    events.extend(asks(6, "x", accepted(2)));
    events.extend(changed(7, "a", false));
    events.extend(asks(8, "a", already(1)));
    events.push(ends_with(vec![row(1, "a"), row(2, "x")]));
    events
}

/// Returns the violations if these events happen before the end.
fn with<const N: usize>(more: [&[RecordedEvent]; N]) -> Vec<Violation> {
    let mut events = listed();
    insert(&mut events, more.concat());
    found(events)
}

/// Returns the rules that are broken, by whom, if these events happen before the end and the user
/// has slot 3.
fn with_row<const N: usize>(person: &str, more: [&[RecordedEvent]; N]) -> Vec<(Rule, String)> {
    let mut events = listed();
    insert(&mut events, more.concat());
    last(&mut events).push(row(3, person));
    let found = found(events).into_iter();
    found.map(|one| (one.rule, one.person)).collect()
}

#[test]
fn users_off_the_list_during_every_request_get_no_promise() {
    assert_eq!(judged(listed()), Verdict::Pass);
    let gets = |person: &str| asks(20, person, accepted(3));
    let both = |person: &str| {
        [Rule::GivenUnlisted, Rule::HeldUnlisted].map(|rule| (rule, person.to_owned()))
    };
    assert_eq!(with_row("b", [&gets("b")]), both("b"), "removed");
    assert_eq!(with_row("y", [&gets("y")]), both("y"), "never on the list");
    let not_added = changes(9, "b", true, failed(9));
    assert_eq!(with_row("b", [&not_added, &gets("b")]), both("b"));
    for ends in [done(9), unknown(9)] {
        let added = changes(9, "b", true, ends);
        let found = with_row("b", [&added, &gets("b")]);
        assert_eq!(found, [], "the change may be in effect");
    }
    let removed_again = changed(10, "y", false);
    assert_eq!(
        with_row("y", [&changed(9, "y", true), &removed_again, &gets("y")]),
        both("y"),
        "added and removed again"
    );
    let maybe_added = changes(9, "y", true, unknown(9));
    assert_eq!(
        with_row("y", [&maybe_added, &removed_again, &gets("y")]),
        [],
        "the change may take effect late"
    );
    let waits = with([&asks(20, "b", waiting(1))]);
    assert!(
        waits.iter().any(|one| one.rule == Rule::GivenUnlisted),
        "{waits:?}"
    );
}

#[test]
fn both_answers_are_valid_if_the_list_changes_during_the_request() {
    for ends_first in [true, false] {
        for (person, on) in [("b", true), ("c", false)] {
            let [asked, answered] = asks(20, person, accepted(3));
            let ends = if ends_first {
                [done(9), answered]
            } else {
                [answered, done(9)]
            };
            let found = with_row(person, [&[asked, listing(9, person, on)], &ends]);
            assert_eq!(found, [], "{person}, ends first: {ends_first}");
        }
    }
    let removing = [listing(9, "c", false)];
    assert_eq!(with([&removing, &refused(20, "c"), &[done(9)]]), []);
}

#[test]
fn users_on_the_list_during_the_whole_request_are_not_refused() {
    let no = refused(20, "c");
    let removed = changed(9, "c", false);
    let added_again = changed(10, "c", true);
    for found in [
        with([&no]),
        with([&changes(9, "c", false, failed(9)), &no]),
        with([&removed, &added_again, &no]),
        with([&no, &removed]),
        with([&changed(9, "b", true), &refused(20, "b")]),
    ] {
        assert!(
            matches!(
                found[..],
                [Violation {
                    rule: Rule::TurnedAway,
                    ..
                }]
            ),
            "{found:?}"
        );
    }
    assert_eq!(with([&removed, &no]), []);
    assert_eq!(
        with([&changes(9, "c", false, unknown(9)), &no]),
        [],
        "the change may be in effect"
    );
    assert_eq!(
        with([&[listing(9, "c", false)], &added_again, &no]),
        [],
        "the change may take effect late"
    );
}

#[test]
fn removal_from_the_list_revokes_nothing() {
    let mut events = listed();
    last(&mut events).remove(0);
    let lost = Violation::new(Rule::Lost, DROP, 1, "a");
    assert!(found(events).contains(&lost));
    for other in [
        RecordedAnswer::NotAllowed,
        RecordedAnswer::SoldOut,
        waiting(3),
    ] {
        let found = with([&asks(20, "a", other.clone())]);
        assert!(
            matches!(
                found[..],
                [Violation {
                    rule: Rule::Denied,
                    slot: 1,
                    ..
                }]
            ),
            "{other:?}: {found:?}"
        );
    }
    let no = refused(20, "a");
    assert_eq!(
        with([&no, &[broken("a", 1)]]),
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
    let revoked = ok(21, RecordedAnswer::Revoked { drop: DROP });
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
fn a_coupon_without_an_allow_list_refuses_nobody() {
    let mut events = good();
    insert(&mut events, refused(200, "u-stranger"));
    let found = found(events);
    assert!(
        matches!(
            found[..],
            [Violation {
                rule: Rule::TurnedAway,
                ..
            }]
        ),
        "{found:?}"
    );
}

#[test]
fn history_is_unreadable_if_a_list_is_announced_late_twice_or_never() {
    for events in [
        vec![drop_of(1), invoked(1, "a"), on_list(&["a"])],
        vec![drop_of(1), on_list(&["a"]), on_list(&["a"])],
        vec![drop_of(1), listing(1, "a", true)],
    ] {
        assert!(History::of(events.clone()).is_err(), "{events:?}");
    }
}
