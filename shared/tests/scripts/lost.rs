//! Lost keys, keys of the wrong type, and values that Firstcome did not write.

use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::redis::Value;
use firstcome_shared::redis::admission::AdmissionError;
use firstcome_shared::redis::gate::Opened;
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::settings::Written;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{ScriptWorld, claim_on, revocation, server};

/// A claim on a drop with such a key writes nothing, and a rebuild repairs the drop.
#[tokio::test]
async fn key_of_the_wrong_type_admits_nobody_until_the_drop_is_rebuilt() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 3)).await;
    world.claims("a").await;
    for at in 0..8 {
        let keys = world.keys.clone();
        let own = keys.own();
        let coupon = [&*keys.claimants, &*keys.revoked];
        let key = own.iter().chain(&coupon).nth(at).unwrap();
        ask::<i64>(&server, &["DEL", key]).await;
        ask::<Value>(&server, &["LPUSH", key, "x"]).await;
        let before = world.dump().await;
        let refused = world.claim("b").await;
        let is_refused = matches!(refused, Err(AdmissionError::Redis(_)));
        assert!(is_refused, "{key}: {refused:?}");
        assert_eq!(world.dump().await, before, "{key}");

        world.close().await;
        let ScriptWorld {
            redis,
            fence,
            coupon,
            meta,
            ..
        } = &world;
        let per_coupon = OncePer::Coupon;
        let removed = redis.unlink_unreadable(&keys, fence).await.unwrap();
        assert_eq!(removed, Fenced::Done(1), "{key}");
        let begun = redis.project_begin(&keys, fence, 1).await.unwrap();
        assert_eq!(begun, Fenced::Done(()), "{key}");
        let rows = [claim_on('a', 1)];
        let page = redis.project_slots(&keys, fence, per_coupon, 1..=1, &rows);
        assert_eq!(page.await.unwrap(), Fenced::Done(0), "{key}");
        let written = redis.load(&keys, fence, 1, meta).await.unwrap();
        assert_eq!(written, Written::Yes, "{key}");
        let all = std::slice::from_ref(&keys);
        let opened = redis.open(*coupon, fence, all).await.unwrap();
        assert_eq!(opened, Opened::Yes, "{key}");
        assert_eq!(world.claims("a").await, "[Already(DropId(3), 1)]", "{key}");
    }
}

#[tokio::test]
async fn user_without_a_slot_gets_a_certain_answer_only_if_the_numbers_add_up() {
    let server = server().await;
    let mut world = ScriptWorld::open(&server.url(), 1, &Start::new(2, OncePer::Drop, 0)).await;
    world.claim("a").await.unwrap();
    let [holder, other] = ["a", "b"].map(|name| name.parse::<UserId>().unwrap());
    let is_trusted = async |user: &UserId| {
        let standing = world
            .redis
            .standing(&world.keys, OncePer::Drop, world.era, user)
            .await;
        standing.unwrap().trusted
    };
    assert!(is_trusted(&holder).await && is_trusted(&other).await);
    ask::<()>(&server, &["SET", &world.keys.count, "2"]).await;
    assert!(is_trusted(&holder).await && !is_trusted(&other).await);
    ask::<i64>(&server, &["DEL", &world.keys.users]).await;
    assert!(!is_trusted(&holder).await);
    for (field, value) in [
        ("paused", "1"),
        ("closes_at_ms", "1"),
        ("opens_at_ms", "9999999999999"),
    ] {
        ask::<i64>(&server, &["HSET", &world.keys.meta, field, value]).await;
        assert_eq!(world.claims("a").await, "[Unverified]", "{field}");
    }
}

/// Otherwise a revoked user could be promised a slot.
#[tokio::test]
async fn lost_revocations_admit_nobody_until_the_coupon_is_opened_again() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    world.revoke('a', 1, None).await;
    assert_eq!(world.claims("a").await, "[Unverified]", "it will end");
    let lost = world.keys.revoked.clone();
    ask::<i64>(&server, &["DEL", &lost]).await;
    world.revoke('c', 2, None).await;
    assert_eq!(world.claims("ab").await, "[Unverified, Unverified]");
    let state = world.redis.coupon_state(world.coupon).await.unwrap();
    assert_eq!((state.revoked, &*state.unreadable), (1, &["revoked"][..]));

    world.close().await;
    let all = [revocation("a", 1, None), revocation("c", 2, None)];
    let ScriptWorld { redis, coupon, .. } = &world;
    let written = redis.write_revoked(*coupon, OncePer::Coupon, &all).await;
    assert_eq!(written.unwrap(), 1);
    let keys = std::slice::from_ref(&world.keys);
    let opened = redis.open(*coupon, &world.fence, keys).await.unwrap();
    assert_eq!(opened, Opened::Yes);
    assert_eq!(world.claims("ab").await, "[Unverified, Accepted(1)]");
}

/// Otherwise the key of a coupon that is over would stay forever.
#[tokio::test]
async fn revocation_without_a_gate_gets_an_expiry_that_new_settings_remove() {
    let (server, world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    let ScriptWorld { redis, keys, .. } = &world;
    let expires = async || ask::<i64>(&server, &["TTL", &keys.revoked]).await > 0;
    world.revoke('a', 1, None).await;
    assert!(!expires().await);
    ask::<i64>(&server, &["DEL", &keys.gate]).await;
    world.revoke('b', 2, None).await;
    assert!(expires().await);
    let metas = [(keys, world.meta.clone())];
    redis.write_settings(9, &metas).await.unwrap();
    assert!(!expires().await);
}

/// Otherwise the key of free slots, which a full drop lacks, would stay forever.
#[tokio::test]
async fn slot_that_is_returned_after_the_sealing_expires_with_its_drop() {
    let (server, mut world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 0)).await;
    let free = world.keys.free.clone();
    let expiry = async || ask::<i64>(&server, &["TTL", &free]).await;
    world.claims("ab").await;
    world.revoke('a', 1, None).await;
    assert_eq!(expiry().await, -1);
    assert_eq!(world.claims("c").await, "[Accepted(1)]");
    let sealed = std::slice::from_ref(&world.keys);
    let soon = std::time::Duration::from_secs(60);
    world.redis.expire_drops(sealed, soon).await.unwrap();
    world.revoke('b', 2, None).await;
    let left = expiry().await;
    assert!((1..=60).contains(&left), "{left}");
}
