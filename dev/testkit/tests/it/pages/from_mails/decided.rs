//! Problems that an operator has to decide: held-back repairs, broken promises, dead letters.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Browser, Fixture, OPS_TOKEN, assert_kept};
use serde_json::json;

use super::super::support::{
    ENTER, assert_open_to_all, assert_sound, fill, log_in, tab_to, until, until_state, until_text,
    until_there, until_title_has,
};
use super::phone::{Phone, link};
use crate::drift::support::{assert_settled, assert_whole, injector, mailed};

#[tokio::test]
async fn an_operator_repairs_injected_drift_from_the_link_in_the_mail() {
    let f = Fixture::new("page-mail").await;
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "0");
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "1");
    let name = "Winter <b>coupon</b>";
    let (coupon, answers) = f.held(name, 30, 20).await;
    // The daemon's mails link to the address of the daemon, because PUBLIC_URL is not set.
    let daemon = f.world.daemon().await;
    // Three strangers on held slots. They would lose them.
    injector(&f.world, &coupon)
        .await
        .make(Drift::SlotConflict, 3)
        .await
        .unwrap();
    daemon.reconcile(&json!({})).await;
    let mail = mailed(&f.world, &["action needed", name]).await;
    let drop_link = link(
        &mail,
        "Pause the coupon, or see and confirm the repairs, in a browser",
    );
    let alert_link = link(&mail, "Acknowledge it, in a browser");

    let phone = Phone::of_duty(&f.world).await;
    phone.read("mail-held-back", &mail).await;
    let browser = &phone.browser;
    browser.visit(alert_link).await;
    until_there(browser, "#token").await;
    assert_open_to_all(browser, "ops-log-in").await;
    log_in(browser, "Kim", OPS_TOKEN).await;
    // The link leads to the alert itself, not only to the list of alerts.
    until_there(browser, "article:target form[action$=acknowledge] button").await;
    browser.visit(drop_link).await;
    until(
        browser,
        &format!(
            "location.href === {drop_link:?} && document.querySelector('button[value=confirm]')"
        ),
    )
    .await;
    assert_open_to_all(browser, "ops-held-back").await;

    browser.run("document.querySelector('#main').focus()").await;
    tab_to(browser, "button[value=dry_run]").await;
    browser.key(ENTER).await;
    until_title_has(browser, "found, not changed").await;
    let repairs = browser
        .run("return document.body.innerText.split('Redis has this user on a slot whose row is another').length - 1")
        .await;
    assert_eq!(repairs, json!(3));
    assert_open_to_all(browser, "ops-dry-run").await;
    let users = f.world.redis.of_drop(coupon.id, coupon.drop, "users");
    assert_eq!(
        f.world.redis.command::<i64>(&["ZCARD", &users]).await,
        23,
        "a dry run changes nothing"
    );

    // The alert is visited before the confirmation, because the repairs resolve it.
    browser.visit(alert_link).await;
    until_there(browser, "article:target form[action$=acknowledge] button").await;
    browser
        .click("article:target form[action$=acknowledge] button")
        .await;
    until(
        browser,
        "document.querySelector('article').innerText.includes('Taken on by Kim')",
    )
    .await;
    assert_sound(browser, "ops-taken-on").await;

    browser.visit(drop_link).await;
    until_there(browser, "button[value=confirm]").await;
    browser.click("button[value=confirm]").await;
    until_there(browser, "button[name=sure]").await;
    assert_open_to_all(browser, "ops-sure").await;
    browser.click("button[name=sure]").await;
    until_title_has(browser, "repaired").await;
    until(
        browser,
        "document.querySelector('td[data-label=Afterwards]').innerText === 'exact'",
    )
    .await;
    assert_open_to_all(browser, "ops-confirmed").await;
    // The strangers got free slots.
    assert_settled(&f.world, &coupon, 30, 23, &answers).await;

    mailed(&f.world, &["resolved", name]).await;
    browser.visit(alert_link).await;
    // An old mail leads to its alert.
    until_text(browser, "resolved").await;
    assert_sound(browser, "ops-alert-over").await;
    browser.visit(daemon.http().base()).await;
    until_state(browser, "live").await;
    until(
        browser,
        &format!("document.querySelector('#board').innerText.includes({name:?})"),
    )
    .await;
    assert_sound(browser, "ops-odd-name").await;
}

