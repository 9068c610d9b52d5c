//! Table of the pure judge: facts, and what follows from them.

use firstcome_reconciler::attach::config::{CountMeans, UsersMean};
use firstcome_reconciler::attach::judge::{Facts, FailedEvent, Judged, Member, Repair, judge};
use firstcome_reconciler::attach::read::Numbers;
use firstcome_reconciler::report::Kind;
use mysql_async::Value;

/// Ten coupons, eight members, eight rows, a counter of eight: nothing differs.
fn exact() -> Facts {
    Facts {
        quantity: 10,
        numbers: Numbers { size: Some(8), count: Some(8), rows: 8, left: None },
        means: Some(UsersMean::Admitted),
        count_means: Some(CountMeans::Tickets),
        ..Facts::default()
    }
}

fn member(user: &str, score: f64) -> Member {
    Member { user: user.to_owned(), score: Some(score) }
}

fn event(id: i64, user: &str, rows: u64, is_member: Option<bool>) -> FailedEvent {
    FailedEvent { key: vec![Value::Int(id)], user: user.to_owned(), rows, is_member }
}

/// The differences in short: `kind user repair`.
fn short(facts: &Facts) -> Vec<String> {
    judge(facts).iter().map(word).collect()
}

fn word(it: &Judged) -> String {
    let repair = match &it.repair {
        None if it.waits => "waits".to_owned(),
        None => "report".to_owned(),
        Some(Repair::Insert { events, .. }) => format!("insert+{}", events.len()),
        Some(Repair::Close { .. }) => "close".to_owned(),
        Some(Repair::Add { .. }) => "add".to_owned(),
        Some(Repair::SetCount { to, .. }) => format!("count={to}"),
        Some(Repair::SetLeft { to, .. }) => format!("left={to}"),
    };
    let asks = if it.needs_confirmation { "?" } else { "" };
    format!("{} {} {repair}{asks}", it.kind.as_str(), it.user.as_deref().unwrap_or("-"))
}

#[test]
fn exact_system_has_no_differences() {
    assert_eq!(short(&exact()), Vec::<String>::new());
    let past_the_quantity = Facts {
        numbers: Numbers { size: Some(10), count: Some(4_711), rows: 10, left: None },
        ..exact()
    };
    assert_eq!(short(&past_the_quantity), Vec::<String>::new(), "everybody increments it");
}

#[test]
fn members_without_a_row_get_one_in_their_order_up_to_the_quantity() {
    let unissued = vec![member("c", 3.0), member("b", 2.0), member("a", 1.0)];
    let facts = Facts {
        unissued,
        numbers: Numbers { size: Some(11), count: Some(11), rows: 8, left: None },
        ..exact()
    };
    let expected = ["unissued a insert+0", "unissued b insert+0", "over_admitted c report"];
    assert_eq!(short(&facts), expected);
    let selling = Facts { is_selling: true, ..facts.clone() };
    let waits = ["unissued a waits", "unissued b waits", "unissued c waits"];
    assert_eq!(short(&selling), waits, "a row could take the coupon of somebody who is in flight");
    let all_fit = Facts {
        numbers: Numbers { size: Some(10), rows: 7, ..facts.numbers },
        ..selling
    };
    assert!(short(&all_fit).iter().all(|it| it.ends_with("insert+0")));
}

#[test]
fn failed_events_are_reissued_closed_or_left() {
    let facts = Facts {
        numbers: Numbers { size: Some(9), count: Some(9), rows: 9, left: None },
        failed: vec![
            event(1, "a", 1, Some(true)),
            event(2, "b", 0, Some(false)),
            event(3, "c", 0, Some(true)),
            event(4, "d", 0, Some(true)),
            event(5, "c", 0, Some(true)),
        ],
        unissued: vec![member("c", 1.0)],
        ..exact()
    };
    let expected = ["failed_claim a close", "failed_claim b report", "failed_claim c insert+2", "failed_claim d report"];
    assert_eq!(short(&facts)[..4], expected);
    let unknown = |event: &FailedEvent| FailedEvent { is_member: None, ..event.clone() };
    let no_users = Facts {
        failed: facts.failed[1..3].iter().map(unknown).collect(),
        numbers: Numbers { size: None, ..facts.numbers },
        means: None,
        ..facts
    };
    assert_eq!(short(&no_users)[..2], ["failed_claim b insert+1", "failed_claim c report"]);
}

