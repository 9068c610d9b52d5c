//! Tests what is mailed about stores, closed coupons and repairs, from what processes say and what
//! looks see. Each step of a scene is five seconds long; the only state is in the tables.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use firstcome_notifier::{Clock as _, NotifyArgs};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::process_state::{
    ConsumerState, ProcessState, SeenState, Standstill, StoreState,
};
use firstcome_shared::report::{
    ActionKind, Cause, DropReport, FailureCause, Finding, Fingerprint, HeldBack, Kind, Outcome,
    Run, Status,
};
use firstcome_stack::{FaultProxy, ProxyFault, eventually};
use tokio_util::sync::CancellationToken;

use crate::desk::{A, Desk, SOON, mysql, text, thread};
use crate::mailed::{clean, drift, held_back, repaired};
use crate::world::{drop_report, finding, left, run};

/// A process that has no problem, and whose watch and jobs have looked.
fn fine() -> ProcessState {
    ProcessState {
        redis: Some(StoreState::Fine),
        kafka: Some(StoreState::Fine),
        mysql: Some(StoreState::Fine),
        closed: Some(BTreeSet::new()),
        consumers: Some(ConsumerState::Fine),
        unsafe_settings: Some(Vec::new()),
    }
}

/// A process that has just started: it knows nothing yet.
fn new() -> ProcessState {
    ProcessState::default()
}

fn away() -> StoreState {
    let error = "Connection refused (os error 111)";
    StoreState::Away(error.to_owned())
}

fn without_redis() -> ProcessState {
    ProcessState {
        redis: Some(away()),
        closed: None,
        ..fine()
    }
}

fn without_kafka() -> ProcessState {
    ProcessState {
        kafka: Some(away()),
        ..fine()
    }
}

fn closed(coupons: &[i64]) -> ProcessState {
    ProcessState {
        closed: Some(coupons.iter().copied().map(CouponId).collect()),
        ..fine()
    }
}

/// Lets time pass while these processes say this.
async fn last(desk: &Desk, seconds: i64, processes: &[(&str, ProcessState)]) {
    for _ in 0..seconds / 5 {
        desk.clock.turn(TimeDelta::seconds(5));
        for (host, state) in processes {
            desk.heartbeat(host, state).await;
        }
        desk.evaluate().await;
    }
    desk.flush().await;
}

/// Returns what was mailed since the last call, without the prefix of the subjects.
async fn news(desk: &Desk) -> Vec<String> {
    desk.flush().await;
    let subjects = desk.subjects(A);
    desk.sink.clear();
    let told = subjects
        .iter()
        .map(|it| it.trim_start_matches("[firstcome] ").to_owned());
    told.collect()
}

const REDIS_AWAY: &str =
    "action needed: Redis does not answer: nothing listens at its address (for 30 s)";
const REDIS_OVER: &str = "resolved: outage of Redis";

#[tokio::test]
async fn outage_is_mailed_after_half_a_minute_and_its_end_after_a_minute() {
    let desk = Desk::new(A).await;
    last(&desk, 30, &[("d", fine())]).await;
    last(
        &desk,
        25,
        &[("d", without_redis()), ("api", without_redis())],
    )
    .await;
    assert_eq!(news(&desk).await, [""; 0], "a restart");
    last(
        &desk,
        10,
        &[("d", without_redis()), ("api", without_redis())],
    )
    .await;
    assert_eq!(news(&desk).await, [REDIS_AWAY]);
    last(
        &desk,
        600,
        &[("d", without_redis()), ("api", without_redis())],
    )
    .await;
    last(&desk, 55, &[("d", fine()), ("api", without_redis())]).await;
    assert_eq!(news(&desk).await, [""; 0]);
    last(&desk, 10, &[("d", fine()), ("api", fine())]).await;
    assert_eq!(news(&desk).await, [REDIS_OVER]);
}

#[tokio::test]
async fn store_that_one_process_reaches_is_not_away() {
    let desk = Desk::new(A).await;
    last(&desk, 300, &[("d", without_redis()), ("api", fine())]).await;
    last(&desk, 300, &[("d", without_kafka()), ("api", fine())]).await;
    assert_eq!(news(&desk).await, [""; 0]);
    // The other one stops, and its row is silent after 25 s.
    last(&desk, 70, &[("d", without_redis())]).await;
    assert_eq!(news(&desk).await, [REDIS_AWAY]);
}

