use std::sync::Arc;
use std::time::Instant;

use chrono::TimeDelta;
use firstcome_shared::coupon::{AllowList, Coupon, Drop};
use firstcome_shared::domain::OncePer;
use firstcome_shared::mysql::alerts::{Alert, AlertState};
use firstcome_shared::redis::reads::DropNumbers;

use super::*;
use crate::http::overview::snapshot::{CountedRows, Facts};
use crate::report::{DropReport, Examined, Numbers, Status, Trigger};

fn at(minute: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
}

/// A drop of 100 that opened at minute 10: people with a slot, and rows.
fn seen(users: u64, rows: u64) -> SeenDrop {
    let numbers = DropNumbers {
        meta: None,
        count: i64::try_from(users).ok(),
        users,
        free: 0,
        waiting: 0,
        highest: 0,
    };
    SeenDrop {
        coupon: Coupon {
            id: CouponId(3),
            name: "Winter <coupon>".to_owned(),
            quantity: 100,
            once_per: OncePer::Coupon,
            waiting_list: 0,
            paused: false,
            revision: 1,
            schedule: None,
            allow: None,
            allow_list: AllowList::default(),
        },
        drop: Drop {
            id: DropId(7),
            coupon_id: CouponId(3),
            local_date: None,
            opens_at: at(10),
            closes_at: Some(at(40)),
            quantity: 100,
            closed_early: false,
            sealed_at: None,
        },
        numbers: Some(numbers),
        counted: Some(CountedRows {
            rows,
            users,
            at: Instant::now(),
        }),
        dead_letters: Some(0),
        is_verified: true,
        is_stuck: false,
    }
}

fn run() -> Run {
    Run {
        status: Status::Clean,
        finished_at: Some(at(19)),
        ..Run::begun("1", Trigger::Cron, at(19))
    }
}

fn snapshot(drops: Vec<SeenDrop>) -> Snapshot {
    let facts = Facts {
        last_pass: Some(Arc::new(run())),
        read_at: Some(at(20)),
        ..Facts::default()
    };
    let total = drops.len();
    Snapshot {
        at: at(20),
        gate_is_open: Some(true),
        mysql_answers: true,
        facts: Arc::new(facts),
        drops,
        page: 0,
        total,
    }
}

fn alert(summary: &str, by: Option<&str>) -> ListedAlert {
    let alert = Alert {
        fingerprint: String::new(),
        kind: "braked".to_owned(),
        coupon_id: Some(CouponId(3)),
        drop_id: Some(DropId(7)),
        state: AlertState::Firing,
        summary: summary.to_owned(),
        content_hash: String::new(),
        first_seen_at: at(15),
        last_seen_at: at(19),
        last_mailed_at: None,
        mails: 0,
        thread: String::new(),
        resolved_at: None,
        acknowledged_at: by.map(|_| at(16)),
        acknowledged_by: by.map(str::to_owned),
        unmailed_repairs: 0,
    };
    ListedAlert {
        id: 77,
        alert,
        coupon_name: None,
        silenced_until: None,
        silenced_by: None,
    }
}

#[test]
fn the_first_line_says_whether_everything_is_all_right_and_on_what_that_rests() {
    let fine = board(&snapshot(vec![seen(100, 97)]));
    assert_eq!(
        (fine.tone, fine.title.as_str(), fine.tab().as_str()),
        (Tone::Good, "Everything is as promised", "Firstcome")
    );
    assert!(
        fine.lead.contains("ended at 1970-01-01 00:19:00 UTC"),
        "{}",
        fine.lead
    );
    let drop = &fine.drops[0];
    let cells = [
        &drop.promised,
        &drop.given,
        &drop.rows,
        &drop.in_flight,
        &drop.waiting,
        &drop.dead_letters,
    ];
    assert_eq!(
        cells,
        ["100", "100", "97", "3", "0", "0"],
        "what is on its way is no trouble"
    );
    assert_eq!(
        (
            drop.admission.text.as_str(),
            drop.last_pass.as_str(),
            &drop.wrong
        ),
        ("open, sold out", "nothing found", &None)
    );

    let mut later = snapshot(vec![]);
    later.at = at(19 + 3 * 60);
    let later = board(&later);
    assert_eq!(
        (later.tone, later.title.as_str()),
        (Tone::Plain, "Nothing was compared for 3 hours")
    );

    let mut without = snapshot(vec![]);
    without.facts = Arc::default();
    let without = board(&without);
    assert_eq!(
        (without.tone, without.title.as_str()),
        (Tone::Plain, "Nothing was compared yet")
    );
}

