//! Rebuilding a drop, and what may happen in between.

use firstcome_shared::domain::{DropId, OncePer, UserId};
use firstcome_shared::redis::gate::Opened;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::project::{ClaimOfSlot, Fenced};
use firstcome_shared::redis::settings::{CouponRead, Written};

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, claim_on};

/// More slots than one page.
#[tokio::test]
async fn rebuilt_drop_has_its_rows_and_free_gaps() {
    let (_server, mut world) = ScriptWorld::start(Start::new(5_000, OncePer::Coupon, 9)).await;
    world.claims("abc").await;
    world.close().await;
    let ScriptWorld {
        redis, keys, fence, ..
    } = &world;
    let cleared = redis.clear_claimants(world.coupon, fence).await.unwrap();
    let begun = redis.project_begin(keys, fence, 2_100).await.unwrap();
    assert_eq!((cleared, begun), (Fenced::Done(()), Fenced::Done(())));
    let row = |slot| ClaimOfSlot {
        slot,
        user: UserId::from_store(format!("u-{slot}")),
        at_ms: Some(i64::from(slot)),
    };
    for first in [2_001, 1, 1_001] {
        let last = (first + 999).min(2_100);
        let rows: Vec<_> = (first..=last).filter(|s| s % 3 == 0).map(row).collect();
        for _repeated in 0..2 {
            let page = redis.project_slots(keys, fence, OncePer::Coupon, first..=last, &rows);
            assert_eq!(page.await.unwrap(), Fenced::Done(0));
            let claimants = redis.write_claimants(world.coupon, fence, keys.drop, &rows);
            assert_eq!(claimants.await.unwrap(), Fenced::Done(()));
        }
    }
    let settings = redis.load(keys, fence, 2, &world.meta).await;
    assert_eq!(settings.unwrap(), Written::Yes);
    let all = std::slice::from_ref(keys);
    let opened = redis.open(world.coupon, fence, all).await.unwrap();
    assert_eq!(opened, Opened::Yes);
    let state = redis.drop_states(all).await.unwrap().remove(0);
    assert_eq!((state.users, state.free, state.times), (700, 1_400, 700));
    assert_eq!((state.count, state.highest), (Some(2_100), 2_100));
    assert_eq!(world.claims("ab").await, "[Accepted(1), Accepted(2)]");
}

/// The row was read before the revocation.
#[tokio::test]
async fn claim_that_was_revoked_during_a_rebuild_is_not_put_back() {
    for is_written in [false, true] {
        let (_server, mut world) = ScriptWorld::start(Start::new(2, OncePer::Coupon, 0)).await;
        world.claims("a").await;
        world.close().await;
        let write = async |world: &ScriptWorld| {
            let rows = [claim_on('a', 1)];
            let ScriptWorld { keys, fence, .. } = world;
            let page = world
                .redis
                .project_slots(keys, fence, OncePer::Coupon, 1..=1, &rows);
            page.await.unwrap()
        };
        let begun = world
            .redis
            .project_begin(&world.keys, &world.fence, 1)
            .await;
        assert_eq!(begun.unwrap(), Fenced::Done(()));
        if is_written {
            assert_eq!(write(&world).await, Fenced::Done(0));
        }
        let until = world.revoke('a', 1, None).await;
        world.revoke('a', 1, Some(until)).await;
        assert_eq!(write(&world).await, Fenced::Done(1));
        let shown = world.look().await;
        assert!(shown.users.is_empty() && shown.claimants.is_empty());
        assert_eq!(shown.free, [1].into());
    }
}

