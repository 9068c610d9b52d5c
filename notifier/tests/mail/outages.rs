//! Tests outages of MySQL: operators are notified outside the outbox, and again when the outage
//! ends.

use std::time::Duration;

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::report::{ActionKind, Kind, Outcome, Status};
use firstcome_stack::{Behaviour, FaultProxy, ProxyFault, eventually};

use crate::desk::{A, B, Desk, SOON, mysql, text};
use crate::mailed::{clean, drift, repaired};
use crate::world::{drop_report, general, run};

/// A test environment with its MySQL behind a proxy.
struct FarMysql {
    proxy: FaultProxy,
    db: Db,
}

impl FarMysql {
    async fn of(desk: &Desk) -> Self {
        let proxy = mysql().await.proxy().await.unwrap();
        let url = mysql().await.database_url_via(&proxy, &desk.database);
        let settings = DbSettings {
            url: url.into(),
            pool_size: 1,
            limit: Duration::from_millis(500),
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
async fn mysql_is_reported_unavailable_only_if_it_is() {
    let desk = Desk::new(A).await;
    let notifier = desk.notifier();
    desk.run("RENAME TABLE alerts TO away").await;
    for n in 0..3 {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        notifier
            .after_pass(&clean(&format!("r{n}")), now)
            .await
            .unwrap_err();
    }
    desk.until_there_are(1).await;
    desk.run("RENAME TABLE away TO alerts").await;
    notifier
        .after_pass(&clean("r9"), desk.clock.turn(TimeDelta::minutes(1)))
        .await
        .unwrap();
    notifier.flush(SOON).await.unwrap();
    let subjects = desk.subjects(A);
    assert!(
        subjects[0].starts_with(
            "[firstcome] action needed: alerts cannot be recorded (MySQL: record alerts"
        )
    );
    assert_eq!(
        subjects[1..],
        ["[firstcome] resolved: Alerts can be recorded again, after 3 min"]
    );
}

#[tokio::test]
async fn outage_of_mysql_and_its_end_are_mailed() {
    let desk = Desk::new(A).await;
    let mysql = FarMysql::of(&desk).await;
    let notifier = desk.notifier_with(&mysql.db, &desk.args);
    desk.after_pass(&notifier, &clean("r0")).await;

    mysql.proxy.set(ProxyFault::Cut).await.unwrap();
    assert!(
        notifier
            .after_pass(&repaired("r1"), desk.clock.now())
            .await
            .is_err()
    );
    for n in 2..5 {
        let now = desk.clock.turn(TimeDelta::minutes(2));
        assert!(
            notifier
                .after_pass(&clean(&format!("r{n}")), now)
                .await
                .is_err()
        );
    }
    desk.until_there_are(1).await;
    let subject = &desk.subjects(A)[0];
    assert!(
        subject.starts_with("[firstcome] action needed: MySQL cannot be used"),
        "{subject}"
    );

    mysql.comes_back().await;
    let now = desk.clock.turn(TimeDelta::minutes(2));
    notifier.after_pass(&clean("r6"), now).await.unwrap();
    notifier.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A)[1..],
        [
            "[firstcome] repaired: Winter coupon · 100 of 100 issued (1 issued late)",
            "[firstcome] resolved: MySQL can be used again, after 8 min",
        ],
        "repairs during the outage are mailed as well"
    );
}

#[tokio::test]
async fn recipients_get_one_outage_mail_if_the_server_first_rejects_all() {
    let desk = Desk::new(&format!("{A},{B}")).await;
    let mysql = FarMysql::of(&desk).await;
    let notifier = desk.notifier_with(&mysql.db, &desk.args);
    desk.after_pass(&notifier, &clean("r0")).await;
    mysql.proxy.set(ProxyFault::Cut).await.unwrap();
    let fails = async || {
        // A hundred of these steps stay within the cooldown.
        let now = desk.clock.turn(TimeDelta::seconds(20));
        notifier.after_pass(&clean("r1"), now).await.unwrap_err();
    };
    desk.sink.set(Behaviour::RefuseRecipients).await.unwrap();
    fails().await;
    desk.clock.turn(TimeDelta::minutes(1));
    for _ in 0..3 {
        fails().await;
    }
    desk.sink.set(Behaviour::Normal).await.unwrap();
    eventually("each has the mail", SOON, async || {
        fails().await;
        desk.sink.mails().len() >= 2
    })
    .await;
    for _ in 0..3 {
        fails().await;
    }
    mysql.comes_back().await;
    notifier
        .after_pass(&clean("r2"), desk.clock.turn(TimeDelta::minutes(1)))
        .await
        .unwrap();
    notifier.flush(SOON).await.unwrap();
    for to in [A, B] {
        let subjects = desk.subjects(to);
        let [gone, back] = &subjects[..] else {
            panic!("{to}: {subjects:?}")
        };
        assert!(
            gone.starts_with("[firstcome] action needed: MySQL cannot be used"),
            "{gone}"
        );
        assert!(
            back.starts_with("[firstcome] resolved: MySQL can be used again"),
            "{back}"
        );
    }
}

#[tokio::test]
async fn end_of_an_outage_is_mailed_if_the_first_attempt_to_enqueue_it_fails() {
    let desk = Desk::new(A).await;
    let notifier = desk.notifier();
    desk.run("RENAME TABLE alerts TO away").await;
    for _ in 0..3 {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        notifier.after_pass(&clean("r1"), now).await.unwrap_err();
    }
    desk.until_there_are(1).await;
    desk.run("RENAME TABLE away TO alerts, mail_outbox TO away")
        .await;
    notifier
        .after_pass(&clean("r2"), desk.clock.turn(TimeDelta::minutes(1)))
        .await
        .unwrap_err();
    desk.run("RENAME TABLE away TO mail_outbox").await;
    for n in 3..5 {
        let now = desk.clock.turn(TimeDelta::minutes(1));
        notifier
            .after_pass(&clean(&format!("r{n}")), now)
            .await
            .unwrap();
    }
    notifier.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A)[1..],
        ["[firstcome] resolved: Alerts can be recorded again, after 4 min"]
    );
}

#[tokio::test]
async fn findings_of_a_sealed_drop_are_mailed_when_alerts_can_be_recorded() {
    let desk = Desk::new(A).await;
    let notifier = desk.notifier();
    desk.after_pass(&notifier, &drift("r1", &[3])).await;
    desk.run("RENAME TABLE alerts TO away").await;
    let unfilled = general(
        Kind::Unfilled,
        ActionKind::Report,
        Outcome::Skipped,
        "closed with 5 of 100 slots left",
    );
    let mut sealed = drop_report(1, "Winter coupon", 7, vec![unfilled]);
    sealed.sealed = true;
    let now = desk.clock.turn(TimeDelta::seconds(20));
    notifier
        .after_pass(&run("r2", Status::Clean, vec![sealed]), now)
        .await
        .unwrap_err();
    desk.run("RENAME TABLE away TO alerts").await;
    notifier
        .after_pass(
            &run("r3", Status::Clean, Vec::new()),
            desk.clock.turn(TimeDelta::seconds(20)),
        )
        .await
        .unwrap();
    notifier.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A)[1..],
        ["[firstcome] resolved: 1 unrepaired failed claim · Winter coupon · 100 of 100 issued"]
    );
    let text = text(&desk.sink.mails()[1]);
    assert!(text.contains("closed with 5 of 100 slots left"), "{text}");
    let alerts = desk
        .query("SELECT kind, status FROM alerts ORDER BY kind")
        .await;
    assert_eq!(alerts, [["failed_claim", "resolved"], ["unfilled", "told"]]);
}
