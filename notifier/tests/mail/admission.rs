//! Tests mails about admission: when it is closed, when no reconciler can reach Redis, and when it
//! is open again.

use chrono::TimeDelta;
use firstcome_notifier::{Clock as _, Notifier, SeenGate};
use firstcome_shared::report::{ActionKind, Kind, Outcome};

use crate::desk::{A, Desk, SOON, parsed};
use crate::mailed::repaired;
use crate::world::general;

#[tokio::test]
async fn closed_and_reopened_admission_is_mailed_by_one_process_only() {
    let desk = Desk::new(A).await;
    let daemons = [desk.notifier(), desk.notifier()];
    let looks = async |gate: SeenGate, seconds: i64| {
        for _ in 0..seconds {
            let now = desk.clock.turn(TimeDelta::seconds(1));
            for daemon in &daemons {
                daemon.admission(gate, now).await.unwrap();
            }
        }
    };
    looks(SeenGate::Open, 1).await;
    looks(SeenGate::Closed, 29).await; // a restart
    looks(SeenGate::Open, 1).await;
    looks(SeenGate::Closed, 45).await;
    // A process started in the meantime, and another that ended.
    let restarted = desk.notifier();
    restarted
        .admission(SeenGate::Open, desk.clock.now())
        .await
        .unwrap();
    looks(SeenGate::Open, 2).await;
    restarted.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: admission has been closed for 30 s",
            "[firstcome] resolved: Admission is open again, after 44 s",
        ]
    );
}

#[tokio::test]
async fn admission_that_stays_closed_is_mailed_again_after_the_cooldown() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    for _ in 0..(5 * 60) {
        daemon
            .admission(SeenGate::Closed, desk.clock.turn(TimeDelta::minutes(1)))
            .await
            .unwrap();
    }
    daemon.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A).len(),
        2,
        "in five hours: {:?}",
        desk.subjects(A)
    );
}

#[tokio::test]
async fn repair_mail_says_how_long_admission_was_closed() {
    let desk = Desk::new(A).await;
    let notifier = desk.notifier();
    let from = desk.clock.now();
    let to = desk.clock.turn(TimeDelta::seconds(7));
    notifier.admission(SeenGate::Closed, from).await.unwrap();
    let mut run = repaired("r1");
    run.findings = vec![general(
        Kind::RedisLost,
        ActionKind::OpenGate,
        Outcome::Applied,
        "it was closed before",
    )];
    run.started_at = from + TimeDelta::seconds(2);
    run.finished_at = Some(to);
    notifier.after_pass(&run, to).await.unwrap();
    notifier.flush(SOON).await.unwrap();
    let text = parsed(&desk.sink.mails()[0])
        .body_text(0)
        .unwrap()
        .replace("\r\n", " ");
    assert!(text.contains("claims got 503, for 7 s"), "{text}");
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
    seen(
        &desk,
        1,
        &[(&cut_off, SeenGate::Open), (&other, SeenGate::Open)],
    )
    .await;
    seen(
        &desk,
        120,
        &[(&cut_off, SeenGate::Unreachable), (&other, SeenGate::Open)],
    )
    .await;
    seen(
        &desk,
        1,
        &[(&cut_off, SeenGate::Open), (&other, SeenGate::Open)],
    )
    .await;
    // Neither daemon can reach Redis.
    seen(
        &desk,
        31,
        &[
            (&cut_off, SeenGate::Unreachable),
            (&other, SeenGate::Unreachable),
        ],
    )
    .await;
    seen(&desk, 1, &[(&other, SeenGate::Open)]).await;
    other.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: Redis has not been reached for 30 s",
            "[firstcome] resolved: Redis can be reached, and admission is open, after 31 s",
        ]
    );
    let text = parsed(&desk.sink.mails()[0])
        .body_text(0)
        .unwrap()
        .replace("\r\n", " ");
    assert!(
        text.contains("If the APIs cannot reach it either, claims get 503."),
        "{text}"
    );
}

#[tokio::test]
async fn sole_daemon_mails_within_half_a_minute_that_redis_is_unreachable() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    seen(&desk, 20, &[(&daemon, SeenGate::Open)]).await;
    seen(&desk, 31, &[(&daemon, SeenGate::Unreachable)]).await;
    daemon.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        ["[firstcome] action needed: Redis has not been reached for 30 s"]
    );
}

#[tokio::test]
async fn alert_of_a_disconnected_daemon_ends_when_another_sees_admission_open() {
    let desk = Desk::new(A).await;
    let cut_off = desk.notifier();
    seen(&desk, 31, &[(&cut_off, SeenGate::Unreachable)]).await;
    let other = desk.notifier();
    seen(
        &desk,
        120,
        &[(&other, SeenGate::Open), (&cut_off, SeenGate::Unreachable)],
    )
    .await;
    // The other daemon ends, and Redis becomes unreachable as well.
    seen(&desk, 40, &[(&cut_off, SeenGate::Unreachable)]).await;
    cut_off.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: Redis has not been reached for 30 s",
            "[firstcome] resolved: Redis can be reached, and admission is open, after 31 s",
            "[firstcome] action needed: Redis has not been reached for 30 s",
        ]
    );
}
