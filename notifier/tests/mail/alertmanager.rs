//! What Alertmanager is told, and that it goes on being told.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use firstcome_notifier::{Clock as _, Notifier, SeenGate, WebhookArgs};
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_stack::{AlertmanagerOptions, AlertmanagerServer, ProxyFault, eventually};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::desk::{A, Desk, SOON, mysql};
use crate::mailed::{clean, drift, repaired};
use crate::receiver::{CannedReply, Receiver};

async fn desk_with(alertmanager: &Receiver) -> Desk {
    let mut desk = Desk::new(A).await;
    let url = Some(format!("{}/prefix/", alertmanager.base()).into());
    desk.webhooks = WebhookArgs {
        alertmanager_url: url,
        alertmanager_labels: "installation=shop".into(),
        ..WebhookArgs::default()
    };
    desk.args.docs_url = Some("https://git.example.com/docs".to_owned());
    desk
}

/// What it is told now.
async fn told(notifier: &Notifier, alertmanager: &Receiver) -> Vec<Value> {
    let before = alertmanager.received().len();
    notifier.flush(SOON).await.unwrap();
    let received = alertmanager.received();
    let lists = received[before..]
        .iter()
        .flat_map(|one| one.json().as_array().unwrap().clone());
    lists.collect()
}

#[tokio::test]
async fn an_alert_is_told_with_its_labels_again_and_again_and_then_that_it_has_ended() {
    let alertmanager = Receiver::start().await;
    let desk = desk_with(&alertmanager).await;
    desk.winter_coupon().await;
    let notifier = desk.notifier();
    notifier
        .after_pass(&repaired("r0"), desk.clock.now())
        .await
        .unwrap();
    assert!(
        told(&notifier, &alertmanager).await.is_empty(),
        "a repair is no alert"
    );
    notifier
        .after_pass(&drift("r1", &[3]), desk.clock.now())
        .await
        .unwrap();
    let [first] = &told(&notifier, &alertmanager).await[..] else {
        panic!()
    };
    assert_eq!(alertmanager.received()[0].path, "/prefix/api/v2/alerts");
    let label = |name: &str| {
        first["labels"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        ["alertname", "kind", "coupon", "drop", "severity"].map(label),
        ["FirstcomeDrift", "failed_claim", "1", "7", "warning"]
    );
    assert_eq!(
        label("installation"),
        "shop",
        "two installations on one Alertmanager are two"
    );
    assert_eq!(label("alert").len(), 12, "two alerts of one kind are two");
    let annotations = &first["annotations"];
    assert_eq!(annotations["summary"], "1 unrepaired failed claim");
    let description = annotations["description"].as_str().unwrap();
    assert!(
        description.starts_with("Winter coupon (drop 7): 1 unrepaired failed claim (alert "),
        "{description}"
    );
    assert!(
        annotations["what_to_do"]
            .as_str()
            .unwrap()
            .contains("Correct the claim")
    );
    assert_eq!(
        annotations["runbook_url"],
        "https://git.example.com/docs/OPERATIONS.md#failed_claim"
    );
    assert_eq!(
        (&first["startsAt"], first.get("endsAt")),
        (&"2026-12-01T06:00:00Z".into(), None)
    );
    desk.clock.turn(TimeDelta::minutes(1));
    assert_eq!(
        told(&notifier, &alertmanager).await,
        std::slice::from_ref(first),
        "though no mail is due"
    );
    // A process that starts anew says the same.
    assert_eq!(
        told(&desk.notifier(), &alertmanager).await,
        std::slice::from_ref(first)
    );
    notifier
        .after_pass(&clean("r2"), desk.clock.turn(TimeDelta::minutes(1)))
        .await
        .unwrap();
    for notifier in [&notifier, &desk.notifier()] {
        let [over] = &told(notifier, &alertmanager).await[..] else {
            panic!()
        };
        assert_eq!(
            (&over["labels"], &over["endsAt"]),
            (&first["labels"], &"2026-12-01T06:02:00Z".into())
        );
    }
    desk.clock.turn(TimeDelta::minutes(16));
    assert!(told(&notifier, &alertmanager).await.is_empty());
    assert!(
        alertmanager
            .received()
            .iter()
            .all(|one| !one.body.contains("customer-"))
    );
}

#[tokio::test]
async fn it_is_told_of_no_more_than_mails_say() {
    let alertmanager = Receiver::start().await;
    let desk = desk_with(&alertmanager).await;
    desk.winter_coupon().await;
    desk.run("UPDATE drops SET silenced_until = '2026-12-01 07:00:00' WHERE id = 7")
        .await;
    let notifier = desk.notifier();
    notifier
        .after_pass(&drift("r1", &[3]), desk.clock.now())
        .await
        .unwrap();
    assert!(
        told(&notifier, &alertmanager).await.is_empty(),
        "its drop is silenced"
    );
    let later = desk.clock.turn(TimeDelta::hours(1));
    notifier
        .after_pass(&drift("r2", &[3]), later)
        .await
        .unwrap();
    assert_eq!(told(&notifier, &alertmanager).await.len(), 1);
    notifier.admission(SeenGate::Closed, later).await.unwrap();
    assert_eq!(
        told(&notifier, &alertmanager).await.len(),
        1,
        "a restart of Redis wakes nobody"
    );
    notifier
        .admission(SeenGate::Closed, desk.clock.turn(TimeDelta::seconds(31)))
        .await
        .unwrap();
    let two = told(&notifier, &alertmanager).await;
    assert_eq!(
        (&two[1]["labels"]["kind"], &two[1]["labels"]["severity"]),
        (&"admission_closed".into(), &"critical".into())
    );
    notifier
        .admission(SeenGate::Open, desk.clock.turn(TimeDelta::seconds(5)))
        .await
        .unwrap();
    let two = told(&notifier, &alertmanager).await;
    assert_eq!(
        (two[1].get("endsAt").is_some(), two[0].get("endsAt")),
        (true, None)
    );
}

#[tokio::test]
async fn while_mysql_is_away_what_held_before_goes_on_and_the_outage_is_told() {
    let alertmanager = Receiver::start().await;
    let desk = desk_with(&alertmanager).await;
    let proxy = mysql().await.proxy().await.unwrap();
    let url = mysql().await.database_url_via(&proxy, &desk.database);
    let settings = DbSettings {
        url: url.into(),
        pool_size: 1,
        limit: Duration::from_millis(500),
    };
    let db = Db::new(&settings).unwrap();
    let notifier = desk.notifier_with(&db, &desk.args);
    notifier
        .after_pass(&drift("r1", &[3]), desk.clock.now())
        .await
        .unwrap();
    assert_eq!(told(&notifier, &alertmanager).await.len(), 1);
    proxy.set(ProxyFault::Cut).await.unwrap();
    for n in 2..4 {
        let now = desk.clock.turn(TimeDelta::minutes(2));
        notifier
            .after_pass(&clean(&format!("r{n}")), now)
            .await
            .unwrap_err();
    }
    let kinds = |alerts: &[Value]| {
        let word = |alert: &Value| {
            let over = if alert.get("endsAt").is_some() {
                " over"
            } else {
                ""
            };
            format!("{}{over}", alert["labels"]["kind"].as_str().unwrap())
        };
        alerts.iter().map(word).collect::<Vec<_>>()
    };
    // The outbox of mails can't be read, which is an error; Alertmanager is told all the same.
    let before = alertmanager.received().len();
    drop(notifier.flush(SOON).await);
    let received = alertmanager.received();
    assert_eq!(
        kinds(received[before].json().as_array().unwrap()),
        ["failed_claim", "mysql_unreachable"]
    );
    proxy.set(ProxyFault::Pass).await.unwrap();
    while db.ping().await.is_err() {
        tokio::task::yield_now().await;
    }
    notifier
        .after_pass(&drift("r5", &[3]), desk.clock.turn(TimeDelta::minutes(2)))
        .await
        .unwrap();
    assert_eq!(
        kinds(&told(&notifier, &alertmanager).await),
        ["failed_claim", "mysql_unreachable over"]
    );
}

#[tokio::test]
async fn a_pass_has_it_told_at_once_and_one_that_was_away_is_told_later() {
    let alertmanager = Receiver::start().await;
    let desk = desk_with(&alertmanager).await;
    alertmanager.set(CannedReply::Status(500));
    let (stop, notifier) = (CancellationToken::new(), desk.notifier());
    let task = tokio::spawn(notifier.clone().run_sender(stop.clone()));
    notifier
        .after_pass(&drift("r1", &[3]), desk.clock.now())
        .await
        .unwrap();
    alertmanager.until_there_are(1).await;
    let standing = || notifier.alertmanagers().remove(0);
    eventually("its refusal is known", SOON, async || {
        standing().refused.is_some()
    })
    .await;
    let (first, since) = (standing(), desk.clock.now());
    let refused = first.refused.unwrap();
    assert_eq!(
        (refused.since, refused.last_at, first.told_at),
        (since, since, None)
    );
    assert_eq!(
        refused.answer,
        "answered 500 Internal Server Error: why it is so"
    );
    assert!(
        first.target.starts_with("127.0.0.1:") && !first.target.contains("prefix"),
        "{}",
        first.target
    );
    desk.clock.turn(TimeDelta::minutes(1));
    notifier.wake();
    eventually("it is tried again", SOON, async || {
        standing().refused.is_some_and(|one| one.last_at > since)
    })
    .await;
    let again = standing().refused.unwrap();
    assert!(
        again.since == since && again.attempts > refused.attempts,
        "{again:?}"
    );
    alertmanager.set(CannedReply::Status(200));
    notifier
        .after_pass(
            &drift("r2", &[3, 4]),
            desk.clock.turn(TimeDelta::minutes(1)),
        )
        .await
        .unwrap();
    let is_told = || {
        alertmanager
            .received()
            .iter()
            .any(|one| one.body.contains("2 unrepaired"))
    };
    eventually("it is told of both", SOON, async || is_told()).await;
    eventually("it refuses no more", SOON, async || {
        standing().refused.is_none()
    })
    .await;
    assert_eq!(
        (standing().told_at, standing().alerts),
        (Some(desk.clock.now()), 1)
    );
    stop.cancel();
    tokio::time::timeout(SOON, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_real_alertmanager_has_an_alert_as_it_is_now_until_it_has_ended() {
    let alertmanager = AlertmanagerServer::start(AlertmanagerOptions::default())
        .await
        .unwrap();
    let mut desk = Desk::new(A).await;
    desk.webhooks.alertmanager_url = Some(alertmanager.url().into());
    desk.clock.set(Utc::now() - TimeDelta::minutes(1));
    let notifier = desk.notifier();
    for (n, (run, has)) in [
        (
            drift("r1", &[3]),
            &["failed_claim: 1 unrepaired failed claim"][..],
        ),
        (
            drift("r2", &[3, 4]),
            &["failed_claim: 2 unrepaired failed claims"],
        ),
        (clean("r3"), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        notifier
            .after_pass(&run, desk.clock.turn(TimeDelta::seconds(5)))
            .await
            .unwrap();
        notifier.flush(SOON).await.unwrap();
        let alerts: Value = serde_json::from_str(&alertmanager.alerts().await.unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let line = |alert: &Value| {
            text(&alert["labels"]["kind"]) + ": " + &text(&alert["annotations"]["summary"])
        };
        assert_eq!(
            alerts
                .as_array()
                .unwrap()
                .iter()
                .map(line)
                .collect::<Vec<_>>(),
            has,
            "{n}: {alerts:#}"
        );
    }
}
