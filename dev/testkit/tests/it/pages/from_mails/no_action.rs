//! Mails that require no action.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, World, eventually};
use serde_json::json;

use super::super::support::until;
use super::label::{LAST_RUNS, OPEN_PROBLEMS, THIS_PASS};
use super::phone::Phone;
use crate::drift::support::{assert_settled, injector, mailed};

/// Returns a schedule that was due a minute ago and is due next in a year. It last ran two hours
/// ago.
pub(super) async fn overdue(world: &World, schedule: &str) -> String {
    let ago = "DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 2 HOUR, '%Y-%m-%dT%H:%i:%s+00:00')";
    world
        .sql
        .query(&format!(
            "REPLACE INTO reconciler_state (name, value) VALUES ('last_run:{schedule}', {ago})"
        ))
        .await;
    let due = "SELECT DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 1 MINUTE, '0 %i %H %d %m *')";
    world.sql.query(due).await[0][0].clone()
}

#[tokio::test]
async fn a_mail_that_requires_no_action_links_to_its_subject() {
    let f = Fixture::new("mail-told").await;
    let (coupon, answers) = f.held("Winter coupon", 20, 20).await;
    let (spring, _) = f.held("Spring coupon", 20, 12).await;
    let deep = overdue(&f.world, "deep").await;
    let digest = overdue(&f.world, "digest").await;
    let late = [
        ("DEEP_CRON", deep.as_str()),
        ("DIGEST_CRON", &digest),
        ("FIRSTCOME_TEST_MISSED_AFTER_SECONDS", "1"),
    ];
    let daemon = f.world.daemon_with(&late).await;
    let phone = Phone::of_duty(&f.world).await;

    let test = f.world.start("firstcome-reconciler", &["test-email"], &[]);
    assert_eq!(test.ended(LIMIT).await, 0, "{}", test.log());
    phone
        .read(
            "mail-test",
            &mailed(&f.world, &["test: mail arrives"]).await,
        )
        .await;

    let mail = mailed(&f.world, &["daily digest: nothing is open"]).await;
    phone.read("mail-digest", &mail).await;
    phone.tap(&mail, OPEN_PROBLEMS).await;
    phone.shows("No alert is open.").await;

    let mail = mailed(&f.world, &["a run of DEEP_CRON is late"]).await;
    phone.read("mail-run-missed", &mail).await;
    phone.tap(&mail, LAST_RUNS).await;
    phone.pass(&["nothing found"]).await;

    let mut drift = injector(&f.world, &coupon).await;
    let mut repair = async |kind, people| {
        drift.make(kind, people).await.unwrap();
        daemon.reconcile(&json!({})).await;
    };
    let is_exact = "document.querySelector('td[data-label=Afterwards]').innerText === 'exact'";
    for (name, kind, subject) in [
        (
            "mail-repaired",
            Drift::Unissued,
            "20 of 20 issued · 2 issued late",
        ),
        (
            "mail-redis-lost",
            Drift::RedisLost,
            "repaired: Redis lost data",
        ),
    ] {
        repair(kind, 2).await;
        let mail = mailed(&f.world, &["repaired", subject, "Winter coupon"]).await;
        phone.read(name, &mail).await;
        phone.tap(&mail, THIS_PASS).await;
        until(&phone.browser, is_exact).await;
    }

    // The third mail about repairs of a drop is sent immediately, the next one a minute later.
    repair(Drift::Unissued, 1).await;
    repair(Drift::Unissued, 1).await;
    f.world
        .sql
        .query("UPDATE repairs SET mailed_at = mailed_at - INTERVAL 1 HOUR")
        .await;
    repair(Drift::Unissued, 1).await;
    let mail = mailed(
        &f.world,
        &["1 issued late; 1 promise without a row in earlier passes since"],
    )
    .await;
    phone.read("mail-again-and-again", &mail).await;
    phone.tap(&mail, LAST_RUNS).await;
    phone.pass(&["nothing found"]).await;
    assert_settled(&f.world, &coupon, 20, 20, &answers).await;

    injector(&f.world, &spring)
        .await
        .make(Drift::UnfilledClosed, 2)
        .await
        .unwrap();
    let sealed = "SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL";
    eventually("the drop is sealed", LIMIT, async || {
        daemon.reconcile(&json!({})).await;
        f.world.sql.number(sealed).await == 1
    })
    .await;
}
