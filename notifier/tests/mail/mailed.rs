//! Tests which mails are sent, when and how often, across restarts.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::{Notifier, NotifyArgs, ScheduledRun, WatchedSchedule};
use firstcome_shared::process_state::{ProcessState, StoreState};
use firstcome_shared::report::{ActionKind, Finding, Kind, Outcome, Run, Status};
use firstcome_stack::WRITE_LIMITS;

use crate::desk::{A, B, Desk, parsed, text, thread};
use crate::world::{applied, drop_report, finding, left, run};

/// Returns a pass over drop 7.
fn of_winter(id: &str, status: Status, findings: Vec<Finding>) -> Run {
    let drop = drop_report(1, "Winter coupon", 7, findings);
    run(id, status, vec![drop])
}

fn late(slot: i64) -> Finding {
    applied(Kind::Unissued, slot, ActionKind::Issue, "no row")
}

pub(crate) fn repaired(id: &str) -> Run {
    of_winter(id, Status::Repaired, vec![late(37)])
}

pub(crate) fn drift(id: &str, slots: &[i64]) -> Run {
    let failed = |slot: &i64| left(Kind::FailedClaim, *slot, "no slot is left");
    of_winter(id, Status::Drift, slots.iter().map(failed).collect())
}

pub(crate) fn held_back(id: &str) -> Run {
    let (action, result) = (ActionKind::Project, Outcome::Planned);
    let held = finding(Kind::MissingAdmission, 3, action, result);
    of_winter(id, Status::Braked, vec![held])
}

pub(crate) fn clean(id: &str) -> Run {
    of_winter(id, Status::Clean, Vec::new())
}

#[tokio::test]
async fn repair_is_mailed_once_to_each_recipient_but_clean_pass_and_dry_run_are_not() {
    let desk = Desk::new(&format!("{A}, Ops <{B}>")).await;
    let mut dry_run = drift("r3", &[3]);
    dry_run.dry_run = true;
    // The run `r1` comes twice, as after a timeout.
    for run in [repaired("r1"), repaired("r1"), clean("r2"), dry_run] {
        desk.pass(&run).await;
    }
    let subject = "[firstcome] repaired: Winter coupon · 100 of 100 issued · 1 missing row written";
    assert_eq!([desk.subjects(A), desk.subjects(B)], [[subject], [subject]]);
    let mails = desk.sink.mails();
    let mail = parsed(&mails[0]);
    let from = mail.from().unwrap().first().unwrap().address();
    assert_eq!(from, Some("firstcome@example.com"));
    for (header, value) in [
        ("Auto-Submitted", "auto-generated"),
        ("List-Id", "Firstcome <firstcome.example.com>"),
    ] {
        assert_eq!(mail.header_raw(header).unwrap().trim(), value);
    }
    assert!(mail.date().is_some() && mail.message_id().unwrap().ends_with("@example.com"));
    let answers_none = mail.in_reply_to().is_empty() && mail.references().is_empty();
    assert!(answers_none, "a repair belongs to no thread");
    assert!(mails[0].raw.is_ascii());
    let rows = desk.query("SELECT body, html FROM outbox LIMIT 1").await;
    let parts = [mail.body_text(0), mail.body_html(0)].map(Option::unwrap);
    for (part, row) in parts.iter().zip(&rows[0]) {
        assert!(part.contains("slot 37 · c•••37"), "{part}");
        assert_eq!(part.replace("\r\n", "\n"), *row);
    }
}

