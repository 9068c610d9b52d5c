use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::views::{Alert, RedisCounts, RowCount};

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
        last_seen_at: Some(at(19)),
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

/// The tone and the first line.
fn verdict(board: &Board) -> String {
    format!("{}: {}", board.tone, board.title)
}

#[test]
fn overview_states_the_verdict_its_basis_and_the_counts_of_a_drop() {
    let fine = board(&overview(vec![seen(100, 97)]));
    assert_eq!(verdict(&fine), "good: Everything is as promised");
    assert_eq!(fine.tab(), "Firstcome");
    assert!(fine.lead.contains("ended at 1970-01-01 00:19:00 UTC"));
    let drop = &fine.drops[0];
    // Claims in flight are not a problem.
    let cells = [drop.given(), drop.rows(), drop.in_flight(), drop.waiting()];
    assert_eq!(cells, [100, 97, 3, 0].map(Some));
    assert_eq!(drop.admission, "open, sold out");
    assert_eq!(drop.drop.last_run, "nothing found");

    let mut away = overview(vec![seen(100, 97)]);
    away.mysql_answers = false;
    assert_eq!(
        board(&away).drops[0].in_flight(),
        None,
        "rows are not known"
    );

    let mut later = overview(vec![]);
    later.last_run = None;
    let never = "plain: Nothing was compared yet";
    assert_eq!(verdict(&board(&later)), never);
}

type Change = fn(&mut Overview);

#[test]
fn unavailable_stores_and_closed_gates_are_described_by_their_effect_on_users() {
    let changes: [(Change, &str); 5] = [
        (
            |s| (s.admission, s.drops[0].verified) = (AdmissionState::Unknown, false),
            "Outage of Redis | Redis does not answer | true",
        ),
        (
            |s| {
                (s.admission, s.drops[0].verified) = (AdmissionState::Closed, false);
            },
            "Closure of admission | closed until it is verified | true",
        ),
        (
            |s| {
                (s.admission, s.drops[0].verified) = (AdmissionState::Closed, false);
                let mut told = alert("1 coupon is closed", None);
                (told.alert.kind, told.alert.drop_id) = ("admission_closed".to_owned(), None);
                s.alerts = vec![told];
            },
            "1 coupon is closed | closed until it is verified | true",
        ),
        (
            // Another coupon is closed.
            |s| s.admission = AdmissionState::Closed,
            "Everything is as promised | open | false",
        ),
        (
            |s| s.mysql_answers = false,
            "Outage of MySQL | open | false",
        ),
    ];
    for (change, expected) in changes {
        let mut overview = overview(vec![seen(50, 50)]);
        change(&mut overview);
        let board = board(&overview);
        let line = &board.drops[0];
        let is_shut = line.is_shut();
        let told = format!("{} | {} | {is_shut}", board.title, line.admission);
        assert_eq!(told, expected);
    }
    // Users need not be able to claim in these states.
    for (state, admission) in [
        (DropState::Scheduled, "opens 1970-01-01 00:10 UTC"),
        (DropState::Paused, "paused"),
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
    let mut overview = overview(vec![seen(100, 97)]);
    let held_back = "80 repairs are held back until a person confirms";
    let promises = alert("3 broken promises", None);
    overview.alerts = vec![alert(held_back, Some("Kim")), promises];
    let board = board(&overview);
    assert_eq!(verdict(&board), "bad: 2 things are wrong");
    let [first, second] = board.problems.as_slice() else {
        panic!("{:?}", board.problems)
    };
    assert_eq!(first.what, "3 broken promises");
    let more = &second.more;
    assert!(more.ends_with(", taken on by Kim"), "{more}");
    let todo = &second.todo;
    assert!(todo.starts_with("If you don't know the cause, pause"));
    assert_eq!(second.place, "Winter <coupon> · drop 7");
}

#[test]
fn drop_screen_starts_with_its_state_and_lacks_the_problems_of_other_drops() {
    let mut elsewhere = alert("3 broken promises", None);
    elsewhere.alert.drop_id = Some(DropId(8));
    let mut seen = overview(vec![seen(100, 100)]);
    seen.alerts = vec![elsewhere];
    let fine = drop_board(&seen);
    assert_eq!(
        verdict(&fine),
        "good: Winter <coupon> · drop 7: open, sold out"
    );
    assert_eq!(fine.problems.len(), 0);
    let lead = "1970-01-01 00:10 UTC to 1970-01-01 00:40 UTC. Last pass: nothing found.";
    assert_eq!(fine.lead, lead);

    // An unavailable store concerns every drop.
    seen.admission = AdmissionState::Unknown;
    assert_eq!(drop_board(&seen).problems.len(), 1);
    seen.admission = AdmissionState::Open;
    seen.alerts.push(alert("80 repairs are held back", None));
    let own = "bad: Winter <coupon> · drop 7: 80 repairs are held back";
    assert_eq!(verdict(&drop_board(&seen)), own);
}