/// A MySQL that was set back has forgotten a return: the row, and so the claim, stands again.
#[tokio::test]
async fn forgotten_revocations_are_removed_unless_they_have_changed() {
    let (_server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    world.claims("ab").await;
    world.revoke('a', 1, Some(i64::MAX >> 12)).await;
    world.revoke('b', 2, None).await;
    let read = world.redis.revoked(world.coupon).await.unwrap();
    assert_eq!(read.iter().filter_map(|one| one.id).sum::<i64>(), 3);
    let open = world
        .redis
        .forget_revoked(world.coupon, &world.fence, &read);
    assert_eq!(open.await.unwrap(), Fenced::Stale, "the gate is open");
    world.close().await;
    // An operator revokes the claim of b for good at this moment, again.
    world.revoke('b', 3, None).await;
    let forgotten = world
        .redis
        .forget_revoked(world.coupon, &world.fence, &read);
    assert_eq!(forgotten.await.unwrap(), Fenced::Done(()));
    let ScriptWorld {
        redis, keys, fence, ..
    } = &world;
    let begun = redis.project_begin(keys, fence, 2).await.unwrap();
    assert_eq!(begun, Fenced::Done(()));
    let rows = [claim_on('a', 1), claim_on('b', 2)];
    let page = redis.project_slots(keys, fence, OncePer::Coupon, 1..=2, &rows);
    assert_eq!(page.await.unwrap(), Fenced::Done(1), "that of b is void");
    let users = world.look().await.users;
    assert_eq!(users.len(), 1, "{users:?}");
}

/// A claim on the day before was revoked after its row was read, and the user claims again.
#[tokio::test]
async fn claimants_are_written_at_a_closed_gate_without_void_claims() {
    let (_server, mut world) = ScriptWorld::start(Start::new(2, OncePer::Coupon, 0)).await;
    world.revoke('a', 1, Some(10)).await;
    world.revoke('b', 2, None).await;
    let at = |at_ms| move |claim: ClaimOfSlot| ClaimOfSlot { at_ms, ..claim };
    let rows = [
        at(Some(10))(claim_on('a', 7)),
        at(Some(11))(claim_on('b', 8)),
        at(None)(claim_on('c', 9)),
    ];
    let write = async |world: &ScriptWorld| {
        let (redis, fence) = (&world.redis, &world.fence);
        let written = redis.write_claimants(world.coupon, fence, DropId(1), &rows);
        written.await.unwrap()
    };
    assert_eq!(write(&world).await, Fenced::Stale, "the gate is open");
    world.close().await;
    assert_eq!(write(&world).await, Fenced::Done(()));
    let claimants = world.look().await.claimants;
    assert_eq!(claimants, [("c".into(), "1:9".into())].into());
}

#[tokio::test]
async fn owed_users_are_promoted_first_and_alone_after_an_early_closing() {
    let (server, mut world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 9)).await;
    assert_eq!(
        world.claims("abc").await,
        "[Accepted(1), Accepted(2), Waiting(1)]"
    );
    let owed = [claim_on('y', 9), claim_on('x', 4), claim_on('a', 1)];
    let written = world
        .redis
        .write_owed(&world.keys, &world.fence, OncePer::Drop, &owed)
        .await;
    assert_eq!(written.unwrap(), Fenced::Done(()));
    assert_eq!(world.look().await.waiting, ["x", "y", "c"]);
    let all = std::slice::from_ref(&world.keys);
    let state = world.redis.drop_states(all).await.unwrap().remove(0);
    assert_eq!((state.waiting, state.owed), (3, 2));
    ask::<i64>(&server, &["HSET", &world.keys.meta, "closed_early", "1"]).await;
    for person in ['a', 'b'] {
        world.revoke(person, 1, None).await;
    }
    let promote = async || {
        let ScriptWorld { keys, fence, .. } = &world;
        let promoted = world.redis.promote_waiting(keys, fence, 1).await.unwrap();
        let Fenced::Done(promotion) = promoted else {
            panic!("stale")
        };
        let users = promotion.given.iter().map(|one| one.user.to_string());
        users.collect::<String>()
    };
    assert_eq!(promote().await, "x");
    assert_eq!(promote().await, "y");
    world.revoke('x', 1, None).await;
    assert_eq!(promote().await, "", "the drop was closed early");
}

