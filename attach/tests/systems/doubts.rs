//! Cases of the pure judge: unclear differences ask for a confirmation, and clear ones do not.

use firstcome_attach::config::{CountMeans, UsersMean};
use firstcome_attach::facts::{Facts, FailedEvent, Numbers, UserSets};
use firstcome_attach::judge::{Judged, Repair, judge};
use firstcome_shared::report::Doubt;

/// A hundred coupons with this number of members, this counter, and this number of rows.
fn facts(means: CountMeans, size: u64, count: i64, rows: u64) -> Facts {
    let numbers = Numbers {
        size: Some(size),
        count: Some(count),
        rows,
    };
    Facts {
        quantity: 100,
        before: numbers,
        now: numbers,
        means: Some(UsersMean::Admitted),
        count_means: Some(means),
        is_quantity_settled: true,
        in_both: size.min(rows),
        ..Facts::default()
    }
}

fn names<C: FromIterator<String>>(range: std::ops::Range<u32>) -> C {
    range.map(|number| number.to_string()).collect()
}

fn missing(range: std::ops::Range<u32>) -> UserSets {
    UserSets {
        missing: names(range),
        ..UserSets::default()
    }
}

fn unissued(range: std::ops::Range<u32>) -> UserSets {
    UserSets {
        unissued: range.map(|number| (number.to_string(), None)).collect(),
        ..UserSets::default()
    }
}

fn failed_event(user: &str) -> FailedEvent {
    FailedEvent {
        key: Vec::new(),
        user: user.to_owned(),
        has_row: false,
        is_member: None,
    }
}

fn taken_back() -> UserSets {
    UserSets {
        taken_back: names(0..1),
        ..UserSets::default()
    }
}

fn word(it: &Judged) -> String {
    let user = it.finding.user_id.as_deref().unwrap_or("-");
    let repair = match &it.repair {
        None => "report".to_owned(),
        Some(Repair::Insert(..)) => "insert".to_owned(),
        Some(Repair::Close(_)) => "close".to_owned(),
        Some(Repair::Add(_)) => "add".to_owned(),
        Some(Repair::MoveCount(to)) => to.by.to_string(),
    };
    let doubt = it.doubt.map(Doubt::as_str).unwrap_or_default();
    format!("{user} {repair} {doubt}").trim_end().to_owned()
}

fn told(facts: &Facts) -> Vec<String> {
    judge(facts).found.iter().map(word).collect()
}

const ISSUED: CountMeans = CountMeans::Issued;
const LEFT: CountMeans = CountMeans::Left;

#[test]
fn large_decrease_of_a_counter_of_coupons_left_needs_confirmation() {
    let settled = facts(LEFT, 80, 50, 80);
    assert_eq!(told(&settled), ["- -30 stock_added"]);
    assert_eq!(told(&facts(LEFT, 80, 75, 80)), ["- -55 reset"]);
    assert_eq!(told(&facts(LEFT, 80, 15, 80)), ["- 5"], "a lost one");
}

#[test]
fn counter_is_lowered_unconfirmed_only_if_no_row_is_left_out() {
    for (means, count, expected, without) in [
        (ISSUED, 98, "- -5 opens", "- -5"),
        (LEFT, 2, "- 5 opens", "- 5"),
        (ISSUED, 92, "- 1", "- 1"),
    ] {
        let all = facts(means, 93, count, 93);
        assert_eq!(told(&all), [without]);
        let erased = Facts {
            leaves_out_rows: true,
            ..all
        };
        assert_eq!(told(&erased), [expected]);
    }
}

/// A refused claim is between INCR and DECR. Moving the counter would sell one coupon too many once
/// the claim gives back what it took.
#[test]
fn exact_counter_past_the_end_is_reported_and_only_moves_towards_more_given_out() {
    let over = |given| facts(ISSUED, given, 103, given);
    assert_eq!(told(&over(100)), ["- report"]);
    assert_eq!(told(&over(93)), ["- report"]);
    assert_eq!(told(&over(105))[0], "- 2");
    let mut moving = over(100);
    moving.before.count = Some(101);
    let [finding] = judge(&moving).found.try_into().unwrap();
    assert_eq!(word(&finding), "- report");
    assert!(!finding.finding.needs_person);
    let at_the_end = facts(ISSUED, 93, 100, 93);
    assert_eq!(told(&at_the_end), ["- -7 opens"]);
    let below_zero = facts(LEFT, 93, -3, 93);
    assert_eq!(told(&below_zero), ["- report"]);
    let tickets = facts(CountMeans::Tickets, 93, 103, 93);
    assert_eq!(
        told(&tickets),
        ["- -10 opens"],
        "losers run it past the end"
    );
}