#[tokio::test]
async fn outage_is_mailed_although_crash_looping_apis_know_nothing_yet() {
    let desk = Desk::new(A).await;
    for n in 0..10 {
        let api = format!("api-{n}");
        last(&desk, 5, &[("d", without_redis()), (&api, new())]).await;
    }
    assert_eq!(news(&desk).await, [REDIS_AWAY]);
}

#[tokio::test]
async fn daemon_that_starts_in_an_outage_ends_nothing() {
    let desk = Desk::new(A).await;
    let both = ProcessState {
        closed: Some([CouponId(1)].into()),
        ..without_kafka()
    };
    last(&desk, 60, &[("d", both.clone())]).await;
    assert_eq!(news(&desk).await.len(), 1, "one mail about both");
    last(&desk, 300, &[("d2", new())]).await;
    assert_eq!(news(&desk).await, [""; 0], "nobody knows");
    last(&desk, 300, &[("d2", both)]).await;
    assert_eq!(news(&desk).await, [""; 0]);
    last(&desk, 65, &[("d2", fine())]).await;
    assert_eq!(news(&desk).await, ["resolved: 2 problems"]);
}

#[tokio::test]
async fn closed_coupon_is_mailed_and_an_outage_that_explains_it_ends_separately() {
    let desk = Desk::new(A).await;
    last(&desk, 40, &[("d", closed(&[1]))]).await;
    assert_eq!(
        news(&desk).await,
        ["action needed: 1 coupon is closed (for 30 s)"]
    );
    last(&desk, 60, &[("d", without_redis())]).await;
    let told = news(&desk).await;
    assert_eq!(told, [REDIS_AWAY]);
    last(&desk, 90, &[("d", fine())]).await;
    let mut over = news(&desk).await;
    over.sort();
    assert_eq!(over, ["resolved: 2 problems"]);
}

