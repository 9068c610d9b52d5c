//! Tests outages of MySQL: operators are notified outside the outbox, and again when the outage
//! ends.

use std::time::Duration;

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_stack::{FaultProxy, ProxyFault, eventually};

use crate::desk::{A, Desk, SOON, mysql, parsed};
use crate::mailed::{clean, repaired};

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
    assert_eq!(
        subjects,
        [
            "[firstcome] action needed: MySQL answers, but alerts cannot be recorded (for 1 min)",
            "[firstcome] resolved: refusal of alerts",
        ]
    );
    let mails = desk.sink.mails();
    let thread = |at: usize| parsed(&mails[at]).references().as_text().map(str::to_owned);
    assert!(thread(0).is_some() && thread(0) == thread(1), "one thread");
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
        subject.starts_with("[firstcome] action needed: MySQL "),
        "{subject}"
    );

    mysql.comes_back().await;
    let now = desk.clock.turn(TimeDelta::minutes(2));
    notifier.after_pass(&clean("r6"), now).await.unwrap();
    notifier.flush(SOON).await.unwrap();
    assert_eq!(
        desk.subjects(A)[1..],
        ["[firstcome] resolved: outage of MySQL"]
    );
}
