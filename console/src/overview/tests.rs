use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::views::{RedisCounts, RowCount};
use firstcome_shared::mysql::alerts::Alert;

use super::*;

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

/// Returns a drop of 100 slots that opened at minute 10, with this number of users and rows.
fn seen(users: u64, rows: u64) -> DropOverview {
    DropOverview {
        coupon_id: CouponId(3),
        coupon_name: "Winter <coupon>".to_owned(),
        time_zone: None,
        drop_id: DropId(7),
        opens_at: at(10),
        closes_at: Some(at(40)),
        quantity: 100,
        state: if users < 100 {
            DropState::Open
        } else {
            DropState::SoldOut
        },
        paused: false,
        verified: true,
        redis: Some(RedisCounts {
            count: i64::try_from(users).ok(),
            users,
            free: 0,
            waiting: 0,
        }),
        rows: Some(RowCount { rows, users }),
        failed_claims: Some(0),
        stuck: false,
        last_run: "nothing found".to_owned(),
    }
}

fn overview(drops: Vec<DropOverview>) -> Overview {
    Overview {
        at: at(20),
        admission: AdmissionState::Open,
        mysql_answers: true,
        mysql_read_at: Some(at(20)),
        alerts: vec![],
        last_run: Some(LastRun {
            run_id: "1".to_owned(),
            finished_at: at(19),
            drops: 0,
            users: 0,
            rows: 0,
        }),
        live_drops: Some(drops.len() as u64),
        drops,
        page: 1,
        pages: 1,
    }
}

fn alert(summary: &str, by: Option<&str>) -> ListedAlert {
    let alert = Alert {
        kind: "braked".to_owned(),
        coupon_id: Some(CouponId(3)),
        drop_id: Some(DropId(7)),
        summary: summary.to_owned(),
        first_seen_at: at(15),
        last_seen_at: at(19),
        acknowledged_at: by.map(|_| at(16)),
        acknowledged_by: by.map(str::to_owned),
        ..Alert::default()
    };
    ListedAlert {
        id: 77,
        alert,
        coupon_name: Some("Winter <coupon>".to_owned()),
    }
}

#[test]
fn first_line_states_the_verdict_and_its_basis() {
    let fine = board(&overview(vec![seen(100, 97)]));
    assert_eq!(
        (fine.tone, fine.title.as_str(), fine.tab().as_str()),
        ("good", "Everything is as promised", "Firstcome")
    );
    assert!(
        fine.lead.contains("ended at 1970-01-01 00:19:00 UTC"),
        "{}",
        fine.lead
    );
    let drop = &fine.drops[0];
    let cells = [drop.given(), drop.rows(), drop.in_flight(), drop.waiting()];
    assert_eq!(
        cells,
        [100, 97, 3, 0].map(Some),
        "claims in flight are not a problem"
    );
    assert_eq!(
        (
            drop.admission.as_str(),
            drop.drop.last_run.as_str(),
            &drop.wrong
        ),
        ("open, sold out", "nothing found", &None)
    );

    let mut later = overview(vec![]);
    later.at = at(19 + 3 * 60);
    let later = board(&later);
    assert_eq!(
        (later.tone, later.title.as_str()),
        ("plain", "Nothing was compared for 3 hours")
    );

    let mut without = overview(vec![]);
    without.last_run = None;
    let without = board(&without);
    assert_eq!(
        (without.tone, without.title.as_str()),
        ("plain", "Nothing was compared yet")
    );
}

#[test]
fn persistently_inconsistent_counts_are_shown_with_advice() {
    let one = DropOverview {
        stuck: true,
        ..seen(100, 97)
    };
    let board = board(&overview(vec![one]));
    let what = "The figures do not add up: 100 promised, 97 rows, counter 100, 0 free, 0 waiting";
    assert_eq!((board.tone, board.title.as_str()), ("bad", what));
    assert_eq!(board.tab(), "(1) Firstcome");
    let problem = &board.problems[0];
    assert_eq!(problem.place.as_deref(), Some("Winter <coupon> · drop 7"));
    assert!(problem.todo.starts_with("The next pass "), "{problem:?}");
    assert_eq!(board.drops[0].wrong.as_ref(), Some(&board.title));
}

#[test]
fn overdue_row_counts_as_missing_and_not_as_in_flight() {
    let shown = |users, rows, stuck| {
        let board = board(&overview(vec![DropOverview {
            stuck,
            ..seen(users, rows)
        }]));
        (board.drops[0].in_flight(), board.drops[0].missing())
    };
    assert_eq!(shown(100, 97, false), (Some(3), None));
    assert_eq!(shown(100, 97, true), (Some(0), Some(3)));
    assert_eq!(shown(22, 25, true), (Some(0), None), "too many rows");
    let mut away = overview(vec![DropOverview {
        redis: None,
        stuck: true,
        ..seen(100, 97)
    }]);
    away.admission = AdmissionState::Unknown;
    let away = board(&away);
    assert_eq!(
        (away.drops[0].in_flight(), away.drops[0].missing()),
        (None, None),
        "nothing is known"
    );
}