#[tokio::test]
async fn coupons_that_an_outage_closes_are_in_its_mail_only() {
    let desk = Desk::new(A).await;
    let few = "NOREPLICAS Not enough good replicas to write.";
    let state = ProcessState {
        redis: Some(StoreState::from_error(FailureCause::Redis, few)),
        ..closed(&[1, 2])
    };
    last(&desk, 120, &[("d", state)]).await;
    desk.flush().await;
    let mails = desk.sink.mails();
    assert_eq!(mails.len(), 1);
    let text = text(&mails[0]);
    for part in [
        "Redis refuses",
        "NOREPLICAS Not enough good",
        "Because of this",
        "2 coupons are closed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn coupon_closed_by_a_plan_that_waits_is_mailed_once() {
    let desk = Desk::new(A).await;
    desk.pass(&held_back("r1")).await;
    last(&desk, 120, &[("d", closed(&[1]))]).await;
    let mails = desk.sink.mails();
    let subjects = news(&desk).await;
    assert_eq!(subjects.len(), 1, "{subjects:?}");
    assert!(!text(&mails[0]).contains("an open one goes on"));
}

#[tokio::test]
async fn acknowledged_closure_is_mailed_again_for_another_coupon_after_an_hour() {
    let desk = Desk::new(A).await;
    last(&desk, 40, &[("d", closed(&[1]))]).await;
    assert_eq!(news(&desk).await.len(), 1);
    let now = desk.clock.turn(TimeDelta::seconds(0)).format("%F %T");
    desk.run(&format!(
        "UPDATE told SET acknowledged_at = '{now}', acknowledged_by = 'Kim'"
    ))
    .await;
    desk.run("UPDATE reconciler_state SET value = JSON_SET(value, '$.version', 4711) WHERE name LIKE 'notify.%'").await;
    last(&desk, 600, &[("d", closed(&[1, 2]))]).await;
    assert_eq!(news(&desk).await, [""; 0]);
    desk.clock.turn(TimeDelta::minutes(50));
    last(&desk, 5, &[("d", closed(&[1, 2]))]).await;
    assert_eq!(news(&desk).await.len(), 1);
}

#[tokio::test]
async fn refusal_that_any_process_meets_is_mailed_in_the_words_of_the_store() {
    let desk = Desk::new(A).await;
    let says = "WRONGPASS invalid username-password pair or user is disabled.";
    let api = ProcessState {
        redis: Some(StoreState::from_error(FailureCause::Redis, says)),
        ..fine()
    };
    last(&desk, 60, &[("d", fine()), ("api", api.clone())]).await;
    let mails = desk.sink.mails();
    let told = text(&mails[0]);
    for part in ["Redis refuses this login", says, "ACL LOG"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(news(&desk).await.len(), 1);
    last(&desk, 55, &[("d", fine()), ("api", fine())]).await;
    last(&desk, 20, &[("d", fine()), ("api", api)]).await;
    assert_eq!(news(&desk).await, [""; 0], "it stays");
    // It came back once, so it must stay away longer.
    last(&desk, 300, &[("d", fine()), ("api", fine())]).await;
    assert_eq!(news(&desk).await, ["resolved: refusal of Redis"]);
}

#[tokio::test]
async fn store_that_refuses_and_then_is_silent_has_one_alert() {
    let desk = Desk::new(A).await;
    let few = "Message production error: NotEnoughReplicas (Broker: Not enough in-sync replicas)";
    let refusing = ProcessState {
        kafka: Some(StoreState::from_error(FailureCause::Kafka, few)),
        ..fine()
    };
    last(&desk, 120, &[("d", refusing)]).await;
    last(&desk, 400, &[("d", without_kafka())]).await;
    last(&desk, 120, &[("d", fine())]).await;
    let mails = desk.sink.mails();
    let threads: BTreeSet<String> = mails.iter().map(thread).collect();
    assert_eq!(threads.len(), 1, "one alert");
    let told = news(&desk).await;
    assert!(
        told[0].starts_with("action needed: Kafka refuses messages: "),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("action needed: Kafka does not answer"),
        "{told:?}"
    );
    assert_eq!(told[2..], ["resolved: outage of Kafka"]);
}

#[tokio::test]
async fn cluster_without_one_server_is_one_outage() {
    let desk = Desk::new(A).await;
    let partly = ProcessState {
        redis: Some(StoreState::Partly(
            "10.0.0.7:6379 does not answer".to_owned(),
        )),
        ..closed(&[1])
    };
    last(&desk, 60, &[("d", partly), ("api", fine())]).await;
    let told = news(&desk).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("action needed: Redis "), "{told:?}");
}

#[tokio::test]
async fn standstill_counts_unread_messages_and_not_users() {
    let desk = Desk::new(A).await;
    let stands = ConsumerState::Stands(Standstill {
        unread: 681,
        partitions: Vec::new(),
    });
    let state = ProcessState {
        consumers: Some(stands),
        ..fine()
    };
    last(&desk, 10, &[("d", state)]).await;
    let told = news(&desk).await;
    assert_eq!(
        told,
        ["action needed: no consumer works: 681 messages are unread"]
    );
    last(&desk, 70, &[("d", fine())]).await;
    assert_eq!(news(&desk).await, ["resolved: standstill of consumers"]);
}

#[tokio::test]
async fn login_that_mysql_refuses_is_named() {
    let desk = Desk::new(A).await;
    let denied = "ERROR 28000 (1045): Access denied for user 'firstcome'@'10.0.0.7'";
    let consumer = ProcessState {
        mysql: Some(StoreState::from_error(FailureCause::Mysql, denied)),
        ..fine()
    };
    last(&desk, 60, &[("d", fine()), ("consumer", consumer)]).await;
    let told = text(&desk.sink.mails()[0]);
    for part in ["MySQL refuses this login", "DATABASE_URL", denied] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test]
async fn repairs_of_an_outage_are_in_the_mail_about_its_end() {
    let desk = Desk::new(A).await;
    last(&desk, 60, &[("d", without_kafka())]).await;
    assert_eq!(news(&desk).await.len(), 1);
    desk.pass(&repaired("r1")).await;
    last(&desk, 60, &[("d", without_kafka())]).await;
    assert_eq!(news(&desk).await, [""; 0]);
    last(&desk, 130, &[("d", fine())]).await;
    let told = news(&desk).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("resolved: outage of Kafka"), "{told:?}");
    assert!(told[0].contains("1 missing row written"), "{told:?}");
}

#[tokio::test]
async fn repair_that_was_mailed_is_not_in_the_mail_about_its_cause() {
    let desk = Desk::new(A).await;
    desk.pass(&repaired("r1")).await;
    assert_eq!(news(&desk).await.len(), 1);
    last(&desk, 60, &[("d", without_kafka())]).await;
    let told = text(&desk.sink.mails()[0]);
    assert!(!told.contains("1 repair"), "{told}");
}

