//! Stores that are down, slow, or silent.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::copy::StoredCopy;
use firstcome_stack::{FaultProxy, KafkaServer, ProxyFault, RedisOptions, RedisServer};
use serde_json::{Value, json};

use super::world::{ServeWorld, open, stack, until};

pub(crate) async fn behind_mysql(world: &ServeWorld) -> (ServeWorld, FaultProxy) {
    let proxy = stack().await.mysql.proxy().await.unwrap();
    let url = stack().await.mysql.database_url_via(&proxy, &world.name);
    (
        world
            .with("database-url", url)
            .with("database-timeout-ms", 1_500),
        proxy,
    )
}

pub(crate) async fn behind_redis(world: &ServeWorld) -> (ServeWorld, FaultProxy) {
    let proxy = stack().await.redis.proxy().await.unwrap();
    let url = stack().await.redis.url_via(&proxy);
    (
        world.with("redis-url", url).with("store-timeout-ms", 1_500),
        proxy,
    )
}

#[tokio::test]
async fn claims_continue_without_mysql_and_unknown_users_get_503() {
    let world = ServeWorld::new().await;
    let (proxied, mysql) = behind_mysql(&world).await;
    let api = proxied.api().await;
    let (id, drop) = api.make(open(5)).await;
    let words: [(&str, &dyn Display); 3] = [("$id", &id), ("$drop", &drop), ("$body", &open(1))];
    for (fault, user) in [(ProxyFault::Cut, "u-1"), (ProxyFault::BlackHole, "u-2")] {
        mysql.set(fault).await.unwrap();
        let table = r#"
            $user claims $id => 202 accepted
            $user looks $id => 200 accepted
            u-nobody looks $id => 503 unavailable
            $user claims 4711 => 503 unavailable
            - GET $id => 200 current_drop.state=open
            - GET /readyz => 200
            ops POST /v1/coupons $body => 503 unavailable
            ops PATCH $id {"quantity": 9} => 503 unavailable"#;
        api.play(&words, &table.replace("$user", user)).await;
    }
    mysql.set(ProxyFault::Pass).await.unwrap();
    until("unknown coupons get 404 again", async || {
        api.claim(4_711, "u-1").await.status == 404
    })
    .await;
    until("changes work again", async || {
        api.patch(id, json!({"quantity": 9})).await.status == 200
    })
    .await;
    api.play(&words, "- GET $id => 200 current_drop.id=$drop")
        .await;
    assert_eq!(world.messages().await, 2);
}

#[tokio::test]
async fn without_redis_claims_and_uncertain_reads_get_503() {
    let world = ServeWorld::new().await;
    let (proxied, redis) = behind_redis(&world).await;
    let api = proxied.api().await;
    let (id, drop) = api.make(open(5)).await;
    world.issue(id, DropId(drop), 5, "u-5").await;
    let before = world.dump().await;
    redis.set(ProxyFault::Cut).await.unwrap();

    let table = "
        u-1 claims $id => 503 unavailable
        - GET /readyz => 503
        u-5 looks $id => 200 status=issued
        u-1 looks $id => 503 unavailable";
    api.play(&[("$id", &id)], table).await;
    until("the cached coupons are too old", async || {
        api.get(&format!("/v1/coupons/{id}")).await.json["current_drop"]["remaining"] == Value::Null
    })
    .await;
    // The coupon exists, and the reconciler loads it.
    let table = r#"
        ops PATCH $id {"quantity": 5} => 503
        ops PATCH $id {"quantity": 4, "name": "x"} => 503 unavailable
        ops POST /v1/coupons $body => 201"#;
    let made = api.play(&[("$id", &id), ("$body", &open(1))], table).await;
    let row = format!("SELECT quantity, name FROM {{db}}.coupons WHERE id = {id}");
    assert_eq!(world.sql(&row).await, [["5", "Winter coupon"]]);
    redis.set(ProxyFault::Pass).await.unwrap();
    assert_eq!(world.dump().await, before);
    until("claims work again", async || {
        api.claim(id, "u-1").await.status == 202
    })
    .await;
    api.claim(made.json["id"].as_i64().unwrap(), "u-1")
        .await
        .is(503, "unavailable"); // not loaded yet
}

