//! Memory that the API needs to send a list of a million holders.

use firstcome_testkit::World;
use firstcome_testkit::scale::measured;
use reqwest::Method;
use reqwest::header::ACCEPT;

use super::scale::most_memory;
use super::sizes::insert;

/// Returns the API's peak memory in MB after it has sent this many rows as CSV.
async fn measure(rows: u32) -> f64 {
    let world = World::new("holders").await;
    let api = world.serve().await;
    let coupon = api.open_coupon(rows).await;
    let at_once = rows.min(50_000);
    for from in (0..rows).step_by(at_once as usize) {
        let drop = coupon.drop;
        let id = coupon.id;
        let columns = "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope)";
        let scope = format!("(SELECT MAX(person_scope) FROM slot_limits WHERE drop_id = {drop})");
        let row = format!(
            "{drop}, {from} + i, {id}, CONCAT('u-', {from} + i), 'consumer', {rows}, {scope}"
        );
        insert(&world, at_once, columns, &row).await;
    }
    let path = format!("/v1/coupons/{}/issued", coupon.id);
    let mut answer = api
        .http()
        .ops(Method::GET, &path)
        .header(ACCEPT, "text/csv")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let mut lines = 0;
    while let Some(part) = answer.chunk().await.unwrap() {
        lines += part.split(|byte| *byte == b'\n').count() - 1;
    }
    assert_eq!(lines, 1 + rows as usize);
    most_memory(&api.process).unwrap()
}

#[tokio::test]
async fn a_list_of_a_million_holders_is_sent_with_constant_memory() {
    let what = "API memory, 1,000,000 holders sent as CSV";
    let memory = measured(what, [20_000, 1_000_000], "≤ 60 MB", measure).await;
    assert!(memory < 100.0, "{memory} MB");
}
