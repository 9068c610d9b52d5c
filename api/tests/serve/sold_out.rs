//! Sold-out drops: the next claim at any process sees every acknowledged change.

use firstcome_shared::domain::DropId;
use firstcome_stack::{RedisOptions, RedisServer};
use serde_json::{Value, json};

use crate::world::{InProcessApi, ServeWorld, open, until};

/// Creates a coupon from `body`, sells out its two slots, and returns its id and drop id.
async fn sold_out(api: &InProcessApi, body: Value) -> (i64, i64) {
    let (id, drop) = api.make(body).await;
    for user in ["u-1", "u-2"] {
        assert_eq!(api.claim(id, user).await.code(), (202, "accepted"));
    }
    assert_eq!(api.claim(id, "late").await.code(), (409, "sold_out"));
    (id, drop)
}

async fn set(world: &ServeWorld, words: &[&str]) {
    world.ask_redis::<redis::Value>(words).await;
}

#[tokio::test]
async fn claims_at_other_processes_see_a_change_immediately() {
    let world = ServeWorld::new().await;
    let api = world.api().await;
    let other = world.api().await;
    let (id, drop) = sold_out(&api, open(2)).await;
    assert_eq!(other.patch(id, json!({"paused": true})).await.status, 200);
    assert_eq!(api.claim(id, "u-3").await.code(), (409, "paused"));
    assert_eq!(api.claim(id, "u-1").await.code(), (200, "already_claimed"));
    assert_eq!(other.patch(id, json!({"paused": false})).await.status, 200);
    assert_eq!(api.claim(id, "u-3").await.code(), (409, "sold_out"));

    assert_eq!(other.patch(id, json!({"quantity": 3})).await.status, 200);
    assert_eq!(api.claim(id, "u-3").await.json["slot"], 3);
    assert_eq!(api.claim(id, "u-4").await.code(), (409, "sold_out"));

    let meta = world.keys(id, DropId(drop)).meta;
    set(&world, &["HSET", &meta, "closes_at_ms", "1"]).await;
    assert_eq!(api.claim(id, "u-4").await.code(), (410, "closed"));
    assert_eq!(api.claim(id, "u-3").await.code(), (200, "already_claimed"));
}

#[tokio::test]
async fn sold_out_is_never_answered_with_a_closed_gate_or_without_redis() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = ServeWorld::closed().await.on_redis(&redis.url());
    world.open_gate().await;
    let api = world.with("store-timeout-ms", 1_500).api().await;
    let (id, drop) = sold_out(&api, open(2)).await;
    set(&world, &["SCRIPT", "FLUSH"]).await;
    assert_eq!(api.claim(id, "u-3").await.code(), (409, "sold_out"));
    set(&world, &["DEL", &world.keys(id, DropId(drop)).gate]).await;
    assert_eq!(api.claim(id, "u-3").await.code(), (503, "unavailable"));
    world.open_gate().await;
    assert_eq!(api.claim(id, "u-3").await.code(), (409, "sold_out"));

    redis.freeze().await.unwrap();
    assert_eq!(api.claim(id, "u-3").await.code(), (503, "unavailable"));
    redis.thaw().await.unwrap();
    until("Redis answers again", async || {
        api.claim(id, "u-3").await.code() == (409, "sold_out")
    })
    .await;

    set(&world, &["FLUSHALL"]).await;
    assert_eq!(api.claim(id, "u-3").await.code(), (503, "unavailable"));
}
