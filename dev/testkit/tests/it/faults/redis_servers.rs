//! Redis as a cluster (docs/decisions/0009-replicas.md): failovers and hash slots that move.

use std::time::Duration;

use firstcome_stack::RedisCluster;
use firstcome_testkit::{ApiClient, MadeCoupon, World, WorldStores, eventually, people};

use super::waves::{HEALED, Waves, impatient, until_promised};

async fn cluster() -> RedisCluster {
    RedisCluster::start()
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

async fn in_cluster(cluster: &RedisCluster, name: &str) -> World {
    let stores = WorldStores::shared()
        .await
        .with_redis_servers(&cluster.urls(), &cluster.env());
    impatient(stores, name).await
}

/// Returns a key of a coupon.
fn key(world: &World, coupon: &MadeCoupon) -> String {
    world.redis.claimants(coupon.id)
}

/// Creates a coupon on a different primary.
async fn elsewhere(
    cluster: &RedisCluster,
    world: &World,
    api: &ApiClient,
    coupon: &MadeCoupon,
) -> MadeCoupon {
    let port = async |coupon: &MadeCoupon| {
        let primary = cluster.primary_of(&key(world, coupon)).await;
        primary.unwrap().port()
    };
    let own = port(coupon).await;
    for _ in 0..50 {
        let other = api.open_coupon(40).await;
        if port(&other).await != own {
            return other;
        }
    }
    panic!("all coupons are on one primary");
}

#[tokio::test]
#[ignore = "release"]
async fn hash_slots_that_move_away_and_back_during_a_rush_break_no_promise() {
    let cluster = cluster().await;
    let world = in_cluster(&cluster, "slots").await;
    // Only the watch sees that hash slots have moved.
    world.set("RECONCILE_CRON", "0 0 0 1 1 *");
    let waves = Waves::begin(world).await;
    waves
        .survives(async |waves| {
            let name = key(&waves.world, &waves.coupon);
            let slot = cluster.slot_of(&name).await.unwrap();
            let first = cluster.primary_of(&name).await.unwrap();
            let primaries = &cluster.nodes()[..3];
            let second = primaries
                .iter()
                .find(|node| node.port() != first.port())
                .unwrap();
            for to in [second, first] {
                waves
                    .next_while(10, async |_| cluster.move_slot(slot, to).await.unwrap())
                    .await;
                let asking = people(1);
                until_promised(&waves.api, waves.coupon.id, &asking[0]).await;
            }
        })
        .await;
}

/// A frozen primary keeps its connections. Only its own coupons wait for its successor; redis-rs
/// delays the others while it tries to connect.
#[tokio::test]
#[ignore = "release"]
async fn frozen_primary_is_left_for_its_successor_and_other_coupons_go_on() {
    const LONGEST: Duration = Duration::from_secs(5);
    let cluster = cluster().await;
    let waves = Waves::begin(in_cluster(&cluster, "frozen").await).await;
    let other = elsewhere(&cluster, &waves.world, &waves.api, &waves.coupon).await;
    let asking = people(2);
    until_promised(&waves.api, other.id, &asking[0]).await;
    waves
        .survives(async |waves| {
            let name = key(&waves.world, &waves.coupon);
            let frozen = cluster.primary_of(&name).await.unwrap();
            frozen.freeze().await.unwrap();
            // The successor accepts no writes before it has a replica (`min-replicas-to-write`).
            let is_replaced = async || {
                let now = cluster.primary_of(&name).await;
                now.is_ok_and(|now| now.port() != frozen.port())
            };
            let api = &waves.api;
            let own_claims = async {
                loop {
                    api.claim(waves.coupon.id, &asking[1]).await;
                }
            };
            let other_claims = async {
                loop {
                    let claim = until_promised(api, other.id, &asking[0]);
                    let answered = tokio::time::timeout(LONGEST, claim).await;
                    answered.expect("another primary's coupon waits for the frozen one");
                }
            };
            tokio::select! {
                () = eventually("the frozen primary is replaced", HEALED, is_replaced) => {}
                () = own_claims => {}
                () = other_claims => {}
            }
            frozen.thaw().await.unwrap();
            cluster.wait_until_whole().await.unwrap();
        })
        .await;
}