#[tokio::test]
async fn all_mails_of_one_drift_share_a_thread_across_restarts() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    desk.pass(&drift("r1", &[3])).await;
    for n in 2..6 {
        desk.clock.turn(TimeDelta::seconds(30));
        desk.pass(&drift(&format!("r{n}"), &[3])).await;
    }
    assert_eq!(desk.subjects(A).len(), 1);
    desk.clock.turn(TimeDelta::hours(4));
    desk.pass(&drift("r6", &[3])).await;
    // The interval between two mails about one problem has doubled.
    desk.clock.turn(TimeDelta::minutes(10));
    desk.pass(&drift("r7", &[3, 4])).await;
    desk.clock.turn(TimeDelta::minutes(1));
    desk.pass(&clean("r8")).await;
    desk.pass(&clean("r9")).await;
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: 1 unrepaired failed claim · Winter coupon · 99 of 100 issued",
            "[firstcome] action needed: 1 unrepaired failed claim (for 4 h) · Winter coupon · 99 of 100 issued",
            "[firstcome] action needed: 2 unrepaired failed claims · Winter coupon · 98 of 100 issued",
            "[firstcome] resolved: 2 unrepaired failed claims · Winter coupon · 0 of 100 issued",
        ]
    );
    let mails = desk.sink.mails();
    let threads: Vec<String> = mails.iter().map(thread).collect();
    let is_same = |it: &String| *it == threads[0] && it.ends_with("@example.com");
    assert!(threads.iter().all(is_same), "{threads:?}");
    let answers = parsed(&mails[1]).in_reply_to().as_text().map(str::to_owned);
    assert_eq!(answers.as_ref(), Some(&threads[0]));
    let ids: std::collections::HashSet<String> = mails.iter().map(crate::desk::id).collect();
    assert_eq!(ids.len(), 4);
    let alerts = desk.query("SELECT ended_at IS NULL, tells FROM told").await;
    assert_eq!(alerts, [["0", "3"]]);
}

/// Mails link to the numbers of alerts.
#[tokio::test]
async fn alert_that_fires_again_has_another_number_and_the_first_alert_stays() {
    let desk = Desk::new(A).await;
    for (n, run) in [drift("r1", &[3]), clean("r2"), drift("r3", &[4])]
        .iter()
        .enumerate()
    {
        desk.clock
            .turn(TimeDelta::minutes(i64::try_from(n).unwrap()));
        desk.pass(run).await;
    }
    let alerts = "SELECT ended_at IS NULL FROM told ORDER BY id";
    assert_eq!(desk.query(alerts).await, [["0"], ["1"]]);
    let ids = desk.query("SELECT id FROM told ORDER BY id").await;
    let mails = desk.sink.mails();
    for (mail, id) in [(0, &ids[0][0]), (2, &ids[1][0])] {
        let link = format!("/v1/alerts/{id}/acknowledge");
        assert!(
            text(&mails[mail]).contains(&link),
            "{link}: {}",
            text(&mails[mail])
        );
    }
}

#[tokio::test]
async fn repairs_of_an_hour_are_mailed_together_and_completely() {
    let desk = Desk::new(A).await;
    for n in 0..140 {
        desk.clock.turn(TimeDelta::seconds(30));
        let id = format!("r{n:03}");
        desk.pass(&if n < 12 { repaired(&id) } else { clean(&id) })
            .await;
    }
    for run in [repaired("s1"), clean("s2"), clean("s3")] {
        desk.clock.turn(TimeDelta::hours(6));
        desk.pass(&run).await;
    }
    let place = "[firstcome] repaired: Winter coupon · 100 of 100 issued";
    let later =
        "1 missing row written; 10 promises without a row in earlier passes since 06:01 UTC";
    let expected = [
        format!("{place} · 1 missing row written"),
        format!("{place} · {later}"),
        format!("{place} · 1 missing row written"),
    ];
    assert_eq!(desk.subjects(A), expected, "each repair is in one mail");
    let text = text(&desk.sink.mails()[1]);
    assert!(
        text.contains("06:03:00 UTC: 1 promise without a row"),
        "{text}"
    );
}

#[tokio::test]
async fn two_processes_that_see_the_same_drift_mail_it_once() {
    let desk = Desk::new(A).await;
    desk.heartbeat("daemon", &ProcessState::default()).await;
    let one = desk.notifier();
    let two = desk.notifier();
    desk.after_pass(&without_recipients(&desk), &drift("r1", &[3]))
        .await;
    let evaluate = |it: Notifier| async move { it.evaluate(Vec::new()).await };
    let (first, second) = tokio::join!(evaluate(one), evaluate(two));
    let tells = [first.unwrap(), second.unwrap()];
    assert_ne!(tells[0], tells[1], "one of them tells it");
    desk.flush().await;
    assert_eq!(desk.subjects(A).len(), 1);
}

/// A schedule that is due an hour after its last run.
fn hourly(schedule: ScheduledRun, key: &'static str, from: DateTime<Utc>) -> WatchedSchedule {
    WatchedSchedule {
        schedule,
        key,
        from,
        next_after: Arc::new(|last| Some(last + TimeDelta::hours(1))),
    }
}