/// After a failover without Sentinel, `REDIS_URL` may lead to the server that was the master.
#[tokio::test]
async fn redis_that_became_a_replica_counts_as_down_and_readiness_says_what_to_do() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = ServeWorld::new().await.on_redis(&redis.url());
    let api = world.api().await;
    until("Redis is up", async || {
        api.metric("firstcome_redis_up").await > 0.0
    })
    .await;
    world
        .ask_redis::<()>(&["REPLICAOF", "127.0.0.1", "1"])
        .await;
    until("readiness says why", async || {
        let ready = api.get("/readyz").await;
        ready.status == 503 && ready.json.to_string().contains("leads to a replica")
    })
    .await;
    until("the metric says so", async || {
        api.metric("firstcome_redis_up").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn retry_finds_the_admission_whose_reply_was_lost() {
    let world = ServeWorld::new().await;
    let (proxied, redis) = behind_redis(&world).await;
    let api = proxied.api().await;
    let (id, drop) = api.make(open(5)).await;
    redis.set(ProxyFault::DropReplies).await.unwrap();
    api.claim(id, "u-1").await.is(503, "unavailable");
    redis.set(ProxyFault::Pass).await.unwrap();
    let retried = json!({"status": "already_claimed", "drop_id": drop, "slot": 1});
    until("the retry finds the admission", async || {
        api.claim(id, "u-1").await.json == retried
    })
    .await;
    assert_eq!(
        world.messages().await,
        1,
        "the retry publishes the claim once"
    );
    assert_eq!(api.claim(id, "u-2").await.json["slot"], 2);
}

#[tokio::test]
async fn claim_continues_after_its_client_disconnects() {
    let world = ServeWorld::new().await;
    let (proxied, redis) = behind_redis(&world).await;
    let api = proxied.with("store-timeout-ms", 10_000).api().await;
    let (id, _) = api.make(open(5)).await;
    redis
        .set(ProxyFault::Delay(Duration::from_millis(1_500)))
        .await
        .unwrap();
    let url = format!("{}/v1/coupons/{id}/claims", api.base);
    let hung_up = api
        .client
        .post(url)
        .header("x-user-id", "u-1")
        .timeout(Duration::from_secs(1))
        .send()
        .await;
    assert!(hung_up.unwrap_err().is_timeout());
    until("the message is on the topic", async || {
        world.messages().await == 1
    })
    .await;
    redis.set(ProxyFault::Pass).await.unwrap();
    api.claim(id, "u-1").await.is(200, "already_claimed");
}

#[tokio::test]
async fn api_that_starts_without_kafka_publishes_once_kafka_is_available() {
    let world = ServeWorld::new().await;
    let kafka = KafkaServer::breakable().await.unwrap();
    let own = world
        .with("kafka-brokers", kafka.server.bootstrap())
        .with("publish-deadline-ms", 500);
    own.create_topic().await;
    kafka.proxy.set(ProxyFault::Cut).await.unwrap();
    let api = own.api().await;
    let (id, _) = api.make(open(5_000)).await;
    let claimed = api.claim(id, "u-1").await;
    assert_eq!(
        (claimed.code(), &claimed.json["queued"]),
        ((202, "accepted"), &json!(false))
    );
    let ready = api.get("/readyz").await;
    let note = ready.json["notes"]["kafka"].as_str().unwrap();
    assert!(
        ready.status == 200 && note.contains("go to MySQL"),
        "{ready:?}"
    );

    kafka.proxy.set(ProxyFault::Pass).await.unwrap();
    let mut user = 1;
    until("claims are queued", async || {
        user += 1;
        api.claim(id, &format!("u-{user}")).await.json["queued"] == true
    })
    .await;
    until("/readyz reports Kafka as ok", async || {
        api.get("/readyz").await.json["notes"]["kafka"] == "ok"
    })
    .await;
}

#[tokio::test]
async fn shutdown_during_a_rush_publishes_all_admissions() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(open(10_000)).await;
    let base = api.base.clone();
    let client = api.client.clone();
    let claims: Vec<_> = (0..400)
        .map(|n| {
            let request = client
                .post(format!("{base}/v1/coupons/{id}/claims"))
                .header("x-user-id", format!("u-{n}"));
            tokio::spawn(async move { request.send().await.map(|r| r.status().as_u16()) })
        })
        .collect();
    until("some are admitted", async || world.messages().await > 0).await;
    api.stop().await;
    let mut yes = 0;
    for claim in claims {
        match claim.await.unwrap() {
            Ok(status) => {
                assert_eq!(status, 202);
                yes += 1;
            }
            Err(error) => assert!(error.is_request() || error.is_connect(), "{error}"),
        }
    }
    let keys = world.keys(id, DropId(drop));
    let admitted: BTreeMap<String, u32> = world
        .ask_redis(&["ZRANGE", &keys.users, "0", "-1", "WITHSCORES"])
        .await;
    assert!((1..=admitted.len()).contains(&yes), "{yes} users were told");
    let published = world.published().await;
    let published = published
        .iter()
        .map(|claim| (claim.user_id.to_string(), claim.slot));
    assert_eq!(published.collect::<BTreeMap<_, _>>(), admitted);
}

#[tokio::test]
async fn api_that_starts_without_mysql_serves_claims_from_the_copy_in_redis() {
    let world = ServeWorld::new().await;
    let (proxied, mysql) = behind_mysql(&world).await;
    let first = world.api().await;
    let (id, drop) = first.make(open(5)).await;
    let (over, _) = world.make_over(&first, 5).await;
    first.stop().await;
    // Write the copy of the catalogue, as the reconciler does.
    let coupons = world.db().catalogue().await.unwrap();
    let none = StoredCopy::default();
    assert!(
        world
            .redis
            .write_catalogue_copy(&coupons, &none)
            .await
            .unwrap()
    );
    let stored = world.redis.stored_copy().await.unwrap();
    let again = world.redis.write_catalogue_copy(&coupons, &stored).await;
    assert!(!again.unwrap(), "an unchanged copy is not written again");
    mysql.set(ProxyFault::Cut).await.unwrap();

    let api = proxied.with("catalogue-refresh-ms", 50).api().await;
    // The copy alone proves neither that a coupon is missing nor that it is over.
    let table = "
        u-1 claims $id => 202 accepted
        u-1 claims $id => 200 already_claimed
        u-1 looks $id => 200 accepted
        - GET /readyz => 200 | copy in Redis
        u-1 claims 4711 => 503 unavailable
        u-1 claims $over => 503 unavailable";
    api.play(&[("$id", &id), ("$over", &over)], table).await;
    mysql.set(ProxyFault::Pass).await.unwrap();
    until("coupons are read from MySQL", async || {
        api.claim(over, "u-1").await.code() == (410, "closed")
    })
    .await;
    let table = "
        u-1 claims 4711 => 404
        - GET $id => 200 current_drop.id=$drop";
    api.play(&[("$id", &id), ("$drop", &drop)], table).await;
}