#[tokio::test]
async fn repairs_that_come_often_are_mailed_at_once_and_then_each_hour() {
    let desk = Desk::new(A).await;
    for n in 0..12 {
        desk.clock.turn(TimeDelta::seconds(30));
        desk.pass(&repaired(&format!("r{n}"))).await;
    }
    assert_eq!(news(&desk).await.len(), 1);
    desk.clock.turn(TimeDelta::hours(1));
    last(&desk, 5, &[("d", fine())]).await;
    let told = text(desk.sink.mails().last().unwrap());
    let earlier = "10 promises without a row in earlier passes";
    assert!(told.contains(earlier), "{told}");
    assert_eq!(news(&desk).await.len(), 1);
    desk.clock.turn(TimeDelta::hours(1));
    last(&desk, 5, &[("d", fine())]).await;
    assert_eq!(news(&desk).await, [""; 0], "each repair is in one mail");
}

#[tokio::test]
async fn plain_restart_of_redis_is_not_told_as_older_data() {
    let desk = Desk::new(A).await;
    desk.winter_coupon().await;
    let reopened = Finding {
        coupon_id: Some(CouponId(1)),
        cause: Cause::Reopened,
        ..Finding::new(Kind::RedisLost, ActionKind::Open, Outcome::Applied, "")
    };
    let restart = Run {
        findings: vec![reopened],
        ..repaired("r1")
    };
    desk.pass(&restart).await;
    let told = text(&desk.sink.mails()[0]);
    assert!(
        !told.contains("older data") && !told.contains("aiting list"),
        "{told}"
    );
}

#[tokio::test]
async fn waiting_lists_are_mentioned_only_if_there_are_some() {
    let lost = |id: &str, coupon: i64| {
        let lost = Finding {
            slot: None,
            ..finding(Kind::RedisLost, 0, ActionKind::Project, Outcome::Applied)
        };
        run(
            id,
            Status::Repaired,
            vec![drop_report(coupon, "Winter coupon", 7, vec![lost])],
        )
    };
    for (list, is_told) in [(0, false), (5, true)] {
        let desk = Desk::new(A).await;
        desk.winter_coupon().await;
        desk.run(&format!("UPDATE coupons SET waiting_list = {list}"))
            .await;
        desk.pass(&lost("r1", 1)).await;
        let told = text(&desk.sink.mails()[0]);
        assert!(told.contains("Redis lost data"), "{told}");
        assert_eq!(told.contains("aiting list"), is_told, "{told}");
    }
}

#[tokio::test]
async fn users_of_a_plan_that_waits_are_counted_once() {
    let desk = Desk::new(A).await;
    let held = |slot| {
        let held = |kind| finding(kind, slot, ActionKind::Project, Outcome::Planned);
        [Kind::MissingAdmission, Kind::SlotConflict].map(held)
    };
    let held_back = HeldBack {
        users: 60,
        fingerprint: Fingerprint(1),
    };
    let findings = (1..=60).flat_map(held).collect();
    let drop = DropReport {
        held_back: Some(held_back),
        ..drop_report(1, "Winter coupon", 7, findings)
    };
    desk.pass(&run("r1", Status::Braked, vec![drop])).await;
    let told = news(&desk).await;
    let subject = "action needed: 60 users would lose their slot, if confirmed";
    assert!(told[0].starts_with(subject), "{told:?}");
}

#[tokio::test]
async fn copy_of_the_file_that_looks_at_one_campaign_ends_no_other() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    assert_eq!(news(&desk).await.len(), 1);
    let left_out = run(
        "r2",
        Status::Clean,
        vec![drop_report(2, "Summer", 9, Vec::new())],
    );
    desk.pass(&Run {
        partial: true,
        ..left_out
    })
    .await;
    last(&desk, 120, &[("d", fine())]).await;
    assert_eq!(news(&desk).await, [""; 0]);
}

#[tokio::test]
async fn process_without_readers_leaves_the_mail_to_one_that_has_some() {
    let desk = Desk::new(A).await;
    let silent = NotifyArgs {
        alert_to: None,
        smtp_url: None,
        ..desk.args.clone()
    };
    desk.heartbeat("d", &fine()).await;
    let without = desk.notifier_with(&desk.db, &silent);
    desk.after_pass(&without, &drift("r1", &[3])).await;
    assert_eq!(news(&desk).await, [""; 0]);
    last(&desk, 5, &[("d", fine())]).await;
    assert_eq!(news(&desk).await.len(), 1);
}

/// The MySQL of a test environment, behind a proxy.
async fn behind_proxy(desk: &Desk) -> (FaultProxy, Db) {
    let proxy = mysql().await.proxy().await.unwrap();
    let url = mysql().await.database_url_via(&proxy, &desk.database);
    let settings = DbSettings {
        url: url.into(),
        pool_size: 1,
        limit: std::time::Duration::from_secs(10),
    };
    (proxy, Db::new(&settings).unwrap())
}

