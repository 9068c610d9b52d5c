//! Helpers for pages in a browser: a coupon page with the user who visits it, checks, and waits.

use firstcome_harness::{ApiClient, Browser, Look, Running};
use firstcome_load::identity::{token, token_settings};

use crate::prelude::*;

const SECRET: &str = "pages-0123456789abcdef0123456789abcdef";

/// Starts an API with coupon pages for users with a token.
pub(super) async fn serve_pages(world: &World) -> Running<ApiClient> {
    world
        .serve_with(&[&token_settings(SECRET)[..], &[("COUPON_PAGE", "on")]].concat())
        .await
}

/// A browser that shows the page of a coupon.
pub(super) struct BrowserPage {
    pub(super) browser: Browser,
    address: String,
}

impl BrowserPage {
    /// Creates the page without loading it.
    pub(super) async fn of(base: &str, coupon: i64, look: Look) -> Self {
        Self {
            browser: Browser::open(look).await,
            address: format!("{base}/c/{coupon}"),
        }
    }

    /// Visits the page without a token.
    pub(super) async fn visit(&self) {
        self.browser.visit(&self.address).await;
    }

    /// Visits the page by the link that was sent to this user.
    pub(super) async fn come_as(&self, user: &str) {
        let token = token(SECRET, user).unwrap();
        let link = format!("{}#token={token}", self.address);
        self.browser.visit(&link).await;
    }

    /// Waits for one of these views and returns it. A script in the page checks for a second at a
    /// time, because polling from outside is more expensive for the browser.
    pub(super) async fn until(&self, wanted: &[&str]) -> String {
        let look = format!(
            "const end = performance.now() + 1000;
             const view = () => document.querySelector('#view')?.dataset.view ?? 'no page';
             const over = () => {wanted:?}.includes(view()) || performance.now() > end;
             return new Promise((done) => {{
               const look = () => over() ? done(view()) : setTimeout(look, 20);
               look();
             }})"
        );
        eventually_some(&format!("the page shows {wanted:?}"), LIMIT, async || {
            let view = self.browser.run(&look).await;
            let view = view.as_str().unwrap_or_default().to_owned();
            if wanted.contains(&view.as_str()) {
                Ok(view)
            } else {
                Err(view)
            }
        })
        .await
    }

    pub(super) async fn text(&self, css: &str) -> String {
        let read = format!("return document.querySelector({css:?})?.innerText");
        let text = self.browser.run(&read).await;
        text.as_str().unwrap_or_default().trim().to_owned()
    }

    /// Returns the number of claims that the page has sent since it was loaded, without those that
    /// got 503, which the page repeats.
    pub(super) async fn claims_sent(&self) -> u64 {
        let sent = "performance.getEntriesByType('resource')
            .filter(({name, responseStatus}) => name.endsWith('/claims') && responseStatus !== 503).length";
        let sent = self.browser.run(&format!("return {sent}")).await;
        sent.as_u64().unwrap()
    }

    pub(super) async fn assert_sound(&self, name: &str) {
        assert_sound(&self.browser, name).await;
    }

    pub(super) async fn assert_open_to_all(&self, name: &str) {
        assert_open_to_all(&self.browser, name).await;
    }
}

/// Checks that the console has no new messages, and that the page does not scroll sideways.
pub(super) async fn assert_sound(browser: &Browser, name: &str) {
    assert_eq!(browser.complaints().await, Vec::<Value>::new(), "{name}");
    let beside = "const e = document.documentElement; return e.scrollWidth - e.clientWidth";
    assert_eq!(
        browser.run(beside).await,
        json!(0),
        "{name}: it scrolls sideways"
    );
}

/// Like [`assert_sound`], and also checks for accessibility barriers.
pub(super) async fn assert_open_to_all(browser: &Browser, name: &str) {
    assert_sound(browser, name).await;
    let barriers = browser.barriers().await;
    assert!(
        barriers.is_empty(),
        "{name}: {}",
        serde_json::to_string_pretty(&barriers).unwrap()
    );
}

pub(super) const TAB: char = '\u{e004}';
pub(super) const ENTER: char = '\u{e007}';

/// Waits until this condition holds in the page. A script in the page checks for a second at a
/// time. The check is repeated after a navigation.
pub(super) async fn until(browser: &Browser, holds: &str) {
    let look = format!(
        "const end = performance.now() + 1000;
         const holds = () => {{ try {{ return Boolean({holds}); }} catch {{ return false; }} }};
         return new Promise((done) => {{
           const look = () => holds() ? done('') : performance.now() > end ? done(document.body.innerText) : setTimeout(look, 20);
           look();
         }})"
    );
    eventually_some(holds, LIMIT, async || match browser.try_run(&look).await {
        Some(seen) if seen == json!("") => Ok(()),
        seen => Err(seen.unwrap_or_default()),
    })
    .await;
}

/// Waits until this element exists.
pub(super) async fn until_there(browser: &Browser, css: &str) {
    until(browser, &format!("document.querySelector({css:?})")).await;
}

/// Waits until this text is on the screen.
pub(super) async fn until_text(browser: &Browser, text: &str) {
    let holds = format!("document.body.innerText.includes({text:?})");
    until(browser, &holds).await;
}

/// Waits until the live connection has this state.
pub(super) async fn until_state(browser: &Browser, state: &str) {
    let holds = format!("document.querySelector('#live').dataset.state === {state:?}");
    until(browser, &holds).await;
}

/// Waits until the title of the screen contains this text.
pub(super) async fn until_title_has(browser: &Browser, text: &str) {
    let holds = format!("document.querySelector('h1').innerText.includes({text:?})");
    until(browser, &holds).await;
}

/// Logs in with the keyboard only, starting at the first field.
pub(super) async fn log_in(browser: &Browser, name: &str, token: &str) {
    until(browser, "document.querySelector('#token')").await;
    browser.run("document.querySelector('#name').focus()").await;
    browser.keys(name).await;
    browser.key(TAB).await;
    browser.keys(token).await;
    browser.key(ENTER).await;
}

/// Presses Tab until this element has the focus.
pub(super) async fn tab_to(browser: &Browser, css: &str) {
    for _ in 0..40 {
        browser.key(TAB).await;
        let has_focus = format!("return document.activeElement.matches({css:?})");
        if browser.run(&has_focus).await == json!(true) {
            return;
        }
    }
    panic!("{css} cannot be reached by the keyboard");
}