#[test]
fn repair_for_a_row_with_a_status_that_where_lacks_needs_confirmation() {
    let unselected = Some("status".to_owned());
    let refunded = Facts {
        unselected,
        sets: missing(0..1),
        in_both: 99,
        ..facts(ISSUED, 99, 99, 100)
    };
    let expected = ["0 add taken_back", "- 1 taken_back"];
    assert_eq!(told(&refunded), expected);
    let member = Facts {
        sets: UserSets::default(),
        ..refunded.clone()
    };
    assert_eq!(told(&member), ["- 1 taken_back"]);
    let named = Facts {
        unselected: None,
        ..refunded.clone()
    };
    assert_eq!(told(&named), ["0 add", "- 1"]);
    let healthy = Facts {
        unselected: refunded.unselected,
        ..facts(ISSUED, 100, 100, 100)
    };
    assert!(told(&healthy).is_empty());
}

#[test]
fn member_whose_row_was_taken_back_gets_no_row_and_moves_no_counter_unconfirmed() {
    let sold_out = Facts {
        sets: taken_back(),
        ..facts(LEFT, 101, 0, 100)
    };
    assert_eq!(told(&sold_out), ["0 report"]);
    let with_stock = Facts {
        sets: taken_back(),
        ..facts(LEFT, 100, 1, 99)
    };
    assert_eq!(told(&with_stock), ["0 report"], "its stock came back");
    let without = Facts {
        sets: taken_back(),
        ..facts(LEFT, 50, 50, 49)
    };
    assert_eq!(told(&without), ["0 report", "- 1 taken_back"]);
}

#[test]
fn user_is_not_added_if_most_members_are_spelled_otherwise_than_their_rows() {
    let spelled = Facts {
        sets: missing(0..1),
        count_means: None,
        ..facts(ISSUED, 40, 0, 41)
    };
    assert_eq!(told(&spelled), ["0 add"]);
    let respelled = Facts {
        are_respelled: true,
        ..spelled
    };
    assert_eq!(told(&respelled), ["0 report"]);
}

#[test]
fn counter_needs_confirmation_only_with_the_users_whom_it_counts() {
    let held = Facts {
        sets: unissued(0..1),
        may_double: true,
        ..facts(ISSUED, 41, 40, 40)
    };
    let expected = ["0 insert may_double", "- 1 may_double"];
    assert_eq!(told(&held), expected);
    let by_rows = Facts {
        means: Some(UsersMean::Applied),
        sets: UserSets::default(),
        ..held
    };
    let by_rows = Facts {
        now: facts(ISSUED, 70, 39, 40).now,
        before: facts(ISSUED, 70, 39, 40).now,
        ..by_rows
    };
    assert_eq!(told(&by_rows), ["- 1"]);
}

/// Sixty rows of coupon 7, and thirty users of coupon 8 in its key: two users are in both.
#[test]
fn repairs_need_confirmation_if_another_sale_uses_the_key_but_not_after_an_outage() {
    let next = Facts {
        sets: UserSets {
            missing: names(100..158),
            ..unissued(0..28)
        },
        in_both: 2,
        count_means: None,
        ..facts(ISSUED, 30, 0, 60)
    };
    let next_told = told(&next);
    assert_eq!(next_told.len(), 28 + 58);
    let asks = |it: &String| it.ends_with("most_missing");
    assert!(next_told.iter().all(asks), "{next_told:?}");
    let ended = Facts {
        is_over: true,
        ..next.clone()
    };
    let ended = judge(&ended).found;
    assert_eq!(ended.len(), 28 + 1);
    let last = &ended[28];
    assert_eq!(word(last), "- report");
    let why = &last.finding.detail;
    assert!(why.contains("58 users have rows"), "{why}");
    // The users' key was lost, and the first users have come back to it.
    let lost = Facts {
        sets: UserSets {
            missing: names(100..158),
            ..unissued(0..1)
        },
        ..next.clone()
    };
    assert_eq!(told(&lost)[0], "0 insert");
    let outage = Facts {
        sets: unissued(0..28),
        ..next
    };
    let outage = told(&outage);
    assert!(!outage.iter().any(asks), "{outage:?}");
}

