//! Claims on the coupon page: during a rush, without a network, across reloads, and returned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use firstcome_stack::{FaultProxy, ProxyFault};
use firstcome_testkit::{
    ApiClient, Fixture, LIMIT, Look, World, all_issued, coupon_body, eventually, eventually_some,
};
use parking_lot::Mutex;

use super::support::{BrowserPage, serve_pages};

const SLOTS: u32 = 300;

/// Slots that the crowd leaves free until the user in the browser is admitted.
const LEFT: usize = 100;

/// Concurrent claims of the crowd.
const AT_ONCE: usize = 50;

/// Many users who claim without pause. At first they leave some slots free and repeat their claims,
/// then they claim all slots until the coupon is sold out.
#[derive(Default)]
struct EagerCrowd {
    claims: AtomicUsize,
    /// Number of answers by word.
    answers: Mutex<BTreeMap<String, usize>>,
    takes_all: AtomicBool,
    goes_home: AtomicBool,
}

impl EagerCrowd {
    async fn claim(&self, api: &ApiClient, coupon: i64) {
        while !self.goes_home.load(SeqCst) {
            let takes_all = self.takes_all.load(SeqCst);
            let number = self.claims.fetch_add(1, SeqCst);
            let person = if takes_all {
                number
            } else {
                number % (SLOTS as usize - LEFT)
            };
            let answer = api.claim(coupon, &format!("u-{person}")).await;
            *self
                .answers
                .lock()
                .entry(answer.word().to_owned())
                .or_default() += 1;
        }
    }

    fn answers(&self) -> usize {
        self.answers.lock().values().sum()
    }

    /// Waits until this many of its claims have got this answer.
    async fn until(&self, word: &str, answers: usize) {
        let look = async || {
            let all = self.answers.lock().clone();
            if all.get(word).is_some_and(|number| *number >= answers) {
                Ok(())
            } else {
                Err(format!("{all:?}"))
            }
        };
        eventually_some(&format!("the crowd is answered {word:?}"), LIMIT, look).await;
    }
}

#[tokio::test]
async fn a_user_who_claims_during_a_rush_gets_a_slot_number_and_a_code() {
    let f = Fixture::new("page-rush").await;
    let pages = serve_pages(&f.world).await;
    let coupon = f
        .api
        .create_coupon(&coupon_body("Winter coupon", SLOTS, 0))
        .await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.visit().await;
    page.until(&["who"]).await;
    page.assert_sound("who").await;
    assert_eq!(page.claims_sent().await, 0);

    page.come_as("u-you").await;
    page.until(&["open"]).await;
    assert!(
        !page.browser.address().await.contains("token"),
        "{}",
        page.browser.address().await
    );
    page.assert_open_to_all("open").await;
    let crowd = Arc::new(EagerCrowd::default());
    let all = (0..AT_ONCE).map(|_| {
        let crowd = crowd.clone();
        let api = (*f.api).clone();
        tokio::spawn(async move { crowd.claim(&api, coupon.id).await })
    });
    let all: Vec<_> = all.collect();
    crowd.until("already_claimed", AT_ONCE).await;
    // Simulates a double tap.
    page.browser
        .run("const b = document.querySelector('#main'); b.click(); b.click()")
        .await;
    let answers = crowd.answers();
    eventually("the user is admitted", LIMIT, async || {
        let users = f.world.redis.of_drop(coupon.id, coupon.drop, "users");
        f.world
            .redis
            .command::<Option<f64>>(&["ZSCORE", &users, "u-you"])
            .await
            .is_some()
    })
    .await;
    crowd.takes_all.store(true, SeqCst);
    page.until(&["issued"]).await;
    crowd.until("sold_out", AT_ONCE).await;
    assert!(
        crowd.answers() >= answers + AT_ONCE,
        "the crowd claimed throughout"
    );
    crowd.goes_home.store(true, SeqCst);
    for member in all {
        member.await.unwrap();
    }
    assert_eq!(page.claims_sent().await, 1);
    // Users with lower slots were admitted earlier, and users with higher slots later.
    all_issued(&f.world, coupon.drop, SLOTS as usize).await;
    let beside = |side: &str, order: &str| {
        format!(
            "SELECT COUNT(*), COUNT(IF(i.claimed_at {order} you.claimed_at, 1, NULL)) FROM issued_coupons i \
             JOIN issued_coupons you ON you.user_id = 'u-you' WHERE i.slot {side} you.slot"
        )
    };
    for (side, order) in [("<", "<="), (">", ">=")] {
        let counts = f.world.sql.query(&beside(side, order)).await;
        let others = &counts[0][0];
        let in_order = &counts[0][1];
        assert!(
            others != "0" && others == in_order,
            "{side}: {in_order} of {others}"
        );
    }
    let row = f
        .world
        .sql
        .query("SELECT slot, code FROM issued_coupons WHERE user_id = 'u-you'")
        .await;
    let shown = async || {
        let number = page.text("#big").await;
        [[number, page.text("#code output").await]]
    };
    assert_eq!(row, shown().await);
    assert_eq!(page.text("#label").await, "It is yours");
    page.assert_open_to_all("issued").await;

    page.browser.reload().await;
    page.until(&["issued"]).await;
    assert_eq!(row, shown().await, "after a reload");
    assert_eq!(page.claims_sent().await, 0);
    // In another browser the user sees the coupon without claiming.
    page.browser.prepare(LABELS).await;
    page.browser.run("localStorage.clear()").await;
    page.browser.reload().await;
    page.until(&["issued"]).await;
    let labels = page.browser.run("return window.labels").await;
    assert_eq!(
        labels,
        serde_json::json!(["One moment…", "It is yours"]),
        "never \"Open now\" to a holder"
    );
    assert_eq!(row, shown().await, "in another browser");
    assert_eq!(page.text("#label").await, "It is yours");
    assert_eq!(page.claims_sent().await, 0);
    // If the look-up fails and the user claims again, the page shows that the user already has a
    // coupon.
    page.browser.prepare(NOT_BESIDE).await;
    page.browser.run("localStorage.clear()").await;
    page.browser.reload().await;
    page.until(&["sold_out"]).await;
    page.browser.click("#main").await;
    page.until(&["issued"]).await;
    assert_eq!(page.text("#label").await, "You already have one");
}

