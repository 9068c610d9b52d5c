//! SIGTERM stops every process within seconds, even while a store is silent and claims are in
//! flight.

use std::time::{Duration, Instant};

use firstcome_stack::{FaultProxy, ProxyFault};
use firstcome_testkit::{Fixture, World, WorldStores, people, rush, shared};
use rustix::process::Signal;

use crate::faults::waves::{impatient, kafka_behind_proxy};

/// Ten seconds for requests in flight or a pass, five for the last batch, and five to leave the
/// group.
const LIMIT: Duration = Duration::from_secs(20);

async fn all_stop(world: World, silent: &FaultProxy) {
    let Fixture {
        world,
        api,
        consumer,
    } = Fixture::of(world).await;
    let daemon = world.daemon().await;
    let coupon = api.open_coupon(100).await;
    silent.set(ProxyFault::BlackHole).await.unwrap();
    let claims = tokio::spawn(rush(&[&api], coupon.id, &people(50), 50));
    let begun = Instant::now();
    let processes = [&api.process, &consumer.process, &daemon.process];
    for process in processes {
        process.signal(Signal::TERM);
    }
    for process in processes {
        assert_eq!(
            process.ended(LIMIT.saturating_sub(begun.elapsed())).await,
            0,
            "{}",
            process.log()
        );
    }
    claims.await.unwrap();
    silent.set(ProxyFault::Pass).await.unwrap();
}

#[tokio::test]
async fn every_process_stops_within_seconds_while_redis_is_silent() {
    let stack = shared().await;
    let proxy = stack.redis.proxy().await.unwrap();
    let world = impatient(WorldStores::shared().await, "stop-redis").await;
    world.set("REDIS_URL", &stack.redis.url_via(&proxy));
    all_stop(world, &proxy).await;
}

#[tokio::test]
async fn every_process_stops_within_seconds_while_mysql_is_silent() {
    let stack = shared().await;
    let proxy = stack.mysql.proxy().await.unwrap();
    let world = impatient(WorldStores::shared().await, "stop-mysql").await;
    world.set(
        "DATABASE_URL",
        &stack.mysql.database_url_via(&proxy, world.database()),
    );
    all_stop(world, &proxy).await;
}

#[tokio::test]
async fn every_process_stops_within_seconds_while_kafka_is_silent() {
    let (server, proxy, _turn) = kafka_behind_proxy().await;
    all_stop(
        impatient(WorldStores::shared().await.with_kafka(server), "stop-kafka").await,
        proxy,
    )
    .await;
}
