//! The screens of the operations page in a browser, at a desk and on a phone at night.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Browser, Fixture, OPS_TOKEN, Sql};
use serde_json::json;

use super::support::{
    assert_open_to_all, dark_phone, desk, log_in, until, until_text, until_there, until_title_has,
};
use crate::drift::support::injector;

/// Spreads the claims over forty seconds, with most of them at the start.
async fn spread_claims(sql: &Sql, drop: i64) {
    let instants = format!(
        "UPDATE issued_coupons SET claimed_at = UTC_TIMESTAMP(3) - INTERVAL 100000000 - FLOOR(40000000 * POW(slot / 320, 3)) \
         MICROSECOND, issued_at = claimed_at + INTERVAL 150000 + (slot % 9) * 120000 MICROSECOND WHERE drop_id = {drop}"
    );
    sql.query(&instants).await;
}

#[tokio::test]
#[ignore = "release"]
async fn an_operator_repairs_a_drop_and_opens_every_screen_at_a_desk_and_on_a_phone() {
    let f = Fixture::new("page-acts").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 500, 320).await;
    let api_url = [("API_URL", f.api.http().base())];
    let daemon = f.world.daemon_with(&api_url).await;
    daemon.reconcile(&json!({})).await;
    spread_claims(sql, coupon.drop).await;
    let browser = Browser::open(desk()).await;
    let base = daemon.http().base();
    let drop_page = format!("{base}/coupons/{}/drops/{}", coupon.id, coupon.drop);
    browser.visit(&drop_page).await;
    log_in(&browser, "Kim", OPS_TOKEN).await;
    until_there(&browser, ".chart").await;
    until_text(&browser, "The slowest row came").await;
    let axis =
        "return [...document.querySelectorAll('.chart .slots li')].map((one) => one.innerText)";
    let up_to_quantity = json!(["500", "375", "250", "125", "0"]);
    assert_eq!(browser.run(axis).await, up_to_quantity);
    let points = "const [admitted, issued] = [...document.querySelectorAll('.chart polyline')]
         .map((line) => line.points.numberOfItems); return admitted > 20 && admitted === issued";
    assert_eq!(browser.run(points).await, json!(true));
    assert_open_to_all(&browser, "ops-drop").await;

    let mut drift = injector(&f.world, &coupon).await;
    let unissued = drift.make(Drift::Unissued, 3).await.unwrap();
    drift.make(Drift::MissingAdmission, 2).await.unwrap();
    browser.visit(&drop_page).await;
    until_there(&browser, "button[value=pass]").await;
    browser.click("button[value=pass]").await;
    until_title_has(&browser, "repaired").await;
    until_text(&browser, "issued late").await;
    assert_open_to_all(&browser, "ops-pass").await;
    browser.look(dark_phone()).await;
    assert_open_to_all(&browser, "ops-pass-dark-phone").await;
    browser.look(desk()).await;
    let rows = "SELECT COUNT(*) FROM issued_coupons";
    assert_eq!(sql.number(rows).await, 320);

    let person = &unissued.people[0].user;
    sql.query("INSERT INTO failed_claims (id, reason, payload) VALUES (701, 'by hand', 'odd <b>message</b>')")
        .await;
    let letters: Vec<String> = (0..14)
        .map(|n| {
            format!("(999, {n}, 'customer-{n:04}', 'undecodable', 'EOF while parsing a string')")
        })
        .collect();
    let columns = "(drop_id, slot, user_id, reason, error)";
    let letters = letters.join(",");
    sql.query(&format!(
        "INSERT INTO failed_claims {columns} VALUES {letters}"
    ))
    .await;
    let new = "/coupons/new?name=Daily&quantity=500&waiting_list=0&repeats=daily&once_per=drop&time_zone=Asia%2FSeoul\
        &first_day=2130-12-01&opens=15%3A00&closes=18%3A00";
    let coupon_page = format!("/coupons/{}", coupon.id);
    let drop = format!("{coupon_page}/drops/{}", coupon.drop);
    for (name, path, shown) in [
        (
            "ops-letters",
            "/dead-letters?reason=undecodable",
            "Only with the reason",
        ),
        ("ops-coupons", "/coupons", "Winter coupon"),
        ("ops-coupon", &coupon_page, "The coupon page is off"),
        ("ops-letter", "/dead-letters/701", "Discard dead letter 701"),
        ("ops-new", new, "The next openings"),
        ("ops-drop-again", &drop, "Pause, raise or change it"),
    ] {
        browser.visit(&format!("{base}{path}")).await;
        until_text(&browser, shown).await;
        assert_open_to_all(&browser, name).await;
        browser.look(dark_phone()).await;
        assert_open_to_all(&browser, &format!("{name}-dark-phone")).await;
        browser.look(desk()).await;
    }
    // The browser's time zone is preset, and the form hides the question about days for a one-off
    // coupon.
    browser.visit(&format!("{base}/coupons/new")).await;
    let zone = "document.querySelector('#time_zone').value === Intl.DateTimeFormat().resolvedOptions().timeZone";
    until(&browser, zone).await;
    let asked = "const e = document.querySelector('.if-daily'), asked = () => e.getClientRects().length > 0;
         const before = asked(); document.querySelector('#repeats').value = 'daily'; return [before, asked()]";
    assert_eq!(browser.run(asked).await, json!([false, true]));

    browser.visit(&format!("{base}{coupon_page}")).await;
    until_there(&browser, "main #person").await;
    let typed = format!(
        "const field = document.querySelector('main #person'); field.value = '{person}'; field.form.requestSubmit()"
    );
    browser.run(&typed).await;
    until_text(&browser, "What happened, oldest first").await;
    assert_open_to_all(&browser, "ops-person").await;
    browser.look(dark_phone()).await;
    assert_open_to_all(&browser, "ops-person-dark-phone").await;
    browser.look(desk()).await;
    browser.visit(&format!("{base}/dead-letters/701")).await;
    until_there(&browser, "form[action$=reveal] button").await;
    browser.click("form[action$=reveal] button").await;
    until(
        &browser,
        "document.querySelector('pre').innerText === 'odd <b>message</b>'",
    )
    .await;
}
