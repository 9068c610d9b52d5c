//! Tests the outbox with mail servers that misbehave: passes continue, and mails arrive later or
//! are given up.

use std::collections::HashSet;

use chrono::TimeDelta;
use firstcome_notifier::queries::outbox::{Served, lease};
use firstcome_shared::domain::DropId;
use firstcome_stack::{Behaviour, SinkEncryption};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::desk::{A, B, Desk, SOON, id, text};
use crate::mailed::{clean, drift, held_back, repaired};

/// A timeout of the mail server that exceeds [`SOON`], so that whatever waits for it is noticed.
const LONG_TIMEOUT_MS: u64 = 120_000;

/// The number of mails that arrived, and how many of them are different.
fn sent(desk: &Desk) -> (usize, usize) {
    let ids: Vec<String> = desk.sink.mails().iter().map(id).collect();
    (ids.len(), ids.iter().collect::<HashSet<_>>().len())
}

#[tokio::test]
async fn mail_server_that_is_down_for_an_hour_delays_only_mails() {
    for gone in [
        Behaviour::Down,
        Behaviour::Refuse,
        Behaviour::SilentAfterAccept,
    ] {
        let mut desk = Desk::new(&format!("{A},{B}")).await;
        desk.args.smtp_timeout_ms = LONG_TIMEOUT_MS;
        desk.sink.set(gone.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let sender = tokio::spawn(desk.notifier().run_sender(stop.clone()));
        for minute in (0..60).step_by(10) {
            let id = format!("r{minute}");
            let run = match minute {
                0 | 40 => repaired(&id),
                20 => drift(&id, &[3]),
                _ => clean(&id),
            };
            let notifier = desk.notifier();
            let ended = timeout(SOON, desk.after_pass(&notifier, &run)).await;
            assert!(ended.is_ok(), "{gone:?}: a pass waits for the mail server");
            desk.clock.turn(TimeDelta::minutes(10));
        }
        assert!(desk.sink.mails().is_empty());
        desk.sink.set(Behaviour::Normal).await.unwrap();
        // It ends before the clock is set: two hours expire the lease of a delivery in progress,
        // and the mail would be sent again.
        stop.cancel();
        sender.await.unwrap();
        desk.flush_after(TimeDelta::hours(2)).await;
        // Three mails (repaired, action needed, resolved) to two recipients; later repairs wait for
        // an hour.
        assert_eq!(sent(&desk), (6, 6), "{gone:?}");
        assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (3, 3));
        let unsent = "SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL";
        assert_eq!(desk.query(unsent).await, [["0"]]);
    }
}

#[tokio::test]
async fn recipient_that_is_refused_five_times_is_given_up_and_the_other_gets_one_mail() {
    let desk = Desk::new(&format!("{A},{B}")).await;
    let refuses = Behaviour::RefuseRecipient(A.to_owned());
    desk.sink.set(refuses).await.unwrap();
    desk.pass(&repaired("r1")).await;
    for _ in 0..5 {
        desk.flush_after(TimeDelta::hours(1)).await;
    }
    assert_eq!((desk.subjects(A).len(), desk.subjects(B).len()), (0, 1));
    let rows = "SELECT target, given_up_at IS NULL, last_error FROM outbox ORDER BY id";
    let rows = desk.query(rows).await;
    assert_eq!(rows[0][..2], [A, "0"]);
    let reply_and_advice = "nobody of that name -> the server does not take mail";
    assert!(rows[0][2].contains(reply_and_advice), "{rows:?}");
    assert_eq!(rows[1], [B, "1", "NULL"]);
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.flush_after(TimeDelta::hours(18)).await;
    let mails = desk.sink.mails().len();
    assert_eq!(mails, 1, "a mail that was given up is not retried");
    desk.run(
        "INSERT INTO reconcile_runs (id, triggered_by, dry_run, deep, status, owner, started_at, finished_at) \
         VALUES ('r0', 'cron', 0, 0, 'clean', 'me', '2026-12-01 12:00', '2026-12-01 12:00')",
    )
    .await;
    let digest = digest(&desk).await;
    let says = "1 refused, or not sent for a day";
    assert!(digest.contains(says) && !digest.contains(A), "{digest}");
    assert!(!digest.contains("Nothing needs an operator"), "{digest}");
}

#[tokio::test]
async fn digest_counts_the_addresses_that_it_does_not_name() {
    let desk = Desk::new(A).await;
    let given_up =
        |n: u32| format!("('webhook', 'x', 'b', 'host-{n:02}', 's', 'b', '2026-12-01 06:00')");
    let rows: Vec<String> = (0..23).map(given_up).collect();
    let insert = "INSERT INTO outbox \
        (channel, kind, batch, target, subject, body, given_up_at) VALUES ";
    desk.run(&format!("{insert}{}", rows.join(", "))).await;
    let digest = digest(&desk).await;
    for says in [
        "23 addresses miss mails",
        "webhook host-19: 1",
        "and 3 more",
    ] {
        assert!(digest.contains(says), "{says}: {digest}");
    }
    assert!(!digest.contains("host-20"), "{digest}");
}