#[tokio::test]
async fn new_drop_is_loaded_at_an_open_gate_only_without_any_key() {
    let (server, world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 0)).await;
    let ScriptWorld {
        redis, fence, meta, ..
    } = &world;
    let load = async |keys| redis.load(keys, fence, 1, meta).await.unwrap();
    assert_eq!(load(&world.keys).await, Written::Present);
    let next = redis.keys(world.coupon, DropId(DROP.0 + 1));
    ask::<i64>(&server, &["ZADD", &next.users, "1", "a"]).await;
    assert_eq!(
        load(&next).await,
        Written::Present,
        "it has lost its settings"
    );
    ask::<i64>(&server, &["DEL", &next.users]).await;
    assert_eq!(load(&next).await, Written::Yes);
    // Deleted, and made again with the same id.
    assert_eq!(load(&next).await, Written::Present);
    let soon = std::time::Duration::from_secs(60);
    redis.expire_drops(&[next.clone()], soon).await.unwrap();
    assert_eq!(load(&next).await, Written::Yes);
    for key in [&next.meta, &next.count] {
        assert_eq!(ask::<i64>(&server, &["TTL", key]).await, -1);
    }
}

/// An operator pauses the coupon while its drop is rebuilt: the write finds no drop.
#[tokio::test]
async fn settings_written_during_a_rebuild_are_not_undone() {
    let (_server, mut world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 0)).await;
    world.close().await;
    let ScriptWorld {
        redis,
        keys,
        fence,
        meta,
        ..
    } = &world;
    let begun = redis.project_begin(keys, fence, 0).await.unwrap();
    assert_eq!(begun, Fenced::Done(()));
    let paused = DropMeta {
        paused: true,
        ..meta.clone()
    };
    let pause = redis.write_settings(3, &[(keys, paused)]).await.unwrap();
    assert_eq!(pause, Written::Unloaded);
    let older = redis.load(keys, fence, 2, meta).await.unwrap();
    assert_eq!(older, Written::Outdated);
    let all = std::slice::from_ref(keys);
    let opened = redis.open(world.coupon, fence, all).await.unwrap();
    assert_eq!(opened, Opened::NotWhole(DROP), "it has no settings");
}

#[tokio::test]
async fn settings_of_several_drops_are_lowered_all_or_none() {
    let (server, world) = ScriptWorld::start(Start::new(5, OncePer::Drop, 0)).await;
    let (redis, keys) = (&world.redis, &world.keys);
    let next = redis.keys(world.coupon, DropId(4));
    let lower = async |quantity| {
        let read = CouponRead {
            era: 1,
            revision: 2,
        };
        redis.lower(&[&next, keys], read, quantity).await.unwrap()
    };
    assert_eq!(lower(3).await, Written::Unloaded);
    let loaded = redis.load(&next, &world.fence, 1, &world.meta).await;
    assert_eq!(loaded.unwrap(), Written::Yes);
    for user in ["a", "b"] {
        world.claim(user).await.unwrap();
    }
    let quantities = async || {
        let of =
            async |keys: &DropKeys| ask::<u32>(&server, &["HGET", &keys.meta, "quantity"]).await;
        [of(&next).await, of(keys).await]
    };
    assert_eq!(lower(1).await, Written::GivenOut(2));
    assert_eq!(quantities().await, [5; 2]);
    assert_eq!(lower(3).await, Written::Yes);
    assert_eq!(quantities().await, [3; 2]);
    let both = [(&next, world.meta.clone()), (keys, world.meta.clone())];
    let written = redis.write_settings(1, &both).await.unwrap();
    assert_eq!(written, Written::Outdated);
    let written = redis.write_settings(2, &both).await.unwrap();
    assert_eq!(written, Written::Yes);
    assert_eq!(quantities().await, [5; 2]);
}
