//! Finished coupons, which are not in the snapshot, and daily coupons whose drops are missing.

use std::fmt::Display;

use serde_json::{Value, json};

use super::world::{ServeWorld, open, today, with};

/// Inserts this many finished coupons, with ids from 1000 on.
async fn finished(world: &ServeWorld, many: u32) {
    for (insert, select) in [
        (
            "coupons (id, name, quantity, once_per)",
            "1000 + i, CONCAT('finished ', i), 3, 'coupon'",
        ),
        (
            "drops (id, coupon_id, opens_at, closes_at, quantity, sealed_at, sealed_rows)",
            "1000 + i, 1000 + i, '2026-01-01', '2026-01-02', 3, '2026-01-03', 1",
        ),
    ] {
        world
            .sql(&format!(
                "INSERT INTO {{db}}.{insert} WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
                 SELECT /*+ SET_VAR(cte_max_recursion_depth = 100000) */ {select} FROM n",
                many - 1
            ))
            .await;
    }
}

#[tokio::test]
async fn finished_coupons_are_found_changed_and_listed() {
    let world = ServeWorld::new().await;
    finished(&world, 2_500).await;
    let api = world.api().await;
    let (id, _) = api.make(open(5)).await;

    let table = r#"
        - GET 3499 => 200 current_drop.state=sealed current_drop.remaining=2 next_drop=null | finished 2499
        u-1 claims 3499 => 410 closed
        u-1 looks 3499 => 200 none
        ops PATCH 3499 {"name": "Renamed"} => 200 name=Renamed
        - GET 3499 => 200 name=Renamed
        - GET /v1/coupons?after=3498 => 200 0.id=3499 1.id=$id"#;
    api.play(&[("$id", &id)], table).await;
}

#[tokio::test]
async fn daily_coupon_without_drops_is_closed_only_after_its_last_day() {
    let world = ServeWorld::new().await;
    let today = today().await;
    let days = |last: Value| json!({"type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "00:00", "first_day": today, "last_day": last});
    let api = world.api().await;
    let (endless, _) = api.make(with(open(5), "schedule", days(Value::Null))).await;
    let (over, _) = api
        .make(with(open(5), "schedule", days(json!(today))))
        .await;
    let past =
        "schedule = JSON_SET(schedule, '$.first_day', '2026-01-01', '$.last_day', '2026-01-02')";
    world
        .sql(&format!(
            "UPDATE {{db}}.coupons SET {past} WHERE id = {over}"
        ))
        .await;
    api.stop().await;
    // Simulate days without any process.
    world.sql("DELETE FROM {db}.slot_limits").await;
    world.sql("DELETE FROM {db}.drops").await;
    let api = world.api().await;
    // The reconciler creates the drops of the first again. Nothing recreates those of the other, and
    // it is unknown who held slots in them.
    let table = "
        u-1 claims $endless => 503 unavailable
        u-1 claims $over => 410 closed
        u-1 looks $over => 503 unavailable";
    let words: [(&str, &dyn Display); 2] = [("$endless", &endless), ("$over", &over)];
    api.play(&words, table).await;
}
