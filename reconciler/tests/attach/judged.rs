//! Table of the pure judge: facts, and what follows from them.

use firstcome_reconciler::attach::config::{CountMeans, UsersMean};
use firstcome_reconciler::attach::judge::{Facts, FailedEvent, Judged, Repair, judge};
use firstcome_reconciler::attach::read::Numbers;
use mysql_async::Value;

/// Ten coupons, with so many members, this counter, and so many rows.
fn facts(size: u64, count: i64, rows: u64) -> Facts {
    Facts {
        quantity: 10,
        numbers: Numbers {
            size: Some(size),
            count: Some(count),
            rows,
        },
        means: Some(UsersMean::Admitted),
        count_means: Some(CountMeans::Tickets),
        ..Facts::default()
    }
}

fn members(names: &[(&str, f64)]) -> Vec<(String, Option<f64>)> {
    names
        .iter()
        .map(|(name, score)| ((*name).to_owned(), Some(*score)))
        .collect()
}

fn event(id: i64, user: &str, has_row: bool, is_member: Option<bool>) -> FailedEvent {
    FailedEvent {
        key: vec![Value::Int(id)],
        user: user.to_owned(),
        has_row,
        is_member,
    }
}

/// The differences in short: `kind user repair`.
fn short(facts: &Facts) -> Vec<String> {
    judge(facts).iter().map(word).collect()
}

fn word(it: &Judged) -> String {
    let repair = match &it.repair {
        None if it.waits => "waits".to_owned(),
        None => "report".to_owned(),
        Some(Repair::Insert(_, event)) => format!("insert+{}", event.iter().count()),
        Some(Repair::Close(_)) => "close".to_owned(),
        Some(Repair::Add(_)) => "add".to_owned(),
        Some(Repair::SetCount { to, .. }) => format!("count={to}"),
    };
    let asks = if it.needs_confirmation { "?" } else { "" };
    format!(
        "{} {} {repair}{asks}",
        it.kind.as_str(),
        it.user.as_deref().unwrap_or("-")
    )
}

#[test]
fn exact_system_has_no_differences() {
    let none: [&str; 0] = [];
    assert_eq!(short(&facts(8, 8, 8)), none);
    assert_eq!(
        short(&facts(10, 4_711, 10)),
        none,
        "everybody increments it"
    );
}

#[test]
fn members_without_a_row_get_one_in_their_order_up_to_the_quantity() {
    let unissued = members(&[("c", 3.0), ("b", 2.0), ("a", 1.0)]);
    let resting = Facts {
        unissued,
        ..facts(11, 11, 8)
    };
    let expected = [
        "unissued a insert+0",
        "unissued b insert+0",
        "over_admitted c report",
    ];
    assert_eq!(short(&resting), expected);
    let selling = Facts {
        is_selling: true,
        ..resting
    };
    assert!(
        short(&selling).iter().all(|it| it.ends_with("waits")),
        "others are on the way"
    );
    let all_fit = Facts {
        numbers: facts(10, 11, 7).numbers,
        ..selling
    };
    assert!(short(&all_fit).iter().all(|it| it.ends_with("insert+0")));
}

#[test]
fn failed_events_are_reissued_closed_or_left() {
    let failed = vec![
        event(1, "a", true, Some(true)),
        event(2, "b", false, Some(false)),
        event(3, "c", false, Some(true)),
        event(4, "d", false, Some(true)),
        event(5, "c", false, Some(true)),
    ];
    let unissued = members(&[("c", 1.0)]);
    let known = Facts {
        failed: failed.clone(),
        unissued,
        ..facts(9, 11, 9)
    };
    let expected = ["a close", "b report", "c insert+1", "d report", "c waits"];
    assert_eq!(
        short(&known),
        expected.map(|it| format!("failed_claim {it}"))
    );
    let unknown = |event: &FailedEvent| FailedEvent {
        is_member: None,
        ..event.clone()
    };
    let failed = failed[1..3].iter().map(unknown).collect();
    let numbers = Numbers {
        size: None,
        ..facts(9, 10, 9).numbers
    };
    let unnamed = Facts {
        failed,
        means: None,
        numbers,
        ..facts(9, 10, 9)
    };
    assert_eq!(
        short(&unnamed),
        ["failed_claim b insert+1", "failed_claim c report"]
    );
}

#[test]
fn rows_are_never_deleted_but_named() {
    let broken = Facts {
        quantity: 2,
        twice: vec!["a".to_owned()],
        surplus: vec!["z".to_owned(), "y".to_owned()],
        missing: vec!["z".to_owned()],
        ..facts(3, 3, 5)
    };
    let expected = [
        "missing_admission z add",
        "duplicate_row a report",
        "over_issued z report",
        "over_issued y report",
        "over_issued - report",
        "count_mismatch - count=5",
    ];
    assert_eq!(short(&broken), expected);
}

#[test]
fn counter_is_judged_by_its_meaning_only_while_it_rests() {
    let admitted = |size| (Some(UsersMean::Admitted), Some(size));
    let applied = (Some(UsersMean::Applied), Some(1_000));
    let (tickets, issued) = (CountMeans::Tickets, CountMeans::Issued);
    for (means, users, count, expected) in [
        (tickets, admitted(8), Some(9), ""),
        (tickets, admitted(8), Some(7), "count_mismatch - count=8"),
        (tickets, admitted(8), None, "count_mismatch - count=8"),
        (tickets, admitted(8), Some(10), "unfilled - count=8"),
        (tickets, admitted(8), Some(1_000), "unfilled - count=8"),
        (tickets, applied, Some(1_000), "unfilled - count=8?"),
        (tickets, (None, None), Some(1_000), "unfilled - count=8?"),
        (tickets, (None, None), Some(5), "count_mismatch - count=8"),
        (issued, admitted(8), Some(8), ""),
        (issued, admitted(8), Some(9), "count_mismatch - count=8"),
        (issued, admitted(8), Some(11), "unfilled - count=8"),
        (issued, (None, None), Some(9), "count_mismatch - count=8?"),
        (issued, (None, None), Some(7), "count_mismatch - count=8"),
    ] {
        let case = format!("{means:?} {users:?} {count:?}");
        let numbers = Numbers {
            size: users.1,
            count,
            rows: 8,
        };
        let count_means = Some(means);
        let resting = Facts {
            count_means,
            means: users.0,
            numbers,
            ..facts(0, 0, 0)
        };
        assert_eq!(short(&resting).join(", "), expected, "{case}");
        let selling = Facts {
            is_selling: true,
            ..resting.clone()
        };
        assert!(short(&selling).is_empty(), "{case}: while it moves");
        let over = short(&Facts {
            is_over: true,
            ..resting
        });
        let is_reported = over
            .iter()
            .all(|it| it.trim_end_matches('?').ends_with("report"));
        assert!(
            count <= Some(8) || is_reported,
            "{case}: nothing is reopened after the end"
        );
    }
}

#[test]
fn differences_beyond_those_named_stop_the_counter() {
    let many = Facts {
        more: 3,
        ..facts(8, 1_000, 8)
    };
    assert_eq!(short(&many), ["unissued - report"]);
}
