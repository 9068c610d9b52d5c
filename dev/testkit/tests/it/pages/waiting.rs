//! The coupon page before the opening, on the waiting list, and after a claim is refused.

use chrono::{DateTime, SecondsFormat};
use firstcome_testkit::{Fixture, LIMIT, Look, World, coupon_body, eventually, open_world};
use serde_json::{Value, json};

use super::support::{BrowserPage, ENTER, TAB, dark_phone, serve_pages, until};

async fn opens_in(world: &World, name: &str, seconds: i64) -> Value {
    let at = DateTime::from_timestamp_millis(world.redis.now_ms().await + 1_000 * seconds).unwrap();
    let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({"name": name, "quantity": 50, "once_per": "coupon", "waiting_list": 0, "schedule": {"type": "once", "opens_at": at}})
}

#[tokio::test]
#[ignore = "release"]
async fn the_button_is_enabled_at_the_opening_and_works_by_keyboard() {
    let (world, _api) = open_world("page-opens").await;
    let pages = serve_pages(&world).await;
    let far = pages
        .create_coupon(&opens_in(&world, "겨울 한정 쿠폰", 4_140).await)
        .await;
    let korean = Look {
        languages: "ko-KR,ko",
        ..Look::default()
    }
    .on_a_phone();
    let mut page = BrowserPage::of(pages.http().base(), far.id, korean).await;
    page.come_as("u-you").await;
    page.until(&["scheduled"]).await;
    let left = page.text("#big").await;
    let hint = page.text("#main").await;
    assert!(
        left.starts_with("01:0") && hint == "아직 오픈 전이에요" && !page.is_on().await,
        "{left} {hint}"
    );
    page.assert_open_to_all("scheduled-korean-phone").await;
    page.browser.key(TAB).await;
    page.browser.key(ENTER).await;
    assert_eq!(
        (page.view().await.as_str(), page.claims_sent().await),
        ("scheduled", 0),
        "an early tap does nothing"
    );

    // Later requests for the state are never answered, so only the clock can open the page.
    let once = "{ const ask = window.fetch; let asked = 0; window.fetch = (url, options) =>
        String(url).endsWith('/state') && asked++ ? new Promise(() => {}) : ask(url, options); }";
    page.browser.prepare(once).await;
    // A busy machine may load the page after the opening. The test then tries another coupon.
    for lead in [4, 15, 60] {
        let soon = pages
            .create_coupon(&opens_in(&world, "겨울 한정 쿠폰", lead).await)
            .await;
        page.now_of(pages.http().base(), soon.id);
        page.come_as("u-you").await;
        if page.until(&["scheduled", "open"]).await == "scheduled" {
            break;
        }
    }
    page.browser.key(TAB).await;
    assert_eq!(
        page.browser.run("return document.activeElement.id").await,
        "main"
    );
    page.until(&["open"]).await;
    assert!(page.is_on().await);
    page.browser.key(ENTER).await;
    page.until(&["accepted"]).await;
    assert_eq!(page.text("#label").await, "쿠폰을 받았어요");
    assert_eq!(
        page.browser.run("return document.activeElement.id").await,
        "label",
        "the focus follows"
    );
    page.assert_sound("accepted-korean-phone").await;
}

#[tokio::test]
#[ignore = "release"]
async fn users_without_a_slot_see_their_position_or_sold_out_paused_or_closed() {
    let f = Fixture::new("page-others").await;
    let pages = serve_pages(&f.world).await;
    let coupon = f
        .api
        .create_coupon(&coupon_body("Winter coupon", 1, 2))
        .await;
    for user in ["u-1", "u-2"] {
        f.api.claim(coupon.id, user).await;
    }
    let dark = Look {
        dark: true,
        ..Look::default()
    };
    let page = BrowserPage::of(pages.http().base(), coupon.id, dark).await;
    page.come_as("u-3").await;
    page.until(&["can_wait"]).await;
    assert_eq!(page.text("#label").await, "Sold out");
    page.assert_open_to_all("can-wait-dark").await;
    page.browser.click("#main").await;
    page.until(&["waiting"]).await;
    assert_eq!(page.text("#big").await, "2nd in line");
    assert_eq!(page.text("#back").await, "Leave the list");
    page.assert_open_to_all("waiting-dark").await;
    page.browser.reload().await;
    page.until(&["waiting"]).await;
    // A newcomer sees the message without a claim, and also after a claim and a reload.
    page.come_as("u-4").await;
    page.until(&["sold_out"]).await;
    assert_eq!(page.claims_sent().await, 0);
    page.browser.click("#main").await;
    until(
        &page.browser,
        "performance.getEntriesByType('resource').some(({name}) => name.endsWith('/claims'))",
    )
    .await;
    page.until(&["sold_out"]).await;
    page.assert_open_to_all("sold-out-dark").await;
    page.browser.reload().await;
    page.until(&["sold_out"]).await;

    f.api.change(coupon.id, &json!({"paused": true})).await;
    page.come_as("u-5").await;
    page.until(&["paused"]).await;
    page.browser.look(dark_phone()).await;
    page.assert_sound("paused-dark-phone").await;
    f.api
        .change(coupon.id, &json!({"paused": false, "close_now": true}))
        .await;
    page.come_as("u-5").await;
    // The catalogue of the other process may not have the change yet. In that case a claim gets
    // `closed`.
    if page.until(&["sold_out", "closed"]).await == "sold_out" {
        page.browser.click("#main").await;
    }
    page.until(&["closed"]).await;
    eventually("the page shows when the coupon closed", LIMIT, async || {
        page.browser
            .run("document.dispatchEvent(new Event('visibilitychange'))")
            .await;
        page.text("#detail").await.starts_with("It closed on ")
    })
    .await;
    page.assert_sound("closed-dark-phone").await;
    page.come_as("u-1").await;
    page.until(&["issued"]).await;
    page.assert_open_to_all("issued-dark-phone").await;
}
