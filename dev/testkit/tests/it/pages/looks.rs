//! States of the coupon page that are rare or take long to occur. The browser simulates them with
//! prepared answers.

use firstcome_testkit::{Look, eventually_some, open_world};
use serde_json::{Value, json};

use super::support::{BrowserPage, LIMIT, serve_pages, until};

/// Returns a script with which, from the next load on, requests for `claims/me` and for the state
/// get these answers.
fn answering(coupon: i64, status: u16, mine: &Value, state: &Value) -> String {
    format!(
        "{{ if (location.protocol === 'http:') localStorage.setItem('firstcome:{coupon}', 'tried');
         const ask = (window.realFetch ??= window.fetch);
         window.fetch = async (url, options) => {{
           const answer = (body, status) => new Response(JSON.stringify(body), {{ status }});
           if (options.method === 'DELETE') return answer({{ status: 'revoked' }}, 200);
           if (String(url).endsWith('/me')) return answer({mine}, {status});
           const real = await ask(url, options);
           return answer({{ ...await real.json(), ...{state} }}, real.status);
         }}; }}"
    )
}

/// Each line has the status and body of the user's claim, the state of the coupon (JSON, or the
/// state of a daily coupon), the view, and its first line. Yesterday's coupon is shown until
/// shortly before today's opening.
const OUTCOMES: &str = r#"200 | {"status": "broken", "slot": 7} | {} | broken | We are sorry
200 | {"status": "broken", "position": 1} | {} | broken | We are sorry
200 | {"status": "revoked", "slot": 7} | {} | revoked | No longer yours
200 | {"status": "waiting", "position": 3} | {} | waiting | On the waiting list
200 | {"status": "none"} | {"state": "sold_out"} | sold_out | Sold out
200 | {"status": "none"} | {"state": "sold_out", "can_wait": true} | can_wait | Sold out
401 | {"code": "unauthorized"} | {} | expired | Your link has expired
400 | {"code": "invalid"} | {} | refused | This did not work
403 | {"code": "not_allowed"} | {} | not_allowed | Not for this account
200 | {"status": "none", "allowed": false} | {} | not_allowed | Not for this account
200 | {"status": "none", "allowed": false} | {"state": "closed"} | closed | Closed
200 | {"status": "none", "allowed": true} | {} | open | Open now
200 | {"status": "none"} | {} | open | Open now
200 | {"status": "issued", "slot": 37, "code": "A1B2-C3D4", "drop_id": 0} | opens in an hour | issued | It is yours
200 | {"status": "issued", "slot": 37, "code": "A1B2-C3D4", "drop_id": 0} | opens in five minutes | scheduled | Opens in
200 | {"status": "issued", "slot": 37, "code": "A1B2-C3D4", "drop_id": 0} | open | open | Open now
200 | {"status": "issued", "slot": 37, "code": "A1B2-C3D4", "drop_id": 0} | {} | issued | It is yours"#;

#[tokio::test]
async fn every_outcome_has_its_text_and_a_return_needs_confirmation() {
    let (world, _api) = open_world("page-ends").await;
    let pages = serve_pages(&world).await;
    let coupon = pages.open_coupon(100).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default().on_a_phone()).await;
    page.browser
        .visit(&format!("{}/c/4711", pages.http().base()))
        .await;
    assert_eq!(page.text("h1").await, "There is no such coupon");

    let each_drop = |state: &str, opens_in: i64| {
        let opens_at_ms = chrono::Utc::now().timestamp_millis() + opens_in;
        json!({"one_per_drop": true, "drop_id": 1, "state": state, "opens_at_ms": opens_at_ms})
    };
    for (number, line) in OUTCOMES.lines().enumerate() {
        let [status, mine, state, view, label]: [&str; 5] = line
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let state = match state {
            "opens in an hour" => each_drop("scheduled", 3_600_000),
            "opens in five minutes" => each_drop("scheduled", 300_000),
            "open" => each_drop("open", -1),
            state => serde_json::from_str(state).unwrap(),
        };
        let mine = serde_json::from_str(mine).unwrap();
        let script = answering(coupon.id, status.parse().unwrap(), &mine, &state);
        page.browser.prepare(&script).await;
        page.come_as("u-you").await;
        page.until(&[view]).await;
        assert_eq!(page.text("#label").await, label);
        page.picture(&format!("end-{number}-{view}")).await;
    }
    page.browser.click("#back").await;
    assert_eq!(
        page.browser.run("return document.activeElement.id").await,
        "keep"
    );
    page.assert_open_to_all("give-back").await;
    page.browser.click("#keep").await;
    assert_eq!(page.view().await, "issued");
    page.browser.click("#back").await;
    page.browser.click("#yes").await;
    page.until(&["revoked"]).await;
}

