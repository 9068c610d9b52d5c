//! The operator on duty follows the links of a mail on a phone, to the screen that solves the
//! problem.

use firstcome_harness::{Browser, Look};

use super::support::{
    ENTER, assert_open_to_all, assert_sound, log_in, tab_to, until, until_state, until_text,
    until_there, until_title_has,
};
use crate::drift::support::ReadMail;
use crate::prelude::*;

/// Opens a mail, which must be accessible in light and in dark mode. The instructions and the
/// first link must be visible without scrolling.
async fn read_mail(browser: &Browser, world: &World, mail: &ReadMail) {
    let file = std::env::temp_dir().join(format!("{}.html", world.database()));
    std::fs::write(&file, &mail.html).unwrap();
    browser.visit(&format!("file://{}", file.display())).await;
    std::fs::remove_file(&file).unwrap();
    assert_open_to_all(browser, "mail").await;
    let phone = Look::default().on_a_phone();
    let dark = Look {
        dark: true,
        ..phone
    };
    browser.look(dark).await;
    assert_open_to_all(browser, "mail-dark").await;
    browser.look(phone).await;
    let below = "return ['.todo', 'a'].map((css) => document.querySelector(css))
             .map((part) => part.getBoundingClientRect().bottom - innerHeight)
             .filter((below) => below > 0)";
    let below = browser.run(below).await;
    assert_eq!(below, json!([]), "it is below the first screen");
}

/// Returns the target of the link with this label in the mail's text.
fn link<'m>(mail: &'m ReadMail, label: &str) -> &'m str {
    let mut lines = mail.text.lines();
    let found = lines.find_map(|line| line.strip_prefix(label)?.strip_prefix(": "));
    found
        .unwrap_or_else(|| panic!("{label:?} is not in {}", mail.text))
        .trim_end()
}

#[tokio::test]
#[ignore = "release"]
async fn an_operator_repairs_injected_drift_from_the_link_in_the_mail() {
    let f = Fixture::new("page-mail").await;
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "0");
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "1");
    let name = "Winter <b>coupon</b>";
    let (coupon, _) = f.held(name, 30, 20).await;
    // The daemon's mails link to the address of the daemon, because PUBLIC_URL is not set.
    let daemon = f.world.daemon().await;
    // Redis shows three strangers on slots that others hold. A repair takes these slots from them.
    let mut injector = injector(&f.world, &coupon).await;
    injector.make(Drift::SlotConflict, 3).await.unwrap();
    daemon.reconcile(&json!({})).await;
    let mail = mailed(&f.world, &["action needed", name]).await;
    let drop_link = link(
        &mail,
        "Pause the coupon, or list and confirm the repairs, in a browser",
    );
    let alert_link = link(&mail, "Acknowledge it, in a browser");

    let browser = &Browser::open(Look::default().on_a_phone()).await;
    read_mail(browser, &f.world, &mail).await;
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
            "location.href === {drop_link:?} && document.querySelector('button[value=dry_run]')"
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
    let dry_run = browser.run("return location.href").await;
    let dry_run = dry_run.as_str().unwrap().to_owned();
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

    browser.visit(&dry_run).await;
    until_there(browser, "form[action$=confirm] button").await;
    browser.click("form[action$=confirm] button").await;
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
    assert_settled(&f.world, &coupon, 30, 23).await;

    mailed(&f.world, &["resolved", name]).await;
    browser.visit(alert_link).await;
    // The link of an old mail still leads to its alert.
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
