//! Tests mails about admission: when it is closed, when no reconciler can reach Redis, and when it
//! is open again.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_notifier::SeenGate::{self, Open, Unreachable};
use firstcome_shared::domain::CouponId;
use firstcome_shared::report::{
    ActionKind, Cause, FailureCause, Finding, Kind, Outcome, Run, Status, StoreRefusal,
};

use crate::desk::{A, Desk, text, thread};
use crate::world::{cased, general, run};

const CLOSED: &str = "[firstcome] action needed: admission is closed (for 30 s)";
const CLOSED_LONG: &str = "[firstcome] action needed: admission is closed (for 2 min)";
const OPENED: &str = "[firstcome] resolved: closure of admission";
const AWAY: &str = "[firstcome] action needed: Redis does not answer (for 30 s)";
const AWAY_LONG: &str = "[firstcome] action needed: Redis does not answer (for 40 s)";
const BACK: &str = "[firstcome] resolved: outage of Redis";

/// Coupon 1 is closed.
fn closed() -> SeenGate {
    SeenGate::Closed([CouponId(1)].into())
}

/// What two daemons see for this number of seconds. `None`: the second one does not run.
type Scene = (i64, SeenGate, Option<SeenGate>);

#[tokio::test]
async fn closure_and_outage_are_mailed_once_by_all_daemons_together() {
    let scenes: [(&str, &[Scene], &[&str]); 8] = [
        (
            "a restart of Redis, then a longer closure",
            &[
                (1, Open, Some(Open)),
                (29, closed(), Some(closed())),
                (1, Open, Some(Open)),
                (45, closed(), Some(closed())),
                (2, Open, Some(Open)),
            ],
            &[CLOSED, OPENED],
        ),
        (
            "a daemon starts meanwhile",
            &[(31, closed(), None), (1, Open, Some(Open))],
            &[CLOSED, OPENED],
        ),
        (
            "only one daemon cannot reach Redis",
            &[(1, Open, Some(Open)), (120, Unreachable, Some(Open))],
            &[],
        ),
        (
            "no daemon can reach Redis",
            &[
                (1, Open, Some(Open)),
                (31, Unreachable, Some(Unreachable)),
                (1, Open, Some(Open)),
            ],
            &[AWAY, BACK],
        ),
        (
            "another daemon starts, sees admission open, and ends",
            &[
                (31, Unreachable, None),
                (120, Unreachable, Some(Open)),
                (40, Unreachable, None),
            ],
            &[AWAY, BACK, AWAY],
        ),
        (
            "Redis restarts while a coupon stays closed",
            &[
                (120, closed(), Some(closed())),
                (20, Unreachable, Some(Unreachable)),
                (45, closed(), Some(closed())),
            ],
            &[CLOSED],
        ),
        (
            "only one daemon loses Redis while a coupon stays closed",
            &[
                (120, closed(), Some(closed())),
                (120, Unreachable, Some(closed())),
            ],
            &[CLOSED],
        ),
        (
            "every daemon loses Redis while a coupon stays closed",
            &[
                (120, closed(), Some(closed())),
                (31, Unreachable, Some(Unreachable)),
            ],
            &[CLOSED, AWAY],
        ),
    ];
    for (name, scenes, mailed) in scenes {
        let desk = Desk::new(A).await;
        let daemons = [desk.notifier(), desk.notifier()];
        for (seconds, first, second) in scenes {
            for _ in 0..*seconds {
                let now = desk.clock.turn(TimeDelta::seconds(1));
                let gates = [Some(first.clone()), second.clone()].into_iter();
                for (daemon, gate) in daemons.iter().zip(gates) {
                    if let Some(gate) = gate {
                        daemon.admission(gate, now).await.unwrap();
                    }
                }
            }
        }
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed, "{name}");
    }
}

