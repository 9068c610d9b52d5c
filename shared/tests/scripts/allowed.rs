//! Admission by an allow list or a group, and the scripts that maintain the list.

use firstcome_shared::coupon::{AllowList, Group};
use firstcome_shared::domain::{CouponId, OncePer, UserId};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError, AdmissionReply, Claimant};
use firstcome_shared::redis::settings::Written;
use firstcome_stack::RedisServer;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, server};

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
async fn not_allowed_takes_precedence_over_sold_out_but_not_the_window() {
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
        ask::<i64>(&server, &["HSET", &world.keys.meta, "paused", "1"]).await;
        assert_eq!(
            world.claims("axd").await,
            "[Already(DropId(3), 1), Paused, Paused]"
        );
        ask::<i64>(
            &server,
            &["HSET", &world.keys.meta, "paused", "0", "allow", ""],
        )
        .await;
        assert_eq!(
            world.claims("x").await,
            "[SoldOut]",
            "it is for everybody again"
        );
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
    for spoil in [
        vec!["DEL", &set],
        vec!["DEL", &state],
        vec!["SREM", &set, "b"],
        vec!["SADD", &set, "x"],
        vec!["SET", &set, "text"],
        vec!["SET", &state, "5"],
        vec!["SET", &state, "x:2"],
        vec!["SADD", &state, "x"],
    ] {
        ask::<i64>(&server, &["DEL", &state]).await;
        replace(&world.redis, 1, 5, &["a", "b"]).await;
        if spoil[0] != "DEL" && spoil[1] == state {
            ask::<i64>(&server, &["DEL", &state]).await;
        }
        ask::<firstcome_shared::redis::Value>(&server, &spoil).await;
        let is_of_another_type = spoil[0] == "SADD" && spoil[1] == state || spoil[2..] == ["text"];
        if is_of_another_type {
            let refused = world.claim("b").await;
            assert!(
                matches!(refused, Err(AdmissionError::Redis(_))),
                "{spoil:?}"
            );
            continue;
        }
        assert_eq!(
            world.claims("xba").await,
            "[Unverified, Unverified, Already(DropId(3), 1)]",
            "{spoil:?}"
        );
    }
    // An impossible revision must not block a list or become the coupon's revision.
    ask::<String>(&server, &["SET", &state, "9007199254740993:2"]).await;
    assert_eq!(
        world
            .redis
            .coupon_state(CouponId(1))
            .await
            .unwrap()
            .list
            .revision(),
        0
    );
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
    let people = users(&["a", "b", "c", "d", "e"]);
    let said = async |groups: [Option<(&Group, bool)>; 5]| {
        let claimants: Vec<_> = people
            .iter()
            .zip(groups)
            .map(|(user, group)| Claimant { user, group })
            .collect();
        let replies = world
            .redis
            .claim_all(only(&world.keys), world.era, &claimants)
            .await
            .unwrap();
        let read = |reply: Option<AdmissionReply>| reply.unwrap().admission;
        replies.into_iter().map(read).collect::<Vec<_>>()
    };
    only_for(&server, &world, "group:vip").await;
    let found = said([
        Some((&vip, true)),
        Some((&vip, false)),
        None,
        Some((&staff, true)),
        Some((&staff, false)),
    ])
    .await;
    assert_eq!(found[..2], [Admission::Accepted(1), Admission::NotAllowed]);
    assert_eq!(found[2..], [Admission::ForGroup; 3]);
    // Holders get that result regardless of their groups. An unrestricted coupon ignores groups.
    assert_eq!(
        said([Some((&vip, false)); 5]).await[0],
        Admission::Already(DROP, 1)
    );
    only_for(&server, &world, "").await;
    assert_eq!(
        said([None, Some((&vip, false)), None, None, None]).await[1],
        Admission::Accepted(2)
    );
    // Waiting users keep their places.
    only_for(&server, &world, "group:vip").await;
    assert_eq!(
        said([Some((&vip, false)); 5]).await[2],
        Admission::Waiting(1)
    );
}

#[tokio::test]
async fn older_or_incomplete_allow_list_replaces_none() {
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
        assert_eq!(redis.is_allowed(id, user).await.unwrap(), Some(is_listed));
    }
    replace(redis, 1, 3, &[]).await;
    assert_eq!(
        ask::<i64>(&server, &["EXISTS", &world.keys.allowed]).await,
        0
    );
    let seen = redis.coupon_state(id).await.unwrap().list;
    assert!(seen.is(list(3, 0)), "an empty list is known");
}
