//! Tests which webhook events are posted and when, over real HTTP and from the outbox of a real
//! MySQL.

use std::collections::HashSet;

use chrono::TimeDelta;
use firstcome_notifier::queries::outbox::{Served, lease};
use firstcome_notifier::{WebhookArgs, test_webhook};
use tokio_util::sync::CancellationToken;

use crate::desk::{A, Desk, SOON};
use crate::mailed::{clean, drift};
use crate::outbox::{digest, patience};
use crate::receiver::{CannedReply, OTHER, Received, Receiver, SECRET};

/// Returns settings for these receivers.
pub(crate) fn posting_to(receivers: &[&Receiver]) -> WebhookArgs {
    let urls: Vec<String> = receivers.iter().map(|receiver| receiver.url()).collect();
    WebhookArgs {
        webhook_urls: Some(urls.join(",").into()),
        webhook_secret: Some(SECRET.to_owned().into()),
        webhook_timeout_ms: 15_000,
        ..WebhookArgs::default()
    }
}

async fn desk_with(receivers: &[&Receiver]) -> Desk {
    let mut desk = Desk::new(A).await;
    desk.webhooks = posting_to(receivers);
    desk
}

const OPEN: &str = "SELECT COUNT(*) FROM outbox WHERE channel = 'webhook' AND sent_at IS NULL AND given_up_at IS NULL";

#[tokio::test]
async fn every_mail_about_an_alert_has_an_event_signed_according_to_the_specification() {
    let receiver = Receiver::start().await;
    let desk = desk_with(&[&receiver]).await;
    desk.winter_coupon().await;
    for (seconds, run) in [
        (0, drift("r1", &[3])),
        (30, drift("r2", &[3])),
        (300, drift("r3", &[3, 4])),
        (30, clean("r4")),
        (30, clean("r5")),
    ] {
        desk.clock.turn(TimeDelta::seconds(seconds));
        desk.pass(&run).await;
        assert_eq!(receiver.received().len(), desk.sink.mails().len());
    }
    let mut dry = drift("r7", &[3]);
    dry.dry_run = true;
    desk.pass(&dry).await;
    let whats = [
        "alert.firing new",
        "alert.firing changed",
        "alert.resolved resolved",
    ];
    assert_eq!(receiver.whats(), whats);
    let received = receiver.received();
    let is_signed = |one: &Received| one.is_signed_by(SECRET) && !one.is_signed_by(OTHER);
    assert!(received.iter().all(is_signed));
    received.iter().for_each(Received::assert_documented);
    let ids: HashSet<&str> = received.iter().map(Received::id).collect();
    assert_eq!(ids.len(), 3);
    let first = &received[0];
    assert_eq!(first.path, "/hook?token=hunter2");
    assert_eq!(first.header("content-type"), "application/json");
    let at = crate::world::at(0).timestamp().to_string();
    assert_eq!(first.header("webhook-timestamp"), at);
    let is_clear = !first.id().contains('.');
    assert!(is_clear, "the signed text would be ambiguous");
    assert_eq!(first.json()["timestamp"], "2026-12-01T06:00:00.000Z");
    let data = &first.json()["data"];
    let fields = "coupon_id drop_id coupon issued quantity cases".split(' ');
    let fields: Vec<String> = fields.map(|field| data[field].to_string()).collect();
    assert_eq!(fields, ["1", "7", "\"Winter coupon\"", "99", "100", "1"]);
    assert!(data["what_to_do"].as_str().unwrap().contains("correct it"));
    assert!(data["alert_id"].is_i64());
    let last = &received[2].json()["data"];
    assert_eq!(last["alert_id"], data["alert_id"]);
    assert_eq!(last["coupon"], data["coupon"]);
    let names_a_user = |one: &Received| one.body.contains("customer-");
    assert!(!received.iter().any(names_a_user));
    let rows = "SELECT kind, target, body FROM outbox WHERE channel = 'webhook'";
    let rows = desk.query(rows).await;
    let shows_secret = format!("{rows:?}").contains("hunter2");
    assert!(rows.len() == 3 && !shows_secret, "{rows:?}");
}