/// An outage of Redis and the verification of the coupons after it have one mail, which says how
/// many coupons are closed and why. It is not sent if a mail about held-back repairs gives the
/// reason.
#[tokio::test]
async fn coupons_that_stay_closed_are_reported_in_one_mail() {
    let why = "the coupon stays closed: 5000 messages are to be read first";
    let stays_closed = Finding {
        coupon_id: Some(CouponId(1)),
        needs_person: true,
        ..general(Kind::RedisLost, ActionKind::Open, Outcome::Failed, why)
    };
    let held = crate::mailed::held_back("r1").drops;
    for (drops, mailed) in [
        (
            Vec::new(),
            [
                "[firstcome] action needed: 1 coupon is closed (for 30 s)",
                OPENED,
            ],
        ),
        (
            held,
            [
                "[firstcome] action needed: 1 repair that waits for a confirmation · Winter coupon · 100 of 100 issued",
                "[firstcome] resolved: 1 repair that waits for a confirmation · Winter coupon · 100 of 100 issued",
            ],
        ),
    ] {
        let desk = Desk::new(A).await;
        let daemon = desk.notifier();
        for n in 0..150 {
            let now = desk.clock.turn(TimeDelta::seconds(1));
            daemon.admission(closed(), now).await.unwrap();
            let tries = Run {
                findings: vec![stays_closed.clone()],
                partial: true,
                ..run(&format!("r{n}"), Status::Drift, drops.clone())
            };
            desk.after_pass(&daemon, &tries).await;
        }
        let opened = crate::mailed::clean("r9");
        desk.after_pass(&daemon, &opened).await;
        daemon.admission(Open, desk.clock.now()).await.unwrap();
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed);
        let text = text(&desk.sink.mails()[0]);
        assert_eq!(text.contains(why), drops.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn closure_is_not_over_while_passes_leave_its_coupon_to_another_process() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let why = "another process works on this coupon";
    let left = Finding {
        coupon_id: Some(CouponId(1)),
        ..general(Kind::RedisLost, ActionKind::Open, Outcome::Skipped, why)
    };
    for n in 0..150 {
        let now = desk.clock.turn(TimeDelta::seconds(1));
        daemon.admission(closed(), now).await.unwrap();
        let sweep = Run {
            findings: vec![left.clone()],
            ..run(&format!("r{n}"), Status::Drift, Vec::new())
        };
        desk.after_pass(&daemon, &sweep).await;
    }
    daemon.admission(Open, desk.clock.now()).await.unwrap();
    desk.flush().await;
    assert_eq!(desk.subjects(A), [CLOSED, OPENED]);
}

/// Passes end the alert of a closure that the watch still sees, and records again.
#[tokio::test]
async fn end_of_a_closure_is_mailed_only_after_a_mail_that_it_began() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    for n in 0..300 {
        let now = desk.clock.turn(TimeDelta::seconds(1));
        daemon.admission(closed(), now).await.unwrap();
        if n % 60 == 45 {
            let clean = crate::mailed::clean(&format!("r{n}"));
            desk.after_pass(&daemon, &clean).await;
        }
    }
    desk.flush().await;
    let subjects = desk.subjects(A);
    assert!(subjects.len() >= 3, "{subjects:?}");
    let is_over = |at: usize| subjects[at] == OPENED;
    let twice = (1..subjects.len()).find(|at| is_over(at - 1) && is_over(*at));
    assert!(!is_over(0) && twice.is_none(), "{subjects:?}");
}

#[tokio::test]
async fn acknowledged_closure_hides_no_other_closed_coupon_and_no_outage() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let both = SeenGate::Closed([CouponId(1), CouponId(2)].into());
    for (seconds, gate, mails) in [
        (45, closed(), 1),
        // A restart of Redis closes every coupon for seconds.
        (20, both.clone(), 1),
        (60, closed(), 1),
        (60, both.clone(), 2),
        (60, Unreachable, 3),
        (90, both.clone(), 3),
        (60, closed(), 3),
        // Redis answers now and then.
        (60, Unreachable, 3),
        (60, closed(), 3),
        (60, Unreachable, 3),
        (60, closed(), 3),
        (90, both, 4),
    ] {
        for _ in 0..seconds {
            let now = desk.clock.turn(TimeDelta::seconds(1));
            daemon.admission(gate.clone(), now).await.unwrap();
        }
        desk.flush().await;
        assert_eq!(
            desk.subjects(A).len(),
            mails,
            "{gate:?} {:?}",
            desk.subjects(A)
        );
        desk.run("UPDATE alerts SET acknowledged_at = last_seen_at")
            .await;
    }
    daemon.admission(Open, desk.clock.now()).await.unwrap();
    desk.flush().await;
    assert_eq!(desk.subjects(A)[4..], [OPENED]);
    let threads: BTreeSet<String> = desk.sink.mails().iter().map(thread).collect();
    assert_eq!(threads.len(), 1, "{threads:?}");
}