/// From the next load on, records every text of the page's first line.
const LABELS: &str = "window.labels = []; new MutationObserver(() => {
    const label = document.querySelector('#label')?.textContent;
    if (label && label !== window.labels.at(-1)) window.labels.push(label);
  }).observe(document, { subtree: true, childList: true, characterData: true });";

/// From the next load on, makes the first look-up of the user's claim fail.
const NOT_BESIDE: &str = "{ const ask = window.fetch; let lost = 0; window.fetch = (url, options) =>
    String(url).endsWith('/me') && !lost++ ? Promise.reject(new TypeError('lost')) : ask(url, options); }";

#[tokio::test]
async fn a_claim_survives_a_lost_network_and_a_new_process() {
    let (world, _api) = firstcome_testkit::open_world("page-lost").await;
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
    firstcome_testkit::eventually(
        "the user is admitted",
        firstcome_testkit::LIMIT,
        async || {
            world
                .redis
                .command::<i64>(&[
                    "ZCARD",
                    &world.redis.of_drop(coupon.id, coupon.drop, "users"),
                ])
                .await
                == 1
        },
    )
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

#[tokio::test]
async fn a_reload_resumes_claiming() {
    let world = World::new("page-reload").await;
    let pages = serve_pages(&world).await;
    let coupon = pages.open_coupon(10).await;
    // The API has opened the new coupon. Without its gate every claim gets 503 until a pass.
    let gate = world.redis.gate(coupon.id);
    assert_eq!(world.redis.command::<u32>(&["DEL", &gate]).await, 1);
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    page.browser.click("#main").await;
    page.until(&["trying"]).await;
    page.browser.reload().await;
    page.until(&["trying"]).await;
    world.open().await;
    page.until(&["accepted"]).await;
    assert_eq!(
        [page.text("#label").await, page.text("#big").await],
        ["It is yours", "1"]
    );
    assert_eq!(
        page.browser.complaints().await,
        Vec::<serde_json::Value>::new()
    );
}

#[tokio::test]
async fn a_confirmed_return_frees_the_slot() {
    let f = Fixture::new("page-back").await;
    let pages = serve_pages(&f.world).await;
    let coupon = f
        .api
        .create_coupon(&coupon_body("Winter coupon", 1, 0))
        .await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    page.browser.click("#main").await;
    page.until(&["issued"]).await;
    for button in ["#back", "#keep", "#back"] {
        page.browser.click(button).await;
    }
    page.assert_sound("sure").await;
    page.browser.click("#yes").await;
    page.until(&["revoked"]).await;
    page.assert_sound("revoked").await;
    assert_eq!(
        f.world
            .sql
            .number("SELECT COUNT(*) FROM issued_coupons")
            .await,
        0
    );
    page.browser.reload().await;
    page.until(&["revoked"]).await;
    // The next user gets the slot. The first user sees, also in another browser, that the coupon
    // was returned.
    assert_eq!(
        f.api.claim(coupon.id, "u-next").await.promised(),
        Some((coupon.drop, 1))
    );
    page.browser.run("localStorage.clear()").await;
    page.browser.reload().await;
    page.until(&["revoked"]).await;
}

#[tokio::test]
async fn the_page_returns_the_coupon_of_the_drop_that_it_shows() {
    let f = Fixture::new("page-back-drop").await;
    let pages = serve_pages(&f.world).await;
    let mut body = coupon_body("Winter coupon", 1, 0);
    body["once_per"] = "drop".into();
    let coupon = f.api.create_coupon(&body).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    page.browser.click("#main").await;
    page.until(&["issued"]).await;
    for button in ["#back", "#yes"] {
        page.browser.click(button).await;
    }
    page.until(&["revoked"]).await;
    let asked = page
        .browser
        .run("return performance.getEntriesByType('resource').map(one => one.name)")
        .await;
    let named = format!("/claims/me?drop_id={}", coupon.drop);
    assert!(
        asked
            .as_array()
            .unwrap()
            .iter()
            .any(|url| url.as_str().unwrap().ends_with(&named)),
        "{asked}"
    );
    page.browser.reload().await;
    page.until(&["revoked"]).await;
    // If the look-up fails in another browser and the user claims again, the page shows that the
    // coupon was returned.
    page.browser.prepare(NOT_BESIDE).await;
    page.browser.run("localStorage.clear()").await;
    page.browser.reload().await;
    page.until(&["open"]).await;
    page.browser.click("#main").await;
    page.until(&["revoked"]).await;
}
