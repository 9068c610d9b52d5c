//! The cost of watching: what APIs and daemons ask Redis each second, whatever happens.

use std::collections::HashSet;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_stack::{RedisOptions, RedisServer};
use redis::pipe;

use crate::world::connect;

const COUPONS: i64 = 2_000;
const APIS: u64 = 20;
const DAEMONS: u64 = 2;

/// Coupons whose keys a daemon checks at one of its looks.
const CHECKED: usize = 200;

async fn commands(server: &RedisServer) -> u64 {
    let mut conn = server.connection().await.unwrap();
    let stats: String = redis::cmd("INFO")
        .arg("stats")
        .query_async(&mut conn)
        .await
        .unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_commands_processed:"));
    line.unwrap().parse().unwrap()
}

/// Some coupons have waiting users, and others are sold out with returned slots.
async fn fill(server: &RedisServer, drops: &[DropKeys]) {
    let mut conn = server.connection().await.unwrap();
    let mut fill = pipe();
    for keys in drops {
        fill.set(&keys.gate, "a:b 1 open").ignore();
        fill.set(&keys.count, 20).ignore();
        fill.hset(&keys.claimants, "", 0).ignore();
        fill.hset(&keys.revoked, "", 0).ignore();
        if keys.coupon.0 % 40 == 0 {
            fill.zadd(&keys.waiting, "u-1", 1).ignore();
        }
    }
    fill.query_async::<()>(&mut conn).await.unwrap();
}

#[tokio::test]
async fn watching_two_thousand_coupons_costs_few_commands() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let redis: Redis = connect(&server.url());
    let ids: Vec<CouponId> = (1..=COUPONS).map(CouponId).collect();
    let drops: Vec<DropKeys> = ids.iter().map(|id| redis.keys(*id, DropId(id.0))).collect();
    fill(&server, &drops).await;
    let mut before = commands(&server).await;
    let mut since = async || {
        let now = commands(&server).await;
        // Without the question itself.
        let asked = now - before - 1;
        before = now;
        asked
    };

    let gates = redis.gates(&ids).await.unwrap();
    let eras = gates.iter().flatten().map(Gate::era);
    assert_eq!(eras.collect::<Vec<_>>(), vec![Some(1); ids.len()]);
    let by_apis = since().await;
    let watched = redis.watched(&drops).await.unwrap();
    let counts = watched.iter().flatten().map(|(_, count)| *count);
    assert_eq!(counts.collect::<Vec<_>>(), vec![Some(20); ids.len()]);
    let by_looks = since().await;
    let waiting: Vec<&str> = drops.iter().map(|keys| &*keys.waiting).collect();
    let found = redis.existing(&waiting).await.unwrap();
    let filled = drops.iter().filter(|keys| keys.coupon.0 % 40 == 0);
    let filled: HashSet<&str> = filled.map(|keys| &*keys.waiting).collect();
    assert_eq!(found, filled);
    let keys = redis.have_user_keys(&ids[..CHECKED]).await.unwrap();
    assert!(keys.iter().all(|has| *has));
    let by_looks_for_slots = since().await;

    let all = APIS * by_apis + DAEMONS * (4 * by_looks + 2 * by_looks_for_slots);
    println!("{all} a second: {by_apis}, {by_looks}, {by_looks_for_slots}");
    assert!(
        all <= 8_000,
        "{all}: {by_apis}, {by_looks}, {by_looks_for_slots}"
    );
}