/// A pass that fails because its daemon cannot reach Redis.
fn redis_is_away(id: &str) -> Run {
    let error = "Redis cannot be reached: Connection refused";
    let of_run = general(Kind::Stalled, ActionKind::Report, Outcome::Skipped, error);
    Run {
        error: Some(error.to_owned()),
        findings: vec![cased(Cause::RunFailed(FailureCause::Redis), of_run)],
        ..run(id, Status::Failed, Vec::new())
    }
}

/// In a Redis Cluster without one server, every pass fails, and the coupons of the server are
/// closed.
#[tokio::test]
async fn lasting_closure_in_which_passes_fail_is_mailed_once_and_hides_no_other_store() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    for n in 0..140 {
        let now = desk.clock.turn(TimeDelta::seconds(30));
        daemon.admission(closed(), now).await.unwrap();
        let mut failed = redis_is_away(&format!("r{n}"));
        if n >= 138 {
            let kafka = crate::mailed::kafka_is_away("", Vec::new());
            failed.findings.splice(0..0, kafka.findings);
        }
        desk.after_pass(&daemon, &failed).await;
    }
    desk.flush().await;
    let kafka = "[firstcome] action needed: Kafka does not answer (for 30 s)";
    assert_eq!(desk.subjects(A), [CLOSED, kafka]);
}

#[tokio::test]
async fn outage_of_redis_while_a_coupon_is_closed_is_mailed_with_its_own_duration() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let loads = "LOADING Redis is loading the dataset in memory";
    let refusal = StoreRefusal::from_error(FailureCause::Redis, loads).unwrap();
    let loading = SeenGate::Refuses(refusal, loads.to_owned());
    for (steps, seconds, gate, fails, mailed) in [
        (61, 120, closed(), false, &[CLOSED_LONG][..]),
        (20, 1, loading, true, &[CLOSED_LONG]),
        // The pass began before the restart was over.
        (10, 1, closed(), true, &[CLOSED_LONG]),
        (60, 1, Unreachable, true, &[CLOSED_LONG, AWAY]),
    ] {
        for _ in 0..steps {
            let now = desk.clock.turn(TimeDelta::seconds(seconds));
            daemon.admission(gate.clone(), now).await.unwrap();
            if fails {
                desk.after_pass(&daemon, &redis_is_away("r1")).await;
            }
        }
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed, "{gate:?}");
        desk.run("UPDATE alerts SET acknowledged_at = last_seen_at")
            .await;
    }
}

#[tokio::test]
async fn repeated_mail_about_an_outage_does_not_count_the_closure_before_it() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    for (steps, gate) in [(25, closed()), (50, Unreachable)] {
        for _ in 0..steps {
            let now = desk.clock.turn(TimeDelta::minutes(5));
            daemon.admission(gate.clone(), now).await.unwrap();
        }
    }
    desk.flush().await;
    let away = |time| format!("[firstcome] action needed: Redis does not answer (for {time})");
    assert_eq!(desk.subjects(A)[1..], [away("5 min"), away("4 h")]);
}

#[tokio::test]
async fn start_forgets_an_outage_of_redis_when_an_attempt_gets_past_it() {
    let desk = Desk::new(A).await;
    let starting = desk.notifier();
    let kafka = crate::mailed::kafka_is_away("r2", Vec::new());
    for (failed, mails) in [
        (redis_is_away("r1"), 0),
        (kafka, 0),
        (redis_is_away("r3"), 0),
        (redis_is_away("r3"), 1),
    ] {
        let now = desk.clock.turn(TimeDelta::seconds(40));
        starting.after_attempt(&failed, now).await.unwrap();
        desk.flush().await;
        assert_eq!(desk.subjects(A), vec![AWAY_LONG; mails]);
    }
}

