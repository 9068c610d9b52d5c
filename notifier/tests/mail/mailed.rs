//! Tests which mails are sent, when and how often, across restarts.

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::{Clock as _, MissedRun};
use firstcome_shared::report::{ActionKind, Kind, Run, Status};

use crate::desk::{A, B, Desk, SOON, args, parsed, text};
use crate::world::{applied, drop_report, left, run};

pub(crate) fn repaired(id: &str) -> Run {
    let findings = vec![applied(
        Kind::Unissued,
        37,
        ActionKind::Issue,
        "no row and no message",
    )];
    run(
        id,
        Status::Repaired,
        vec![drop_report(1, "Winter coupon", 7, findings)],
    )
}

pub(crate) fn drift(id: &str, slots: &[i64]) -> Run {
    let findings = slots
        .iter()
        .map(|slot| left(Kind::FailedClaim, *slot, "no slot is left"))
        .collect();
    run(
        id,
        Status::Drift,
        vec![drop_report(1, "Winter coupon", 7, findings)],
    )
}

pub(crate) fn clean(id: &str) -> Run {
    run(
        id,
        Status::Clean,
        vec![drop_report(1, "Winter coupon", 7, Vec::new())],
    )
}

#[tokio::test]
async fn repair_is_mailed_once_to_each_recipient_and_clean_pass_is_not() {
    let desk = Desk::new(&format!("{A}, Ops <{B}>")).await;
    desk.pass(&repaired("r1")).await;
    desk.pass(&repaired("r1")).await; // The same run again, as after a timeout.
    desk.pass(&clean("r2")).await;
    desk.pass(&Run {
        dry_run: true,
        ..drift("r3", &[3])
    })
    .await;
    let subject = "[firstcome] repaired: Winter coupon · 100 of 100 issued (1 issued late)";
    assert_eq!(
        (desk.subjects(A), desk.subjects(B)),
        (vec![subject.to_owned()], vec![subject.to_owned()])
    );
    let mails = desk.sink.mails();
    let mail = parsed(&mails[0]);
    assert_eq!(
        mail.from().unwrap().first().unwrap().address(),
        Some("firstcome@example.com")
    );
    assert_eq!(
        mail.header_raw("Auto-Submitted").unwrap().trim(),
        "auto-generated"
    );
    assert_eq!(
        mail.header_raw("List-Id").unwrap().trim(),
        "Firstcome <firstcome.example.com>"
    );
    assert!(mail.date().is_some() && mail.message_id().unwrap().ends_with("@example.com"));
    assert!(mail.body_text(0).unwrap().contains("slot 37 · c•••37"));
    assert!(mail.body_html(0).unwrap().contains("slot 37 · c•••37"));
    assert!(
        mail.in_reply_to().is_empty() && mail.references().is_empty(),
        "a repair does not start a thread"
    );
    assert!(mails[0].raw.is_ascii());
    let [row] = &desk
        .query("SELECT body_text, body_html FROM mail_outbox LIMIT 1")
        .await[..]
    else {
        panic!()
    };
    assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n"), row[0]);
    assert_eq!(mail.body_html(0).unwrap().replace("\r\n", "\n"), row[1]);
}

#[tokio::test]
async fn all_mails_of_one_drift_share_a_thread_across_restarts() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    for n in 2..6 {
        desk.clock.turn(TimeDelta::seconds(30));
        desk.pass(&drift(&format!("r{n}"), &[3])).await;
    }
    assert_eq!(desk.subjects(A).len(), 1);
    desk.clock.turn(TimeDelta::hours(4));
    desk.pass(&drift("r6", &[3])).await;
    desk.clock.turn(TimeDelta::minutes(1));
    desk.pass(&drift("r7", &[3, 4])).await;
    desk.clock.turn(TimeDelta::minutes(1));
    desk.pass(&clean("r8")).await;
    desk.pass(&clean("r9")).await;
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: 1 unrepaired failed claim · Winter coupon · 99 of 100 issued",
            "[firstcome] action needed: 1 unrepaired failed claim, for 4 h · Winter coupon · 99 of 100 issued",
            "[firstcome] action needed: 2 unrepaired failed claims · Winter coupon · 98 of 100 issued",
            "[firstcome] resolved: 2 unrepaired failed claims · Winter coupon · 100 of 100 issued",
        ]
    );
    let mails = desk.sink.mails();
    let threads: Vec<String> = mails
        .iter()
        .map(|mail| {
            parsed(mail)
                .references()
                .as_text()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert!(
        threads
            .iter()
            .all(|thread| *thread == threads[0] && thread.ends_with("@example.com")),
        "{threads:?}"
    );
    assert_eq!(
        parsed(&mails[1]).in_reply_to().as_text(),
        Some(threads[0].as_str())
    );
    let ids: std::collections::HashSet<String> = mails.iter().map(crate::desk::id).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(
        desk.query("SELECT status, mails FROM alerts").await,
        [["resolved", "4"]]
    );
}

#[tokio::test]
async fn resolved_alert_of_a_deleted_drop_is_mailed_once() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    desk.pass(&drift("r1", &[3])).await;
    desk.run("DELETE FROM drops WHERE id = 7").await;
    desk.run("DELETE FROM coupons WHERE id = 1").await;
    for id in ["r2", "r3"] {
        desk.pass(&run(id, Status::Clean, Vec::new())).await;
    }
    assert_eq!(
        desk.subjects(A)[1..],
        ["[firstcome] resolved: 1 unrepaired failed claim · coupon 1 · drop 7"]
    );
    assert_eq!(
        desk.query("SELECT status FROM alerts").await,
        [["resolved"]]
    );
}