#[test]
fn numbers_that_stay_wrong_are_told_with_what_to_do() {
    let stuck = |count: i64, [users, rows, free, waiting]: [u64; 4]| {
        let mut one = SeenDrop {
            is_stuck: true,
            ..seen(users, rows)
        };
        let numbers = one.numbers.as_mut().unwrap();
        (numbers.count, numbers.free, numbers.waiting) = (Some(count), free, waiting);
        let board = board(&snapshot(vec![one]));
        assert_eq!(
            (board.tone, board.problems.len(), board.tab().as_str()),
            (Tone::Bad, 1, "(1) Firstcome")
        );
        assert_eq!(
            board.problems[0].place.as_deref(),
            Some("Winter <coupon> · drop 7")
        );
        assert!(
            board.problems[0].todo.starts_with("The next pass "),
            "{}",
            board.problems[0].todo
        );
        assert_eq!(board.drops[0].wrong.as_ref(), Some(&board.title));
        board.title
    };
    assert_eq!(
        stuck(100, [100, 97, 0, 0]),
        "3 people were told yes and have no row yet"
    );
    assert_eq!(
        stuck(1, [1, 0, 0, 0]),
        "1 person was told yes and has no row yet"
    );
    assert_eq!(stuck(22, [22, 25, 0, 0]), "3 rows have nobody in Redis");
    assert_eq!(
        stuck(29, [25, 25, 0, 0]),
        "The counter is 29; 25 slots are held and 0 are free"
    );
    assert_eq!(
        stuck(25, [24, 24, 1, 5]),
        "1 slot is free although people wait"
    );
}

#[test]
fn in_flight_is_what_still_moves_and_a_row_that_does_not_come_is_missing() {
    let shown = |users, rows, is_stuck| {
        let board = board(&snapshot(vec![SeenDrop {
            is_stuck,
            ..seen(users, rows)
        }]));
        (
            board.drops[0].in_flight.clone(),
            board.drops[0].missing.clone(),
        )
    };
    let told =
        |in_flight: &str, missing: Option<&str>| (in_flight.to_owned(), missing.map(str::to_owned));
    assert_eq!(shown(100, 97, false), told("3", None));
    assert_eq!(shown(100, 97, true), told("0", Some("3")));
    assert_eq!(shown(22, 25, true), told("0", None), "too many rows");
    let mut away = snapshot(vec![SeenDrop {
        numbers: None,
        is_stuck: true,
        ..seen(100, 97)
    }]);
    away.gate_is_open = None;
    let away = board(&away);
    assert_eq!(
        (away.drops[0].in_flight.as_str(), &away.drops[0].missing),
        ("–", &None),
        "nothing is known"
    );
}

#[test]
fn stores_that_are_away_and_closed_gates_are_told_by_what_people_feel() {
    let first = |change: fn(&mut Snapshot)| {
        let mut snapshot = snapshot(vec![seen(50, 50)]);
        change(&mut snapshot);
        let board = board(&snapshot);
        (
            board.title,
            board.drops[0].admission.text.clone(),
            board.drops[0].admission.is_wrong,
        )
    };
    let told =
        |title: &str, admission: &str, is_wrong| (title.to_owned(), admission.to_owned(), is_wrong);
    assert_eq!(
        first(|s| s.gate_is_open = None),
        told(
            "Redis does not answer: nobody can claim",
            "Redis does not answer",
            true
        )
    );
    assert_eq!(
        first(|s| s.gate_is_open = Some(false)),
        told(
            "Admission is closed: claims get 503",
            "closed: Redis is being verified",
            true
        )
    );
    assert_eq!(
        first(|s| s.drops[0].is_verified = false),
        told(
            "Admission to this coupon is closed: claims get 503",
            "closed until it is verified",
            true
        )
    );
    assert_eq!(
        first(|s| s.mysql_answers = false),
        told("MySQL does not answer: rows come late", "open", false)
    );
    for (minute, paused, admission) in [
        (5, false, "opens 1970-01-01 00:10 UTC"),
        (20, true, "paused by an operator"),
        (50, false, "ended"),
    ] {
        let mut snapshot = snapshot(vec![seen(50, 50)]);
        (
            snapshot.at,
            snapshot.drops[0].coupon.paused,
            snapshot.drops[0].is_verified,
        ) = (at(minute), paused, false);
        let board = board(&snapshot);
        assert_eq!(
            (board.tone, board.drops[0].admission.text.as_str()),
            (Tone::Good, admission),
            "nobody should claim"
        );
    }
}

