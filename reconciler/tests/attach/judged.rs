//! Tables for the pure judge: facts, and what follows from them.

use std::collections::BTreeMap;

use firstcome_attach::config::{CountMeans, UsersMean};
use firstcome_attach::facts::{Facts, FailedEvent, Numbers, StockColumn, UserSets};
use firstcome_attach::judge::{Judged, Repair, judge};
use firstcome_attach::keys::MoveCount;
use mysql_async::Value;

/// Returns the facts about ten coupons with this many members, this counter, and this many rows.
fn facts(size: u64, count: i64, rows: u64) -> Facts {
    let (size, count) = (Some(size), Some(count));
    let numbers = Numbers { size, count, rows };
    Facts {
        quantity: 10,
        before: numbers,
        now: numbers,
        means: Some(UsersMean::Admitted),
        count_means: Some(CountMeans::Tickets),
        ..Facts::default()
    }
}

fn names<C: FromIterator<String>>(text: &str) -> C {
    text.split(' ').map(str::to_owned).collect()
}

fn unissued(text: &str) -> BTreeMap<String, Option<f64>> {
    text.split(' ')
        .map(|user| (user.to_owned(), None))
        .collect()
}

/// The differences in short: `kind user repair`, with a question mark if it needs a confirmation.
fn short(facts: &Facts) -> String {
    judge(facts)
        .found
        .iter()
        .map(word)
        .collect::<Vec<_>>()
        .join(", ")
}

fn word(it: &Judged) -> String {
    let repair = match &it.repair {
        None if !it.finding.needs_person => "waits".to_owned(),
        None => "report".to_owned(),
        Some(Repair::Insert(_, None)) => "insert".to_owned(),
        Some(Repair::Insert(_, Some(_))) => "reissue".to_owned(),
        Some(Repair::Close(_)) => "close".to_owned(),
        Some(Repair::Add(_)) => "add".to_owned(),
        Some(Repair::MoveCount(MoveCount { seen, by, .. })) => (seen.unwrap_or(0) + by).to_string(),
    };
    let doubt = if it.doubt.is_some() { "?" } else { "" };
    let user = it.finding.user_id.as_deref().unwrap_or("-");
    format!("{} {user} {repair}{doubt}", it.finding.kind.as_str())
}

#[test]
fn users_get_rows_in_their_order_up_to_the_quantity_and_no_row_is_deleted() {
    assert_eq!(short(&facts(8, 8, 8)), "");
    assert_eq!(short(&facts(10, 4_711, 10)), "", "everybody increments it");
    let resting = Facts {
        sets: UserSets {
            unissued: unissued("a b c"),
            ..UserSets::default()
        },
        ..facts(11, 11, 8)
    };
    let expected = "unissued a insert, unissued b insert, over_admitted c report";
    let ordered = Facts {
        is_ordered: true,
        ..resting.clone()
    };
    assert_eq!(short(&ordered), expected);
    let unordered = expected.replace("insert", "insert?");
    assert_eq!(short(&resting), unordered, "nobody knows who came first");
    let selling = Facts {
        is_selling: true,
        ..resting
    };
    let expected = "unissued a waits, unissued b waits, unissued c waits";
    assert_eq!(short(&selling), expected, "others are on the way");
    let all_fit = Facts {
        now: facts(10, 11, 7).now,
        ..selling
    };
    assert!(!short(&all_fit).contains("waits"));
    let broken = Facts {
        quantity: 3,
        sets: UserSets {
            twice: names("a"),
            missing: names("z"),
            ..UserSets::default()
        },
        surplus: names("z y"),
        ..facts(3, 3, 5)
    };
    let expected = "missing_admission z report, duplicate_row a report, over_issued z report, \
        over_issued y report, count_mismatch - 5";
    assert_eq!(short(&broken), expected);
}

#[test]
fn failed_events_are_reissued_closed_or_left() {
    let event = |(id, user, has_row, is_member): (i64, &str, bool, Option<bool>)| {
        let key = vec![Value::Int(id)];
        FailedEvent {
            key,
            user: user.to_owned(),
            has_row,
            is_member,
        }
    };
    let (yes, no) = (Some(true), Some(false));
    let failed = [
        (1, "a", true, yes),
        (2, "b", false, no),
        (3, "c", false, yes),
        (4, "d", false, yes),
        (5, "c", false, yes),
    ];
    let failed = failed.map(event).to_vec();
    let known = Facts {
        failed,
        sets: UserSets {
            unissued: unissued("c"),
            ..UserSets::default()
        },
        ..facts(9, 11, 9)
    };
    let expected = ["a close", "b report", "c reissue", "d report", "c waits"];
    let expected = expected.map(|it| format!("failed_claim {it}"));
    assert_eq!(short(&known), expected.join(", "));
    let failed = [(1, "b", false, None), (2, "c", false, None)]
        .map(event)
        .to_vec();
    let numbers = Numbers {
        size: None,
        ..facts(9, 10, 9).now
    };
    let unnamed = Facts {
        failed,
        means: None,
        now: numbers,
        ..facts(9, 10, 9)
    };
    let expected = "failed_claim b reissue, failed_claim c report";
    assert_eq!(short(&unnamed), expected);
}

