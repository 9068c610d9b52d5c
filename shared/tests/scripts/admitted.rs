//! Reads of the time at which a user was admitted to a slot.

use firstcome_shared::domain::OncePer;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, server};

#[tokio::test]
async fn held_slot_belongs_to_its_present_user_and_has_only_that_users_time() {
    let server = server().await;
    for once_per in [OncePer::Coupon, OncePer::Drop] {
        ask::<()>(&server, &["FLUSHALL"]).await;
        let start = Start::new(1, once_per, 0);
        let mut world = ScriptWorld::open(&server.url(), 1, &start).await;
        assert_eq!(world.claims("a").await, "[Accepted(1)]");
        let redis = &world.redis;
        let keys = &world.keys;
        let at = async |person: &str| {
            redis
                .held_slot(keys, 1, &person.parse().unwrap())
                .await
                .unwrap()
                .map(|held| held.claimed_at.map(|at| at.timestamp_millis()))
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
        let of_drop = format!("{}:1", DROP.0);
        ask::<()>(&server, &["HSET", &keys.claimants, "c", &of_drop]).await;
        assert_eq!(at("c").await, None, "`users` does not have the claimant");
        ask::<()>(&server, &["DEL", &keys.users]).await;
        assert_eq!(at("c").await, Some(None), "the drop has left Redis");
    }
}
