//! Rebuilding a drop, and what may happen in between.

use firstcome_shared::domain::{DropId, OncePer, UserId};
use firstcome_shared::redis::gate::{Fence, Opened};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::project::{ClaimOfSlot, Fenced};
use firstcome_shared::redis::settings::{CouponRead, Written};

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, claim_on, owed_user};

/// The drop has more slots than one page.
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
    let state = redis.drop_state(keys).await.unwrap();
    assert_eq!((state.users, state.free, state.times), (700, 1_400, 700));
    assert_eq!((state.count, state.highest), (Some(2_100), 2_100));
    assert_eq!(world.claims("ab").await, "[Accepted(1), Accepted(2)]");
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
    let earlier = Fence::default();
    let stale = world.redis.forget_revoked(world.coupon, &earlier, &read);
    assert_eq!(stale.await.unwrap(), Fenced::Stale, "another era");
    world.close().await;
    // At this moment, an operator revokes the claim of b again, permanently.
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
    let users = world.read_state().await.users;
    assert_eq!(users.len(), 1, "{users:?}");
}

/// Noting a seal must not write the mark whose absence shows the loss of `revoked`.
#[tokio::test]
async fn sealing_is_noted_and_kept_at_the_next_opening_unless_revocations_are_lost() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    world.claims("a").await;
    let earlier = Fence::default();
    let stale = world.redis.note_seal(world.coupon, &earlier, DROP);
    assert_eq!(stale.await.unwrap(), Fenced::Stale);
    let noted = world.redis.note_seal(world.coupon, &world.fence, DROP);
    assert_eq!(noted.await.unwrap(), Fenced::Done(0));
    world.close().await;
    let all = std::slice::from_ref(&world.keys);
    let opened = world.redis.open(world.coupon, &world.fence, all).await;
    assert_eq!(opened.unwrap(), Opened::Yes);
    let state = world.redis.coupon_state(world.coupon).await.unwrap();
    assert_eq!((state.sealed, state.revoked), (Some(DROP), 0));
    ask::<i64>(&server, &["DEL", &world.keys.revoked]).await;
    let lost = world.redis.note_seal(world.coupon, &world.fence, DROP);
    assert_eq!(lost.await.unwrap(), Fenced::Stale);
    assert_eq!(world.claims("b").await, "[Unverified]");
}

#[tokio::test]
async fn only_owed_users_are_promoted_after_an_early_closing() {
    let (server, mut world) = ScriptWorld::start(Start::new(1, OncePer::Drop, 9)).await;
    assert_eq!(world.claims("ab").await, "[Accepted(1), Waiting(1)]");
    let ScriptWorld {
        redis, keys, fence, ..
    } = &world;
    let owed = [owed_user('x', 4)];
    let written = redis.write_owed(keys, fence, OncePer::Drop, &owed);
    assert_eq!(written.await.unwrap(), Fenced::Done(()));
    let state = redis.drop_state(keys).await.unwrap();
    assert_eq!((state.waiting, state.owed), (2, 1));
    ask::<i64>(&server, &["HSET", &keys.meta, "closed_early", "1"]).await;
    for (returns, promoted) in [('a', &["x"][..]), ('x', &[])] {
        world.revoke(returns, 1, None).await;
        let Fenced::Done(found) = redis.promote_waiting(keys, fence, 1).await.unwrap() else {
            panic!("stale")
        };
        let users: Vec<_> = found.given.iter().map(|one| one.user.as_str()).collect();
        assert_eq!(users, promoted, "after {returns}");
    }
}

/// The drop was deleted, and is created again with the same id. The process that deleted it may have
/// died before it let the keys expire.
#[tokio::test]
async fn deleted_drop_is_loaded_again_and_does_not_expire() {
    let (server, world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 0)).await;
    let ScriptWorld {
        redis, fence, meta, ..
    } = &world;
    let next = redis.keys(world.coupon, DropId(DROP.0 + 1));
    let load = async || redis.load(&next, fence, 1, meta).await.unwrap();
    assert_eq!(load().await, Written::Yes);
    assert_eq!(load().await, Written::Yes);
    let soon = std::time::Duration::from_secs(60);
    let forget = async |revision| {
        let drops = [&next];
        let forgotten = redis.forget_drops(revision, &drops, soon);
        forgotten.await.unwrap()
    };
    let expires = async || {
        let ttl = async |key: &String| ask::<i64>(&server, &["TTL", key]).await;
        [ttl(&next.meta).await > 0, ttl(&next.count).await > 0]
    };
    assert_eq!(forget(2).await, Written::Yes);
    assert_eq!(expires().await, [true; 2]);
    assert_eq!(load().await, Written::Outdated);
    let load = redis.load(&next, fence, 3, meta).await.unwrap();
    assert_eq!(load, Written::Yes);
    // The process that removed the drop stood still until another one brought it back.
    assert_eq!(forget(2).await, Written::Outdated);
    assert_eq!(expires().await, [false; 2]);
}

#[tokio::test]
async fn drop_of_which_a_slot_was_given_is_neither_loaded_again_nor_forgotten() {
    let (server, world) = ScriptWorld::start(Start::new(2, OncePer::Drop, 0)).await;
    world.claim("a").await.unwrap();
    let ScriptWorld {
        redis,
        keys,
        fence,
        meta,
        ..
    } = &world;
    let loaded = redis.load(keys, fence, 3, meta).await.unwrap();
    assert_eq!(loaded, Written::Present);
    let soon = std::time::Duration::from_secs(60);
    let forgotten = redis.forget_drops(3, &[keys], soon).await.unwrap();
    assert_eq!(forgotten, Written::Yes);
    assert_eq!(ask::<i64>(&server, &["TTL", &keys.meta]).await, -1);
}

#[tokio::test]
async fn lowering_a_quantity_changes_all_drops_or_none_and_outdates_older_settings() {
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