/// Mails a daily digest now, and returns its text.
pub(crate) async fn digest(desk: &Desk) -> String {
    let now = desk.clock.turn(TimeDelta::seconds(1));
    desk.notifier().daily_digest(now, now).await.unwrap();
    desk.flush().await;
    text(desk.sink.mails().last().unwrap())
}

#[tokio::test]
async fn slow_mail_server_gets_one_copy_and_delays_only_later_mails_to_the_same_address() {
    let mut desk = Desk::new(A).await;
    desk.args.smtp_timeout_ms = LONG_TIMEOUT_MS;
    desk.sink.set(Behaviour::SlowAfterData).await.unwrap();
    let first = desk.notifier();
    desk.after_pass(&first, &drift("r1", &[3])).await;
    let slow = tokio::spawn(async move { first.flush(SOON).await });
    desk.until_there_are(1).await;
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.clock.turn(TimeDelta::seconds(70));
    let mut to_both = desk.args.clone();
    to_both.alert_to = Some(format!("{A},{B}"));
    let second = desk.notifier_with(&desk.db, &to_both);
    desk.after_pass(&second, &held_back("r2")).await;
    second.flush(SOON).await.unwrap();
    let mails = [A, B].map(|recipient| desk.subjects(recipient).len());
    assert_eq!(mails, [1, 1], "another address does not wait");
    assert!(!slow.is_finished());
    desk.sink.respond();
    slow.await.unwrap().unwrap();
    desk.flush_after(TimeDelta::hours(1)).await;
    assert_eq!(desk.subjects(A).len(), 2, "none is sent again");
    let rows = "SELECT attempts, sent_at IS NULL FROM outbox";
    assert_eq!(desk.query(rows).await, [["1", "0"]; 3]);
}

/// Ends a sender, whatever the mail server does. A delivery must be able to last longer.
async fn ends(sender: JoinHandle<()>, stop: &CancellationToken) {
    stop.cancel();
    let ended = timeout(SOON, sender).await;
    let ended = ended.expect("a mail in progress does not delay shutdown");
    ended.unwrap();
}

#[tokio::test]
async fn mail_with_unknown_outcome_is_sent_again_under_the_same_id() {
    let mut desk = Desk::new(A).await;
    desk.args.smtp_timeout_ms = LONG_TIMEOUT_MS;
    desk.sink.set(Behaviour::SilentAfterData).await.unwrap();
    desk.after_pass(&desk.notifier(), &repaired("r1")).await;
    let stop = CancellationToken::new();
    let sender = tokio::spawn(desk.notifier().run_sender(stop.clone()));
    desk.until_there_are(1).await;
    ends(sender, &stop).await;
    desk.sink.set(Behaviour::Normal).await.unwrap();
    desk.flush_after(TimeDelta::minutes(5)).await;
    assert_eq!(sent(&desk), (2, 1), "mail programs show it once");
}

#[tokio::test]
async fn starttls_and_tls_from_the_first_byte_work_with_a_trusted_certificate_only() {
    for tls in [SinkEncryption::StartTls, SinkEncryption::Implicit] {
        let mut desk = Desk::with_tls(A, tls).await;
        desk.pass(&repaired("r1")).await;
        assert!(desk.sink.mails().is_empty(), "{tls:?}: it is not trusted");
        let error = desk.query("SELECT last_error FROM outbox").await.concat();
        let error = error.concat().to_lowercase();
        assert!(error.contains("certificate"), "{error}");
        desk.trust();
        desk.flush_after(TimeDelta::minutes(1)).await;
        assert_eq!(desk.sink.mails().len(), 1, "{tls:?}");
    }
}

/// Leases what is due, as a sender that has a mail server.
async fn due(desk: &Desk) -> usize {
    let served = Served {
        mails: true,
        webhooks: Vec::new(),
    };
    let now = desk.clock.now();
    let leased = lease(&desk.db, served, now, now).await;
    leased.unwrap().len()
}

#[tokio::test]
async fn pause_that_a_target_asks_for_holds_its_messages_unless_the_clock_was_set_back() {
    let desk = Desk::new(A).await;
    desk.after_pass(&desk.notifier(), &repaired("r1")).await;
    for (next_attempt_at, expected) in [("08:00", 0), ("11:59", 0), ("12:30", 1)] {
        let put_off = format!(
            "UPDATE outbox SET attempts = 1, next_attempt_at = '2026-12-01 {next_attempt_at}'"
        );
        desk.run(&put_off).await;
        assert_eq!(due(&desk).await, expected, "{next_attempt_at}");
    }
    desk.run("UPDATE outbox SET next_attempt_at = '2026-12-01 08:00', leased_until = NULL")
        .await;
    desk.after_pass(&desk.notifier(), &drift("r2", &[3])).await;
    assert_eq!(due(&desk).await, 0, "a new message waits behind it");
    desk.run("UPDATE outbox SET attempts = 9 WHERE attempts = 1")
        .await;
    assert_eq!(due(&desk).await, 1, "its target may be back");
}

