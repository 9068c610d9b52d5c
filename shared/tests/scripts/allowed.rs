//! Admission by an allow list or a group, and the scripts that maintain the list.

use firstcome_shared::coupon::{AllowList, Group};
use firstcome_shared::domain::{CouponId, OncePer, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError, Claimant};
use firstcome_shared::redis::settings::Written;
use firstcome_stack::RedisServer;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, accepted, already, only, server, timeless};

fn users(names: &[&str]) -> Vec<UserId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn list(revision: u64, people: u32) -> AllowList {
    AllowList { revision, people }
}

async fn write(redis: &Redis, coupon: i64, revision: u64, names: &[&str]) -> Written {
    let list = list(revision, u32::try_from(names.len()).unwrap());
    let users = users(names);
    let written = redis.write_allow_list(CouponId(coupon), list, &users);
    written.await.unwrap()
}

async fn replace(redis: &Redis, coupon: i64, revision: u64, names: &[&str]) {
    let replaced = write(redis, coupon, revision, names).await;
    assert_eq!(replaced, Written::Yes, "{names:?}");
}

async fn only_for(server: &RedisServer, world: &ScriptWorld, allow: &str) {
    ask::<i64>(server, &["HSET", &world.keys.meta, "allow", allow]).await;
}

async fn members(server: &RedisServer, world: &ScriptWorld) -> Vec<String> {
    let mut all: Vec<String> = ask(server, &["SMEMBERS", &world.keys.allowed]).await;
    all.sort_unstable();
    all
}

#[tokio::test]
async fn not_allowed_takes_precedence_over_sold_out_but_not_over_paused() {
    let server = server().await;
    for (coupon, once_per) in [(1, OncePer::Coupon), (2, OncePer::Drop)] {
        let start = Start::new(2, once_per, 1);
        let mut world = ScriptWorld::open(&server.url(), coupon, &start).await;
        only_for(&server, &world, "list").await;
        replace(&world.redis, coupon, 5, &["a", "b", "c", "d"]).await;
        assert_eq!(
            world.claims("xaxb").await,
            "[NotAllowed, Accepted(1), NotAllowed, Accepted(2)]"
        );
        assert_eq!(
            world.claims("cxdy").await,
            "[Waiting(1), NotAllowed, SoldOut, NotAllowed]"
        );
        // Holders and waiting users keep their slots and positions, regardless of the list.
        replace(&world.redis, coupon, 6, &["d"]).await;
        let kept =
            "[Already(DropId(3), 1), Already(DropId(3), 2), Waiting(1), SoldOut, NotAllowed]";
        assert_eq!(world.claims("abcdx").await, kept);
        let meta = world.keys.meta.clone();
        ask::<i64>(&server, &["HSET", &meta, "paused", "1"]).await;
        let kept = "[Already(DropId(3), 1), Paused, Paused]";
        assert_eq!(world.claims("axd").await, kept);
        ask::<i64>(&server, &["HSET", &meta, "paused", "0", "allow", ""]).await;
        assert_eq!(world.claims("x").await, "[SoldOut]");
    }
}

#[tokio::test]
async fn lost_or_incomplete_allow_list_never_returns_not_allowed() {
    let (server, mut world) = ScriptWorld::start(Start::new(9, OncePer::Coupon, 0)).await;
    only_for(&server, &world, "list").await;
    assert_eq!(
        world.claims("a").await,
        "[Unverified]",
        "there never was a list"
    );
    replace(&world.redis, 1, 5, &["a", "b"]).await;
    assert_eq!(world.claims("ax").await, "[Accepted(1), NotAllowed]");
    let set = world.keys.allowed.clone();
    let state = world.keys.allow_list.clone();
    for (spoil, is_of_another_type) in [
        (vec!["DEL", &set], false),
        (vec!["DEL", &state], false),
        (vec!["SREM", &set, "b"], false),
        (vec!["SADD", &set, "x"], false),
        (vec!["SET", &set, "text"], true),
        (vec!["SET", &state, "5"], false),
        (vec!["SET", &state, "x:2"], false),
        (vec!["COPY", &set, &state, "REPLACE"], true),
    ] {
        ask::<i64>(&server, &["DEL", &state]).await;
        replace(&world.redis, 1, 5, &["a", "b"]).await;
        ask::<firstcome_shared::redis::Value>(&server, &spoil).await;
        if is_of_another_type {
            let refused = world.claim("b").await;
            let is_error = matches!(refused, Err(AdmissionError::Redis(_)));
            assert!(is_error, "{spoil:?}: {refused:?}");
        } else {
            let answers = world.claims("xba").await;
            let uncertain = "[Unverified, Unverified, Already(DropId(3), 1)]";
            assert_eq!(answers, uncertain, "{spoil:?}");
        }
    }
    // An impossible revision must not block a list or become the coupon's revision.
    ask::<String>(&server, &["SET", &state, "9007199254740993:2"]).await;
    let seen = world.redis.coupon_state(CouponId(1)).await.unwrap().list;
    assert_eq!(seen.revision(), 0);
    replace(&world.redis, 1, 5, &["a", "b"]).await;
    only_for(&server, &world, "friends").await;
    assert_eq!(world.claims("b").await, "[Unverified]", "an unknown rule");
    // An empty list is still a list.
    only_for(&server, &world, "list").await;
    ask::<i64>(&server, &["DEL", &state]).await;
    replace(&world.redis, 1, 6, &[]).await;
    assert_eq!(
        world.claims("ab").await,
        "[Already(DropId(3), 1), NotAllowed]"
    );
}

