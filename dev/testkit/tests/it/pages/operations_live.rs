//! The live first screen of the operations page in a browser: drift appears, alerts are
//! acknowledged, and a lost connection is shown.

use std::time::{Duration, Instant};

use firstcome_stack::{FaultProxy, ProxyFault};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Browser, Fixture, OPS_TOKEN, ReconcilerClient, Running};
use serde_json::json;

use super::support::{
    ENTER, assert_open_to_all, dark_phone, desk, log_in, tab_to, until, until_state, until_title,
};
use crate::drift::support::injector;

const LOST: &str = "3 people were promised a coupon and have no row yet";

#[tokio::test]
async fn drift_appears_live_and_an_alert_is_acknowledged_by_keyboard() {
    let f = Fixture::new("page-duty").await;
    let (coupon, _) = f.held("Winter coupon", 20, 12).await;
    f.held("Spring coupon", 100, 40).await;
    let daemon = f.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let browser = Browser::open(desk()).await;
    browser.visit(daemon.http().base()).await;
    log_in(&browser, "Kim", OPS_TOKEN).await;
    until_title(&browser, "Everything is as promised").await;
    until_state(&browser, "live").await;
    assert_open_to_all(&browser, "ops-all-well").await;

    // The link is opened from a webmail client. A link from another site carries no cookie, and
    // log-in must still work.
    let base = daemon.http().base();
    browser
        .visit(&format!(
            "{}/healthz",
            base.replace("127.0.0.1", "localhost")
        ))
        .await;
    browser.run(&format!("location.href = '{base}/runs'")).await;
    until(
        &browser,
        "location.host.startsWith('127.') && location.pathname === '/runs'",
    )
    .await;
    browser.visit(base).await;
    until_state(&browser, "live").await;

    // Rows are deleted, and the page is not reloaded.
    browser
        .run("window.same = true; document.querySelector('nav a[href=\"/runs\"]').focus()")
        .await;
    let mut drift = injector(&f.world, &coupon).await;
    drift.make(Drift::Unissued, 3).await.unwrap();
    until_title(&browser, LOST).await;
    assert_open_to_all(&browser, "ops-drift").await;
    drift.make(Drift::FailedUnrepairable, 2).await.unwrap();
    daemon.reconcile(&json!({})).await;
    until_title(&browser, "2 unrepaired failed claims").await;
    assert_eq!(
        browser
            .run("return [window.same, document.activeElement.innerText]")
            .await,
        json!([true, "Passes"])
    );
    assert_open_to_all(&browser, "ops-alert").await;
    browser.look(dark_phone()).await;
    assert_open_to_all(&browser, "ops-alert-dark-phone").await;
    browser.look(desk()).await;

    tab_to(&browser, "[id^=to-alert-]").await;
    browser.key(ENTER).await;
    until(
        &browser,
        "location.pathname === '/alerts' && document.querySelector('article')",
    )
    .await;
    assert_open_to_all(&browser, "ops-alerts").await;
    browser.run("document.querySelector('#main').focus()").await;
    tab_to(&browser, "form[action$=acknowledge] button").await;
    browser.key(ENTER).await;
    until(
        &browser,
        "document.querySelector('article .done').innerText === 'Acknowledged by Kim.'",
    )
    .await;
    let again = "return document.querySelectorAll('form[action$=acknowledge]').length";
    assert_eq!(
        browser.run(again).await,
        json!(0),
        "nothing is left to acknowledge"
    );
    assert_eq!(
        f.world
            .sql
            .query("SELECT acknowledged_by FROM alerts WHERE status = 'firing'")
            .await,
        [["Kim"]]
    );

    f.world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by hand'")
        .await;
    daemon.reconcile(&json!({})).await;
    browser.visit(daemon.http().base()).await;
    until_title(&browser, "Everything is as promised").await;
    browser
        .visit(&format!("{}/runs", daemon.http().base()))
        .await;
    assert_open_to_all(&browser, "ops-passes").await;
    until(
        &browser,
        "document.querySelector('tbody tr').innerText.includes('nothing found')",
    )
    .await;
}

/// Opens the live first screen of a daemon that the browser reaches through a proxy.
async fn live_behind_proxy(f: &Fixture) -> (Running<ReconcilerClient>, FaultProxy, Browser) {
    let daemon = f.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let port = daemon
        .http()
        .base()
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let proxy = FaultProxy::start(port).await.unwrap();
    let browser = Browser::open(desk()).await;
    browser
        .visit(&format!("http://127.0.0.1:{}", proxy.port()))
        .await;
    log_in(&browser, "Kim", OPS_TOKEN).await;
    until_title(&browser, "Everything is as promised").await;
    until_state(&browser, "live").await;
    browser.run("window.same = true").await;
    (daemon, proxy, browser)
}

#[tokio::test]
async fn a_screen_reports_a_lost_or_silent_connection_and_recovers_without_a_reload() {
    for fault in [ProxyFault::Cut, ProxyFault::BlackHole] {
        let f = Fixture::new("page-away").await;
        let (coupon, _) = f.held("Winter coupon", 20, 12).await;
        let (_daemon, proxy, browser) = live_behind_proxy(&f).await;
        proxy.set(fault).await.unwrap();
        let since = Instant::now();
        until_state(&browser, "away").await;
        let took = since.elapsed();
        assert!(took < Duration::from_secs(20), "{took:?}");
        let says =
            "document.querySelector('#live').innerText.includes('connection lost, trying again')";
        until(&browser, says).await;
        let mut drift = injector(&f.world, &coupon).await;
        drift.make(Drift::Unissued, 3).await.unwrap();
        proxy.set(ProxyFault::Pass).await.unwrap();
        until_state(&browser, "live").await;
        until_title(&browser, LOST).await;
        assert_eq!(browser.run("return window.same").await, json!(true));
    }
}
