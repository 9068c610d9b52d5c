//! Finished coupons, which are not in the snapshot, and daily coupons whose drops are missing.

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

    let shown = api.get("/v1/coupons/3499").await.json;
    assert_eq!(
        (&shown["name"], &shown["current_drop"]["state"]),
        (&json!("finished 2499"), &json!("sealed"))
    );
    assert_eq!(
        (&shown["current_drop"]["remaining"], &shown["next_drop"]),
        (&json!(2), &Value::Null)
    );
    api.claim(3_499, "u-1").await.is(410, "closed");
    assert_eq!(api.mine(3_499, "u-1").await.json["status"], "none");
    assert_eq!(
        api.patch(3_499, json!({"name": "Renamed"})).await.json["name"],
        "Renamed"
    );
    assert_eq!(api.get("/v1/coupons/3499").await.json["name"], "Renamed");

    let listed = api.get("/v1/coupons?after=3498").await.json;
    let ids = [&listed[0]["id"], &listed[1]["id"]];
    assert_eq!(ids, [&json!(3_499), &json!(id)]);
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
    // The reconciler creates its drops again.
    api.claim(endless, "u-1").await.is(503, "unavailable");
    // Nothing recreates the drops of this coupon, and it is unknown who held slots in them.
    api.claim(over, "u-1").await.is(410, "closed");
    api.mine(over, "u-1").await.is(503, "unavailable");
}