#[tokio::test]
async fn broken_promise_fires_until_resolved_and_ignores_silences() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    desk.run("UPDATE drops SET silenced_until = '2026-12-30' WHERE id = 7")
        .await;
    desk.run(
        "INSERT INTO broken_promises (drop_id, user_id, coupon_id, slot, reason, run_id) \
         VALUES (7, 'customer-00101', 1, 101, 'no slot was free', 'r1')",
    )
    .await;
    desk.pass(&clean("r1")).await;
    desk.pass(&clean("r2")).await;
    desk.run("UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)")
        .await;
    desk.pass(&clean("r3")).await;
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: 1 broken promise · Winter coupon · 100 of 100 issued",
            "[firstcome] resolved: 1 broken promise · Winter coupon · 100 of 100 issued",
        ]
    );
}

#[tokio::test]
async fn frequent_repairs_are_mailed_together_and_completely() {
    let desk = Desk::new(A).await;
    for n in 0..40 {
        desk.clock.turn(TimeDelta::seconds(30));
        let id = format!("r{n:02}");
        desk.pass(&if n < 12 { repaired(&id) } else { clean(&id) })
            .await;
    }
    let one = "[firstcome] repaired: Winter coupon · 100 of 100 issued (1 issued late";
    let subjects = desk.subjects(A);
    let expected = [
        format!("{one})"),
        format!("{one})"),
        format!("{one})"),
        format!("{one}; 1 repair in earlier passes since 06:01 UTC)"),
        format!("{one}; 3 repairs in earlier passes since 06:02 UTC)"),
        "[firstcome] repaired: Winter coupon · 100 of 100 issued (3 repairs in earlier passes since 06:04 UTC)"
            .to_owned(),
    ];
    assert_eq!(subjects, expected);
    assert_eq!(
        desk.query("SELECT COUNT(*) FROM alerts WHERE status = 'firing'")
            .await,
        [["0"]]
    );
}

#[tokio::test]
async fn two_processes_that_see_the_same_drift_mail_it_once() {
    let desk = Desk::new(A).await;
    let now = desk.clock.now();
    let one = desk.notifier();
    let two = desk.notifier();
    let first = drift("r1", &[3]);
    let second = drift("r2", &[3]);
    let (first, second) = tokio::join!(one.after_pass(&first, now), two.after_pass(&second, now));
    first.unwrap();
    second.unwrap();
    one.flush(SOON).await.unwrap();
    assert_eq!(desk.subjects(A).len(), 1);
}

#[tokio::test]
async fn ten_thousand_findings_are_mailed_in_one_mail_within_seconds() {
    let desk = Desk::new(A).await;
    let slots: Vec<i64> = (1..=10_000).collect();
    let begun = std::time::Instant::now();
    desk.pass(&drift("r1", &slots)).await;
    assert_eq!(desk.subjects(A).len(), 1);
    assert!(begun.elapsed() < std::time::Duration::from_secs(10));
}

fn missed(
    expected_at: DateTime<Utc>,
    noticed_at: DateTime<Utc>,
    because: Option<&str>,
) -> MissedRun {
    MissedRun {
        schedule: "DEEP_CRON".to_owned(),
        expected_at,
        noticed_at,
        because: because.map(str::to_owned),
    }
}

#[tokio::test]
async fn pass_delayed_by_another_pass_is_mailed_once_per_cooldown() {
    let desk = Desk::new(A).await;
    for _ in 0..30 {
        let now = desk.clock.turn(TimeDelta::minutes(30));
        desk.notifier()
            .missed_run(missed(
                now - TimeDelta::minutes(10),
                now,
                Some("a pass has been running"),
            ))
            .await
            .unwrap();
    }
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.subjects(A).len(), 4, "in fifteen hours");
}