#[test]
fn counter_is_judged_by_its_meaning_and_is_left_alone_while_it_moves() {
    let admitted = (Some(UsersMean::Admitted), Some(8));
    let applied = (Some(UsersMean::Applied), Some(1_000));
    let (tickets, issued) = (CountMeans::Tickets, CountMeans::Issued);
    for (means, users, count, expected) in [
        (tickets, admitted, Some(9), ""),
        (tickets, admitted, Some(7), "count_mismatch - 8"),
        (tickets, admitted, None, "count_mismatch - 8?"),
        // Somebody may have raised it to stop the sale.
        (tickets, admitted, Some(10), "unfilled - 8?"),
        (tickets, applied, Some(1_000), "unfilled - 8?"),
        (tickets, (None, None), Some(1_000), "unfilled - 8?"),
        (tickets, (None, None), Some(5), "count_mismatch - 8"),
        (issued, admitted, Some(8), ""),
        (issued, admitted, Some(9), "count_mismatch - 8"),
        (issued, admitted, Some(10), "unfilled - 8?"),
        (issued, (None, None), Some(9), "count_mismatch - 8?"),
        (issued, (None, None), Some(7), "count_mismatch - 8"),
    ] {
        let case = format!("{means:?} {users:?} {count:?}");
        let (size, count_means) = (users.1, Some(means));
        let numbers = Numbers {
            size,
            count,
            rows: 8,
        };
        let resting = Facts {
            count_means,
            means: users.0,
            before: numbers,
            now: numbers,
            ..facts(0, 0, 0)
        };
        assert_eq!(short(&resting), expected, "{case}");
        let selling = Facts {
            is_selling: true,
            before: Numbers::default(),
            ..resting.clone()
        };
        assert_eq!(short(&selling), "", "{case}: while it moves");
        let over = short(&Facts {
            is_over: true,
            ..resting
        });
        let is_left = count <= Some(8) || over.is_empty() || over.ends_with("report");
        assert!(is_left, "{case}: {over}");
    }
}

/// Their Redis was emptied, or an older replica took over, so the counter continues from an earlier
/// number.
#[test]
fn counter_behind_its_value_at_the_first_look_is_raised_only_after_a_confirmation() {
    let (tickets, issued) = (CountMeans::Tickets, CountMeans::Issued);
    for (means, count, expected) in [
        // It falls while rows come, as if it counted down.
        (tickets, Some(7), "count_mismatch - 8?"),
        (tickets, Some(8), ""),
        (tickets, None, "count_mismatch - 8?"),
        // Their system may count the ninth after its row.
        (issued, Some(7), "count_mismatch - 8?"),
        (issued, Some(8), ""),
    ] {
        let mut selling = Facts {
            is_selling: true,
            before: facts(8, 8, 7).now,
            count_means: Some(means),
            ..facts(9, 0, 8)
        };
        selling.now.count = count;
        assert_eq!(short(&selling), expected, "{means:?} {count:?}");
    }
}

/// The likeliest fault is a file that names other keys or rows; then every repair is wrong.
#[test]
fn difference_that_a_wrong_file_or_name_may_cause_is_not_repaired_unasked() {
    let disjoint = Facts {
        is_disjoint: true,
        sets: UserSets {
            unissued: unissued("user:1 user:2"),
            missing: names("1 2"),
            ..UserSets::default()
        },
        ..facts(2, 2, 2)
    };
    let expected = "unissued user:1 insert?, unissued user:2 insert?, missing_admission 1 add?, \
        missing_admission 2 add?, count_mismatch - 4?";
    assert_eq!(short(&disjoint), expected);
    let event = FailedEvent {
        key: vec![Value::Int(1)],
        user: String::new(),
        has_row: false,
        is_member: None,
    };
    let unnamed = Facts {
        sets: UserSets {
            unissued: unissued(""),
            missing: names(""),
            aliases: names("kim"),
            ..UserSets::default()
        },
        failed: vec![event],
        ..facts(3, 4, 3)
    };
    let expected = "failed_claim - report, unissued kim report, missing_admission - report";
    assert_eq!(short(&unnamed), expected);
}

/// A difference that cannot be judged while coupons are sold is still reported, so that its alert
/// does not end.
#[test]
fn column_and_sale_that_differ_are_reported_also_while_coupons_are_sold() {
    let differing = Facts {
        stock: Some(StockColumn { says: 3, due: 5 }),
        sale: Some(false),
        ..facts(5, 5, 5)
    };
    let expected = "unfilled - report, count_mismatch - report";
    assert_eq!(short(&differing), expected);
    let selling = Facts {
        is_selling: true,
        ..differing
    };
    assert_eq!(short(&selling), expected.replace("report", "waits"));
}

#[test]
fn writes_to_redis_need_a_confirmation_if_members_have_another_form() {
    let strange = Facts {
        sets: UserSets {
            missing: names("a"),
            strange: names("x"),
            ..UserSets::default()
        },
        ..facts(5, 4, 6)
    };
    let expected = "unissued x report, missing_admission a add?, count_mismatch - 6?";
    assert_eq!(short(&strange), expected);
}

#[test]
fn members_without_a_row_come_in_the_order_of_their_scores() {
    let scores = [("a", Some(3.0)), ("b", None), ("c", Some(2.0)), ("d", None)];
    let unissued = scores.map(|(user, score)| (user.to_owned(), score));
    let sets = UserSets {
        unissued: unissued.into(),
        ..UserSets::default()
    };
    assert_eq!(sets.unissued_in_order(), ["b", "d", "c", "a"]);
}

/// The file calls these users refused, so their membership takes no coupon from others.
#[test]
fn refused_members_take_no_coupon() {
    let refused = Facts {
        sets: UserSets {
            refused: names("a b"),
            unissued: unissued("c"),
            ..UserSets::default()
        },
        ..facts(11, 9, 8)
    };
    let expected = "unissued c insert, unissued a report, unissued b report";
    assert_eq!(short(&refused), expected);
}
