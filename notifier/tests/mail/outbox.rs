//! Mail servers that misbehave: passes go on, mails arrive once.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_shared::domain::DropId;
use firstcome_stack::{Behaviour, SinkEncryption};
use tokio_util::sync::CancellationToken;

use crate::desk::{A, B, Desk, SOON, id};
use crate::mailed::{clean, drift, repaired};

/// Longest that a pass may wait for the tables; a mail server has no part in it.
const PASS: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_server_that_is_gone_for_an_hour_delays_mails_and_nothing_else() {
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
            desk.notifier().after_pass(&run, desk.clock.now()).await.unwrap();
            assert!(begun.elapsed() < PASS, "{gone:?}");
            desk.clock.turn(TimeDelta::minutes(1));
        }
        assert!(desk.sink.mails().is_empty());
        desk.sink.set(Behaviour::Normal).await.unwrap();
        desk.clock.turn(TimeDelta::hours(2));
        let notifier = desk.notifier();
        notifier.flush(SOON).await.unwrap();
        // Repaired, to do, over, repaired; the sender in the background may have had a hand in it.
        desk.until_there_are(8).await;
        stop.cancel();
        sender.await.unwrap();
        notifier.flush(SOON).await.unwrap();
        let ids: std::collections::HashSet<String> = desk.sink.mails().iter().map(id).collect();
        assert_eq!((desk.sink.mails().len(), ids.len()), (8, 8), "{gone:?}");
        assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (4, 4));
        assert_eq!(desk.query("SELECT COUNT(*) FROM mail_outbox WHERE sent_at IS NULL").await, [["0"]]);
    }
}

#[tokio::test]
async fn a_mail_that_was_queued_by_a_clock_set_back_since_is_sent() {
    let desk = Desk::new(A).await;
    desk.notifier().after_pass(&repaired("r0"), desk.clock.now() + TimeDelta::hours(1)).await.unwrap();
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.sink.mails().len(), 1);
}

#[tokio::test]
async fn a_mail_that_waits_by_a_clock_set_back_since_is_sent() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    desk.pass(&repaired("r1")).await;
    desk.run(
        "UPDATE mail_outbox SET next_attempt_at = next_attempt_at + INTERVAL 2 DAY, leased_until = next_attempt_at",
    )
    .await;
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.sink.mails().len(), 1);
}

#[tokio::test]
async fn one_refused_recipient_is_given_up_and_the_other_gets_one_mail() {
    let desk = Desk::new(&format!("{A},{B}")).await;
    desk.sink.set(Behaviour::RefuseRecipient(A.to_owned())).await.unwrap();
    desk.pass(&repaired("r1")).await;
    assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (0, 1));
    let rows =
        desk.query("SELECT recipient, attempts, given_up_at IS NULL, last_error FROM mail_outbox ORDER BY id").await;
    assert_eq!(rows[0][..3], [A, "1", "0"]);
    assert!(rows[0][3].contains("name the recipient") && rows[0][3].contains("nobody of that name"), "{rows:?}");
    assert_eq!(rows[1], [B, "1", "1", "NULL"]);
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.clock.turn(TimeDelta::days(1));
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.sink.mails().len(), 1, "what was given up is not tried again");
}

#[tokio::test]
async fn a_silent_server_holds_no_pass_and_the_mail_comes_when_it_speaks() {
    let mut desk = Desk::new(A).await;
    desk.args.smtp_timeout_ms = 300;
    desk.sink.set(Behaviour::SilentAfterAccept).await.unwrap();
    let begun = Instant::now();
    desk.pass(&repaired("r1")).await;
    assert!(begun.elapsed() < PASS);
    let rows = desk.query("SELECT attempts, last_error FROM mail_outbox").await;
    assert_eq!(rows, [["1", "connect: no answer within 300ms"]]);
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.notifier().flush(SOON).await.unwrap();
    assert!(desk.sink.mails().is_empty(), "not before its next attempt is due");
    desk.clock.turn(TimeDelta::minutes(1));
    desk.notifier().flush(SOON).await.unwrap();
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.sink.mails().len(), 1);
}

