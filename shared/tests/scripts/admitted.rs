//! When a person was admitted to the slot that they hold.

use firstcome_shared::domain::OncePer;
use firstcome_stack::{RedisOptions, RedisServer};

use crate::command::{ScriptCommand, Start};
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld};

#[tokio::test]
async fn the_instant_of_a_slot_s_next_holder_is_never_taken_for_that_of_the_one_before() {
    let server = RedisServer::start(RedisOptions {
        appendonly: false,
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    for once_per in [OncePer::Coupon, OncePer::Drop] {
        ask::<()>(&server, &["FLUSHALL"]).await;
        let start = Start {
            quantity: 1,
            waiting_list: 0,
            once_per,
        };
        let mut world = ScriptWorld::open(&server.url(), 1, &start).await;
        assert_eq!(
            world.apply(&ScriptCommand::Claim(vec!['a'])).await.0,
            "[Accepted(1)]"
        );
        let (redis, keys) = (&world.redis, &world.keys);
        let at = async |person: &str| {
            redis
                .admitted_person_at(keys, (DROP, 1), &person.parse().unwrap())
                .await
                .unwrap()
        };
        assert!(at("a").await.flatten().is_some());
        // It was revoked, and is somebody else's by now.
        ask::<()>(&server, &["ZREM", &keys.users, "a"]).await;
        ask::<()>(&server, &["HDEL", &keys.claimants, "a"]).await;
        ask::<()>(&server, &["ZADD", &keys.users, "1", "b"]).await;
        ask::<()>(&server, &["HSET", &keys.times, "1", "42"]).await;
        assert_eq!((at("a").await, at("b").await), (None, Some(Some(42))));
        ask::<()>(&server, &["DEL", &keys.times]).await;
        assert_eq!(at("b").await, Some(None), "whose it is, is known");
    }
}