#[tokio::test]
async fn digest_is_retried_if_enqueueing_fails_and_is_mailed_once_a_day() {
    let desk = Desk::new(A).await;
    let [one, two] = [desk.notifier(), desk.notifier()];
    let now = desk.clock.now();
    desk.run("RENAME TABLE outbox TO away").await;
    one.daily_digest(now, now).await.unwrap_err();
    desk.run("RENAME TABLE away TO outbox").await;
    let (first, second) = tokio::join!(one.daily_digest(now, now), two.daily_digest(now, now));
    first.unwrap();
    second.unwrap();
    // The last digest is dated a month ahead, by a clock that has been corrected since.
    let ahead = "UPDATE reconciler_state SET value = '2027-01-01T00:00:00+00:00' WHERE name = 'last_run:digest'";
    for change in ["DO 1", ahead] {
        desk.flush().await;
        desk.run(change).await;
        let tomorrow = desk.clock.turn(TimeDelta::days(1));
        one.daily_digest(tomorrow, tomorrow).await.unwrap();
    }
    desk.flush().await;
    assert_eq!(desk.subjects(A).len(), 3);
}

#[tokio::test]
async fn digest_covers_the_time_since_the_last_one_for_a_week_at_most() {
    let desk = Desk::new(A).await;
    for (hours, says) in [
        (0, "From 2026-11-30 06:00"),
        (26, "From 2026-12-01 06:00"),
        (3, "From 2026-12-01 11:00"),
        (240, "From 2026-12-05 11:00"),
    ] {
        let now = desk.clock.turn(TimeDelta::hours(hours));
        desk.notifier().daily_digest(now, now).await.unwrap();
        desk.flush().await;
        let digest = text(desk.sink.mails().last().unwrap());
        assert!(digest.contains(says), "{says}: {digest}");
    }
}

#[tokio::test]
async fn missed_run_and_daily_digest_of_two_daemons_are_mailed_once() {
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
        "INSERT INTO repairs (run_id, drop_id, kind, number, repaired_at) \
         VALUES ('r1', 7, 'unissued', 3, '2026-12-01 04:00:01')",
    )
    .await;
    desk.pass(&drift("r2", &[3])).await;
    let now = desk.clock.now();
    // Two daemons notice the same missed run.
    let from = now - TimeDelta::hours(4);
    for _ in 0..2 {
        let deep = hourly(ScheduledRun::Deep, "last_run:deep", from);
        desk.evaluate_with(vec![deep]).await;
        desk.notifier().daily_digest(now, now).await.unwrap();
    }
    desk.flush().await;
    assert_eq!(
        desk.subjects(A)[1..],
        [
            "[firstcome] action needed: a run of DEEP_CRON is late (for 3 h)",
            "[firstcome] daily digest: 1 problem open · 1 run · 1 drop exact",
        ]
    );
    let mails = desk.sink.mails();
    let text = text(&mails[2]);
    for line in [
        "- Winter coupon, drop 7: 1 unrepaired failed claim, for 0 s (alert 1)",
        "Runs: 1 repaired",
        "- Winter coupon (coupon 1, drop 7): 100 of 100 issued, verified and sealed",
        "Repaired: 3 promises without a row",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// The next run ends the alert about a late run, but only a deep run ends the alert about a late
/// deep one.
#[tokio::test]
async fn notice_about_a_late_run_is_followed_by_one_when_it_is_over() {
    let desk = Desk::new(A).await;
    let from = desk.clock.now();
    let [reconcile, deep] = ["last_run:reconcile", "last_run:deep"];
    let schedules = || {
        vec![
            hourly(ScheduledRun::Reconcile, reconcile, from),
            hourly(ScheduledRun::Deep, deep, from),
        ]
    };
    let ran = async |key: &'static str| {
        let now = desk.clock.now().to_rfc3339();
        desk.db.set_state(key, now).await.unwrap();
        desk.evaluate_with(schedules()).await;
    };
    desk.clock.turn(TimeDelta::minutes(64));
    desk.evaluate_with(schedules()).await;
    assert_eq!(desk.subjects(A).len(), 0, "a few minutes are tolerated");
    desk.clock.turn(TimeDelta::minutes(2));
    desk.evaluate_with(schedules()).await;
    assert_eq!(desk.subjects(A).len(), 1, "both are in one mail");
    ran(reconcile).await;
    assert_eq!(desk.subjects(A)[1..], ["[firstcome] resolved: late run"]);
    ran(deep).await;
    assert_eq!(desk.subjects(A).len(), 3);
    // What this process has no schedule for may still be late.
    desk.clock.turn(TimeDelta::hours(2));
    desk.evaluate_with(schedules()).await;
    desk.evaluate_with(Vec::new()).await;
    assert_eq!(desk.subjects(A).len(), 4);
}

