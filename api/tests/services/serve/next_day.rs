//! Coupons once per drop, around the opening of the next drop.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_stack::{Clocks, FaultProxy, ProxyFault, RedisOptions, RedisServer};
use reqwest::Method;
use serde_json::json;

use super::promises::{move_window, two_days};
use super::stores_away::behind_redis;
use super::world::{HttpAnswer, InProcessApi, ServeWorld, until};

const HOUR: i64 = 3_600_000;

/// An id of the maximum length.
const USER: &str = "u-1-4567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567";

/// In milliseconds: long enough for both APIs to read the new windows.
const OPENS_IN: i64 = 4_000;

/// Delay of each packet between the far API and Redis.
const SLOW: Duration = Duration::from_millis(800);

/// Starts an API close to Redis, and one far from it.
async fn near_and_far(world: &ServeWorld) -> (InProcessApi, InProcessApi, FaultProxy) {
    let (far, redis) = behind_redis(world).await;
    (
        world.api().await,
        far.with("store-timeout-ms", 10_000).api().await,
        redis,
    )
}

async fn give_back(api: &InProcessApi, user: &str, coupon: i64, query: &str) -> HttpAnswer {
    let path = format!("/v1/coupons/{coupon}/claims/me{query}");
    api.ask(Method::DELETE, &path, &[("x-user-id", user)], "")
        .await
}

/// Waits until both APIs know when the second drop opens, and then until it opens.
async fn second_opens([near, far]: [&InProcessApi; 2], coupon: i64, second: DropId) {
    let show = async |api: &InProcessApi| api.get(&format!("/v1/coupons/{coupon}")).await.json;
    let knows = async |api: &InProcessApi| {
        let shown = show(api).await;
        let opens_at = shown["next_drop"]["opens_at"].as_str().unwrap_or_default();
        let soon = Utc::now() + TimeDelta::minutes(1);
        // A slow machine may learn of the opening only after it.
        shown["current_drop"]["id"] == second.0
            || opens_at.parse::<DateTime<Utc>>().is_ok_and(|at| at < soon)
    };
    until("both APIs know the opening", async || {
        knows(near).await && knows(far).await
    })
    .await;
    until("the second drop opens", async || {
        show(near).await["current_drop"]["id"] == second.0
    })
    .await;
}

#[tokio::test]
async fn slow_api_applies_requests_to_the_drop_that_has_just_opened() {
    let world = ServeWorld::new().await;
    let (near, far, redis) = near_and_far(&world).await;
    let (id, first, second) = two_days(&world, &near, "drop").await;
    for (user, slot) in [("winner", "1"), ("gave-back", "2")] {
        near.claim(id, user).await.is(202, "accepted");
        // Admitted long before the drop closes: otherwise a claim after closing counts as a retry.
        let long_ago = (Utc::now() - TimeDelta::minutes(30))
            .timestamp_millis()
            .to_string();
        world
            .ask_redis::<()>(&[
                "HSET",
                &world.keys(id, DropId(first)).times,
                slot,
                &long_ago,
            ])
            .await;
    }
    give_back(&near, "gave-back", id, "").await.has_status(200);
    redis.set(ProxyFault::Delay(SLOW)).await.unwrap();
    move_window(&world, id, DropId(first), [-HOUR, OPENS_IN]).await;
    move_window(&world, id, DropId(second), [OPENS_IN, HOUR]).await;
    second_opens([&near, &far], id, DropId(second)).await;
    for user in ["shown", "leaves"] {
        assert_eq!(near.claim(id, user).await.json["drop_id"], second);
    }
    let (winner, gave_back, shown, leaves) = tokio::join!(
        far.claim(id, "winner"),
        far.claim(id, "gave-back"),
        far.mine(id, "shown"),
        give_back(&far, "leaves", id, ""),
    );
    let heard = [winner, gave_back, shown, leaves]
        .map(|one| (one.json["status"].clone(), one.json["drop_id"].clone()));
    let expected = ["accepted", "accepted", "accepted", "revoked"]
        .map(|status| (json!(status), json!(second)));
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn repeated_return_with_drop_id_keeps_the_coupon_of_the_next_day() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, first, second) = two_days(&world, &api, "drop").await;
    let of_first = format!("?drop_id={first}");
    let of_second = format!("?drop_id={second}");
    assert_eq!(api.claim(id, USER).await.json["drop_id"], first);
    give_back(&api, USER, id, &of_second)
        .await
        .is(404, "not_found"); // no claim of that drop
    let given_back = give_back(&api, USER, id, &of_first).await;
    assert_eq!(
        given_back.json,
        json!({"status": "revoked", "drop_id": first, "slot": 1})
    );

    move_window(&world, id, DropId(first), [-2 * HOUR, -HOUR]).await;
    move_window(&world, id, DropId(second), [-HOUR / 2, HOUR]).await;
    let path = format!("/v1/coupons/{id}");
    until("the next drop is open", async || {
        api.get(&path).await.json["current_drop"]["id"] == second
    })
    .await;
    let next = api.claim(id, USER).await;
    assert_eq!(
        (next.code(), &next.json["drop_id"]),
        ((202, "accepted"), &json!(second))
    );
    assert_eq!(
        give_back(&api, USER, id, &of_first).await.json,
        given_back.json,
        "a repeat gives the same answer"
    );
    api.mine(id, USER).await.is(200, "accepted"); // still held
    for (wrong, answer) in [
        ("?drop_id=4711", (404, "not_found")),
        ("?drop_id=x", (400, "invalid")),
    ] {
        assert_eq!(
            give_back(&api, USER, id, wrong).await.code(),
            answer,
            "{wrong}"
        );
    }
    assert_eq!(
        give_back(&api, USER, id, "").await.json["drop_id"],
        second,
        "the claim of the current drop"
    );
}