#[test]
fn rows_are_never_deleted_but_named() {
    let facts = Facts {
        quantity: 2,
        numbers: Numbers { size: Some(3), count: Some(3), rows: 4, left: None },
        twice: vec![("a".to_owned(), 2)],
        surplus: vec!["z".to_owned(), "y".to_owned()],
        missing: vec!["z".to_owned()],
        ..exact()
    };
    let expected = ["missing_admission z add", "duplicate_row a report", "over_issued z report", "over_issued y report", "count_mismatch - count=4"];
    assert_eq!(short(&facts), expected);
}

#[test]
fn counter_is_judged_by_its_meaning() {
    let admitted = |size| (Some(UsersMean::Admitted), Some(size));
    let applied = |size| (Some(UsersMean::Applied), Some(size));
    for (means, users, count, rows, expected) in [
        (CountMeans::Tickets, admitted(8), Some(9), 8, ""),
        (CountMeans::Tickets, admitted(8), Some(7), 8, "count_mismatch - count=8"),
        (CountMeans::Tickets, admitted(8), None, 8, "count_mismatch - count=8"),
        (CountMeans::Tickets, admitted(8), Some(10), 8, "unfilled - count=8"),
        (CountMeans::Tickets, admitted(8), Some(1_000), 8, "unfilled - count=8"),
        (CountMeans::Tickets, applied(1_000), Some(1_000), 8, "unfilled - count=8?"),
        (CountMeans::Tickets, (None, None), Some(1_000), 8, "unfilled - count=8?"),
        (CountMeans::Tickets, (None, None), Some(5), 8, "count_mismatch - count=8"),
        (CountMeans::Issued, admitted(8), Some(8), 8, ""),
        (CountMeans::Issued, admitted(8), Some(9), 8, "count_mismatch - count=8"),
        (CountMeans::Issued, admitted(8), Some(11), 8, "unfilled - count=8"),
        (CountMeans::Issued, (None, None), Some(9), 8, "count_mismatch - count=8?"),
        (CountMeans::Issued, (None, None), Some(7), 8, "count_mismatch - count=8"),
    ] {
        let facts = Facts {
            count_means: Some(means),
            means: users.0,
            numbers: Numbers { size: users.1, count, rows, left: None },
            ..exact()
        };
        let case = format!("{means:?} {users:?} {count:?}");
        assert_eq!(short(&facts).join(", "), expected, "{case}");
        let selling = Facts { is_selling: true, ..facts.clone() };
        assert_eq!(short(&selling), Vec::<String>::new(), "{case}: while it moves");
        let over = Facts { is_over: true, ..facts };
        let opens = count > Some(8);
        let is_reported = short(&over).iter().all(|it| it.ends_with("report"));
        assert!(!opens || is_reported, "{case}: nothing is reopened after the end");
    }
}

#[test]
fn stock_row_says_what_is_left_after_the_repairs() {
    let facts = Facts {
        numbers: Numbers { size: Some(9), count: Some(9), rows: 8, left: Some(2) },
        unissued: vec![member("a", 0.0)],
        ..exact()
    };
    assert_eq!(short(&facts), ["unissued a insert+0", "count_mismatch - left=1"]);
    let selling = Facts { is_selling: true, ..facts };
    assert_eq!(short(&selling), ["unissued a waits"], "their writers trust what is left");
    let raised = Facts {
        numbers: Numbers { size: None, count: None, rows: 8, left: Some(0) },
        means: None,
        count_means: None,
        ..exact()
    };
    assert_eq!(short(&raised), ["count_mismatch - left=2?"]);
}

#[test]
fn differences_beyond_those_named_stop_the_counter() {
    let facts = Facts {
        more: 3,
        numbers: Numbers { size: Some(8), count: Some(1_000), rows: 8, left: None },
        ..exact()
    };
    let judged = judge(&facts);
    assert_eq!(judged.len(), 1);
    assert!(judged[0].kind == Kind::Unissued && judged[0].detail.starts_with("3 more"));
}