#[test]
fn alerts_come_with_their_advice_and_those_nobody_has_taken_on_first() {
    let mut snapshot = snapshot(vec![SeenDrop {
        is_stuck: true,
        ..seen(100, 97)
    }]);
    let alerts = vec![
        alert(
            "80 repairs are held back until a person confirms",
            Some("Kim"),
        ),
        alert("3 broken promises", None),
    ];
    snapshot.facts = Arc::new(Facts {
        alerts,
        coupons: vec![(seen(1, 1).coupon, vec![])],
        ..Facts::default()
    });
    let board = board(&snapshot);
    assert_eq!(
        (board.title.as_str(), board.problems.len()),
        ("2 things are wrong", 2),
        "the numbers are told by the alert"
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

/// A snapshot of one drop in which these alerts fire.
fn with_alerts(one: SeenDrop, alerts: Vec<ListedAlert>) -> Snapshot {
    let coupons = vec![(one.coupon.clone(), vec![])];
    let last_pass = Some(Arc::new(run()));
    Snapshot {
        facts: Arc::new(Facts {
            alerts,
            coupons,
            last_pass,
            read_at: None,
        }),
        ..snapshot(vec![one])
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
fn the_screen_of_a_drop_is_headed_by_its_own_state_and_only_counts_what_is_wrong_elsewhere() {
    let others = || {
        let [other, general] =
            [Some(8), None].map(|drop| of_drop(drop, alert("3 broken promises", None)));
        vec![other, general]
    };
    let fine = drop_board(&with_alerts(seen(100, 100), others()));
    assert_eq!(
        (fine.tone, fine.title.as_str()),
        (Tone::Good, "Winter <coupon> · drop 7: open, sold out")
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
        (
            Tone::Bad,
            "Winter <coupon> · drop 7: 80 repairs are held back"
        )
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
    away.gate_is_open = None;
    let away = drop_board(&away);
    assert_eq!(
        (away.problems.len(), away.elsewhere),
        (1, 2),
        "a store that is away concerns every drop"
    );
}

#[test]
fn after_the_quantity_was_raised_broken_promises_say_that_the_next_pass_works_on_them() {
    let todo = |change: fn(&mut SeenDrop)| {
        let mut one = seen(100, 100);
        change(&mut one);
        let mut listed = alert("3 broken promises", None);
        listed.alert.kind = About::BrokenPromise.word().to_owned();
        board(&with_alerts(one, vec![listed]))
            .problems
            .remove(0)
            .todo
    };
    let advice = what_to_do(About::BrokenPromise);
    assert_eq!(todo(|_| {}), advice);
    assert_eq!(
        todo(|one| one.drop.quantity = 103),
        "3 slots are free by now: the next pass gives them to these people."
    );
    assert_eq!(
        todo(|one| (one.drop.quantity, one.drop.closes_at) = (103, Some(at(20)))),
        advice,
        "it is over"
    );
    assert_eq!(
        todo(|one| (one.drop.quantity, one.numbers) = (103, None)),
        advice,
        "Redis is away"
    );
}

#[test]
fn exact_beside_failed_claims_says_why_both_hold() {
    let last_pass = |exact, failed_claims| {
        let numbers = |failed_claims| Numbers {
            users: 100,
            rows: 100,
            failed_claims,
            ..Numbers::default()
        };
        let report = DropReport {
            coupon_id: CouponId(3),
            coupon_name: String::new(),
            drop_id: DropId(7),
            quantity: 100,
            exact,
            sealed: false,
            before: numbers(2),
            after: numbers(failed_claims),
            unconfirmed: false,
            examined: Examined::default(),
            findings: vec![],
        };
        let mut snapshot = snapshot(vec![seen(100, 100)]);
        let last_pass = Some(Arc::new(Run {
            drops: vec![report],
            ..run()
        }));
        snapshot.facts = Arc::new(Facts {
            last_pass,
            ..Facts::default()
        });
        board(&snapshot).drops.remove(0).last_pass
    };
    assert_eq!(last_pass(true, 0), "exact, after repairs");
    assert_eq!(
        last_pass(true, 2),
        "exact for everybody whom Redis knows; 2 failed claims are left"
    );
    assert_eq!(
        last_pass(true, 1),
        "exact for everybody whom Redis knows; 1 failed claim is left"
    );
    assert_eq!(last_pass(false, 2), "not exact");
}
