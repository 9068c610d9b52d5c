//! Tests the actions of operators on alerts.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::{AlertError, Clock as _, ListedAlert, acknowledge, alert, list, silence};
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
async fn takes(desk: &Desk, id: i64, by: &str) -> Result<ListedAlert, AlertError> {
    acknowledge(&desk.db, id, by, desk.clock.now(), Operator::default()).await
}

/// Silences the drop of an alert.
async fn silences(desk: &Desk, id: i64, until: DateTime<Utc>) -> Result<ListedAlert, AlertError> {
    let now = desk.clock.now();
    silence(&desk.db, id, until, "Kim", now, Operator::default()).await
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
    let firing = list(&desk.db, Some("firing".to_owned()), None, 50)
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
    assert_eq!(alert(&desk.db, seen.id).await.unwrap(), *seen);
}

#[tokio::test]
async fn acknowledged_alert_is_mailed_again_only_when_resolved() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    let taken = takes(&desk, 1, "  Kim\r\n").await.unwrap();
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
    let over = takes(&desk, 1, "Kim").await;
    assert!(matches!(over, Err(AlertError::NotFiring(1))));
}

#[tokio::test]
async fn silence_lasts_until_an_operator_ends_it() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    desk.pass(&drift("r1", &[3])).await;
    let until = desk.clock.now() + TimeDelta::hours(8);
    let silenced = silences(&desk, 1, until).await.unwrap();
    assert_eq!(
        (silenced.silenced_until, silenced.silenced_by.as_deref()),
        (Some(until), Some("Kim"))
    );
    desk.clock.turn(TimeDelta::hours(5));
    desk.pass(&drift("r2", &[3, 4])).await;
    assert_eq!(desk.subjects(A).len(), 1);
    silences(&desk, 1, desk.clock.now()).await.unwrap();
    desk.pass(&drift("r3", &[3, 4])).await;
    assert_eq!(desk.subjects(A).len(), 2);
}

#[tokio::test]
async fn invalid_alert_actions_are_rejected_with_a_reason() {
    let desk = Desk::new(A).await;
    desk.pass(&failed("r1")).await;
    let now = desk.clock.now();
    assert!(matches!(
        takes(&desk, 99, "Kim").await,
        Err(AlertError::NotFound(99))
    ));
    assert!(matches!(
        silences(&desk, 99, now).await,
        Err(AlertError::NotFound(99))
    ));
    assert!(matches!(
        takes(&desk, 1, " \u{202e} ").await,
        Err(AlertError::NoName)
    ));
    assert!(matches!(
        silences(&desk, 1, now).await,
        Err(AlertError::NoSilence(1))
    ));
    desk.winter_coupon().await;
    desk.run("UPDATE alerts SET kind = 'broken_promise', drop_id = 7")
        .await;
    let critical = silences(&desk, 1, now).await;
    assert!(
        matches!(critical, Err(AlertError::NoSilence(1))),
        "it is not offered"
    );
    let far = silences(&desk, 1, now + TimeDelta::days(31)).await;
    assert!(matches!(far, Err(AlertError::TooLong)));
}