/// Sets a drop's window in Redis alone, in milliseconds from now. This simulates a change that the
/// API's catalogue does not have yet.
async fn move_in_redis(world: &ServeWorld, id: i64, drop: DropId, window: [i64; 2]) {
    let now = Utc::now().timestamp_millis();
    let [opens, closes] = window.map(|ms| (now + ms).to_string());
    let meta = world.keys(id, drop).meta;
    let set = [
        "HSET",
        &meta,
        "opens_at_ms",
        &opens,
        "closes_at_ms",
        &closes,
    ];
    world.ask_redis::<()>(&set).await;
}

/// According to the catalogue the first drop has just closed; according to Redis it is open.
#[tokio::test]
async fn claim_goes_to_the_drop_that_is_open_in_redis() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, first, second) = two_days(&world, &api, "drop").await;
    move_window(&world, id, DropId(second), [-2_000, HOUR]).await;
    move_window(&world, id, DropId(first), [-HOUR, -2_000]).await;
    until("it knows the windows", async || {
        api.get(&format!("/v1/coupons/{id}")).await.json["current_drop"]["id"] == second
    })
    .await;
    move_in_redis(&world, id, DropId(first), [-HOUR, HOUR]).await;
    move_in_redis(&world, id, DropId(second), [HOUR, 2 * HOUR]).await;
    assert_eq!(api.claim(id, "u-1").await.json["drop_id"], first);
    let held: u64 = world
        .ask_redis(&["ZCARD", &world.keys(id, DropId(second)).users])
        .await;
    assert_eq!(held, 0);
}

/// By MySQL's clock, the next drop opened an hour ago; by Redis's clock, it opens in an hour.
#[tokio::test]
async fn holder_of_the_sealed_drop_is_found_if_the_clock_of_mysql_is_ahead() {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("redis").unwrap();
    clock.shift_ms(-2 * HOUR).unwrap();
    let redis = RedisServer::start(RedisOptions {
        env: clock.env().into(),
        ..RedisOptions::default()
    });
    let redis = redis.await.unwrap();
    let world = ServeWorld::closed().await.on_redis(&redis.url());
    let api = world.api().await;
    let (id, first, second) = two_days(&world, &api, "drop").await;
    move_window(&world, id, DropId(first), [-26 * HOUR, -25 * HOUR]).await;
    move_window(&world, id, DropId(second), [-HOUR, HOUR]).await;
    world.issue(id, DropId(first), 1, "u-1").await;
    let sealed = "sealed_at = UTC_TIMESTAMP(3), sealed_rows = 1";
    world
        .sql(&format!(
            "UPDATE {{db}}.drops SET {sealed} WHERE id = {first}"
        ))
        .await;
    api.stop().await;
    let api = world.api().await;
    assert_eq!(api.mine(id, "u-1").await.json["status"], "issued");
}
