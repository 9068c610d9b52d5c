//! Bulkheads: lookups that wait for MySQL take no places or connections from claims and operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_stack::{FaultProxy, ProxyFault};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::task::JoinSet;

use crate::world::{InProcessApi, ServeWorld, breakable_kafka, open, stack, until};

async fn behind_mysql(world: &ServeWorld) -> (ServeWorld, FaultProxy) {
    let proxy = stack().await.mysql.proxy().await.unwrap();
    let url = stack().await.mysql.database_url_via(&proxy, &world.name);
    (world.with("database-url", url), proxy)
}

/// Starts clients that repeat a request until they are dropped. Returns once half of them have had
/// a response.
async fn crowd(people: usize, request: impl Fn(usize) -> RequestBuilder) -> JoinSet<()> {
    let answers = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for number in 0..people {
        let request = request(number);
        let answers = Arc::clone(&answers);
        crowd.spawn(async move {
            loop {
                let _ = request.try_clone().unwrap().send().await;
                answers.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    until("half of the clients had an answer", async || {
        answers.load(Ordering::Relaxed) >= people / 2
    })
    .await;
    crowd
}

fn poll(api: &InProcessApi, id: i64) -> impl Fn(usize) -> RequestBuilder {
    let client = api.client.clone();
    let url = format!("{}/v1/coupons/{id}/claims/me", api.base);
    move |number| {
        client
            .request(Method::GET, &url)
            .header("x-user-id", format!("p-{number}"))
    }
}

/// Maximum concurrent claims in the test below.
const IN_HAND: usize = 5;

#[tokio::test]
async fn claims_succeed_during_late_claims_while_mysql_hangs() {
    let world = ServeWorld::new().await;
    let (proxied, mysql) = behind_mysql(&world).await;
    let own = proxied
        .with("max-claims-in-hand", IN_HAND)
        // Requests that need MySQL must wait until the end of the test.
        .with("question-timeout-ms", 60_000)
        .with("database-timeout-ms", 60_000)
        // Long deadlines, so that claims succeed on a busy machine.
        .with("store-timeout-ms", 10_000)
        .with("publish-deadline-ms", 10_000);
    let api = own.api().await;
    let (id, _) = api.make(open(1_000)).await;
    let (over, drop) = world.make_over(&api, 5).await;
    world
        .sql(&format!("UPDATE {{db}}.drops SET sealed_at = UTC_TIMESTAMP(3), sealed_rows = 0 WHERE id = {drop}"))
        .await;
    for key in world.keys(over, DropId(drop)).own() {
        world.ask_redis::<()>(&["DEL", key]).await;
    }
    until("the coupon is finished", async || {
        api.claim(over, "u-1").await.code() == (410, "closed")
    })
    .await;
    mysql.set(ProxyFault::BlackHole).await.unwrap();

    // Claims above the limit are refused, and retried.
    let client = api.client.clone();
    let url = format!("{}/v1/coupons/{over}/claims", api.base);
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut claims = JoinSet::new();
    for number in 0..4 * IN_HAND {
        let request = client.post(&url).header("x-user-id", format!("p-{number}"));
        let waiting = Arc::clone(&waiting);
        claims.spawn(async move {
            loop {
                waiting.fetch_add(1, Ordering::Relaxed);
                let _ = request.try_clone().unwrap().send().await;
                waiting.fetch_sub(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    until("all claims wait", async || {
        waiting.load(Ordering::Relaxed) == 4 * IN_HAND
    })
    .await;
    for number in 0..20 {
        let user = format!("b-{number}");
        until("a concurrent claim is accepted", async || {
            api.claim(id, &user).await.status / 100 == 2
        })
        .await;
    }
    drop_all(claims).await;
}

async fn drop_all(mut crowd: JoinSet<()>) {
    crowd.shutdown().await;
}

#[tokio::test]
async fn polls_of_a_slow_mysql_delay_neither_fallback_nor_operators() {
    let world = ServeWorld::new().await;
    let (kafka, _turn) = breakable_kafka().await;
    let (proxied, mysql) = behind_mysql(&world).await;
    let own = proxied
        .with("kafka-brokers", kafka.bootstrap())
        .with("publish-deadline-ms", 300)
        .with("database-pool-size", 4)
        // This is long enough for a busy machine, but shorter than a claim would wait behind all
        // polls.
        .with("backup-deadline-ms", 5_000)
        .with("store-timeout-ms", 10_000)
        .with("database-timeout-ms", 10_000);
    own.migrate().await;
    let api = own.api().await;
    let (id, _) = api.make(open(1_000)).await;
    kafka.kill().await.unwrap();
    mysql
        .set(ProxyFault::Delay(Duration::from_millis(30)))
        .await
        .unwrap();

    let polls = crowd(700, poll(&api, id)).await;
    for number in 0..10 {
        let claimed = api.claim(id, &format!("u-{number}")).await;
        assert_eq!(
            (claimed.code(), &claimed.json["queued"]),
            ((202, "accepted"), &json!(false))
        );
    }
    let paused = api.patch(id, json!({"paused": true})).await;
    assert_eq!(
        (paused.status, &paused.json["paused"]),
        (200, &json!(true)),
        "{paused:?}"
    );
    let path = format!("/v1/coupons/{id}/people/u-0/revoke");
    let revoked = api
        .ops(
            Method::POST,
            &path,
            &json!({"reason": "fraud", "by": "Ann"}),
        )
        .await;
    assert_eq!(
        (revoked.status, &revoked.json["status"]),
        (200, &json!("revoked")),
        "{revoked:?}"
    );
    drop_all(polls).await;
}