/// Returns a script with which, from the next load on, requests about claims are answered from
/// `replies` by method, and requests for the state from `told`. Status 0 simulates a timeout of ten
/// minutes.
fn stubbed(coupon: i64, replies: &Value, told: &Value) -> String {
    format!(
        "{{ if (location.protocol === 'http:') localStorage.setItem('firstcome:{coupon}', 'tried');
         const [ask, replies, clock] = [(window.realFetch ??= window.fetch), {replies}, performance.now.bind(performance)];
         window.told = {told};
         window.fetch = async (url, options) => {{
           const answer = (body, status) => new Response(JSON.stringify(body), {{ status }});
           const [status, body] = (String(url).includes('/claims') && replies[options.method]) || [];
           if (status) return answer(body, status);
           if (status === 0) {{
             performance.now = () => clock() + 700_000;
             throw new TypeError('lost');
           }}
           const real = await ask(url, options);
           return answer({{ ...await real.json(), ...window.told }}, real.status);
         }}; }}"
    )
}

/// Returns a drop of a daily coupon as the coupon's state shows it.
fn of_day(drop: i64, state: &str) -> Value {
    let opens_at_ms =
        chrono::Utc::now().timestamp_millis() + if state == "scheduled" { 3_600_000 } else { -1 };
    json!({"one_per_drop": true, "drop_id": drop, "state": state, "opens_at_ms": opens_at_ms})
}

/// Changes the server's answer, and makes the page poll immediately.
async fn tell(page: &BrowserPage, told: &Value) {
    let look = "document.dispatchEvent(new Event('visibilitychange'))";
    page.browser
        .run(&format!("window.told = {told}; {look}"))
        .await;
}

#[tokio::test]
async fn a_refusal_of_one_day_is_not_shown_on_the_next() {
    let (world, _api) = open_world("page-next-day").await;
    let pages = serve_pages(&world).await;
    let coupon = pages.open_coupon(100).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    for (status, code, view) in [
        (409, "sold_out", "sold_out"),
        (403, "not_allowed", "not_allowed"),
        (400, "invalid", "refused"),
    ] {
        let replies = json!({"POST": [status, {"code": code}], "GET": [200, {"status": "none"}]});
        page.browser
            .prepare(&stubbed(coupon.id, &replies, &of_day(1, "open")))
            .await;
        page.browser.reload().await;
        page.until(&["open"]).await;
        page.browser.click("#main").await;
        page.until(&[view]).await;
        if view == "not_allowed" {
            // Later on the same day the coupon is still shown, without a button that would do
            // nothing.
            tell(&page, &of_day(1, "closed")).await;
            until(&page.browser, "document.querySelector('#main').hidden").await;
            assert_eq!(page.view().await, view);
        }
        tell(&page, &of_day(2, "scheduled")).await;
        page.until(&["scheduled"]).await;
        tell(&page, &of_day(2, "open")).await;
        page.until(&["open"]).await;
        assert!(page.is_on().await, "after {code}");
    }
}

#[tokio::test]
async fn a_failed_return_is_shown_and_forgotten_the_next_day() {
    let (world, _api) = open_world("page-not-back").await;
    let pages = serve_pages(&world).await;
    let coupon = pages.open_coupon(100).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    let give_back = async |status: u16, view: &str| {
        let issued = json!({"status": "issued", "slot": 37, "code": "A1B2-C3D4", "drop_id": 1});
        let replies = json!({"GET": [200, issued], "DELETE": [status, {"code": "of the test"}]});
        page.browser
            .prepare(&stubbed(coupon.id, &replies, &of_day(1, "open")))
            .await;
        page.browser.reload().await;
        page.until(&["issued"]).await;
        for button in ["#back", "#yes"] {
            page.browser.click(button).await;
        }
        page.until(&[view]).await;
    };
    give_back(400, "refused").await;
    tell(&page, &of_day(2, "scheduled")).await;
    page.until(&["scheduled"]).await;
    give_back(404, "open").await;
    give_back(0, "stopped").await;
    page.browser.click("#main").await;
    page.until(&["issued"]).await;
    give_back(401, "expired").await;
}

#[tokio::test]
async fn only_missing_parts_of_the_page_are_reported_as_errors() {
    let (world, _api) = open_world("page-missing").await;
    let pages = serve_pages(&world).await;
    let coupon = pages.open_coupon(1).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.visit().await;
    page.until(&["who"]).await;
    assert_eq!(page.browser.complaints().await, Vec::<Value>::new());
    for path in ["../v1/coupons/4711", "assets/none.js"] {
        let status = page
            .browser
            .run(&format!(
                "return fetch({path:?}).then((answer) => answer.status)"
            ))
            .await;
        assert_eq!(status, json!(404), "{path}");
    }
    let complaints = eventually_some("the console shows it", LIMIT, async || {
        let complaints = page.browser.complaints().await;
        if complaints.is_empty() {
            Err("nothing")
        } else {
            Ok(complaints)
        }
    })
    .await;
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(
        complaints[0]["message"]
            .as_str()
            .unwrap()
            .contains("assets/none.js"),
        "{complaints:#?}"
    );
}
