//! The coupon page before the opening, on the waiting list, and after a claim is refused.

use chrono::{DateTime, SecondsFormat};
use firstcome_testkit::{Fixture, LIMIT, Look, World, coupon_body, eventually, open_world};
use serde_json::{Value, json};

use super::support::{BrowserPage, ENTER, TAB, TIMERS, dark_phone, serve_pages, until};

/// The device's clock is two hours ahead.
const AHEAD: &str = "{ const Real = Date; window.Date = class extends Real {
    constructor(...given) { if (given.length) super(...given); else super(Real.now() + 7_200_000); }
    static now() { return Real.now() + 7_200_000; } }; }";

/// Records the poll times that the server sends.
const POLLS: &str = "window.told = [];
    { const ask = window.fetch; window.fetch = async (url, options) => {
        const answer = await ask(url, options);
        if (String(url).endsWith('/state')) window.told.push((await answer.clone().json()).poll_after_ms);
        return answer; }; }";

async fn opens_in(world: &World, name: &str, seconds: i64) -> Value {
    let at = DateTime::from_timestamp_millis(world.redis.now_ms().await + 1_000 * seconds).unwrap();
    let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({"name": name, "quantity": 50, "once_per": "coupon", "waiting_list": 0, "schedule": {"type": "once", "opens_at": at}})
}

#[tokio::test]
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
async fn the_countdown_follows_the_servers_clock_not_the_devices() {
    let (world, _api) = open_world("page-clock").await;
    let pages = serve_pages(&world).await;
    let body = opens_in(&world, "Winter coupon", 4_140).await;
    let opens_at =
        DateTime::parse_from_rfc3339(body["schedule"]["opens_at"].as_str().unwrap()).unwrap();
    let coupon = pages.create_coupon(&body).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.browser.prepare(AHEAD).await;
    page.come_as("u-you").await;
    page.until(&["scheduled"]).await;
    let server = world.redis.now_ms().await;
    let shown = page.text("#big").await;
    let ahead = page
        .browser
        .run(&format!("return Date.now() - {server}"))
        .await
        .as_f64()
        .unwrap();
    assert!(ahead >= 7_100_000.0, "the device is only {ahead} ms ahead");
    let shown_seconds = shown
        .split(':')
        .fold(0, |sum, part| 60 * sum + part.parse::<i64>().unwrap());
    let left = (opens_at.timestamp_millis() - server) / 1_000;
    // A busy machine shows the next second late.
    assert!(
        (shown_seconds - left).abs() <= 30,
        "{shown} is shown, {left} s are left"
    );
}

#[tokio::test]
async fn the_page_adds_up_to_two_fifths_to_the_servers_poll_interval() {
    let (world, _api) = open_world("page-polls").await;
    let pages = serve_pages(&world).await;
    let far = pages
        .create_coupon(&opens_in(&world, "Winter coupon", 4_140).await)
        .await;
    let near = pages
        .create_coupon(&opens_in(&world, "Winter coupon", 220).await)
        .await;
    for luck in [0.0, 0.999] {
        let mut page = BrowserPage::of(pages.http().base(), far.id, Look::default()).await;
        page.browser
            .prepare(&format!("{TIMERS} {POLLS} Math.random = () => {luck}"))
            .await;
        for (coupon, expected) in [(&far, 60_000.0..=60_000.0), (&near, 5_000.0..=55_000.0)] {
            page.now_of(pages.http().base(), coupon.id);
            page.come_as("u-you").await;
            page.until(&["scheduled"]).await;
            let told = page
                .browser
                .run("return window.told[0]")
                .await
                .as_f64()
                .unwrap();
            assert!(expected.contains(&told), "{told} ms");
            // Shorter timers belong to the countdown and to this test.
            let wait = page
                .browser
                .run("return window.waits.find((ms) => ms > 2000)")
                .await
                .as_f64()
                .unwrap();
            let due = told * (1.0 + 0.4 * luck);
            assert!(
                (wait - due).abs() < 1.0,
                "{wait} ms, not {due}: told {told}, luck {luck}"
            );
        }
    }
}

#[tokio::test]
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

#[tokio::test]
async fn the_page_shows_a_lost_or_given_up_position_and_a_freed_slot() {
    let (world, api) = open_world("page-place").await;
    let pages = serve_pages(&world).await;
    let name = "Anniversary coupon 2026 · 겨울한정기념쿠폰 · Donaudampfschifffahrtsgesellschaftskapitän: a free coffee in all 300 shops";
    let coupon = pages.create_coupon(&coupon_body(name, 1, 1)).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default().on_a_phone()).await;
    // The API's answers are up to 200 ms old.
    let turns_to = async |view: &str| {
        eventually(&format!("the page shows {view}"), LIMIT, async || {
            page.browser
                .run("document.dispatchEvent(new Event('visibilitychange'))")
                .await;
            page.view().await == view
        })
        .await;
    };
    page.come_as("u-2").await;
    page.until(&["open"]).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
    turns_to("can_wait").await;
    page.browser.click("#main").await;
    page.until(&["waiting"]).await;

    // Redis loses the waiting list, once while the page is open and once while it is not.
    let list = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    world.redis.command::<i64>(&["DEL", &list]).await;
    page.browser.run("dispatchEvent(new Event('online'))").await;
    page.until(&["lost_place"]).await;
    page.assert_open_to_all("lost-place-phone").await;
    page.browser.reload().await;
    page.until(&["lost_place"]).await;
    assert_eq!(page.text("#label").await, "Your place in line was lost");
    // Another user in this browser does not see the claim. The first user's link shows it again.
    let key = "'firstcome:token'";
    let link = page
        .browser
        .run(&format!("return sessionStorage.getItem({key})"))
        .await;
    page.come_as("u-3").await;
    page.until(&["can_wait"]).await;
    page.browser
        .run(&format!("sessionStorage.setItem({key}, {link})"))
        .await;
    page.browser.reload().await;
    page.until(&["lost_place"]).await;
    page.browser.click("#main").await;
    page.until(&["waiting"]).await;

    page.browser.click("#back").await;
    page.assert_open_to_all("leave-phone").await;
    page.browser.click("#yes").await;
    page.until(&["revoked"]).await;
    assert_eq!(page.text("#label").await, "You are off the waiting list");
    page.come_as("u-3").await;
    page.until(&["can_wait"]).await;
    assert!(api.give_back(coupon.id, "u-1").await.is_ok());
    turns_to("open").await;
}
