//! How long processes with default settings stay with a host that went silent, with its connections
//! open, while the same address leads to another host.

use std::time::{Duration, Instant};

use firstcome_stack::FaultProxy;
use firstcome_testkit::scale::print;
use firstcome_testkit::{
    Answer, Api, Coupon, Fixture, Reconciler, Stores, World, eventually, holders, people, rush, shared,
};
use futures_util::future::join_all;
use serde_json::json;

/// On a busy machine; the target of a quiet one is five seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Requests at once: more than a process has connections to a store.
const AT_ONCE: usize = 24;

/// Nothing that is asked for meets the silent host.
async fn answers(api: &Api, coupon: &Coupon, users: &mut impl Iterator<Item = String>) -> bool {
    let some: Vec<String> = users.by_ref().take(AT_ONCE).collect();
    let renamed = json!({"name": "renamed"});
    let (claims, looks, change) = tokio::join!(
        rush(&[api], coupon.id, &some, AT_ONCE),
        join_all(some.iter().map(|user| api.try_me(coupon.id, user))),
        api.try_patch(coupon.id, &renamed),
    );
    claims.iter().all(|(_, answer)| matches!(answer, Answer::Accepted { queued: true, .. }))
        && looks.iter().all(|look| look.as_ref().is_ok_and(|reply| reply.status == 200))
        && change.is_ok_and(|reply| reply.status == 200)
}

async fn passes(daemon: &Reconciler) -> bool {
    let run = daemon.ask(&json!({})).await.body;
    run["status"] == "clean" || run["status"] == "repaired"
}

/// Prints the seconds until the last process has left it.
async fn is_left(store: &str, world: World, host: &FaultProxy) {
    let Fixture { world, api, consumer: _consumer } = Fixture::of(world).await;
    let daemon = world.daemon().await;
    let coupon = api.open_coupon(100_000).await;
    let mut users = people(100_000).into_iter();
    eventually("all run", LIMIT, async || answers(&api, &coupon, &mut users).await && passes(&daemon).await).await;
    let by_consumer = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'consumer'";
    let before = holders(&world, &coupon).await;
    eventually("nothing is on its way", LIMIT, async || world.sql.number(by_consumer).await == before).await;
    let begun = Instant::now();
    host.strand_now();
    let (api, consumer, daemon) = tokio::join!(
        async {
            eventually("the API has left it", LIMIT, async || answers(&api, &coupon, &mut users).await).await;
            begun.elapsed()
        },
        async {
            eventually("the consumer has left it", LIMIT, async || world.sql.number(by_consumer).await > before).await;
            begun.elapsed()
        },
        async {
            eventually("the daemon has left it", LIMIT, async || passes(&daemon).await).await;
            begun.elapsed()
        },
    );
    println!("{store}: the API {api:?}, the consumer {consumer:?}, the daemon {daemon:?}");
    let what =
        format!("host of {store} silent with its connections open, default settings: all processes have left it");
    print(&what, "≤ 5 s", api.max(consumer).max(daemon).as_secs_f64());
}

#[tokio::test]
async fn a_silent_redis_is_left_within_seconds_by_the_default_settings() {
    let redis = &shared().await.redis;
    let (host, world) = (redis.proxy().await.unwrap(), World::new("left-redis").await);
    world.set("REDIS_URL", &redis.url_via(&host));
    is_left("Redis", world, &host).await;
}

#[tokio::test]
async fn a_silent_mysql_is_left_within_seconds_by_the_default_settings() {
    let mysql = &shared().await.mysql;
    let (host, world) = (mysql.proxy().await.unwrap(), World::new("left-mysql").await);
    world.set("DATABASE_URL", &mysql.database_url_via(&host, world.database()));
    is_left("MySQL", world, &host).await;
}

#[tokio::test]
async fn a_silent_kafka_is_left_within_seconds_by_the_default_settings() {
    let (server, host, _turn) = crate::faults::waves::kafka_behind_proxy().await;
    is_left("Kafka", World::on(Stores::shared().await.with_kafka(server), "left-kafka").await, host).await;
}
