//! Coupons once per drop, around the opening of the next drop.

use std::fmt::Display;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_stack::{Clocks, FaultProxy, ProxyFault, RedisOptions, RedisServer};
use serde_json::json;

use super::promises::{move_window, two_days, until_current};
use super::stores_away::behind_redis;
use super::world::{InProcessApi, ServeWorld, until};

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

/// Lets the first drop close and then the second one open, and waits until the API knows it.
async fn next_day_opens(world: &ServeWorld, api: &InProcessApi, id: i64, drops: [i64; 2]) {
    let [first, second] = drops;
    move_window(world, id, DropId(first), [-2 * HOUR, -HOUR]).await;
    move_window(world, id, DropId(second), [-HOUR / 2, HOUR]).await;
    until_current(api, id, second).await;
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
    let return_one = "gave-back returns $id => 200";
    near.play(&[("$id", &id)], return_one).await;
    redis.set(ProxyFault::Delay(SLOW)).await.unwrap();
    move_window(&world, id, DropId(first), [-HOUR, OPENS_IN]).await;
    move_window(&world, id, DropId(second), [OPENS_IN, HOUR]).await;
    second_opens([&near, &far], id, DropId(second)).await;
    for user in ["shown", "leaves"] {
        assert_eq!(near.claim(id, user).await.json["drop_id"], second);
    }
    let leaves = format!("leaves returns {id}");
    let (winner, gave_back, shown, leaves) = tokio::join!(
        far.claim(id, "winner"),
        far.claim(id, "gave-back"),
        far.mine(id, "shown"),
        far.send(&leaves),
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
    let words: [(&str, &dyn Display); 4] = [
        ("$user", &USER),
        ("$id", &id),
        ("$first", &first),
        ("$second", &second),
    ];
    // There is no claim of the other drop.
    let table = "
        $user claims $id => 202 accepted drop_id=$first
        $user returns $id?drop_id=$second => 404 not_found
        $user returns $id?drop_id=$first => 200 revoked drop_id=$first slot=1";
    api.play(&words, table).await;
    next_day_opens(&world, &api, id, [first, second]).await;
    // A repeat gives the same answer. Without a drop, the claim of the current one is returned.
    let table = "
        $user claims $id => 202 accepted drop_id=$second
        $user returns $id?drop_id=$first => 200 revoked drop_id=$first slot=1
        $user looks $id => 200 accepted
        $user returns $id?drop_id=4711 => 404 not_found
        $user returns $id?drop_id=x => 400 invalid
        $user returns $id => 200 revoked drop_id=$second";
    api.play(&words, table).await;
}

/// A drop that closed while it was paused is not sealed: once it is resumed, those who wait get what
/// was returned.
#[tokio::test]
async fn place_in_an_earlier_drop_is_shown_and_can_be_left_until_that_drop_is_sealed() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, first, second) = two_days(&world, &api, "coupon").await;
    let words: [(&str, &dyn Display); 2] = [("$id", &id), ("$first", &first)];
    let table = r#"
        ops PATCH $id {"quantity": 1, "waiting_list": 5} => 200 waiting_list=5
        winner claims $id => 202 accepted
        waits claims $id => 202 waiting position=1"#;
    api.play(&words, table).await;
    next_day_opens(&world, &api, id, [first, second]).await;
    let table = "
        winner looks $id => 200 accepted drop_id=$first
        other looks $id => 200 none
        waits looks $id => 200 waiting drop_id=$first position=1
        waits returns $id => 200 revoked drop_id=$first
        waits looks $id => 200 revoked drop_id=$first";
    api.play(&words, table).await;
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
