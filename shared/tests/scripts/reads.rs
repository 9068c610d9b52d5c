//! Checks that passes read a drop consistently while it changes.

use std::sync::atomic::{AtomicBool, Ordering};

use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::Admission;

use crate::command::Start;
use crate::world::{ScriptWorld, claim, connect, revocation};

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
        let reply = claim(&redis, &world.keys, world.era, &user).await;
        let admission = reply.unwrap();
        let Admission::Accepted(_) = admission else {
            panic!("{admission:?}")
        };
        if number.is_multiple_of(2) {
            let given_back = revocation(user.as_str(), 1, None);
            let revoke = redis.revoke(&world.keys, OncePer::Coupon, &given_back);
            revoke.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn reads_of_a_drop_are_consistent_while_claims_change_it() {
    let (server, world) = ScriptWorld::start(Start::new(10_000_000, OncePer::Coupon, 0)).await;
    let done = AtomicBool::new(false);
    let reading = async {
        let drops = vec![world.keys.clone(); TOGETHER];
        let mut seen = std::collections::BTreeSet::new();
        for read in 0..READS {
            for state in world.redis.drop_states(&drops).await {
                let state = state.unwrap();
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
            let own = std::slice::from_ref(&world.keys);
            let both = world.redis.claimants_and_users(world.keys.coupon, own);
            let (claimants, users) = both.await.unwrap();
            assert_eq!(claimants, users, "read {read}");
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