#[tokio::test]
async fn group_coupon_asks_for_memberships_that_the_caller_did_not_state() {
    let (server, world) = ScriptWorld::start(Start::new(2, OncePer::Coupon, 5)).await;
    let [vip, staff]: [Group; 2] = ["vip", "staff"].map(|name| name.parse().unwrap());
    let [vip_member, vip_other] = [true, false].map(|is_in| Some((&vip, is_in)));
    let [staff_member, staff_other] = [true, false].map(|is_in| Some((&staff, is_in)));
    let claim = async |user: &str, group: Option<(&Group, bool)>| {
        let claimant = Claimant {
            user: user.parse().unwrap(),
            group: group.map(|(group, is_in)| (group.clone(), is_in)),
        };
        let claimants = [&claimant];
        let claims = world
            .redis
            .claim_all(only(&world.keys), world.era, &claimants, false);
        timeless(claims.await.unwrap().replies.remove(0).unwrap())
    };
    // Holders get their slot, and waiting users their position, regardless of their groups. An
    // unrestricted coupon ignores groups.
    for (allow, user, group, expected) in [
        ("group:vip", "a", vip_member, accepted(DROP, 1)),
        ("group:vip", "b", vip_other, Admission::NotAllowed),
        ("group:vip", "c", None, Admission::ForGroup),
        ("group:vip", "d", staff_member, Admission::ForGroup),
        ("group:vip", "e", staff_other, Admission::ForGroup),
        ("group:vip", "a", vip_other, already(DROP, 1)),
        ("", "b", vip_other, accepted(DROP, 2)),
        ("", "c", None, Admission::Waiting(1)),
        ("group:vip", "c", vip_other, Admission::Waiting(1)),
    ] {
        only_for(&server, &world, allow).await;
        assert_eq!(
            claim(user, group).await,
            expected,
            "{user} {allow} {group:?}"
        );
    }
}

#[tokio::test]
async fn older_or_incomplete_allow_list_does_not_replace_the_current_one() {
    let (server, world) = ScriptWorld::start(Start::new(1, OncePer::Coupon, 0)).await;
    replace(&world.redis, 1, 3, &["a", "b", "c"]).await;
    replace(&world.redis, 1, 4, &["b"]).await;
    let older = write(&world.redis, 1, 3, &["a", "b", "c"]).await;
    assert_eq!(older, Written::Outdated);
    let one = users(&["z"]);
    let half = world.redis.write_allow_list(CouponId(1), list(9, 2), &one);
    assert_eq!(half.await.unwrap(), Written::Incomplete);
    assert_eq!(members(&server, &world).await, ["b"]);
    // A list that was changed manually is written again at its revision.
    ask::<i64>(&server, &["SADD", &world.keys.allowed, "x"]).await;
    replace(&world.redis, 1, 4, &["b"]).await;
    assert_eq!(members(&server, &world).await, ["b"]);
    let names: Vec<String> = ask(&server, &["KEYS", "*allowed*"]).await;
    let why = "the list, an outdated one, and an abandoned partial one";
    assert_eq!(names.len(), 3, "{why}: {names:?}");
    assert_eq!(ask::<i64>(&server, &["TTL", &world.keys.allowed]).await, -1);
}

#[tokio::test]
async fn allow_list_may_have_thousands_of_users_or_none() {
    let (server, world) = ScriptWorld::start(Start::new(1, OncePer::Coupon, 0)).await;
    let (redis, id) = (&world.redis, CouponId(1));
    let people: Vec<UserId> = (0..10_000)
        .map(|n| format!("person|{n}=+@x").parse().unwrap())
        .collect();
    let written = redis.write_allow_list(id, list(2, 10_000), &people);
    assert_eq!(written.await.unwrap(), Written::Yes);
    for (user, is_listed) in [(&people[9_999], true), (&"x".parse().unwrap(), false)] {
        let found: bool = ask(&server, &["SISMEMBER", &world.keys.allowed, user.as_str()]).await;
        assert_eq!(found, is_listed);
    }
    replace(redis, 1, 3, &[]).await;
    assert_eq!(
        ask::<i64>(&server, &["EXISTS", &world.keys.allowed]).await,
        0
    );
    let seen = redis.coupon_state(id).await.unwrap().list;
    assert!(seen.is(list(3, 0)), "an empty list is known");
}