/// Runs that only repeat the result of an earlier one are deleted after a day.
#[tokio::test]
async fn mail_links_to_the_run_that_keeps_the_findings() {
    let mut desk = Desk::new(A).await;
    desk.args.public_url = Some("https://ops.example.com".to_owned());
    for id in ["r1", "r2"] {
        desk.pass(&drift(id, &[3])).await;
        desk.clock.turn(TimeDelta::hours(4));
    }
    let mails = desk.sink.mails();
    assert_eq!(mails.len(), 2);
    for mail in &mails {
        let text = text(mail);
        assert!(text.contains("/runs/r1") && !text.contains("r2"), "{text}");
    }
}

/// `once` on a host without `ALERT_TO`.
fn without_recipients(desk: &Desk) -> Notifier {
    let nobody = NotifyArgs {
        alert_to: None,
        smtp_url: None,
        ..desk.args.clone()
    };
    desk.notifier_with(&desk.db, &nobody)
}

/// A process that mails nobody writes what it sees, and another one mails it.
#[tokio::test]
async fn what_a_process_without_recipients_sees_is_mailed_by_one_with_recipients() {
    let desk = Desk::new(A).await;
    desk.heartbeat("with-recipients", &ProcessState::default())
        .await;
    let once = without_recipients(&desk);
    desk.after_pass(&once, &drift("r1", &[3])).await;
    assert_eq!(desk.query("SELECT COUNT(*) FROM told").await, [["0"]]);
    desk.evaluate().await;
    desk.flush().await;
    assert_eq!(desk.subjects(A).len(), 1);
    desk.after_pass(&once, &clean("r2")).await;
    desk.evaluate().await;
    desk.flush().await;
    let over = "[firstcome] resolved: 1 unrepaired failed claim";
    assert!(
        desk.subjects(A)[1].starts_with(over),
        "{:?}",
        desk.subjects(A)
    );
}

/// A daemon tells nothing that another process has told.
#[tokio::test]
async fn once_without_recipients_leaves_begin_and_end_to_a_daemon_that_starts_later() {
    let desk = Desk::new(A).await;
    let once = without_recipients(&desk);
    for (run, subject) in [
        (drift("r1", &[3]), "[firstcome] action needed: "),
        (clean("r2"), "[firstcome] resolved: "),
    ] {
        desk.after_once(&once, &run).await;
        desk.evaluate().await;
        desk.flush().await;
        let subjects = desk.subjects(A);
        let last = subjects.last().unwrap();
        assert!(last.starts_with(subject), "{subjects:?}");
    }
    assert_eq!(desk.subjects(A).len(), 2);
}

#[tokio::test]
async fn evaluation_without_a_change_writes_nothing_and_reads_few_rows() {
    let desk = Desk::new(A).await;
    let drops: Vec<_> = (1..=100)
        .map(|drop| drop_report(drop, "Winter coupon", drop, Vec::new()))
        .collect();
    desk.pass(&run("r1", Status::Clean, drops)).await;
    desk.pass(&drift("r2", &[3])).await;
    for host in ["a", "b", "c"] {
        desk.heartbeat(host, &ProcessState::default()).await;
    }
    let notifier = desk.notifier();
    notifier.evaluate(Vec::new()).await.unwrap();
    let before = rows_touched(&desk).await;
    notifier.evaluate(Vec::new()).await.unwrap();
    let after = rows_touched(&desk).await;
    let [read, written] = [0, 1].map(|at| after[at] - before[at]);
    assert!(read <= 3 + 10, "{read} rows were read");
    assert_eq!(written, 0);
}

