//! Keys of the wrong type, and values that Firstcome did not write.

use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::redis::Value;
use firstcome_shared::redis::admission::AdmissionError;
use firstcome_shared::redis::gate::Opened;
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::settings::{Loaded, Written};

use crate::command::{ScriptCommand, Start};
use crate::gate::ask;
use crate::world::{ScriptWorld, claim_on, revocation, server};

/// A claim on a drop with such a key writes nothing, and a rebuild mends the drop.
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
        assert!(
            matches!(refused, Err(AdmissionError::Redis(_))),
            "{key}: {refused:?}"
        );
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
        let Fenced::Done(removed) = removed else {
            panic!("{removed:?}")
        };
        assert_eq!(removed.len(), 1, "{key}");
        assert!(key.ends_with(removed[0]), "{key}");
        let begun = redis.project_begin(&keys, fence, 1).await.unwrap();
        assert_eq!(begun, Fenced::Done(()), "{key}");
        let rows = [claim_on('a', 1)];
        let page = redis.project_slots(&keys, fence, per_coupon, 1..=1, &rows);
        assert_eq!(page.await.unwrap(), Fenced::Done(0), "{key}");
        let written = redis.load(&keys, fence, 1, meta).await.unwrap();
        assert_eq!(written, Loaded::Yes, "{key}");
        let all = std::slice::from_ref(&keys);
        let opened = redis.open(*coupon, fence, all).await.unwrap();
        assert_eq!(opened, Opened::Yes, "{key}");
        assert_eq!(world.claims("a").await, "[Already(DropId(3), 1)]", "{key}");
    }
}

#[tokio::test]
async fn revision_that_only_a_person_can_have_written_counts_as_missing() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    let key = world.keys.revision.clone();
    for written in ["999999999999999", "-1", "0x9"] {
        ask::<String>(&server, &["SET", &key, written]).await;
        assert_eq!(world.redis.revision(world.coupon).await.unwrap(), 0);
        let write = ScriptCommand::WriteSettings(3, 2, false);
        assert_eq!(world.apply(&write).await.0, "Yes", "{written}");
        let revision: String = ask(&server, &["GET", &key]).await;
        assert_eq!(revision, "3", "{written}");
    }
}

#[tokio::test]
async fn holders_at_the_head_of_the_waiting_list_are_skipped() {
    let (_server, world) = ScriptWorld::start(Start::new(1, OncePer::Coupon, 0)).await;
    let redis = &world.redis;
    let keys = &world.keys;
    let mut conn = world.redis.connection();
    let mut claimants = redis::cmd("HSET");
    let mut waiting = redis::cmd("ZADD");
    claimants.arg(&keys.claimants);
    waiting.arg(&keys.waiting);
    for n in 0..2_500 {
        claimants.arg(format!("u-{n}")).arg(format!("99:{n}"));
        waiting.arg(n).arg(format!("u-{n}"));
    }
    claimants.query_async::<()>(&mut conn).await.unwrap();
    waiting
        .arg(9_999)
        .arg("next")
        .query_async::<()>(&mut conn)
        .await
        .unwrap();
    let mut left = Vec::new();
    for _ in 0..3 {
        let promoted = redis.promote_waiting(keys, &world.fence, 1).await.unwrap();
        let Fenced::Done(some) = promoted else {
            panic!("stale")
        };
        left.push((some.left_without, some.given.len()));
    }
    assert_eq!(left, [(1_000, 0), (1_000, 0), (500, 1)]);
}

#[tokio::test]
async fn user_without_a_slot_is_only_certain_if_the_numbers_add_up() {
    let server = server().await;
    let world = ScriptWorld::open(&server.url(), 1, &Start::new(2, OncePer::Drop, 0)).await;
    world.claim("a").await.unwrap();
    let [holder, other] = ["a", "b"].map(|name| name.parse::<UserId>().unwrap());
    let is_trusted = async |user: &UserId| {
        let standing = world.redis.standing(&world.keys, world.era, user).await;
        standing.unwrap().trusted
    };
    assert!(is_trusted(&holder).await && is_trusted(&other).await);
    ask::<()>(&server, &["SET", &world.keys.count, "2"]).await;
    assert!(is_trusted(&holder).await && !is_trusted(&other).await);
    ask::<i64>(&server, &["DEL", &world.keys.users]).await;
    assert!(!is_trusted(&holder).await);
}

/// Otherwise a revoked user could be promised a slot.
#[tokio::test]
async fn lost_revocations_admit_nobody_until_the_coupon_is_opened_again() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    world.revoke('a', 1, None).await;
    assert_eq!(world.claims("a").await, "[Revoked]");
    let lost = world.keys.revoked.clone();
    ask::<i64>(&server, &["DEL", &lost]).await;
    world.revoke('c', 2, None).await;
    assert_eq!(world.claims("ab").await, "[Unverified, Unverified]");
    let state = world.redis.coupon_states(&[world.coupon]).await.unwrap();
    assert_eq!(
        (state[0].revoked, &*state[0].unreadable),
        (1, &["revoked"][..])
    );

    world.close().await;
    let all = [revocation("a", 1, None), revocation("c", 2, None)];
    let ScriptWorld { redis, coupon, .. } = &world;
    let written = redis.write_revoked(*coupon, OncePer::Coupon, &all).await;
    assert_eq!(written.unwrap(), 1);
    let keys = std::slice::from_ref(&world.keys);
    let opened = redis.open(*coupon, &world.fence, keys).await.unwrap();
    assert_eq!(opened, Opened::Yes);
    assert_eq!(world.claims("ab").await, "[Revoked, Accepted(1)]");
}

/// A pass writes these before it judges the drop, and must not fail then.
#[tokio::test]
async fn settings_and_revocations_are_written_beside_keys_of_another_type() {
    let (server, world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    let ScriptWorld {
        redis, keys, meta, ..
    } = &world;
    for (revision, key, expected) in [
        (2, &keys.count, Written::Yes),
        (3, &keys.meta, Written::Unloaded),
    ] {
        ask::<i64>(&server, &["DEL", key]).await;
        ask::<i64>(&server, &["LPUSH", key, "x"]).await;
        let written = redis
            .write_settings(revision, &[(keys, meta.clone())])
            .await
            .unwrap();
        assert_eq!(written, expected, "{key}");
    }
    ask::<i64>(&server, &["DEL", &keys.revoked]).await;
    ask::<i64>(&server, &["LPUSH", &keys.revoked, "x"]).await;
    let all = [revocation("a", 1, None)];
    let written = redis
        .write_revoked(keys.coupon, OncePer::Coupon, &all)
        .await;
    assert_eq!(written.unwrap(), 0);
}
