//! Claims on the coupon page: during a rush, without a network, and by a user who waits until the
//! drop is closed.

use firstcome_harness::{Look, assert_sold_out, holders};

use super::support::{BrowserPage, serve_pages};
use crate::prelude::*;

#[tokio::test]
async fn a_user_who_claims_during_a_rush_gets_a_slot_number_and_a_code() {
    let f = Fixture::new("page-rush").await;
    let (api, sql) = (&f.api, &f.world.sql);
    let pages = serve_pages(&f.world).await;
    let coupon = api.open_coupon(300).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.visit().await;
    page.until(&["who"]).await;
    page.assert_sound("who").await;
    assert_eq!(page.claims_sent().await, 0);

    page.come_as("u-you").await;
    page.until(&["open"]).await;
    let address = page.browser.address().await;
    assert!(!address.contains("token"), "{address}");
    page.assert_open_to_all("open").await;
    // A gateway redirects to its log-in page once its session is over.
    let redirects = "fetch = async (_, { redirect }) => redirect === 'manual' ? { type: 'opaqueredirect' } : Promise.reject()";
    page.browser.run(redirects).await;
    page.browser.click("#main").await;
    page.until(&["expired"]).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    let crowd = people(400);
    // Simulates a double tap.
    let taps = "const b = document.querySelector('#main'); b.click(); b.click()";
    let claims = async {
        page.browser.run(taps).await;
        page.until(&["accepted", "issued"]).await;
    };
    let early = async { rush_until_answered(&[api], coupon.id, &crowd[..200], 50).await };
    let (early, ()) = tokio::join!(early, claims);
    assert_sold_out(&early, 200);
    let late = rush_until_answered(&[api], coupon.id, &crowd[200..], 50).await;
    assert_sold_out(&late, 99);
    page.until(&["issued"]).await;
    assert_eq!(page.claims_sent().await, 1);
    all_issued(&f.world, coupon.drop, 300).await;
    let row = "SELECT slot, code FROM issued_coupons WHERE user_id = 'u-you'";
    let row = sql.query(row).await;
    let shown = async || [[page.text("#big").await, page.text("#code output").await]];
    assert_eq!(row, shown().await);
    assert_eq!(page.text("#label").await, "It is yours");
    page.assert_open_to_all("issued").await;
    // After a reload, and after the page's stored data is cleared, the user sees the coupon without
    // claiming.
    for forget in ["", "localStorage.clear()"] {
        page.browser.run(forget).await;
        page.browser.reload().await;
        page.until(&["issued"]).await;
        assert_eq!(row, shown().await);
        assert_eq!(page.claims_sent().await, 0);
    }
}

#[tokio::test]
#[ignore = "release"]
async fn a_claim_survives_a_lost_network_and_a_new_process() {
    let (world, _api) = firstcome_harness::open_world("page-lost").await;
    let pages = serve_pages(&world).await;
    let port = |base: &str| base.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let network = FaultProxy::start(port(pages.http().base())).await.unwrap();
    let coupon = pages.open_coupon(10).await;
    let page = BrowserPage::of(
        &format!("http://127.0.0.1:{}", network.port()),
        coupon.id,
        Look::default(),
    )
    .await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    // The claim succeeds, but its answer is lost.
    network.set(ProxyFault::DropReplies).await.unwrap();
    page.browser.click("#main").await;
    eventually("the user is admitted", LIMIT, async || {
        holders(&world, &coupon).await == 1
    })
    .await;
    network.set(ProxyFault::Cut).await.unwrap();
    page.until(&["trying"]).await;
    page.assert_sound("trying").await;
    pages.process.kill().await;
    let pages = serve_pages(&world).await;
    network.set_upstream(port(pages.http().base()));
    network.set(ProxyFault::Pass).await.unwrap();
    page.until(&["accepted"]).await;
    // A retry after a lost answer must not be shown as "already claimed".
    assert_eq!(
        [page.text("#label").await, page.text("#big").await],
        ["It is yours", "1"]
    );
    let _consumer = world.consume().await;
    page.until(&["issued"]).await;
    page.assert_sound("issued-late").await;
}

/// A drop that is closed early no longer has a waiting list, which is not a fault.
#[tokio::test]
async fn a_waiting_user_sees_that_the_drop_was_closed() {
    let f = Fixture::new("page-closed").await;
    let pages = serve_pages(&f.world).await;
    let coupon = f.api.open_coupon(1).await;
    f.api.change(coupon.id, &json!({"waiting_list": 5})).await;
    f.api.claim(coupon.id, "u-first").await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["can_wait"]).await;
    page.browser.click("#main").await;
    page.until(&["waiting"]).await;
    f.api.change(coupon.id, &json!({"close_now": true})).await;
    // A pass deletes the waiting list once no claim can be in flight to it.
    f.world.set("RECONCILE_CRON", "* * * * * *");
    let _daemon = f.world.daemon().await;
    assert_eq!(page.until(&["closed", "lost_place"]).await, "closed");
    assert_eq!(page.text("#label").await, "Closed");
}
