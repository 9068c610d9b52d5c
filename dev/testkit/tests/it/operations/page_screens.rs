//! Screens of the operations page: the first screen, coupons, and the latency of rows.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, OPS_TOKEN, open_world};
use serde_json::json;

use super::visitor::{VIEW_TOKEN, Visitor, assert_has, assert_lacks, header};
use crate::drift::support::injector;

#[tokio::test]
async fn the_first_screen_shows_lost_rows_before_any_pass_and_then_their_repair() {
    let f = Fixture::new("ops-screen").await;
    let (coupon, _) = f.held("Winter coupon", 40, 25).await;
    let daemon = f.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let shows = async |texts: &[&str]| {
        kim.until("/", |page| texts.iter().all(|text| page.contains(text)))
            .await;
    };
    let rows = |rows: u32| format!(">{rows}<progress value=\"{rows}\" max=\"40\"");
    shows(&[
        "<h1>Everything is as promised</h1>",
        &rows(25),
        "It compared 25 people with 25 rows in 1 drop.",
    ])
    .await;
    let mut drift = injector(&f.world, &coupon).await;
    drift.make(Drift::Unissued, 3).await.unwrap();
    shows(&[
        "<h1>3 people were promised a coupon and have no row yet</h1>",
        &rows(22),
        ">3 missing<",
        "The next pass writes what is missing.",
    ])
    .await;
    daemon.reconcile(&json!({})).await;
    shows(&[
        "<h1>Everything is as promised</h1>",
        &rows(25),
        "exact, after repairs",
    ])
    .await;
}

#[tokio::test]
async fn the_live_part_ends_with_the_session() {
    let (world, api) = open_world("ops-live").await;
    api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let live = kim.get("/live").await;
    assert_eq!(header(&live, "content-type"), "application/json");
    assert_has(&live.text().await.unwrap(), &["Winter coupon", "\"at\":"]);
    assert_eq!(kim.submit("/logout", &[]).await.status, 303);
    assert_eq!(kim.get("/live").await.status(), 303);
}

#[tokio::test]
async fn every_coupon_is_listed_including_ended_ones_with_sealed_drops() {
    let f = Fixture::new("ops-coupons").await;
    let sql = &f.world.sql;
    let (over, _) = f.held("Winter <b>coupon</b>", 20, 3).await;
    let (live, _) = f.held("Spring coupon", 1_500, 2).await;
    let seal =
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3), sealed_at = UTC_TIMESTAMP(3) WHERE id";
    sql.query(&format!("{seal} = {}", over.drop)).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    // The API lists the sealed drop after a short delay.
    let page = lee.until("/coupons", |page| page.contains(">over<")).await;
    let shown = [
        "Winter &#60;b&#62;coupon&#60;/b&#62;",
        "class=\"quiet\">over<",
        ", ended, sealed</p>",
        ">1,500<",
        "data-label=\"State\">live<",
        ", open</p>",
    ];
    assert_has(&page, &shown);
    for coupon in [&over, &live] {
        let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
        assert_has(&page, &[&format!("<a href=\"{drop}\">")]);
        assert_eq!(lee.get(&drop).await.status(), 200);
    }
    let shown = [
        "<h1>Spring coupon</h1>",
        "<dt>Quantity</dt><dd>1,500</dd>",
        &format!("/c/{}\">", live.id),
        &format!("<a href=\"/coupons/{}/drops/{}\">", live.id, live.drop),
        "data-label=\"Rows\">2<",
    ];
    let page = lee.text(&format!("/coupons/{}", live.id)).await;
    assert_has(&page, &shown);
    for path in ["/coupons/4711", "/coupons/x"] {
        assert_eq!(lee.get(path).await.status(), 404, "{path}");
    }
    let (first, second) = if over.id < live.id {
        ("Winter", "Spring")
    } else {
        ("Spring", "Winter")
    };
    let lowest = over.id.min(live.id);
    let rest = lee.text(&format!("/coupons?after={lowest}")).await;
    assert_has(&rest, &[second]);
    assert_lacks(&rest, &[first]);
    let rest = lee.text("/coupons?after=9007199254740991").await;
    assert_has(&rest, &["No more coupons."]);

    // More coupons than one page shows, and more drops than the first page of a coupon shows.
    let many: Vec<String> = (1..=51)
        .map(|n| format!("({n} + 1000, 'Many {n}', 5, 'coupon', 0)"))
        .collect();
    let insert = "INSERT INTO coupons (id, name, quantity, once_per, waiting_list) VALUES";
    sql.query(&format!("{insert} {}", many.join(","))).await;
    let day = |n: i64| {
        let day = chrono::NaiveDate::from_ymd_opt(2020, 1, 1).unwrap() + chrono::TimeDelta::days(n);
        let id = n + 1;
        format!("({id}, 1001, '{day}', '{day} 06:00', '{day} 07:00', 5, '{day} 08:00')")
    };
    let drops: Vec<String> = (0..52).map(day).collect();
    let columns = "(id, coupon_id, local_date, opens_at, closes_at, quantity, sealed_at)";
    let insert = format!("INSERT INTO drops {columns} VALUES {}", drops.join(","));
    sql.query(&insert).await;
    let page = lee.text("/coupons?after=1000").await;
    assert_eq!(page.matches("\">Many ").count(), 50, "{page}");
    assert_has(&page, &["href=\"/coupons?after=1050\""]);
    let page = lee.text("/coupons/1001").await;
    let newest = page.find("2020-02-21 06:00 to 07:00 UTC");
    let oldest = page.find("2020-01-03 06:00 to 07:00 UTC");
    assert!(newest.is_some() && newest < oldest, "{page}");
    assert_has(&page, &["href=\"/coupons/1001?page=2\""]);
    assert_lacks(&page, &["2020-01-02"]);
    let rest = lee.text("/coupons/1001?page=2").await;
    assert_has(&rest, &["2020-01-01"]);
    assert_lacks(&rest, &["2020-01-03", "?page=3"]);
}

#[tokio::test]
async fn the_page_works_without_the_api_and_names_the_missing_setting() {
    let (world, api) = open_world("ops-no-api").await;
    let coupon = api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let page = kim.text("/coupons").await;
    assert_has(&page, &["set <code>API_URL</code>"]);
    let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    for path in ["/", &drop, &format!("/coupons/{}", coupon.id)] {
        assert_has(&kim.text(path).await, &["Winter coupon"]);
    }
}

#[tokio::test]
async fn the_latency_of_rows_is_shown_by_drop() {
    let f = Fixture::new("ops-pace").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 10).await;
    let daemon = f.world.daemon().await;
    let issued_after = "UPDATE issued_coupons SET issued_at = claimed_at + INTERVAL";
    sql.query(&format!("{issued_after} 300000 MICROSECOND"))
        .await;
    sql.query(&format!("{issued_after} 7 SECOND WHERE slot = 4"))
        .await;
    let lee = Visitor::logged_in(&daemon, "Lee", OPS_TOKEN).await;
    let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    let shown = [
        "Admissions that had their row within a second: 90.0 % of 10 sampled.",
        "The slowest row came 7.0 s after its claim, in slot 4.",
    ];
    assert_has(&lee.text(&drop).await, &shown);
    // The chart also includes admissions without a row.
    sql.query("DELETE FROM issued_coupons WHERE slot = 2").await;
    let shown = "within a second: 80.0 % of 10 sampled.";
    assert_has(&lee.text(&drop).await, &[shown]);
}