#[test]
fn member_that_cannot_have_a_row_moves_no_counter_unconfirmed() {
    let placeholder = Facts {
        sets: UserSets {
            unstorable: ["init".to_owned()].into(),
            ..UserSets::default()
        },
        ..facts(ISSUED, 21, 20, 20)
    };
    let expected = ["init report", "- 1 other_form"];
    assert_eq!(told(&placeholder), expected);
}

/// The user was refused before the first look, and is still a member.
#[test]
fn refused_member_is_not_counted_while_coupons_are_sold() {
    let refused = UserSets {
        refused: names(0..1),
        ..UserSets::default()
    };
    for (sets, expected) in [(refused, "0 report"), (taken_back(), "0 report")] {
        let selling = Facts {
            is_selling: true,
            sets,
            before: facts(ISSUED, 51, 50, 50).now,
            ..facts(ISSUED, 53, 50, 52)
        };
        assert_eq!(told(&selling), [expected]);
    }
}

#[test]
fn user_whose_row_is_refused_takes_no_room_and_holds_no_counter() {
    let refused = Facts {
        sets: unissued(0..2),
        failing: names(0..1),
        is_ordered: true,
        ..facts(ISSUED, 101, 99, 99)
    };
    assert_eq!(told(&refused), ["1 insert", "0 report", "- 2"]);
    let counts_inserts = |facts: &Facts| judge(facts).found.iter().any(|it| it.counts_inserts);
    assert!(!counts_inserts(&refused), "its target is the members");
    let unnamed = Facts {
        means: None,
        failed: vec![failed_event("0")],
        ..facts(ISSUED, 0, 40, 40)
    };
    assert_eq!(told(&unnamed), ["0 insert", "- 1"]);
    assert!(counts_inserts(&unnamed));
}

/// In a sorted set by time, a user who was rolled back and claims again gets another score.
#[test]
fn member_whose_score_changed_between_the_looks_is_in_flight() {
    let look = |score| UserSets {
        unissued: [("0".to_owned(), score)].into(),
        ..UserSets::default()
    };
    for (first, second, is_lost) in [
        (Some(1.0), Some(1.0), true),
        (Some(1.0), Some(2.0), false),
        (None, None, true),
    ] {
        let both = look(second).both(&look(first));
        assert_eq!(both.unissued.len() == 1, is_lost, "{first:?} {second:?}");
    }
}

/// The row of user 1 may be dated a day late.
#[test]
fn row_or_member_of_a_user_whose_row_may_be_dated_late_needs_confirmation() {
    let claimed = Facts {
        sets: unissued(0..2),
        dated_late: names(1..2),
        ..facts(ISSUED, 100, 100, 98)
    };
    assert_eq!(told(&claimed), ["0 insert", "1 insert next_day"]);
    let failed = Facts {
        failed: vec![failed_event("1")],
        ..claimed
    };
    assert_eq!(told(&failed), ["1 insert next_day", "0 insert"]);
    let written = Facts {
        sets: missing(0..2),
        dated_late: names(1..2),
        ..facts(ISSUED, 79, 80, 81)
    };
    let expected = ["0 add", "1 add day_before", "- 1 day_before"];
    assert_eq!(told(&written), expected);
}

#[test]
fn rows_beyond_the_quantity_name_no_user_if_their_order_is_unknown() {
    let surplus = Facts {
        unnamed_surplus: 3,
        sets: missing(0..1),
        count_means: None,
        ..facts(ISSUED, 102, 0, 103)
    };
    assert_eq!(told(&surplus), ["0 report", "- report"]);
}