/// Each daemon tells its recipients itself while MySQL is away; the end is told once.
#[tokio::test]
async fn daemons_mail_an_outage_of_mysql_and_one_of_them_its_end() {
    for daemons in [1, 2] {
        let mut desk = Desk::new(A).await;
        desk.args.alert_patience_seconds = 1;
        // Mails are due by MySQL's clock, and given up a day later.
        let soon = Utc::now() + TimeDelta::hours(1);
        desk.clock.turn(soon - desk.clock.now());
        let stop = CancellationToken::new();
        let mut proxies = Vec::new();
        for _ in 0..daemons {
            let (proxy, db) = behind_proxy(&desk).await;
            let notifier = desk.notifier_with(&db, &desk.args);
            let seen = SeenState::default();
            tokio::spawn(notifier.watch(seen, Vec::new(), stop.clone()));
            proxies.push(proxy);
        }
        for proxy in &proxies {
            proxy.set(ProxyFault::Cut).await.unwrap();
        }
        desk.until_there_are(daemons).await;
        for proxy in &proxies {
            proxy.set(ProxyFault::Pass).await.unwrap();
        }
        eventually("the end is told", SOON, async || {
            desk.flush().await;
            desk.sink.mails().len() > daemons
        })
        .await;
        stop.cancel();
        let told = news(&desk).await;
        let is_away = |subject: &String| subject.starts_with("action needed: MySQL ");
        assert!(told[..daemons].iter().all(is_away), "{told:?}");
        assert_eq!(told[daemons..], ["resolved: outage of MySQL"]);
    }
}

/// Heartbeats fail, so that nothing is evaluated.
#[tokio::test]
async fn full_disk_of_mysql_is_mailed_without_its_tables() {
    let mut desk = Desk::new(A).await;
    desk.args.alert_patience_seconds = 1;
    let seen = SeenState::default();
    let error = "MySQL: announce: The table 'processes' is full";
    seen.note_written(Err(error.to_owned()));
    let stop = CancellationToken::new();
    tokio::spawn(desk.notifier().watch(seen, Vec::new(), stop.clone()));
    desk.until_there_are(1).await;
    stop.cancel();
    let told = news(&desk).await;
    let subject = "action needed: MySQL refuses writes: its disk is full";
    assert!(told[0].starts_with(subject), "{told:?}");
}

/// What is told is in the tables alone.
#[tokio::test]
async fn installation_ends_nothing_of_another() {
    let [one, other] = [Desk::new(A).await, Desk::new(A).await];
    last(&one, 60, &[("d", without_redis())]).await;
    assert_eq!(news(&one).await, [REDIS_AWAY]);
    last(&other, 300, &[("d", fine())]).await;
    assert_eq!(news(&other).await, [""; 0]);
    last(&one, 300, &[("d", without_redis())]).await;
    assert_eq!(news(&one).await, [""; 0]);
}

/// MySQL answers, and the tables of alerts cannot be used.
#[tokio::test]
async fn alerts_that_cannot_be_recorded_are_mailed_without_mysql() {
    let mut desk = Desk::new(A).await;
    desk.args.alert_patience_seconds = 1;
    desk.run("RENAME TABLE told TO gone").await;
    let stop = CancellationToken::new();
    let notifier = desk.notifier();
    tokio::spawn(notifier.watch(SeenState::default(), Vec::new(), stop.clone()));
    desk.until_there_are(1).await;
    stop.cancel();
    let told = news(&desk).await;
    let subject = "action needed: MySQL refuses writes or connections: MySQL: ";
    assert!(told[0].starts_with(subject), "{told:?}");
}

/// An evaluation that changes nothing writes nothing.
#[tokio::test]
async fn evaluation_without_change_writes_no_row() {
    let desk = Desk::new(A).await;
    desk.pass(&drift("r1", &[3])).await;
    last(&desk, 10, &[("d", fine())]).await;
    let state = async || {
        desk.query(
            "SELECT name, value, updated_at FROM reconciler_state WHERE name LIKE 'notify.%'",
        )
        .await
    };
    let before = state().await;
    last(&desk, 60, &[("d", fine())]).await;
    assert_eq!(state().await, before);
    desk.pass(&clean("r2")).await;
    assert_ne!(state().await, before);
    drop(left(Kind::Unissued, 1, ""));
}