type Change = fn(&mut Overview);

#[test]
fn unavailable_stores_and_closed_gates_are_shown_by_their_effect_on_users() {
    let changes: [(Change, &str); 4] = [
        (
            |s| s.admission = AdmissionState::Unknown,
            "Redis does not answer: nobody can claim | Redis does not answer | true",
        ),
        (
            |s| s.admission = AdmissionState::Closed,
            "Admission is closed: claims get 503 | closed: Redis is being verified | true",
        ),
        (
            |s| s.drops[0].verified = false,
            "Admission to this coupon is closed: claims get 503 | closed until it is verified | true",
        ),
        (
            |s| s.mysql_answers = false,
            "MySQL does not answer: rows come late | open | false",
        ),
    ];
    for (change, expected) in changes {
        let mut overview = overview(vec![seen(50, 50)]);
        change(&mut overview);
        let board = board(&overview);
        let line = &board.drops[0];
        let told = format!("{} | {} | {}", board.title, line.admission, line.is_shut);
        assert_eq!(told, expected);
    }
    // Users need not be able to claim in these states.
    for (state, admission) in [
        (DropState::Scheduled, "opens 1970-01-01 00:10 UTC"),
        (DropState::Paused, "paused by an operator"),
        (DropState::Closed, "ended"),
    ] {
        let mut one = seen(50, 50);
        (one.state, one.verified) = (state, false);
        let board = board(&overview(vec![one]));
        assert_eq!(
            (board.tone, board.drops[0].admission.as_str()),
            ("good", admission)
        );
    }
}

#[test]
fn alerts_have_advice_and_unacknowledged_ones_come_first() {
    let mut overview = overview(vec![DropOverview {
        stuck: true,
        ..seen(100, 97)
    }]);
    let alerts = vec![
        alert(
            "80 repairs are held back until a person confirms",
            Some("Kim"),
        ),
        alert("3 broken promises", None),
    ];
    overview.alerts = alerts;
    let board = board(&overview);
    assert_eq!(
        (board.title.as_str(), board.problems.len()),
        ("2 things are wrong", 2),
        "the alert already reports the counts"
    );
    assert_eq!(board.problems[0].what, "3 broken promises");
    assert!(
        board.problems[1]
            .more
            .as_deref()
            .is_some_and(|more| more.ends_with(", taken on by Kim"))
    );
    assert!(
        board.problems[1]
            .todo
            .starts_with("If you don't know the cause, pause"),
        "{:?}",
        board.problems[1]
    );
    assert_eq!(
        board.problems[1].place.as_deref(),
        Some("Winter <coupon> · drop 7")
    );
}

/// Returns the overview of one drop with these firing alerts.
fn with_alerts(one: DropOverview, alerts: Vec<ListedAlert>) -> Overview {
    Overview {
        alerts,
        ..overview(vec![one])
    }
}

fn of_drop(drop: Option<i64>, listed: ListedAlert) -> ListedAlert {
    ListedAlert {
        alert: Alert {
            drop_id: drop.map(DropId),
            ..listed.alert
        },
        ..listed
    }
}

#[test]
fn drop_screen_starts_with_its_state_and_counts_problems_elsewhere() {
    let others = || {
        let [other, general] =
            [Some(8), None].map(|drop| of_drop(drop, alert("3 broken promises", None)));
        vec![other, general]
    };
    let fine = drop_board(&with_alerts(seen(100, 100), others()));
    assert_eq!(
        (fine.tone, fine.title.as_str()),
        ("good", "Winter <coupon> · drop 7: open, sold out")
    );
    assert_eq!((fine.problems.len(), fine.elsewhere), (0, 2));
    assert_eq!(
        fine.lead,
        "1970-01-01 00:10 to 00:40 UTC. Last pass: nothing found."
    );

    let all = others()
        .into_iter()
        .chain([alert("80 repairs are held back", None)])
        .collect();
    let bad = drop_board(&with_alerts(seen(100, 100), all));
    assert_eq!(
        (bad.tone, bad.title.as_str()),
        ("bad", "Winter <coupon> · drop 7: 80 repairs are held back")
    );
    assert_eq!(
        (
            bad.problems.len(),
            bad.problems[0].place.as_ref(),
            bad.elsewhere
        ),
        (1, None, 2)
    );

    let mut away = with_alerts(seen(100, 100), others());
    away.admission = AdmissionState::Unknown;
    let away = drop_board(&away);
    assert_eq!(
        (away.problems.len(), away.elsewhere),
        (1, 2),
        "an unavailable store concerns every drop"
    );
}
