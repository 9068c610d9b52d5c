//! Tests the actions of operators on alerts.

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_shared::mysql::alerts::{AlertState, ListedAlert, acknowledge, find, list};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::report::{ActionKind, FailureCause, FindingCase, Kind, Outcome, Run, Status};

use crate::desk::{A, Desk};
use crate::mailed::{clean, drift};
use crate::world::{at, cased, general, run};

fn failed(id: &str) -> Run {
    let error = "Kafka cannot be reached";
    let of_run = general(Kind::Stalled, ActionKind::Report, Outcome::Skipped, error);
    Run {
        error: Some(error.to_owned()),
        findings: vec![cased(FindingCase::RunFailed(FailureCause::Kafka), of_run)],
        ..run(id, Status::Failed, Vec::new())
    }
}

/// Acknowledges an alert.
async fn takes(desk: &Desk, id: i64) -> Option<ListedAlert> {
    let now = desk.clock.now();
    let taken = acknowledge(&desk.db, id, "Kim".to_owned(), now, Operator::default());
    taken.await.unwrap()
}

#[tokio::test]
async fn alerts_are_listed_by_page_and_status() {
    let desk = Desk::new(A).await;
    desk.pass(&failed("r1")).await;
    desk.pass(&drift("r2", &[3])).await;
    let all = list(&desk.db, None, None, 1).await.unwrap();
    assert_eq!(
        (all.alerts.len(), all.alerts[0].alert.kind.as_str()),
        (1, "failed_claim")
    );
    let rest = list(&desk.db, None, all.next_before, 1).await.unwrap();
    assert_eq!(
        (rest.alerts[0].alert.kind.as_str(), rest.next_before),
        ("kafka_unreachable", None)
    );
    let json = serde_json::to_value(&rest.alerts[0]).unwrap();
    assert_eq!(
        (
            json["status"].as_str(),
            json.get("name"),
            json.get("content")
        ),
        (Some("resolved"), None, None)
    );
    let firing = list(&desk.db, Some(AlertState::Firing), None, 50)
        .await
        .unwrap();
    assert_eq!(firing.alerts.len(), 1);
    let seen = &firing.alerts[0];
    let json = serde_json::to_value(seen).unwrap();
    assert_eq!(
        (&json["coupon_id"], &json["drop_id"], &json["mails"]),
        (&1.into(), &7.into(), &1.into())
    );
    assert_eq!(
        (seen.alert.first_seen_at, seen.alert.last_mailed_at),
        (at(0), Some(at(0)))
    );
    assert_eq!(find(&desk.db, seen.id).await.unwrap().unwrap(), *seen);
}

#[tokio::test]
async fn acknowledged_alert_is_mailed_again_only_when_resolved() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    let taken = takes(&desk, 1).await.unwrap();
    assert_eq!(
        (
            taken.alert.acknowledged_by.as_deref(),
            taken.alert.acknowledged_at
        ),
        (Some("Kim"), Some(at(0)))
    );
    desk.clock.turn(TimeDelta::days(1));
    desk.pass(&drift("r2", &[3])).await;
    assert_eq!(desk.subjects(A).len(), 1);
    desk.pass(&clean("r3")).await;
    assert_eq!(desk.subjects(A).len(), 2);
    let over = takes(&desk, 1).await.unwrap();
    assert_eq!(over.alert.state, AlertState::Resolved);
    assert!(takes(&desk, 99).await.is_none());
}