#[tokio::test]
async fn daemon_that_alone_cannot_reach_redis_mails_no_outage() {
    for (seen_by_other, mailed) in [(Open, &[][..]), (closed(), &[CLOSED][..])] {
        let desk = Desk::new(A).await;
        let [lost, other] = [desk.notifier(), desk.notifier()];
        for n in 0..150 {
            let now = desk.clock.turn(TimeDelta::seconds(1));
            lost.admission(Unreachable, now).await.unwrap();
            other.admission(seen_by_other.clone(), now).await.unwrap();
            if n % 10 == 0 {
                let failed = redis_is_away(&format!("r{n}"));
                desk.after_pass(&lost, &failed).await;
            }
        }
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed);
    }
}

#[tokio::test]
async fn start_without_redis_is_mailed_only_if_no_daemon_reaches_redis() {
    for (seen_by_other, mailed) in [(Open, &[][..]), (Unreachable, &[AWAY][..])] {
        let desk = Desk::new(A).await;
        let [starting, other] = [desk.notifier(), desk.notifier()];
        for n in 0..150 {
            let now = desk.clock.turn(TimeDelta::seconds(1));
            other.admission(seen_by_other.clone(), now).await.unwrap();
            if n % 2 == 0 {
                let failed = redis_is_away("r1");
                starting.after_attempt(&failed, now).await.unwrap();
            }
            if seen_by_other == Open && n % 30 == 29 {
                let clean = crate::mailed::clean(&format!("r{n}"));
                desk.after_pass(&other, &clean).await;
            }
        }
        desk.flush().await;
        assert_eq!(desk.subjects(A), mailed, "the other sees {seen_by_other:?}");
    }
}

#[tokio::test]
async fn kafka_that_one_daemon_cannot_reach_is_mailed_once_and_when_it_is_back() {
    let desk = Desk::new(A).await;
    let [starting, other] = [desk.notifier(), desk.notifier()];
    for n in 0..15 {
        let now = desk.clock.turn(TimeDelta::seconds(20));
        if n < 10 {
            let failed = crate::mailed::kafka_is_away("r1", Vec::new());
            starting.after_attempt(&failed, now).await.unwrap();
        }
        let clean = crate::mailed::clean(&format!("clean-{n}"));
        desk.after_pass(&other, &clean).await;
    }
    desk.flush().await;
    let mailed = [
        "[firstcome] action needed: Kafka does not answer (for 40 s)",
        "[firstcome] resolved: outage of Kafka",
    ];
    assert_eq!(desk.subjects(A), mailed);
}

/// After a failed pass, the next one follows in half a minute, and the one after it by the schedule.
#[tokio::test]
async fn outage_of_kafka_is_over_with_the_first_whole_pass_of_the_daemon_that_saw_it() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let mut lane = crate::mailed::clean("r3");
    lane.partial = true;
    let away = |id| crate::mailed::kafka_is_away(id, Vec::new());
    for (seconds, pass, mails) in [
        (0, away("r1"), 0),
        (30, away("r2"), 1),
        (15, lane, 1),
        (15, crate::mailed::clean("r4"), 2),
    ] {
        desk.clock.turn(TimeDelta::seconds(seconds));
        desk.after_pass(&daemon, &pass).await;
        desk.flush().await;
        assert_eq!(desk.subjects(A).len(), mails);
    }
}

#[tokio::test]
async fn outage_that_a_dead_process_reported_ends_when_another_reaches_redis() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    daemon.admission(Open, desk.clock.now()).await.unwrap();
    for n in 0..2 {
        desk.clock.turn(TimeDelta::seconds(30));
        desk.pass(&redis_is_away(&format!("r{n}"))).await;
    }
    assert_eq!(desk.subjects(A).len(), 1);
    // A process that still sees the outage would have recorded it again by then.
    let now = desk.clock.turn(TimeDelta::seconds(65));
    daemon.admission(Open, now).await.unwrap();
    desk.flush().await;
    assert_eq!(desk.subjects(A)[1..], [BACK]);
}