#[tokio::test]
async fn digest_is_retried_if_enqueueing_fails_and_is_mailed_once_a_day() {
    let desk = Desk::new(A).await;
    let now = desk.clock.now();
    desk.run("RENAME TABLE mail_outbox TO away").await;
    desk.notifier().daily_digest(now, now).await.unwrap_err();
    desk.run("RENAME TABLE away TO mail_outbox").await;
    let one = desk.notifier();
    let two = desk.notifier();
    let (first, second) = tokio::join!(one.daily_digest(now, now), two.daily_digest(now, now));
    first.unwrap();
    second.unwrap();
    let tomorrow = desk.clock.turn(TimeDelta::days(1));
    one.daily_digest(tomorrow, tomorrow).await.unwrap();
    // The last digest is dated a month ahead, by a clock that has been corrected since.
    desk.run("UPDATE reconciler_state SET value = '2027-01-01T00:00:00+00:00' WHERE name = 'last_run:digest'").await;
    let later = desk.clock.turn(TimeDelta::days(1));
    one.daily_digest(later, later).await.unwrap();
    one.flush(SOON).await.unwrap();
    assert_eq!(desk.subjects(A).len(), 3);
}

#[tokio::test]
async fn missed_runs_and_the_daily_digest_are_mailed() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    desk.run("UPDATE drops SET sealed_at = '2026-12-01 05:00:00', sealed_rows = 100")
        .await;
    desk.run(
        "INSERT INTO reconcile_runs (id, triggered_by, dry_run, deep, status, owner, started_at, finished_at, \
         users_examined) VALUES ('r1', 'cron', 0, 0, 'repaired', 'me', '2026-12-01 04:00:00', \
         '2026-12-01 04:00:01', 100)",
    )
    .await;
    desk.run(
        "INSERT INTO reconcile_findings (run_id, kind, action, result) VALUES ('r1', 'unissued', 'issue', 'applied')",
    )
    .await;
    desk.pass(&drift("r2", &[3])).await;
    let notifier = desk.notifier();
    let now = desk.clock.now();
    // Two daemons notice the same missed run.
    for notifier in [&notifier, &desk.notifier()] {
        notifier
            .missed_run(missed(now - TimeDelta::hours(3), now, None))
            .await
            .unwrap();
        notifier.daily_digest(now, now).await.unwrap();
    }
    notifier.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A)[1..],
        [
            "[firstcome] run missed: DEEP_CRON, 3 h late",
            "[firstcome] daily digest: 1 problem open · 1 run · 1 drop exact",
        ]
    );
    let mails = desk.sink.mails();
    let text = text(&mails[2]);
    for line in [
        "- Winter coupon (drop 7): 1 unrepaired failed claim, for 0 s (alert 1)",
        "repaired      1",
        "- Winter coupon (coupon 1, drop 7): 100 of 100 issued, verified and sealed",
        "unissued       1          1",
        "Examined, all runs together: 100 people in Redis",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn without_a_mail_server_mails_wait_in_the_outbox() {
    let desk = Desk::new(A).await;
    let silent = desk.notifier_with(&desk.db, &args(None, A));
    desk.after_pass(&silent, &repaired("r1")).await;
    silent.flush(SOON).await.unwrap();
    assert_eq!(
        desk.query("SELECT COUNT(*), COUNT(sent_at) FROM mail_outbox")
            .await,
        [["1", "0"]]
    );
    desk.notifier().flush(SOON).await.unwrap();
    assert_eq!(desk.subjects(A).len(), 1);
}

#[tokio::test]
async fn mail_server_configured_late_gets_recent_mails_and_digest_says_so() {
    let desk = Desk::new(A).await;
    let silent = desk.notifier_with(&desk.db, &args(None, A));
    desk.after_pass(&silent, &repaired("r1")).await;
    let later = desk.clock.turn(TimeDelta::days(90));
    silent.after_pass(&drift("r2", &[3]), later).await.unwrap();
    desk.clock.turn(TimeDelta::hours(1));
    let notifier = desk.notifier();
    notifier.flush(SOON).await.unwrap();
    let subjects = desk.subjects(A);
    assert!(
        subjects.len() == 1 && subjects[0].contains("action needed"),
        "{subjects:?}"
    );
    let now = desk.clock.turn(TimeDelta::hours(1));
    notifier.daily_digest(now, now).await.unwrap();
    notifier.flush(SOON).await.unwrap();
    let text = text(&desk.sink.mails()[1]);
    assert!(
        text.contains("Never sent: 1 mails from before SMTP_URL was set"),
        "{text}"
    );
}