#[tokio::test]
async fn undelivered_event_is_retried_with_the_same_id_and_a_new_signature() {
    let receiver = Receiver::start().await;
    let elsewhere = Receiver::start().await;
    let mut desk = desk_with(&[&receiver]).await;
    desk.webhooks.webhook_timeout_ms = 3_000;
    desk.after_pass(&desk.notifier(), &drift("r1", &[3])).await;
    #[rustfmt::skip]
    let replies = [
        (CannedReply::Status(500), "answered 500 Internal Server Error"),
        (CannedReply::Silent, "no answer within 3s"),
        (CannedReply::Redirect(elsewhere.url()), "answered 307 Temporary Redirect"),
        (CannedReply::Echo, "answered 404 Not Found"),
        (CannedReply::Endless(503), "answered 503 Service Unavailable"),
    ];
    for (n, (reply, error)) in (1..).zip(replies) {
        receiver.set(reply);
        desk.flush().await;
        desk.flush().await;
        let row = "SELECT attempts, last_error FROM outbox WHERE channel = 'webhook'";
        let row = desk.query(row).await.concat();
        let is_noted = row[0] == format!("{n}") && row[1].starts_with(error);
        assert!(is_noted, "{error}: {row:?}");
        desk.clock.turn(TimeDelta::hours(1));
    }
    receiver.set(CannedReply::Status(200));
    desk.flush().await;
    desk.flush().await;
    let received = receiver.received();
    assert_eq!(received.len(), 6);
    let is_same = |one: &Received| {
        one.id() == received[0].id() && one.body == received[0].body && one.is_signed_by(SECRET)
    };
    assert!(received.iter().all(is_same), "{received:?}");
    let times = received.iter().map(|one| one.header("webhook-timestamp"));
    assert_eq!(times.collect::<HashSet<_>>().len(), 6);
    let elsewhere = elsewhere.received();
    assert!(elsewhere.is_empty(), "redirects are not followed");
    assert_eq!(desk.query(OPEN).await, [["0"]]);
}

#[tokio::test]
async fn many_events_delay_no_mail() {
    let desk = desk_with(&[&Receiver::start().await]).await;
    desk.after_pass(&desk.notifier(), &drift("r1", &[3])).await;
    let columns = "created_at, next_attempt_at, channel, kind, target, subject, body";
    for _ in 0..8 {
        let double = format!(
            "INSERT INTO outbox (batch, {columns}) SELECT UUID(), {columns} FROM outbox WHERE channel = 'webhook'"
        );
        desk.run(&double).await;
    }
    desk.run("UPDATE outbox SET id = 1000 WHERE channel = 'mail'")
        .await;
    let names = desk.query("SELECT DISTINCT target FROM outbox WHERE channel = 'webhook'");
    let webhooks = names.await.concat();
    let served = Served {
        mails: true,
        webhooks,
    };
    let now = desk.clock.turn(TimeDelta::zero());
    let leased = lease(&desk.db, served, now, now + TimeDelta::minutes(1))
        .await
        .unwrap();
    assert_eq!(leased.len(), 2);
}

#[tokio::test]
async fn silent_receiver_does_not_delay_passes_mails_or_other_receivers() {
    let silent = Receiver::start().await;
    let other = Receiver::start().await;
    let mut desk = desk_with(&[&silent, &other]).await;
    desk.webhooks.webhook_timeout_ms = 60_000;
    silent.set(CannedReply::Silent);
    let stop = CancellationToken::new();
    let notifier = desk.notifier();
    let senders = tokio::spawn(notifier.clone().run_sender(stop.clone()));
    for (n, events) in (1..=3).zip(1..) {
        let mut run = drift(&format!("r{n}"), &[3]);
        run.drops[0].drop_id.0 = n;
        desk.after_pass(&notifier, &run).await;
        other.until_there_are(events).await;
        desk.until_there_are(events).await;
    }
    silent.until_there_are(1).await;
    // The first delivery to it is still in progress, and no second one has begun.
    assert_eq!(silent.received().len(), 1);
    let ended = "SELECT SUM(attempts) FROM outbox WHERE channel = 'webhook' AND sent_at IS NULL";
    assert_eq!(desk.query(ended).await, [["0"]]);
    stop.cancel();
    tokio::time::timeout(SOON, senders).await.unwrap().unwrap();
}

