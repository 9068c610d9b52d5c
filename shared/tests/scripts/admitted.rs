//! Reads of the time at which a user was admitted to a slot.

use firstcome_shared::domain::OncePer;
use firstcome_stack::{RedisOptions, RedisServer};

use crate::command::{ScriptCommand, Start};
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld};

#[tokio::test]
async fn admission_times_of_successive_holders_stay_distinct() {
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
        let redis = &world.redis;
        let keys = &world.keys;
        let at = async |person: &str| {
            redis
                .admitted_person_at(keys, DROP, 1, &person.parse().unwrap())
                .await
                .unwrap()
        };
        assert!(at("a").await.flatten().is_some());
        // The slot was revoked and given to another user.
        ask::<()>(&server, &["ZREM", &keys.users, "a"]).await;
        ask::<()>(&server, &["HDEL", &keys.claimants, "a"]).await;
        ask::<()>(&server, &["ZADD", &keys.users, "1", "b"]).await;
        ask::<()>(&server, &["HSET", &keys.times, "1", "42"]).await;
        assert_eq!((at("a").await, at("b").await), (None, Some(Some(42))));
        ask::<()>(&server, &["DEL", &keys.times]).await;
        assert_eq!(at("b").await, Some(None), "its holder is known");
    }
}
