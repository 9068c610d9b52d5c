//! A good history, and helpers with which the tests change it.

use firstcome_testkit::histories::{
    History, RecordedAnswer, RecordedEvent, RecordedRow, RecordedScope, Rule, Verdict, Violation,
    check,
};

pub(crate) const DROP: u64 = 9;

pub(crate) fn row(slot: i64, person: &str) -> RecordedRow {
    RecordedRow {
        slot,
        person: person.into(),
    }
}

pub(crate) fn drop_of(quantity: u64) -> RecordedEvent {
    RecordedEvent::Drop {
        drop: DROP,
        coupon: 1,
        quantity,
        once_per: RecordedScope::Drop,
    }
}

pub(crate) fn invoked(op: u64, person: &str) -> RecordedEvent {
    RecordedEvent::Invoked {
        op,
        coupon: 1,
        drop: Some(DROP),
        person: person.into(),
    }
}

pub(crate) fn ok(op: u64, answer: RecordedAnswer) -> RecordedEvent {
    RecordedEvent::Ok { op, answer }
}

pub(crate) fn unknown(op: u64) -> RecordedEvent {
    RecordedEvent::Unknown {
        op,
        reason: "timeout".into(),
    }
}

pub(crate) fn failed(op: u64) -> RecordedEvent {
    RecordedEvent::Failed {
        op,
        reason: "refused".into(),
    }
}

pub(crate) fn asks(op: u64, person: &str, answer: RecordedAnswer) -> [RecordedEvent; 2] {
    [invoked(op, person), ok(op, answer)]
}

pub(crate) fn accepted(slot: i64) -> RecordedAnswer {
    RecordedAnswer::Accepted { drop: DROP, slot }
}

pub(crate) fn already(slot: i64) -> RecordedAnswer {
    RecordedAnswer::AlreadyClaimed { drop: DROP, slot }
}

pub(crate) fn waiting(position: u64) -> RecordedAnswer {
    RecordedAnswer::Waiting { position }
}

pub(crate) fn counted(rows: u64) -> RecordedEvent {
    RecordedEvent::Counted { drop: DROP, rows }
}

pub(crate) fn broken(person: &str, slot: i64) -> RecordedEvent {
    RecordedEvent::Broken {
        drop: DROP,
        person: person.into(),
        slot: Some(slot),
    }
}

pub(crate) fn ends_with(rows: Vec<RecordedRow>) -> RecordedEvent {
    RecordedEvent::Final { drop: DROP, rows }
}

/// Returns a history with a hundred slots, all taken. One user waits, and another was refused.
pub(crate) fn good() -> Vec<RecordedEvent> {
    let mut events = vec![drop_of(100)];
    for slot in 1..=100_i64 {
        let op = slot.unsigned_abs();
        events.extend(asks(op, &format!("u-{slot}"), accepted(slot)));
    }
    events.extend(asks(101, "u-1", already(1)));
    events.extend(asks(102, "u-waits", waiting(1)));
    events.extend(asks(103, "u-late", RecordedAnswer::SoldOut));
    let rows = |last: i64| (1..=last).map(|n| row(n, &format!("u-{n}"))).collect();
    events.push(RecordedEvent::Read {
        drop: DROP,
        rows: rows(60),
    });
    events.push(counted(80));
    events.push(ends_with(rows(100)));
    events
}

/// Returns the rows at the end of a history.
pub(crate) fn last(events: &mut [RecordedEvent]) -> &mut Vec<RecordedRow> {
    let Some(RecordedEvent::Final { rows, .. }) = events.last_mut() else {
        panic!("a history ends with its rows")
    };
    rows
}

/// Inserts events before the end, so that the checks include them.
pub(crate) fn insert(
    events: &mut Vec<RecordedEvent>,
    more: impl IntoIterator<Item = RecordedEvent>,
) {
    let at = events.len() - 1;
    events.splice(at..at, more);
}

pub(crate) fn judged(events: Vec<RecordedEvent>) -> Verdict {
    check(&History::of(events).unwrap()).verdict
}

/// Returns the violations in a history. A history without violations must pass.
pub(crate) fn found(events: Vec<RecordedEvent>) -> Vec<Violation> {
    match judged(events) {
        Verdict::Violated(found) => found,
        verdict => {
            assert_eq!(verdict, Verdict::Pass);
            Vec::new()
        }
    }
}

/// Fails unless one of the violations breaks this rule on this slot. 0 is the whole drop.
#[track_caller]
pub(crate) fn assert_found(found: &[Violation], rule: Rule, slot: i64) {
    let fits = |violation: &Violation| violation.rule == rule && violation.slot == slot;
    assert!(found.iter().any(fits), "{found:?}");
}