#[tokio::test]
async fn event_is_given_up_if_its_receiver_is_gone_for_a_day_or_for_good() {
    let receiver = Receiver::start().await;
    let desk = desk_with(&[&receiver]).await;
    receiver.set(CannedReply::Status(410));
    desk.pass(&drift("r1", &[3])).await;
    for _ in 0..4 {
        assert_eq!(desk.query(OPEN).await, [["1"]]);
        desk.flush_after(TimeDelta::minutes(73)).await;
    }
    assert_eq!(desk.query(OPEN).await, [["0"]], "five times 410 Gone");
    let digest = digest(&desk).await;
    let is_told = digest.contains("1 refused, or not sent for a day");
    assert!(is_told && !digest.contains("hunter2"), "{digest}");

    receiver.set(CannedReply::Status(500));
    desk.pass(&drift("r2", &[3, 4])).await;
    let lasted = patience(&desk).await;
    let day = TimeDelta::days(1)..TimeDelta::days(2);
    assert!(day.contains(&lasted), "{lasted}");
}

#[tokio::test]
async fn event_of_a_removed_address_is_given_up_and_delays_no_other() {
    let [removed, kept] = [Receiver::start().await, Receiver::start().await];
    let mut desk = desk_with(&[&removed, &kept]).await;
    desk.after_pass(&desk.notifier(), &drift("r1", &[3])).await;
    desk.webhooks = posting_to(&[&kept]);
    desk.flush().await;
    assert_eq!((removed.received().len(), kept.received().len()), (0, 1));
    desk.flush_after(TimeDelta::days(2)).await;
    let given_up = "SELECT COUNT(*) FROM outbox WHERE given_up_at IS NOT NULL";
    assert_eq!(desk.query(given_up).await, [["1"]]);
}

#[tokio::test]
async fn drop_is_reported_once_when_it_is_sealed() {
    let receiver = Receiver::start().await;
    let desk = desk_with(&[&receiver]).await;
    let mut sealed = clean("r1");
    sealed.drops[0].sealed = true;
    let mut dry_run = sealed.clone();
    dry_run.dry_run = true;
    for run in [dry_run, sealed.clone(), sealed] {
        desk.pass(&run).await;
    }
    assert_eq!(receiver.whats(), ["drop.sealed"]);
    let event = &receiver.received()[0];
    event.assert_documented();
    let data = event.json()["data"].clone();
    assert_eq!(
        ["drop_id", "issued"].map(|field| data[field].clone()),
        [7, 100]
    );
    assert!(desk.sink.mails().is_empty());
}

async fn tried(args: &WebhookArgs) -> (bool, String) {
    let mut said = String::new();
    let ok = test_webhook(args, |line| said = format!("{said}{line}\n"))
        .await
        .unwrap();
    (ok, said)
}

#[tokio::test]
async fn test_webhook_explains_failures() {
    let receiver = Receiver::start().await;
    let mut args = posting_to(&[&receiver]);
    let (ok, said) = tried(&args).await;
    assert!(ok && said.contains("ok     webhook 127.0.0.1:"), "{said}");
    assert!(receiver.whats() == ["test"] && receiver.received()[0].is_signed_by(SECRET));
    for (reply, says) in [
        (401, "another WEBHOOK_SECRET"),
        (302, "redirects are not followed"),
    ] {
        receiver.set(CannedReply::Status(reply));
        let (ok, said) = tried(&args).await;
        let explains = said.contains("FAILED webhook") && said.contains(says);
        assert!(!ok && explains && !said.contains("hunter2"), "{said}");
    }
    args.webhook_urls = Some("http://127.0.0.1:1/".to_owned().into());
    let (ok, said) = tried(&args).await;
    let says = ["FAILED webhook 127.0.0.1:1#", "Connection refused"];
    assert!(!ok && says.iter().all(|it| said.contains(it)), "{said}");
    let none = test_webhook(&WebhookArgs::default(), |_| {}).await;
    let error = none.unwrap_err().to_string();
    assert!(error.contains("WEBHOOK_URLS"), "{error}");
}
