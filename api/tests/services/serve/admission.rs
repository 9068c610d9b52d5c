//! Responses to claims.

use std::fmt::Display;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;
use serde_json::json;

use super::world::{ServeWorld, coupon, open, until, with};

#[tokio::test]
async fn claims_get_slots_then_waiting_positions_then_sold_out() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(with(open(2), "waiting_list", 1)).await;
    let table = "
        u-1 claims $id => 202 accepted drop_id=$drop slot=1 queued=true
        u-2 claims $id => 202 accepted slot=2
        u-1 claims $id => 200 already_claimed drop_id=$drop slot=1
        u-3 claims $id => 202 waiting position=1
        u-3 claims $id => 202 waiting position=1
        - GET $id => 200 current_drop.id=$drop
        u-4 claims $id => 409 sold_out";
    let late = api.play(&[("$id", &id), ("$drop", &drop)], table).await;
    assert_eq!(late.headers["content-type"], "application/problem+json");
    assert_eq!(world.messages().await, 2, "one message per admission");
    api.stop().await;
}

#[tokio::test]
async fn refusals_leave_redis_unchanged() {
    let (world, api) = ServeWorld::with_api().await;
    let (early, _) = api.make(coupon(5, 10..=20)).await;
    let (late, _) = world.make_over(&api, 5).await;
    let (stopped, _) = api.make(open(5)).await;
    api.patch(stopped, json!({"paused": true}))
        .await
        .has_status(200);
    let before = world.dump().await;
    let table = "
        u-1 claims $late => 410 closed
        u-1 claims $stopped => 409 paused
        u-1 claims 4711 => 404 not_found
        - claims $early => 401 unauthorized
        - claims $early ; x-user-id: a b => 400 bad_user_id
        .. claims $early => 400 bad_user_id
        $long claims $early => 400 bad_user_id
        u-1 claims $early ; x-user-id: u-2 => 400 bad_user_id
        u-1 claims $early => 409 not_open";
    let long = "x".repeat(129);
    let words: [(&str, &dyn Display); 4] = [
        ("$early", &early),
        ("$late", &late),
        ("$stopped", &stopped),
        ("$long", &long),
    ];
    let not_open = api.play(&words, table).await;
    let opens_at = not_open.json["opens_at"].as_str().unwrap();
    assert!(opens_at.parse::<DateTime<Utc>>().is_ok(), "{opens_at}");
    assert_eq!(api.claim(early, "").await.code(), (400, "bad_user_id"));
    assert_eq!(world.dump().await, before);
    assert_eq!(world.messages().await, 0);
}

#[tokio::test]
async fn closed_gate_refuses_claims_with_retry_after() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(open(5)).await;
    let gate = world.keys(id, DropId(drop)).gate;
    world.ask_redis::<i64>(&["DEL", &*gate]).await;
    let before = world.dump().await;
    let table = "
        u-1 claims $id => 503 unavailable
        - GET /readyz => 503
        - GET /healthz => 200";
    api.play(&[("$id", &id)], table).await;
    assert_eq!(world.dump().await, before);
    world.open_gate().await;
    until("the API is ready", async || {
        api.get("/readyz").await.status == 200
    })
    .await;
    api.claim(id, "u-1").await.is(202, "accepted");
}

#[tokio::test]
async fn body_of_a_claim_is_ignored() {
    let (_, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(open(5)).await;
    let table = r#"
        u-1 POST /v1/coupons/$id/claims {"user_id":"u-2"} => 202 accepted
        u-2 looks $id => 200 none
        u-3 POST /v1/coupons/$id/claims $huge => 202 accepted"#;
    let huge = "x".repeat(20_000);
    api.play(&[("$id", &id), ("$huge", &huge)], table).await;
}
