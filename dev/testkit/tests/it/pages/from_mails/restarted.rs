//! Problems of the reconciler itself: alerts that cannot be recorded, a hanging pass, webhooks that
//! stay off until a restart, and the digest of a day with an open problem.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, eventually};
use serde_json::json;

use super::super::support::{fill, until, until_there};
use super::label::{LAST_RUNS, OPEN_PROBLEMS};
use super::no_action::overdue;
use super::phone::Phone;
use crate::drift::support::{assert_settled, injector, mailed};
use crate::faults::waves::stalled_pass;
use crate::webhooks::{SECRET, WebhookReceiver};

#[tokio::test]
async fn problems_of_the_reconciler_are_fixed_from_its_mails() {
    let f = Fixture::new("mail-trouble").await;
    let (coupon, answers) = f.held("Winter coupon", 20, 12).await;
    let (receiver, url) = WebhookReceiver::start().await;
    f.world.set("WEBHOOK_URLS", &format!("{url}/hook"));
    f.world.set("WEBHOOK_SECRET", SECRET);
    receiver.is_gone(true);
    let daemon = f.world.daemon().await;
    let phone = Phone::of_duty(&f.world).await;

    f.world.sql.query("RENAME TABLE alerts TO not_there").await;
    daemon.reconcile(&json!({})).await;
    let mail = mailed(
        &f.world,
        &["action needed: MySQL answers, but alerts cannot be recorded"],
    )
    .await;
    phone.read("mail-alerts-not-recorded", &mail).await;
    phone.tap(&mail, LAST_RUNS).await;
    f.world.sql.query("RENAME TABLE not_there TO alerts").await;
    phone.pass(&["nothing found"]).await;
    let mail = mailed(&f.world, &["resolved: refusal of alerts"]).await;
    phone.read("mail-alerts-recorded", &mail).await;
    phone.tap(&mail, OPEN_PROBLEMS).await;
    phone.shows("No alert is open.").await;

    injector(&f.world, &coupon)
        .await
        .make(Drift::FailedUnrepairable, 1)
        .await
        .unwrap();
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["action needed: 1 unrepaired failed claim"]).await;
    let given_up =
        "SELECT COUNT(*) FROM outbox WHERE channel = 'webhook' AND given_up_at IS NOT NULL";
    eventually("410 Gone is final", LIMIT, async || {
        f.world.sql.number(given_up).await > 0
    })
    .await;

    // The daemon restarts at the same address while a pass of another process hangs. The session
    // stays valid.
    receiver.is_gone(false);
    let told = receiver.posted("/hook").len();
    let hanging = stalled_pass(&f.world).await;
    let address = daemon
        .http()
        .base()
        .trim_start_matches("http://")
        .to_owned();
    assert_eq!(daemon.process.stop().await, 0);
    let deep = overdue(&f.world, "deep").await;
    let digest = overdue(&f.world, "digest").await;
    let again = [
        ("LISTEN_ADDR", address.as_str()),
        ("DEEP_CRON", &deep),
        ("DIGEST_CRON", &digest),
    ];
    let _daemon = f
        .world
        .daemon_with(&[&again[..], &[("FIRSTCOME_TEST_MISSED_AFTER_SECONDS", "1")]].concat())
        .await;
    // As OPERATIONS says: the refused event is given up, and is sent again by hand.
    f.world
        .sql
        .query(
            "UPDATE outbox SET given_up_at = NULL, next_attempt_at = UTC_TIMESTAMP(3) \
             WHERE given_up_at IS NOT NULL",
        )
        .await;
    let unposted = "SELECT COUNT(*) FROM outbox WHERE channel = 'webhook' AND sent_at IS NULL";
    eventually("all missing events are posted", LIMIT, async || {
        f.world.sql.number(unposted).await == 0
    })
    .await;
    assert!(receiver.posted("/hook").len() > told);

    let missed = mailed(&f.world, &["a run of DEEP_CRON is late"]).await;
    phone.read("mail-run-hangs", &missed).await;
    assert!(
        missed.text.contains(&format!(":{}", hanging.pid())),
        "{}",
        missed.text
    );
    phone.tap(&missed, LAST_RUNS).await;
    phone.shows("running").await;
    hanging.kill().await;
    // Only an operator can resolve the dead letter.
    phone.pass(&["needs a person"]).await;

    let day = mailed(&f.world, &["daily digest: 1 problem open"]).await;
    phone.read("mail-digest-with-a-problem", &day).await;
    phone.tap(&day, OPEN_PROBLEMS).await;
    phone.shows("1 unrepaired failed claim").await;
    phone.browser.click("nav a[href='/dead-letters']").await;
    until(
        &phone.browser,
        "document.querySelector('tbody a[href^=\\'/dead-letters/\\']')",
    )
    .await;
    phone.browser.click("tbody a[href^='/dead-letters/']").await;
    until_there(&phone.browser, "#why").await;
    fill(&phone.browser, "#why", "nobody was promised it").await;
    phone.browser.click("form[action$=discard] button").await;
    until_there(&phone.browser, "button[name=sure]").await;
    phone.browser.click("button[name=sure]").await;
    phone.shows("Dealt with").await;
    phone.tap_again("mail-run-hangs", &missed, LAST_RUNS).await;
    phone.pass(&["nothing found"]).await;
    mailed(
        &f.world,
        &["resolved: 1 unrepaired failed claim", "Winter coupon"],
    )
    .await;
    assert_settled(&f.world, &coupon, 20, 12, &answers).await;
}
