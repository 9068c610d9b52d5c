//! Checks that passes read a drop consistently while it changes.

use std::sync::atomic::{AtomicBool, Ordering};

use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::Admission;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{ScriptWorld, connect, revocation};

/// Drops per request. Redis reads 16 kB of a connection at a time and then serves other
/// connections, so a request for this many drops arrives in several parts.
const TOGETHER: usize = 200;
const READS: usize = 100;

/// Claims slots, and frees every second one again.
async fn come_and_go(world: &ScriptWorld, redis: Redis, name: char, done: &AtomicBool) {
    let mut number = 0_u64;
    while !done.load(Ordering::Relaxed) {
        number += 1;
        let user: UserId = format!("{name}-{number}").parse().unwrap();
        let admission = redis
            .claim(&world.keys, world.era, &user)
            .await
            .unwrap()
            .admission;
        let Admission::Accepted(_) = admission else {
            panic!("{admission:?}")
        };
        if number.is_multiple_of(2) {
            redis
                .revoke(
                    &world.keys,
                    OncePer::Coupon,
                    &revocation(user.as_str(), 1, None),
                )
                .await
                .unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn concurrent_reads_return_consistent_counters() {
    let (server, world) = ScriptWorld::start(Start::new(10_000_000, OncePer::Coupon, 0)).await;
    let done = AtomicBool::new(false);
    let reading = async {
        let drops = vec![world.keys.clone(); TOGETHER];
        let mut seen = std::collections::BTreeSet::new();
        for read in 0..READS {
            for state in world.redis.drop_states(&drops).await.unwrap() {
                assert!(state.adds_up(), "read {read}: {state:?}");
                assert!(
                    state.highest <= state.count.unwrap_or(0),
                    "read {read}: {state:?}"
                );
                seen.insert((state.users, state.free));
            }
            let page = world.redis.page(&world.keys, 1, None).await.unwrap();
            let known = i64::try_from(page.users.len() + page.free.len()).unwrap();
            assert_eq!(page.count.unwrap_or(0), known, "read {read}");
        }
        done.store(true, Ordering::Relaxed);
        seen.len()
    };
    let crowd = async {
        let crowd = ['a', 'b', 'c', 'd']
            .map(|name| come_and_go(&world, connect(&server.url()), name, &done));
        futures_util::future::join_all(crowd).await
    };
    let (seen, _) = tokio::join!(reading, crowd);
    assert!(
        seen > READS,
        "{seen} different numbers in {READS} reads: no concurrent changes"
    );
}

/// Content that Firstcome did not write is part of the result.
#[tokio::test]
async fn garbage_in_a_drop_is_reported_and_hides_nothing() {
    let (server, mut world) = ScriptWorld::start(Start::new(5, OncePer::Coupon, 1)).await;
    world.claims("abc").await;
    world.revoke('b', 1, None).await;
    let ScriptWorld { redis, keys, .. } = &world;
    let page = async || redis.page(keys, 1, Some(9)).await.unwrap();
    let before = page().await;
    let slots: Vec<i64> = before.users.iter().map(|holder| holder.slot).collect();
    assert_eq!((slots, before.free.as_slice()), (vec![1, 3], &[2][..]));
    assert_eq!((before.count, before.odd), (Some(3), 0));
    let timed = redis.slots(keys, &[1, 2, 3]).await.unwrap();
    assert!(timed.users.iter().all(|holder| holder.at_ms.is_some()));
    assert_eq!(timed.free, [2]);

    let mut conn = redis.connection();
    for (set, score, name) in [
        (&keys.users, "1.5", &b"d"[..]),
        (&keys.users, "5", b"no id"),
        (&keys.users, "6", b"\xff"),
        (&keys.free, "7", b"x"),
    ] {
        let mut add = redis::cmd("ZADD");
        add.arg(set).arg(score).arg(name);
        add.query_async::<()>(&mut conn).await.unwrap();
    }
    let odd = page().await;
    assert_eq!((&odd.users, &odd.free), (&before.users, &before.free));
    assert_eq!(odd.odd, 4);
    let state = redis.drop_states(std::slice::from_ref(keys)).await.unwrap();
    assert!(!state[0].adds_up() && state[0].unreadable.is_empty());

    for (key, name) in [(&keys.users, "users"), (&keys.count, "count")] {
        ask::<i64>(&server, &["DEL", key]).await;
        ask::<i64>(&server, &["LPUSH", key, "x"]).await;
        let page = page().await;
        assert!(page.unreadable.contains(&name), "{page:?}");
        assert_eq!(page.free, [2], "{name}");
        let state = redis.drop_states(std::slice::from_ref(keys)).await.unwrap();
        assert!(state[0].unreadable.contains(&name), "{state:?}");
        assert!(state[0].has_keys && !state[0].adds_up());
    }
    ask::<i64>(&server, &["DEL", &keys.claimants]).await;
    ask::<i64>(&server, &["LPUSH", &keys.claimants, "x"]).await;
    let coupon = redis.coupon_states(&[keys.coupon]).await.unwrap().remove(0);
    assert_eq!(coupon.unreadable, ["claimants"]);
    assert_eq!(coupon.revoked, 1);
}
