//! Responses to claims.

use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::json;

use super::world::{ServeWorld, coupon, open, until, with};

#[tokio::test]
async fn claims_get_slots_then_waiting_positions_then_sold_out() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(with(open(2), "waiting_list", 1)).await;

    let first = api.claim(id, "u-1").await;
    assert_eq!(
        (first.status, &first.json),
        (
            202,
            &json!({"status": "accepted", "drop_id": drop, "slot": 1, "queued": true})
        )
    );
    assert_eq!(api.claim(id, "u-2").await.json["slot"], 2);
    let again = api.claim(id, "u-1").await;
    assert_eq!(
        (again.status, &again.json),
        (
            200,
            &json!({"status": "already_claimed", "drop_id": drop, "slot": 1})
        )
    );
    for _ in 0..2 {
        let waits = api.claim(id, "u-3").await;
        assert_eq!(
            (waits.status, &waits.json),
            (202, &json!({"status": "waiting", "position": 1}))
        );
    }
    let late = api.claim(id, "u-4").await;
    late.is(409, "sold_out");
    assert_eq!(late.headers["content-type"], "application/problem+json");
    assert_eq!(world.messages().await, 2, "one message per admission");

    let shown = api.get(&format!("/v1/coupons/{id}")).await.json;
    assert_eq!(shown["current_drop"]["id"], drop);
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

    let not_open = api.claim(early, "u-1").await;
    not_open.is(409, "not_open");
    let opens_at = not_open.json["opens_at"].as_str().unwrap();
    assert!(
        chrono::DateTime::parse_from_rfc3339(opens_at).is_ok(),
        "{opens_at}"
    );
    api.claim(late, "u-1").await.is(410, "closed");
    api.claim(stopped, "u-1").await.is(409, "paused");
    api.claim(4_711, "u-1").await.is(404, "not_found");
    let path = format!("/v1/coupons/{early}/claims");
    api.ask(Method::POST, &path, &[], "")
        .await
        .is(401, "unauthorized");
    for bad in ["", "a b", "..", &"x".repeat(129)] {
        assert_eq!(
            api.claim(early, bad).await.code(),
            (400, "bad_user_id"),
            "{bad:?}"
        );
    }
    let twice = [("x-user-id", "u-1"), ("x-user-id", "u-2")];
    api.ask(Method::POST, &path, &twice, "")
        .await
        .is(400, "bad_user_id");

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
    let refused = api.claim(id, "u-1").await;
    refused.is(503, "unavailable");
    assert!(refused.headers.contains_key("retry-after"));
    api.get("/readyz").await.has_status(503);
    api.get("/healthz").await.has_status(200);
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
    let path = format!("/v1/coupons/{id}/claims");
    let claimed = api
        .ask(
            Method::POST,
            &path,
            &[("x-user-id", "u-1")],
            r#"{"user_id":"u-2"}"#,
        )
        .await;
    claimed.is(202, "accepted");
    assert_eq!(api.mine(id, "u-2").await.json["status"], "none");
    let huge = api
        .ask(
            Method::POST,
            &path,
            &[("x-user-id", "u-3")],
            "x".repeat(20_000),
        )
        .await;
    huge.is(202, "accepted");
}