/// The rows of this database that were read and written so far.
async fn rows_touched(desk: &Desk) -> [i64; 2] {
    let sums = format!(
        "SELECT COALESCE(SUM(COUNT_FETCH), 0), COALESCE(SUM(COUNT_WRITE), 0) \
         FROM performance_schema.table_io_waits_summary_by_table WHERE OBJECT_SCHEMA = '{}'",
        desk.database
    );
    let rows = crate::desk::mysql().await.query(&sums).await.unwrap();
    [0, 1].map(|at| rows[0][at].parse().unwrap())
}

/// The store that fails is the one that processes report. Repairs made meanwhile come with its end.
#[tokio::test]
async fn outage_has_one_mail_and_one_about_its_end_that_lists_the_repairs_made_meanwhile() {
    let desk = Desk::new(A).await;
    let away = ProcessState {
        kafka: Some(StoreState::Away("BrokerTransportFailure".to_owned())),
        ..ProcessState::default()
    };
    let fine = ProcessState {
        kafka: Some(StoreState::Fine),
        ..ProcessState::default()
    };
    for n in 0..5 {
        desk.heartbeat("a", &away).await;
        desk.pass(&repaired(&format!("r{n}"))).await;
        desk.clock.turn(TimeDelta::seconds(10));
    }
    for _ in 0..8 {
        desk.heartbeat("a", &fine).await;
        desk.evaluate().await;
        desk.flush().await;
        desk.clock.turn(TimeDelta::seconds(10));
    }
    assert_eq!(
        desk.subjects(A),
        [
            "[firstcome] action needed: Kafka does not answer (for 30 s)",
            "[firstcome] resolved: outage of Kafka · Winter coupon · 100 of 100 issued · repaired: 1 missing row written; 4 promises without a row in earlier…",
        ]
    );
    let mails = desk.sink.mails();
    assert_eq!(thread(&mails[0]), thread(&mails[1]), "one thread");
    let over = text(&mails[1]);
    assert!(over.contains("Over after 50 s: outage of Kafka."), "{over}");
}

#[tokio::test]
async fn notice_about_broken_promises_says_what_became_of_them() {
    let desk = Desk::new(A).await;
    desk.run("INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'Winter coupon', 100, 'drop')").await;
    desk.run(
        "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES (7, 1, '2026-12-01', 100)",
    )
    .await;
    desk.run(WRITE_LIMITS).await;
    for n in 101..=103 {
        desk.run(&format!(
            "INSERT INTO broken_promises (drop_id, user_id, coupon_id, slot, reason, run_id) \
             VALUES (7, 'customer-00{n}', 1, {n}, 'no slot was free', 'r1')"
        ))
        .await;
    }
    desk.pass(&clean("r1")).await;
    assert!(desk.subjects(A).is_empty(), "it may be kept in a moment");
    let once = desk.notifier();
    once.evaluate_last().await.unwrap();
    desk.flush().await;
    desk.run(
        "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, code, claimed_at, issued_by, slot_limit, person_scope) \
         SELECT 7, n, 1, CONCAT('customer-00', 100 + n), CONCAT('c', n), UTC_TIMESTAMP(3), 'reconciler', l.slot_limit, l.person_scope \
         FROM (SELECT 1 AS n UNION SELECT 2) n JOIN slot_limits l ON l.drop_id = 7",
    )
    .await;
    // A row of another day is not what was promised.
    desk.run(
        "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES (8, 1, '2026-12-02', 100)",
    )
    .await;
    desk.run(WRITE_LIMITS).await;
    desk.run(
        "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, code, claimed_at, issued_by, slot_limit, person_scope) \
         SELECT 8, 1, 1, 'customer-00103', 'c3', UTC_TIMESTAMP(3), 'reconciler', slot_limit, person_scope \
         FROM slot_limits WHERE drop_id = 8",
    )
    .await;
    desk.run("UPDATE broken_promises SET mended_at = '2026-12-01 06:01:30'")
        .await;
    desk.clock.turn(TimeDelta::minutes(1));
    desk.pass(&clean("r2")).await;
    let text = text(&desk.sink.mails()[1]);
    let says = "2 users have a coupon now, 1 was told that there is none, or revoked.";
    assert!(text.contains(says), "{text}");
}
