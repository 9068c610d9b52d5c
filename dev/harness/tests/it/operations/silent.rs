//! A host becomes silent while its connections stay open and its address leads to another host.
//! Processes with default settings soon switch to the other host. While a store is silent, SIGTERM
//! still stops every process within seconds.

use firstcome_stack::KafkaServer;
use rustix::process::Signal;

use crate::prelude::*;

/// Limit for a busy machine. The target on an idle one is five seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Ten seconds for requests in flight or a pass, five for the last batch, and five to leave the
/// group.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);

/// Concurrent requests. They exceed the number of connections that a process has to a store.
const AT_ONCE: usize = 24;

/// Waits until all processes work normally: claims are queued, a change succeeds, the consumer
/// writes rows and a pass succeeds.
async fn all_work(f: &Fixture, daemon: &ReconcilerClient, coupon: &MadeCoupon, round: &str) {
    let (api, sql) = (&f.api, &f.world.sql);
    let rows = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'consumer'";
    let before = sql.number(rows).await;
    let mut number = 0;
    let is_queued = |answer: &Answer| matches!(answer, Answer::Accepted { queued: true, .. });
    eventually("claims are queued", LIMIT, async || {
        number += 1;
        let user = |n| format!("u-{round}-{number}-{n}");
        let some: Vec<_> = (0..AT_ONCE).map(user).collect();
        let claims = rush(&[api], coupon.id, &some, AT_ONCE).await;
        claims.iter().all(|(_, answer)| is_queued(answer))
    })
    .await;
    let issues = eventually("the consumer writes rows", LIMIT, async || {
        sql.number(rows).await > before
    });
    let change = eventually("a change is made", LIMIT, async || {
        let reply = api.try_patch(coupon.id, &json!({"name": round})).await;
        reply.is_ok_and(|reply| reply.status == 200)
    });
    let pass = eventually("a pass succeeds", LIMIT, async || {
        let run = daemon.ask(&json!({})).await.body;
        run["status"] == "clean" || run["status"] == "repaired"
    });
    tokio::join!(issues, change, pass);
}

async fn is_left(world: World, host: &FaultProxy) {
    for of_a_test in [
        "STORE_TIMEOUT_MS",
        "FIRSTCOME_TEST_DATABASE_TIMEOUT_MS",
        "FIRSTCOME_TEST_QUESTION_TIMEOUT_MS",
    ] {
        world.set(of_a_test, "");
    }
    let f = Fixture::of(world).await;
    let daemon = f.world.daemon().await;
    let coupon = f.api.open_coupon(100_000).await;
    all_work(&f, &daemon, &coupon, "before").await;
    host.strand_now();
    all_work(&f, &daemon, &coupon, "after").await;

    host.set(ProxyFault::BlackHole).await.unwrap();
    let claims = tokio::spawn(rush(&[&f.api], coupon.id, &people(50), 50));
    let begun = Instant::now();
    let processes = [&f.api.process, &f.consumer.process, &daemon.process];
    for process in processes {
        process.signal(Signal::TERM);
    }
    for process in processes {
        let left = STOPPED_WITHIN.saturating_sub(begun.elapsed());
        assert_eq!(process.ended(left).await, 0, "{}", process.log());
    }
    claims.await.unwrap();
    host.set(ProxyFault::Pass).await.unwrap();
}

#[tokio::test]
#[ignore = "release"]
async fn processes_switch_away_from_a_silent_redis_and_stop_within_seconds() {
    let redis = &Stack::shared().await.unwrap().redis;
    let host = redis.proxy().await.unwrap();
    let world = World::new("silent-redis").await;
    world.set("REDIS_URL", &redis.url_via(&host));
    is_left(world, &host).await;
}

#[tokio::test]
#[ignore = "release"]
async fn processes_switch_away_from_a_silent_mysql_and_stop_within_seconds() {
    let mysql = &Stack::shared().await.unwrap().mysql;
    let host = mysql.proxy().await.unwrap();
    let world = World::new("silent-mysql").await;
    let url = mysql.database_url_via(&host, world.database());
    world.set("DATABASE_URL", &url);
    is_left(world, &host).await;
}

#[tokio::test]
#[ignore = "release"]
async fn processes_switch_away_from_a_silent_kafka_and_stop_within_seconds() {
    let kafka = KafkaServer::breakable().await.unwrap();
    let stores = WorldStores::shared().await.with_kafka(kafka.server);
    is_left(World::on(stores, "silent-kafka").await, kafka.proxy).await;
}