#[tokio::test]
async fn mails_arrive_in_order_as_soon_as_the_server_is_back() {
    let desk = Desk::new(&format!("{A},{B}")).await;
    desk.winter_coupon().await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    desk.pass(&drift("r1", &[3])).await;
    for _ in 0..7 {
        desk.flush_after(TimeDelta::hours(1)).await;
    }
    desk.sink.set(Behaviour::Normal).await.unwrap();
    let mut only_a = desk.args.clone();
    only_a.alert_to = Some(A.to_owned());
    let notifier = desk.notifier_with(&desk.db, &only_a);
    desk.after_pass(&notifier, &clean("r2")).await;
    desk.flush().await;
    let place = "1 unrepaired failed claim · Winter coupon";
    let began = format!("[firstcome] action needed: {place} · 99 of 100 issued");
    let over = format!("[firstcome] resolved: {place} · 0 of 100 issued");
    assert_eq!(desk.subjects(A), [began.clone(), over]);
    assert_eq!(desk.subjects(B), [began]);
}

#[tokio::test]
async fn two_senders_at_once_send_each_mail_once() {
    let mut desk = Desk::new(&format!("{A},{B},c@example.org,d@example.org")).await;
    desk.args.smtp_timeout_ms = LONG_TIMEOUT_MS;
    for n in 0..10 {
        let mut run = drift(&format!("r{n}"), &[3]);
        run.drops[0].drop_id = DropId(n);
        desk.after_pass(&desk.notifier(), &run).await;
        desk.clock.turn(TimeDelta::minutes(10));
    }
    let stop = CancellationToken::new();
    let senders = [(); 2].map(|()| tokio::spawn(desk.notifier().run_sender(stop.clone())));
    desk.until_there_are(40).await;
    for sender in senders {
        ends(sender, &stop).await;
    }
    desk.flush().await;
    assert_eq!(sent(&desk), (40, 40));
}

#[tokio::test]
async fn mail_of_a_dead_sender_is_sent_when_its_lease_expires_and_before_later_ones() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    desk.after_pass(&desk.notifier(), &drift("r1", &[3])).await;
    let lease = "UPDATE outbox SET leased_until = '2026-12-01 06:04:00'";
    desk.run(lease).await;
    desk.pass(&clean("r2")).await;
    assert_eq!(desk.subjects(A), [""; 0]);
    desk.flush_after(TimeDelta::minutes(4)).await;
    let subjects = desk.subjects(A);
    let kinds = subjects.iter().map(|subject| subject.split(':').next());
    let kinds: Vec<&str> = kinds.flatten().collect();
    assert_eq!(kinds, ["[firstcome] action needed", "[firstcome] resolved"]);
}

/// Sends until everything is sent or given up. Returns how long that took.
pub(crate) async fn patience(desk: &Desk) -> TimeDelta {
    let open = "SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL AND given_up_at IS NULL";
    let begun = desk.clock.now();
    while desk.query(open).await != [["0"]] {
        desk.flush_after(TimeDelta::minutes(73)).await;
    }
    desk.clock.now() - begun
}

#[tokio::test]
async fn mail_that_cannot_be_sent_for_a_day_is_given_up() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    desk.pass(&repaired("r1")).await;
    let lasted = patience(&desk).await;
    let day = TimeDelta::days(1)..TimeDelta::days(2);
    assert!(day.contains(&lasted), "{lasted}");
}

#[tokio::test]
async fn digest_waits_for_the_mail_server_and_the_next_one_counts_what_was_given_up() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    let now = desk.clock.now();
    desk.notifier().daily_digest(now, now).await.unwrap();
    desk.flush().await;
    let waits = "SELECT COUNT(*) FROM outbox WHERE kind = 'digest' AND sent_at IS NULL \
        AND given_up_at IS NULL";
    assert_eq!(desk.query(waits).await, [["1"]]);
    desk.flush_after(TimeDelta::hours(27)).await;
    assert_eq!(desk.query(waits).await, [["0"]]);
    desk.sink.set(Behaviour::Normal).await.unwrap();
    let next = digest(&desk).await;
    assert!(next.contains("1 address misses mails"), "{next}");
    assert_eq!(desk.sink.mails().len(), 1);
}

#[tokio::test]
async fn mail_that_no_process_tried_again_for_a_day_is_given_up_with_its_last_error() {
    let desk = Desk::new(A).await;
    desk.sink.set(Behaviour::Down).await.unwrap();
    desk.pass(&repaired("r1")).await;
    let error =
        "SELECT last_error FROM outbox WHERE given_up_at IS NULL AND last_error IS NOT NULL";
    let error = desk.query(error).await;
    assert!(!error.is_empty(), "one attempt failed");
    desk.flush_after(TimeDelta::hours(27)).await;
    let given_up = "SELECT last_error FROM outbox WHERE given_up_at IS NOT NULL";
    assert_eq!(desk.query(given_up).await, error);
}