/// Requests a pass over the drop of this page. Afterwards the drop must be exact.
async fn pass_to_exact(browser: &Browser) {
    until_there(browser, "button[value=pass]").await;
    browser.click("button[value=pass]").await;
    until(
        browser,
        "document.querySelector('td[data-label=Afterwards]').innerText === 'exact'",
    )
    .await;
}

#[tokio::test]
async fn raising_the_quantity_from_the_mails_link_resolves_broken_promises() {
    let f = Fixture::new("mail-broken").await;
    let (coupon, answers) = f.held("Winter coupon", 20, 20).await;
    let daemon = f
        .world
        .daemon_with(&[("API_URL", f.api.http().base())])
        .await;
    injector(&f.world, &coupon)
        .await
        .make(Drift::OverShrunk, 2)
        .await
        .unwrap();
    daemon.reconcile(&json!({})).await;
    let mail = mailed(&f.world, &["action needed", "2 broken promises"]).await;
    let phone = Phone::of_duty(&f.world).await;
    phone.read("mail-broken-promises", &mail).await;
    phone.tap(&mail, "Raise the quantity, in a browser").await;
    let browser = &phone.browser;
    until_there(browser, "#quantity").await;
    fill(browser, "#quantity", "20").await;
    let button = "return document.querySelector('button[value=quantity]').innerText";
    assert_eq!(
        browser.run(button).await,
        json!("Change the quantity to 20")
    );
    assert_open_to_all(browser, "ops-coupon-changes").await;
    browser.click("button[value=quantity]").await;
    until_there(browser, "button[name=sure]").await;
    assert_open_to_all(browser, "ops-raise").await;
    browser.click("button[name=sure]").await;
    until(
        browser,
        "document.querySelector('td[data-label=Quantity]')?.innerText === '20'",
    )
    .await;
    // The change automatically requests a pass.
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
    assert_whole(&f.world, &coupon, 20, 20).await;
    assert_kept(&f.world, &coupon, &answers, &[]).await;
    let base = daemon.http().base();
    let drop = format!("{base}/coupons/{}/drops/{}", coupon.id, coupon.drop);
    browser.visit(&drop).await;
    phone.pass(&["nothing found"]).await;
}

#[tokio::test]
async fn a_dead_letter_is_corrected_and_issued_from_the_link_in_the_mail() {
    let f = Fixture::new("mail-letter").await;
    let (coupon, answers) = f.held("Winter coupon", 20, 19).await;
    let daemon = f.world.daemon().await;
    let done = injector(&f.world, &coupon)
        .await
        .make(Drift::FailedUnrepairable, 1)
        .await
        .unwrap();
    daemon.reconcile(&json!({})).await;
    let mail = mailed(&f.world, &["action needed", "1 unrepaired failed claim"]).await;
    let phone = Phone::of_duty(&f.world).await;
    phone.read("mail-failed-claims", &mail).await;
    phone
        .tap(&mail, "See them, with their reasons, in a browser")
        .await;
    let browser = &phone.browser;
    until(
        browser,
        "document.querySelector('tbody a[href^=\\'/dead-letters/\\']')",
    )
    .await;
    browser.click("tbody a[href^='/dead-letters/']").await;
    until_there(browser, "form[action$=reveal] button").await;
    browser.click("form[action$=reveal] button").await;
    until_there(browser, "#of-slot").await;
    assert_eq!(
        browser
            .run("return document.querySelector('#of-person').value")
            .await,
        json!(done.people[0].user)
    );
    fill(browser, "#of-slot", "20").await;
    assert_open_to_all(browser, "ops-correct").await;
    browser.click("form[action$=correct] button").await;
    until_there(browser, "button[name=sure]").await;
    browser.click("button[name=sure]").await;
    until_text(browser, "slot 20,").await;
    browser
        .visit(link(&mail, "Run a pass over this drop, in a browser"))
        .await;
    pass_to_exact(browser).await;
    assert_settled(&f.world, &coupon, 20, 20, &answers).await;
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
}
