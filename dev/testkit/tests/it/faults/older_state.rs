//! An older state, including its gate, is restored into a running Redis. Admission continues for a
//! moment. Users who are admitted in that moment keep a coupon, or are listed by name if none is
//! left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    Fixture, PrefixedKeys, WorldStores, all_issued, assert_kept, eventually, people, rush,
};

use super::waves::{HEALED, impatient, until_promised};

/// The daemon's scheduled passes would repair the drift that its watch must detect.
const NEVER: &str = "0 0 0 1 1 *";

/// Limit until the coupon is closed. An idle machine needs less.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// Restores keys in the format of `DUMP`.
async fn put_back(redis: &PrefixedKeys, kept: BTreeMap<String, (Vec<u8>, i64)>) {
    for (key, (dump, _)) in kept {
        let words = [
            b"RESTORE".to_vec(),
            key.into(),
            b"0".to_vec(),
            dump,
            b"REPLACE".to_vec(),
        ];
        redis.command::<()>(&words).await;
    }
}

/// Returns how often the watch has read the versions of coupons. Only the watch sends `MGET`.
async fn looks(redis: &PrefixedKeys) -> u64 {
    let stats: String = redis.command(&["INFO", "commandstats"]).await;
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
    let calls = calls.and_then(|calls| calls.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Copies Redis, lets 20 more users claim one by one, restores the copy, and lets 10 users claim at
/// once. Ten users make fewer calls than twenty, so the version stays lower than before.
async fn goes_back(name: &str, quantity: u32) {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&server);
    let world = impatient(stores, name).await;
    world.set("RECONCILE_CRON", NEVER);
    let fixture = Fixture::of(world).await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, mut answers) = fixture.held("Older", quantity, 20).await;
    let daemon = world.daemon().await;
    let kept = world.redis.dump().await;
    let users = people(45);
    answers.extend(rush(&[api], coupon.id, &users[20..40], 1).await);
    all_issued(world, coupon.drop, 40).await;
    let before = looks(&world.redis).await;
    eventually("the daemon has read the new versions", HEALED, async || {
        looks(&world.redis).await > before + 1
    })
    .await;

    put_back(&world.redis, kept).await;
    let begun = Instant::now();
    let late = &users[35..45];
    let (between, closed) = tokio::join!(rush(&[api], coupon.id, late, 10), async {
        let gate = world.redis.gate(coupon.id);
        eventually("the coupon is closed", HEALED, async || {
            let gate: Option<String> = world.redis.command(&["GET", &gate]).await;
            gate.is_none_or(|gate| gate.ends_with("closed"))
        })
        .await;
        begun.elapsed()
    });
    println!("closed after {closed:?}");
    assert!(closed < CLOSES_WITHIN, "closed after {closed:?}");
    assert_kept(world, &coupon, &answers, &[]).await;

    // Users whose promised slot is now held by another user keep a coupon or are listed.
    let told = between
        .iter()
        .filter(|(_, answer)| answer.promised().is_some());
    let told: BTreeSet<String> = told.map(|(user, _)| user.clone()).collect();
    let named = async |table: &str| {
        let query = format!(
            "SELECT user_id FROM {table} WHERE drop_id = {}",
            coupon.drop
        );
        let names = world.sql.query(&query).await.concat();
        names.into_iter().collect::<BTreeSet<String>>()
    };
    eventually("everybody is issued one or listed", HEALED, async || {
        world.once_with(&[], &[]).await;
        let issued = named("issued_coupons").await;
        let listed = named("broken_promises").await;
        told.iter()
            .all(|user| issued.contains(user) || listed.contains(user))
    })
    .await;
    until_promised(api, coupon.id, &users[0]).await;
    assert_kept(world, &coupon, &answers, &[]).await;
    assert_eq!(daemon.process.stop().await, 0);
}

#[tokio::test]
#[ignore = "release"]
async fn keys_restored_into_a_running_redis_close_the_coupon_within_a_second() {
    goes_back("older-restore", 60).await;
}

#[tokio::test]
#[ignore = "release"]
async fn users_admitted_to_an_older_state_are_listed_if_no_coupon_is_left() {
    goes_back("older-full", 40).await;
}