#[tokio::test]
async fn a_mail_whose_fate_is_unknown_comes_again_under_the_same_id() {
    let mut desk = Desk::new(A).await;
    desk.args.smtp_timeout_ms = 300;
    desk.sink.set(Behaviour::SilentAfterData).await.unwrap();
    desk.pass(&repaired("r1")).await;
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.clock.turn(TimeDelta::minutes(1));
    desk.notifier().flush(SOON).await.unwrap();
    let ids: Vec<String> = desk.sink.mails().iter().map(id).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1], "mail programs show it once");
}

#[tokio::test]
async fn a_slow_server_gets_every_mail_once() {
    let desk = Desk::new(&format!("{A},{B}")).await;
    desk.sink.set(Behaviour::Slow(Duration::from_millis(100))).await.unwrap();
    let (one, two) = (desk.notifier(), desk.notifier());
    one.after_pass(&repaired("r1"), desk.clock.now()).await.unwrap();
    let (first, second) = tokio::join!(one.flush(SOON), two.flush(SOON));
    first.unwrap();
    second.unwrap();
    assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (1, 1));
}

#[tokio::test]
async fn starttls_and_tls_from_the_first_byte_work_with_a_trusted_certificate_only() {
    for tls in [SinkEncryption::StartTls, SinkEncryption::Implicit] {
        let mut desk = Desk::with_tls(A, tls).await;
        desk.pass(&repaired("r1")).await;
        assert!(desk.sink.mails().is_empty(), "{tls:?}: nobody vouches for this server");
        let error = desk.query("SELECT last_error FROM mail_outbox").await;
        assert!(error[0][0].to_lowercase().contains("certificate"), "{error:?}");
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
        desk.notifier().after_pass(&run, desk.clock.now()).await.unwrap();
    }
    let stop = CancellationToken::new();
    let senders: Vec<_> = (0..2).map(|_| tokio::spawn(desk.notifier().run_sender(stop.clone()))).collect();
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
async fn what_a_dead_sender_had_in_hand_is_sent_once_its_lease_is_over() {
    let desk = Desk::new(A).await;
    desk.notifier().after_pass(&repaired("r1"), desk.clock.now()).await.unwrap();
    desk.run("UPDATE mail_outbox SET leased_until = '2026-12-01 06:01:15'").await;
    desk.notifier().flush(SOON).await.unwrap();
    assert!(desk.sink.mails().is_empty());
    desk.clock.turn(TimeDelta::seconds(75));
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.sink.mails().len(), 1);
}

#[tokio::test]
async fn a_mail_that_could_not_be_sent_for_three_days_is_given_up() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    desk.pass(&repaired("r1")).await;
    let mut attempts = 1;
    while desk.query("SELECT COUNT(*) FROM mail_outbox WHERE given_up_at IS NULL").await == [["1"]] {
        desk.clock.turn(TimeDelta::minutes(73));
        desk.notifier().flush(SOON).await.unwrap();
        attempts += 1;
    }
    assert!(desk.clock.now() - crate::world::at(0) >= TimeDelta::days(3));
    assert_eq!(desk.query("SELECT attempts FROM mail_outbox").await, [[attempts.to_string()]]);
}

#[tokio::test]
async fn a_sender_with_a_mail_in_hand_stops_within_seconds() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::SilentAfterAccept).await.unwrap();
    desk.notifier().after_pass(&repaired("r1"), desk.clock.now()).await.unwrap();
    let stop = CancellationToken::new();
    let sender = tokio::spawn(desk.notifier().run_sender(stop.clone()));
    while desk.query("SELECT COUNT(*) FROM mail_outbox WHERE leased_until IS NULL").await != [["0"]] {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(8), sender).await.unwrap().unwrap();
}
