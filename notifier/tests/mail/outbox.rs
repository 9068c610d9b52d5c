//! Tests mail servers that misbehave: passes continue, and each mail arrives once.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_shared::domain::DropId;
use firstcome_stack::{Behaviour, SinkEncryption};
use tokio_util::sync::CancellationToken;

use crate::desk::{A, B, Desk, SOON, id, text};
use crate::mailed::{clean, drift, repaired};

/// Maximum time for which a pass may wait for the tables. It never waits for a mail server.
const PASS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn mail_server_that_is_down_for_an_hour_delays_only_mails() {
    for gone in [Behaviour::Down, Behaviour::Refuse] {
        let desk = Desk::new(&format!("{A},{B}")).await;
        desk.sink.set(gone.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let sender = tokio::spawn(desk.notifier().run_sender(stop.clone()));
        for minute in 0..60 {
            let begun = Instant::now();
            let id = format!("r{minute}");
            let run = match minute {
                0 | 40 => repaired(&id),
                20 => drift(&id, &[3]),
                _ => clean(&id),
            };
            desk.after_pass(&desk.notifier(), &run).await;
            assert!(begun.elapsed() < PASS, "{gone:?}");
            desk.clock.turn(TimeDelta::minutes(1));
        }
        assert!(desk.sink.mails().is_empty());
        desk.sink.set(Behaviour::Normal).await.unwrap();
        desk.clock.turn(TimeDelta::hours(2));
        let notifier = desk.notifier();
        notifier.flush(SOON).await.unwrap();
        // Four mails (repaired, action needed, resolved, repaired) to two recipients. The sender in
        // the background may already have sent some of them.
        desk.until_there_are(8).await;
        stop.cancel();
        sender.await.unwrap();
        notifier.flush(SOON).await.unwrap();
        let ids: std::collections::HashSet<String> = desk.sink.mails().iter().map(id).collect();
        assert_eq!((desk.sink.mails().len(), ids.len()), (8, 8), "{gone:?}");
        assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (4, 4));
        assert_eq!(
            desk.query("SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL")
                .await,
            [["0"]]
        );
    }
}

#[tokio::test]
async fn recipient_that_is_refused_five_times_is_given_up_and_the_other_gets_one_mail() {
    let desk = Desk::new(&format!("{A},{B}")).await;
    desk.sink
        .set(Behaviour::RefuseRecipient(A.to_owned()))
        .await
        .unwrap();
    desk.pass(&repaired("r1")).await;
    for _ in 0..5 {
        desk.clock.turn(TimeDelta::hours(1));
        desk.notifier().flush(SOON).await.unwrap();
    }
    assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (0, 1));
    let rows = desk
        .query("SELECT target, given_up_at IS NULL, last_error FROM outbox ORDER BY id")
        .await;
    assert_eq!(rows[0][..2], [A, "0"]);
    assert!(rows[0][2].contains("nobody of that name"), "{rows:?}");
    assert_eq!(rows[1], [B, "1", "NULL"]);
    let now = desk.clock.turn(TimeDelta::hours(18));
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(
        desk.sink.mails().len(),
        1,
        "a mail that was given up is not retried"
    );
    desk.notifier().daily_digest(now, now).await.unwrap();
    desk.notifier().flush(SOON).await.unwrap();
    let mails = desk.sink.mails();
    let text = text(mails.last().unwrap());
    let says = "1 refused, or not sent for a day";
    assert!(text.contains(says) && !text.contains(A), "{text}");
}

#[tokio::test]
async fn slow_mail_server_gets_one_copy_and_does_not_delay_other_mails() {
    let desk = Desk::new(A).await;
    desk.sink
        .set(Behaviour::SlowAfterData(Duration::from_secs(6)))
        .await
        .unwrap();
    let first = desk.notifier();
    let second = desk.notifier();
    desk.after_pass(&first, &drift("r1", &[3])).await;
    let slow = tokio::spawn(async move { first.flush(SOON).await });
    desk.until_there_are(1).await;
    desk.sink.set(Behaviour::Normal).await.unwrap();
    let now = desk.clock.turn(TimeDelta::seconds(70));
    second.after_pass(&drift("r2", &[3, 4]), now).await.unwrap();
    second.flush(Duration::from_secs(2)).await.unwrap();
    assert_eq!(
        desk.sink.mails().len(),
        2,
        "other mails do not wait, and this one is not sent again"
    );
    slow.await.unwrap().unwrap();
    desk.clock.turn(TimeDelta::hours(1));
    second.flush(SOON).await.unwrap();
    let rows = desk
        .query("SELECT attempts, sent_at IS NULL FROM outbox")
        .await;
    assert_eq!(
        (desk.sink.mails().len(), rows),
        (2, vec![vec!["1".to_owned(), "0".to_owned()]; 2])
    );
}

