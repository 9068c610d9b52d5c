//! Tests outages of MySQL: operators are notified outside the outbox, and again when the outage
//! ends.

use std::time::Duration;

use chrono::TimeDelta;
use firstcome_notifier::{Clock as _, SeenGate};
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_stack::{FaultProxy, ProxyFault, eventually};

use crate::desk::{A, Desk, SOON, mysql, text, thread};
use crate::mailed::{clean, repaired};
use crate::receiver::{CannedReply, Receiver};
use crate::webhooks::posting_to;

/// The MySQL of a test environment, behind a proxy.
struct FarMysql {
    proxy: FaultProxy,
    db: Db,
}

impl FarMysql {
    async fn behind_proxy(desk: &Desk) -> Self {
        let proxy = mysql().await.proxy().await.unwrap();
        let url = mysql().await.database_url_via(&proxy, &desk.database);
        let settings = DbSettings {
            url: url.into(),
            pool_size: 1,
            limit: Duration::from_secs(10),
        };
        Self {
            proxy,
            db: Db::new(&settings).unwrap(),
        }
    }

    async fn comes_back(&self) {
        self.proxy.set(ProxyFault::Pass).await.unwrap();
        // Wait, because the pool pauses after a failed connection.
        eventually("MySQL answers", SOON, async || self.db.ping().await.is_ok()).await;
    }
}

#[tokio::test]
async fn mysql_that_answers_but_cannot_record_is_not_reported_as_unavailable() {
    let desk = Desk::new(A).await;
    let notifier = desk.notifier();
    desk.run("RENAME TABLE alerts TO away").await;
    for n in 0..3 {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        let pass = clean(&format!("r{n}"));
        notifier.after_pass(&pass, now).await.unwrap_err();
    }
    desk.until_there_are(1).await;
    desk.run("RENAME TABLE away TO alerts").await;
    desk.clock.turn(TimeDelta::minutes(1));
    desk.after_pass(&notifier, &clean("r9")).await;
    desk.flush().await;
    let subjects = desk.subjects(A);
    assert_eq!(
        subjects,
        [
            "[firstcome] action needed: MySQL answers, but alerts cannot be recorded (for 1 min)",
            "[firstcome] resolved: refusal of alerts",
        ]
    );
    let mails = desk.sink.mails();
    assert_eq!(thread(&mails[0]), thread(&mails[1]), "one thread");
}

#[tokio::test]
async fn outage_of_mysql_and_its_end_are_mailed() {
    let desk = Desk::new(A).await;
    let mysql = FarMysql::behind_proxy(&desk).await;
    let notifier = desk.notifier_with(&mysql.db, &desk.args);
    desk.after_pass(&notifier, &clean("r0")).await;

    mysql.proxy.set(ProxyFault::Cut).await.unwrap();
    for run in [repaired("r1"), clean("r2"), clean("r3"), clean("r4")] {
        let now = desk.clock.now();
        notifier.after_pass(&run, now).await.unwrap_err();
        desk.clock.turn(TimeDelta::minutes(2));
    }
    desk.until_there_are(1).await;
    let subject = &desk.subjects(A)[0];
    let begins = "[firstcome] action needed: MySQL ";
    assert!(subject.starts_with(begins), "{subject}");

    mysql.comes_back().await;
    desk.after_pass(&notifier, &clean("r6")).await;
    desk.flush().await;
    let over = "[firstcome] resolved: outage of MySQL";
    assert_eq!(desk.subjects(A)[1..], [over]);
}

#[tokio::test]
async fn outage_is_not_mailed_as_over_by_another_installation_with_the_same_recipients() {
    let desk = Desk::new(A).await;
    let mut other = Desk::new(A).await;
    other.args = desk.args.clone();
    let notifier = desk.notifier();
    desk.run("RENAME TABLE alerts TO away").await;
    for run in [clean("r1"), clean("r2")] {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        notifier.after_pass(&run, now).await.unwrap_err();
    }
    desk.until_there_are(1).await;
    other.pass(&clean("r1")).await;
    assert_eq!(desk.sink.mails().len(), 1, "its own MySQL was never away");
}

#[tokio::test]
async fn target_that_is_away_together_with_mysql_is_notified_once_it_is_back() {
    let receiver = Receiver::start().await;
    receiver.set(CannedReply::Status(503));
    let mut desk = Desk::new(A).await;
    desk.webhooks = posting_to(&[&receiver]);
    let mysql = FarMysql::behind_proxy(&desk).await;
    let notifier = desk.notifier_with(&mysql.db, &desk.args);
    mysql.proxy.set(ProxyFault::Cut).await.unwrap();
    for _ in 0..2 {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        notifier.after_pass(&clean("r1"), now).await.unwrap_err();
    }
    receiver.until_there_are(1).await;
    receiver.set(CannedReply::Status(204));
    // Less than an hour: the notifier learns of the failure from a separate task.
    for _ in 0..50 {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        notifier.after_pass(&clean("r2"), now).await.unwrap_err();
    }
    receiver.until_there_are(2).await;
    assert_eq!(receiver.received().len(), 2, "it was told the second time");
}

#[tokio::test]
async fn redis_that_is_away_together_with_mysql_is_in_the_same_mail() {
    let desk = Desk::new(A).await;
    let mysql = FarMysql::behind_proxy(&desk).await;
    let notifier = desk.notifier_with(&mysql.db, &desk.args);
    desk.after_pass(&notifier, &clean("r0")).await;
    mysql.proxy.set(ProxyFault::Cut).await.unwrap();
    for _ in 0..3 {
        let now = desk.clock.turn(TimeDelta::seconds(20));
        let error = notifier.admission(SeenGate::Unreachable, now).await;
        let error = error.unwrap_err().to_string();
        notifier.cannot_write(&error, now).await;
    }
    desk.until_there_are(1).await;
    let text = text(&desk.sink.mails()[0]);
    for part in ["MySQL ", "Redis does not answer", "Claims get 503"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
