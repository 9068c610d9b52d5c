//! Sold-out drops: the next claim at any process sees every acknowledged change, unless a process
//! answers a crowd from memory for a moment.

use firstcome_shared::domain::DropId;
use firstcome_stack::{RedisOptions, RedisServer};
use futures_util::future::join_all;
use serde_json::Value;

use super::world::{HttpAnswer, InProcessApi, ServeWorld, open, until};

/// Creates a coupon from `body`, sells out its two slots, and returns its id and drop id.
async fn sold_out(api: &InProcessApi, body: Value) -> (i64, i64) {
    let (id, drop) = api.make(body).await;
    let table = "
        u-1 claims $id => 202 accepted
        u-2 claims $id => 202 accepted
        late claims $id => 409 sold_out";
    api.play(&[("$id", &id)], table).await;
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
    for (change, seen) in [
        (
            r#"ops PATCH $id {"paused": true} => 200"#,
            "u-3 claims $id => 409 paused
            u-1 claims $id => 200 already_claimed",
        ),
        (
            r#"ops PATCH $id {"paused": false} => 200"#,
            "u-3 claims $id => 409 sold_out",
        ),
        (
            r#"ops PATCH $id {"quantity": 3} => 200"#,
            "u-3 claims $id => 202 accepted slot=3
            u-4 claims $id => 409 sold_out",
        ),
    ] {
        other.play(&[("$id", &id)], change).await;
        api.play(&[("$id", &id)], seen).await;
    }
    let meta = world.keys(id, DropId(drop)).meta;
    set(&world, &["HSET", &meta, "closes_at_ms", "1"]).await;
    api.claim(id, "u-4").await.is(410, "closed");
    api.claim(id, "u-3").await.is(200, "already_claimed");
}

#[tokio::test]
async fn sold_out_is_never_answered_with_a_closed_gate_or_without_redis() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = ServeWorld::closed().await.on_redis(&redis.url());
    world.open_gate().await;
    let api = world.with("store-timeout-ms", 1_500).api().await;
    let (id, drop) = sold_out(&api, open(2)).await;
    set(&world, &["SCRIPT", "FLUSH"]).await;
    api.claim(id, "u-3").await.is(409, "sold_out");
    set(&world, &["DEL", &world.keys(id, DropId(drop)).gate]).await;
    api.claim(id, "u-3").await.is(503, "unavailable");
    world.open_gate().await;
    api.claim(id, "u-3").await.is(409, "sold_out");

    redis.freeze().await.unwrap();
    api.claim(id, "u-3").await.is(503, "unavailable");
    redis.thaw().await.unwrap();
    until("Redis answers again", async || {
        api.claim(id, "u-3").await.code() == (409, "sold_out")
    })
    .await;

    set(&world, &["FLUSHALL"]).await;
    api.claim(id, "u-3").await.is(503, "unavailable");
}

/// Claims for many users at once. Returns how many got `sold_out`.
async fn crowd(api: &InProcessApi, id: i64) -> usize {
    let claims = (0..200).map(async |user| api.claim(id, &format!("loser-{user}")).await);
    let answers = join_all(claims).await;
    let is_loser = |answer: &&HttpAnswer| answer.code() == (409, "sold_out");
    answers.iter().filter(is_loser).count()
}

#[tokio::test]
async fn crowd_is_answered_from_memory_but_a_holder_never_is() {
    let world = ServeWorld::new().await;
    let api = world.api().await;
    let other = world.api().await;
    let (id, _) = sold_out(&api, open(2)).await;
    let from_memory = async || api.metric("firstcome_claims_from_memory_total").await;
    let before = from_memory().await;
    until("losers are answered from memory", async || {
        assert_eq!(crowd(&api, id).await, 200);
        // On a busy machine a crowd's answers may take longer than a lease. A few claims do not.
        for _ in 0..3 {
            let loser = api.claim(id, "loser-0").await;
            loser.is(409, "sold_out");
        }
        from_memory().await > before
    })
    .await;
    for user in ["u-1", "u-2"] {
        api.claim(id, user).await.is(200, "already_claimed");
    }
    let return_one = "u-1 returns $id => 200 revoked";
    other.play(&[("$id", &id)], return_one).await;
    // The crowd keeps claiming, and one of its users gets the slot as soon as the lease ends.
    until("the slot is given again", async || {
        crowd(&api, id).await == 199
    })
    .await;
    let mut winners = Vec::new();
    for user in 0..200 {
        let user = format!("loser-{user}");
        if api.claim(id, &user).await.status == 200 {
            winners.push(user);
        }
    }
    let [winner] = winners.as_slice() else {
        panic!("{winners:?} got one slot")
    };
    for _ in 0..5 {
        assert_eq!(crowd(&api, id).await, 199, "the winner has a coupon");
        api.claim(id, winner).await.is(200, "already_claimed");
    }
}

#[tokio::test]
async fn deadlines_shorter_than_two_leases_are_refused() {
    let world = ServeWorld::closed().await.with("publish-deadline-ms", 100);
    let world = world.with("backup-deadline-ms", 100);
    let Err(refused) = world.try_api().await else {
        panic!("it started")
    };
    let why = format!("{refused:#}");
    assert!(why.contains("PUBLISH_DEADLINE_MS"), "{why}");
}
