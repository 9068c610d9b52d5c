//! Tests mails about admission: when it is closed, when no reconciler can reach Redis, and when it
//! is open again.

use chrono::TimeDelta;
use firstcome_notifier::SeenGate::{self, Closed, Open, Unreachable};
use firstcome_notifier::{Clock as _, Notifier};
use firstcome_shared::domain::CouponId;
use firstcome_shared::report::{ActionKind, Finding, Kind, Outcome, Run, Status};

use crate::desk::{A, Desk, SOON, text};
use crate::world::{general, run};

#[tokio::test]
async fn closed_and_reopened_admission_is_mailed_by_one_process_only() {
    let desk = Desk::new(A).await;
    let daemons = [desk.notifier(), desk.notifier()];
    let both = |gate| daemons.each_ref().map(|daemon| (daemon, gate));
    seen(&desk, 1, &both(Open)).await;
    seen(&desk, 29, &both(Closed)).await; // a restart
    seen(&desk, 1, &both(Open)).await;
    seen(&desk, 45, &both(Closed)).await;
    // A process started in the meantime, and another that ended.
    let restarted = desk.notifier();
    let now = desk.clock.now();
    restarted.admission(Open, now).await.unwrap();
    seen(&desk, 2, &both(Open)).await;
    restarted.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: admission is closed (for 30 s)",
            "[firstcome] resolved: closure of admission",
        ]
    );
}

/// Reports the gate as each daemon sees it, once a second.
async fn seen(desk: &Desk, seconds: i64, gates: &[(&Notifier, SeenGate)]) {
    for _ in 0..seconds {
        let now = desk.clock.turn(TimeDelta::seconds(1));
        for (daemon, gate) in gates {
            daemon.admission(*gate, now).await.unwrap();
        }
    }
}

#[tokio::test]
async fn daemon_sends_no_mail_if_others_can_still_reach_redis() {
    let desk = Desk::new(A).await;
    let cut_off = desk.notifier();
    let other = desk.notifier();
    let both = |one, two| [(&cut_off, one), (&other, two)];
    seen(&desk, 1, &both(Open, Open)).await;
    seen(&desk, 120, &both(Unreachable, Open)).await;
    seen(&desk, 1, &both(Open, Open)).await;
    // Neither daemon can reach Redis.
    seen(&desk, 31, &both(Unreachable, Unreachable)).await;
    seen(&desk, 1, &[(&other, Open)]).await;
    other.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: Redis does not answer (for 30 s)",
            "[firstcome] resolved: outage of Redis",
        ]
    );
    let text = text(&desk.sink.mails()[0]);
    assert!(
        text.contains("Claims get 503 if the APIs cannot reach it either."),
        "{text}"
    );
}

#[tokio::test]
async fn alert_of_a_disconnected_daemon_ends_when_another_sees_admission_open() {
    let desk = Desk::new(A).await;
    let cut_off = desk.notifier();
    seen(&desk, 31, &[(&cut_off, Unreachable)]).await;
    let other = desk.notifier();
    seen(&desk, 120, &[(&other, Open), (&cut_off, Unreachable)]).await;
    // The other daemon ends, and Redis becomes unreachable as well.
    seen(&desk, 40, &[(&cut_off, Unreachable)]).await;
    cut_off.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: Redis does not answer (for 30 s)",
            "[firstcome] resolved: outage of Redis",
            "[firstcome] action needed: Redis does not answer (for 30 s)",
        ]
    );
}

/// One outage of Redis, from its end to the verification of the coupons, has one mail, which says
/// why it lasts.
#[tokio::test]
async fn coupons_that_stay_closed_are_told_in_the_mail_about_admission() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    seen(&desk, 1, &[(&daemon, Open)]).await;
    let closed = Finding {
        coupon_id: Some(CouponId(1)),
        needs_person: true,
        ..general(
            Kind::RedisLost,
            ActionKind::Open,
            Outcome::Failed,
            "the coupon stays closed: the consumer has 5000 messages to read first",
        )
    };
    let tries = Run {
        findings: vec![closed],
        partial: true,
        ..run("r1", Status::Drift, Vec::new())
    };
    for n in 0..30 {
        seen(&desk, 5, &[(&daemon, Closed)]).await;
        let run_id = format!("r{n}");
        desk.after_pass(
            &daemon,
            &Run {
                run_id,
                ..tries.clone()
            },
        )
        .await;
    }
    seen(&desk, 1, &[(&daemon, Open)]).await;
    daemon.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: admission is closed (for 30 s)",
            "[firstcome] resolved: closure of admission",
        ]
    );
    let text = text(&desk.sink.mails()[0]);
    assert!(text.contains("the consumer has 5000 messages"), "{text}");
}
