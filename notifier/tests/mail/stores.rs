//! Tests what is mailed about stores, closed coupons and repairs, from what processes say and what
//! looks see. Each step of a scene is five seconds long; the only state is in the tables.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use firstcome_notifier::Notifier;
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::process_state::{ConsumerState, ProcessState, SeenState, StoreState};
use firstcome_shared::report::{
    ActionKind, Cause, DropReport, FailureCause, Finding, Fingerprint, HeldBack, Kind, Outcome,
    Run, Status,
};
use firstcome_stack::{FaultProxy, ProxyFault, eventually};
use tokio_util::sync::CancellationToken;

use crate::desk::{A, Desk, SOON, mysql, text};
use crate::mailed::repaired;
use crate::world::{drop_report, finding, run};

/// A process that has no problem, and whose watch and jobs have looked.
fn fine() -> ProcessState {
    ProcessState {
        redis: Some(StoreState::Fine),
        kafka: Some(StoreState::Fine),
        mysql: Some(StoreState::Fine),
        closed: Some(BTreeSet::new()),
        consumers: Some(ConsumerState::Fine),
        unsafe_settings: Some(Vec::new()),
        campaigns: BTreeSet::new(),
    }
}

fn away() -> StoreState {
    let error = "Connection refused (os error 111)";
    StoreState::Away(error.to_owned())
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

/// What users notice is in the same mail.
#[tokio::test]
async fn refusal_is_mailed_in_the_words_of_the_store_with_the_coupons_that_it_closes() {
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    let few = "NOREPLICAS Not enough good replicas to write.";
    let denied = "ERROR 28000 (1045): Access denied for user 'firstcome'@'10.0.0.7'";
    let redis = |error| Some(StoreState::from_error(FailureCause::Redis, error));
    for (state, parts) in [
        (
            ProcessState {
                redis: redis(wrong),
                ..fine()
            },
            ["Redis refuses this login", wrong, "ACL LOG"],
        ),
        (
            ProcessState {
                mysql: Some(StoreState::from_error(FailureCause::Mysql, denied)),
                ..fine()
            },
            ["MySQL refuses this login", denied, "DATABASE_URL"],
        ),
        (
            ProcessState {
                redis: redis(few),
                closed: Some([1, 2].map(CouponId).into()),
                ..fine()
            },
            ["Because of this", few, "2 coupons are closed"],
        ),
    ] {
        let desk = Desk::new(A).await;
        last(&desk, 60, &[("api", state)]).await;
        let mails = desk.sink.mails();
        assert_eq!(mails.len(), 1, "{parts:?}");
        let told = text(&mails[0]);
        let lacks = parts.iter().find(|part| !told.contains(**part));
        assert_eq!(lacks, None, "{told}");
    }
}

#[tokio::test]
async fn repair_that_was_mailed_is_not_in_the_mail_about_its_cause() {
    let desk = Desk::new(A).await;
    desk.pass(&repaired("r1")).await;
    assert_eq!(news(&desk).await.len(), 1);
    let state = ProcessState {
        kafka: Some(away()),
        ..fine()
    };
    last(&desk, 60, &[("d", state)]).await;
    let told = text(&desk.sink.mails()[0]);
    assert!(!told.contains("1 repair"), "{told}");
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
            let notifier = Notifier::new(db, &desk.args, &desk.webhooks).unwrap();
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
    let state = ProcessState {
        redis: Some(away()),
        ..fine()
    };
    last(&one, 60, &[("d", state.clone())]).await;
    let expected =
        "action needed: Redis does not answer: nothing listens at its address (for 30 s)";
    assert_eq!(news(&one).await, [expected]);
    last(&other, 300, &[("d", fine())]).await;
    last(&one, 300, &[("d", state)]).await;
    assert_eq!([news(&one).await, news(&other).await], [[""; 0]; 2]);
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
