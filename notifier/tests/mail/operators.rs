//! Tests the actions of operators on alerts.

use std::pin::pin;

use chrono::TimeDelta;
use firstcome_notifier::Notifier;
use firstcome_notifier::queries::alerts::{acknowledge, find, list};
use firstcome_shared::http::views::{AlertPage, ListedAlert};
use firstcome_shared::mysql::levels::NotifyRow;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::report::AlertState;
use firstcome_shared::subject::Subject;
use firstcome_stack::{LOCK_WAITS, eventually, mysql_rows};
use tokio::sync::oneshot;

use crate::desk::{A, Desk, SOON, mysql};
use crate::mailed::{clean, drift, held_back, repaired};
use crate::world::at;

/// Acknowledges an alert, however long another process holds the lock.
async fn takes(desk: &Desk, id: i64) -> Option<ListedAlert> {
    loop {
        let taken = acknowledge(&desk.db, id, "Kim".to_owned(), Operator::default());
        match taken.await {
            Err(error) if error.is_lock_wait() => {}
            taken => break taken.unwrap(),
        }
    }
}

#[tokio::test]
async fn alerts_are_listed_by_page_and_status() {
    let desk = Desk::new(A).await;
    desk.pass(&held_back("r1")).await;
    desk.clock.turn(TimeDelta::minutes(1));
    desk.pass(&drift("r2", &[3])).await;
    let kind = |page: &AlertPage| page.alerts[0].alert.kind.clone();
    let all = list(&desk.db, None, None, 1).await.unwrap();
    let found = (all.alerts.len(), kind(&all));
    assert_eq!(found, (1, "failed_claim".to_owned()));
    let rest = list(&desk.db, None, all.next_before, 1).await.unwrap();
    let found = (kind(&rest), rest.next_before);
    assert_eq!(found, ("braked".to_owned(), None));
    let json = serde_json::to_value(&rest.alerts[0]).unwrap();
    assert_eq!(json["status"], "resolved");
    assert!(json.get("name").or(json.get("told")).is_none(), "{json}");
    let firing = list(&desk.db, Some(AlertState::Firing), None, 50);
    let firing = firing.await.unwrap();
    assert_eq!(firing.alerts.len(), 1);
    let seen = &firing.alerts[0];
    let json = serde_json::to_value(seen).unwrap();
    let numbers = ["coupon_id", "drop_id", "mails"].map(|field| json[field].clone());
    assert_eq!(numbers, [1, 7, 1]);
    let times = (seen.alert.first_seen_at, seen.alert.last_mailed_at);
    assert_eq!(times, (at(60), Some(at(60))));
    assert_eq!(find(&desk.db, seen.id).await.unwrap().unwrap(), *seen);
}

#[tokio::test]
async fn acknowledged_alert_is_mailed_again_only_when_resolved() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    let taken = takes(&desk, 1).await.unwrap();
    assert_eq!(taken.alert.acknowledged_by.as_deref(), Some("Kim"));
    assert!(taken.alert.acknowledged_at.is_some());
    desk.clock.turn(TimeDelta::days(1));
    desk.pass(&drift("r2", &[3])).await;
    assert_eq!(desk.subjects(A).len(), 1);
    desk.pass(&clean("r3")).await;
    assert_eq!(desk.subjects(A).len(), 2);
    let over = takes(&desk, 1).await.unwrap();
    assert_eq!(over.alert.state, AlertState::Resolved);
    assert!(takes(&desk, 99).await.is_none());
}

/// Does something while a process records alerts, which it must wait for.
async fn after_others<T>(desk: &Desk, does: impl Future<Output = T>) -> T {
    let db = desk.db.clone();
    let (holds, held) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let records = tokio::spawn(async move {
        db.transaction("record alerts", async move |conn| {
            NotifyRow::lock(conn, Subject::Drop).await?;
            holds.send(()).unwrap();
            released.await.unwrap();
            Ok(())
        })
        .await
    });
    held.await.unwrap();
    let url = mysql().await.database_url(&desk.database);
    let waits = eventually("it waits", SOON, async || {
        mysql_rows(&url, LOCK_WAITS).await.unwrap() == [["1"]]
    });
    let mut does = pin!(does);
    tokio::select! {
        _ = &mut does => panic!("it did not wait"),
        () = waits => {}
    }
    desk.run("CREATE TABLE released (at DATETIME(3)) SELECT UTC_TIMESTAMP(3) AS at")
        .await;
    release.send(()).unwrap();
    let done = does.await;
    records.await.unwrap().unwrap();
    done
}

#[tokio::test]
async fn acknowledgement_waits_for_a_process_that_records_alerts() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    assert!(after_others(&desk, takes(&desk, 1)).await.is_some());
}

/// A mail tells the repairs that are younger than the last mail about repairs.
#[tokio::test]
async fn repairs_that_waited_for_another_mail_are_younger_than_it() {
    let desk = Desk::new(A).await;
    let run = repaired("r1");
    // By MySQL's clock, not by that of the test.
    let notifier = Notifier::new(desk.db.clone(), &desk.args, &desk.webhooks).unwrap();
    let noted = after_others(&desk, notifier.note_look(&run, Some("r1"))).await;
    noted.unwrap();
    let younger = "SELECT COUNT(*) FROM repairs WHERE repaired_at >= (SELECT at FROM released)";
    assert_eq!(desk.query(younger).await, [["1"]]);
}