#[tokio::test]
async fn mail_with_unknown_outcome_is_sent_again_under_the_same_id() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::SilentAfterData).await.unwrap();
    let sender = desk.notifier();
    desk.after_pass(&sender, &repaired("r1")).await;
    let stop = CancellationToken::new();
    let sending = tokio::spawn(sender.run_sender(stop.clone()));
    desk.until_there_are(1).await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(8), sending)
        .await
        .expect("a mail in progress does not delay shutdown")
        .unwrap();
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.clock.turn(TimeDelta::minutes(5));
    desk.notifier().flush(SOON).await.unwrap();
    let ids: Vec<String> = desk.sink.mails().iter().map(id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "mail programs show it once");
}

#[tokio::test]
async fn starttls_and_tls_from_the_first_byte_work_with_a_trusted_certificate_only() {
    for tls in [SinkEncryption::StartTls, SinkEncryption::Implicit] {
        let mut desk = Desk::with_tls(A, tls).await;
        desk.pass(&repaired("r1")).await;
        assert!(
            desk.sink.mails().is_empty(),
            "{tls:?}: this server's certificate is not trusted"
        );
        let error = desk.query("SELECT last_error FROM outbox").await;
        assert!(
            error[0][0].to_lowercase().contains("certificate"),
            "{error:?}"
        );
        desk.trust();
        desk.clock.turn(TimeDelta::minutes(1));
        desk.notifier().flush(SOON).await.unwrap();
        assert_eq!(desk.sink.mails().len(), 1, "{tls:?}");
    }
}

#[tokio::test]
async fn two_senders_at_once_send_each_mail_once() {
    let desk = Desk::new(&format!("{A},{B},c@example.org,d@example.org")).await;
    for n in 0..25 {
        let mut run = repaired(&format!("r{n}"));
        run.drops[0].drop_id = DropId(n);
        desk.after_pass(&desk.notifier(), &run).await;
    }
    let stop = CancellationToken::new();
    let senders: Vec<_> = (0..2)
        .map(|_| tokio::spawn(desk.notifier().run_sender(stop.clone())))
        .collect();
    desk.until_there_are(100).await;
    stop.cancel();
    for sender in senders {
        sender.await.unwrap();
    }
    desk.notifier().flush(SOON).await.unwrap();
    let ids: std::collections::HashSet<String> = desk.sink.mails().iter().map(id).collect();
    assert_eq!((desk.sink.mails().len(), ids.len()), (100, 100));
}

#[tokio::test]
async fn mail_of_a_dead_sender_is_sent_when_its_lease_expires() {
    let desk = Desk::new(A).await;
    desk.after_pass(&desk.notifier(), &repaired("r1")).await;
    desk.run("UPDATE outbox SET leased_until = '2026-12-01 06:04:00'")
        .await;
    desk.notifier().flush(SOON).await.unwrap();
    assert!(desk.sink.mails().is_empty());
    desk.clock.turn(TimeDelta::minutes(4));
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.sink.mails().len(), 1);
}

#[tokio::test]
async fn mail_that_cannot_be_sent_for_a_day_is_given_up() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    desk.pass(&repaired("r1")).await;
    let mut attempts = 1;
    while desk
        .query("SELECT COUNT(*) FROM outbox WHERE given_up_at IS NULL")
        .await
        == [["1"]]
    {
        desk.clock.turn(TimeDelta::minutes(73));
        desk.notifier().flush(SOON).await.unwrap();
        attempts += 1;
    }
    assert!(desk.clock.now() - crate::world::at(0) >= TimeDelta::days(1));
    assert_eq!(
        desk.query("SELECT attempts FROM outbox").await,
        [[attempts.to_string()]]
    );
}

#[tokio::test]
async fn sender_stops_within_seconds_while_the_mail_server_is_silent() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::SilentAfterAccept).await.unwrap();
    desk.after_pass(&desk.notifier(), &repaired("r1")).await;
    let stop = CancellationToken::new();
    let sender = tokio::spawn(desk.notifier().run_sender(stop.clone()));
    while desk
        .query("SELECT COUNT(*) FROM outbox WHERE leased_until IS NULL")
        .await
        != [["0"]]
    {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(8), sender)
        .await
        .unwrap()
        .unwrap();
}
