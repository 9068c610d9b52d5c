//! Admission by an allow list or a group, and the scripts that maintain the list.

use firstcome_shared::coupon::{AllowList, Group};
use firstcome_shared::domain::{CouponId, OncePer, UserId};
use firstcome_shared::mysql::allow_list::ListChange;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, AdmissionError, Claimant};
use firstcome_shared::redis::allow_list::{ListFollowed, ListReplaced};
use firstcome_stack::RedisServer;

use crate::command::{ScriptCommand, Start, Tamper};
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, server};

fn users(names: &[&str]) -> Vec<UserId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn list(revision: u64, people: u32) -> AllowList {
    AllowList { revision, people }
}

async fn write(redis: &Redis, coupon: i64, revision: u64, names: &[&str]) -> ListReplaced {
    let new = redis.gather_allow_list(CouponId(coupon));
    redis.add_gathered(&new, &users(names)).await.unwrap();
    redis
        .replace_allow_list(&new, list(revision, u32::try_from(names.len()).unwrap()))
        .await
        .unwrap()
}

async fn replace(redis: &Redis, coupon: i64, revision: u64, names: &[&str]) {
    let replaced = write(redis, coupon, revision, names).await;
    assert_eq!(replaced, ListReplaced::Yes, "{names:?}");
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
        world.redis.allow_lists(&[CouponId(1)]).await.unwrap()[0].revision(),
        0
    );
    let added = ListChange::Add(users(&["c"]));
    let change = world
        .redis
        .change_allow_list(CouponId(1), 5, list(6, 3), &added);
    assert_eq!(change.await.unwrap(), ListFollowed::Other);
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
            .claim_all((&world.keys).into(), world.era, &claimants)
            .await
            .unwrap();
        let read = |reply: &Option<firstcome_shared::redis::admission::AdmissionReply>| {
            let reply = reply.clone().unwrap();
            (reply.admission, reply.group)
        };
        replies.iter().map(read).collect::<Vec<_>>()
    };
    only_for(&server, &world, "group:vip").await;
    let ask_again = (Admission::ForGroup, Some(vip.clone()));
    let found = said([
        Some((&vip, true)),
        Some((&vip, false)),
        None,
        Some((&staff, true)),
        Some((&staff, false)),
    ])
    .await;
    let expected = [
        (Admission::Accepted(1), None),
        (Admission::NotAllowed, None),
    ];
    assert_eq!(found[..2], expected);
    assert!(found[2..].iter().all(|one| *one == ask_again), "{found:?}");
    // Holders get that result regardless of their groups. An unrestricted coupon ignores groups.
    assert_eq!(
        said([Some((&vip, false)); 5]).await[0].0,
        Admission::Already(DROP, 1)
    );
    only_for(&server, &world, "").await;
    assert_eq!(
        said([None, Some((&vip, false)), None, None, None]).await[1].0,
        Admission::Accepted(2)
    );
    // Waiting users keep their places.
    only_for(&server, &world, "group:vip").await;
    assert_eq!(
        said([Some((&vip, false)); 5]).await[2],
        (Admission::Waiting(1), None)
    );
}

/// Makes an addition or a removal.
type How = fn(Vec<UserId>) -> ListChange;

#[tokio::test]
async fn allow_list_changes_apply_in_order_and_only_to_their_list() {
    let (server, world) = ScriptWorld::start(Start::new(1, OncePer::Coupon, 0)).await;
    let change = async |before: u64, now: AllowList, how: How, names: &[&str]| {
        world
            .redis
            .change_allow_list(CouponId(1), before, now, &how(users(names)))
            .await
            .unwrap()
    };
    assert_eq!(
        change(0, list(2, 2), ListChange::Add, &["a", "b"]).await,
        ListFollowed::Yes
    );
    // The third change arrives before the second, and then all arrive again.
    assert_eq!(
        change(3, list(4, 1), ListChange::Remove, &["a", "c"]).await,
        ListFollowed::Other
    );
    assert_eq!(members(&server, &world).await, ["a", "b"]);
    assert_eq!(
        change(2, list(3, 3), ListChange::Add, &["c"]).await,
        ListFollowed::Yes
    );
    assert_eq!(
        change(3, list(4, 1), ListChange::Remove, &["a", "c"]).await,
        ListFollowed::Yes
    );
    for (before, now, how, names) in [
        (0, list(2, 2), ListChange::Add as How, &["a", "b"][..]),
        (2, list(3, 3), ListChange::Add, &["c"]),
        (3, list(4, 1), ListChange::Remove, &["a", "c"]),
    ] {
        assert_eq!(
            change(before, now, how, names).await,
            ListFollowed::Yes,
            "the list exists"
        );
        assert_eq!(members(&server, &world).await, ["b"]);
    }
    // An older list never replaces a newer one; an incomplete one never replaces any.
    assert_eq!(
        write(&world.redis, 1, 3, &["a", "b", "c"]).await,
        ListReplaced::Outdated
    );
    let new = world.redis.gather_allow_list(CouponId(1));
    world
        .redis
        .add_gathered(&new, &users(&["z"]))
        .await
        .unwrap();
    assert_eq!(
        world
            .redis
            .replace_allow_list(&new, list(9, 2))
            .await
            .unwrap(),
        ListReplaced::Incomplete
    );
    assert_eq!(members(&server, &world).await, ["b"]);
    // A manually changed list is rewritten, and not changed further.
    ask::<i64>(&server, &["SADD", &world.keys.allowed, "x"]).await;
    assert_eq!(
        change(4, list(5, 2), ListChange::Add, &["d"]).await,
        ListFollowed::Other
    );
    replace(&world.redis, 1, 5, &["b", "d"]).await;
    assert_eq!(members(&server, &world).await, ["b", "d"]);
    assert!(world.redis.allow_lists(&[CouponId(1)]).await.unwrap()[0].is(list(5, 2)));
    let names: Vec<String> = ask(&server, &["KEYS", "*allowed*"]).await;
    assert_eq!(
        names.len(),
        3,
        "the list, an outdated one, and an abandoned partial one: {names:?}"
    );
    assert_eq!(ask::<i64>(&server, &["TTL", &world.keys.allowed]).await, -1);
    // If Redis has lost the allow list, a change to it returns `Other`.
    ask::<i64>(
        &server,
        &["DEL", &world.keys.allowed, &world.keys.allow_list],
    )
    .await;
    assert_eq!(
        change(5, list(6, 3), ListChange::Add, &["e"]).await,
        ListFollowed::Other
    );
}

#[tokio::test]
async fn allow_list_change_can_add_ten_thousand_users() {
    let (server, world) = ScriptWorld::start(Start::new(1, OncePer::Coupon, 0)).await;
    let people: Vec<UserId> = (0..10_000)
        .map(|n| format!("person|{n}=+@x").parse().unwrap())
        .collect();
    let change = async |before, now, how: How| {
        world
            .redis
            .change_allow_list(CouponId(1), before, now, &how(people.clone()))
            .await
    };
    assert_eq!(
        change(0, list(2, 10_000), ListChange::Add).await.unwrap(),
        ListFollowed::Yes
    );
    assert_eq!(
        world
            .redis
            .is_allowed(CouponId(1), &people[9_999])
            .await
            .unwrap(),
        Some(true)
    );
    assert_eq!(
        world
            .redis
            .is_allowed(CouponId(1), &"x".parse().unwrap())
            .await
            .unwrap(),
        Some(false)
    );
    assert_eq!(
        change(2, list(3, 0), ListChange::Remove).await.unwrap(),
        ListFollowed::Yes
    );
    assert_eq!(
        ask::<i64>(&server, &["EXISTS", &world.keys.allowed]).await,
        0
    );
    assert!(
        world.redis.allow_lists(&[CouponId(1)]).await.unwrap()[0].is(list(3, 0)),
        "an empty list is known"
    );
}

#[tokio::test]
async fn unrestricted_coupon_needs_no_additional_command() {
    let (server, mut world) = ScriptWorld::start(Start::new(9, OncePer::Coupon, 0)).await;
    let calls = async |command: &str| {
        let stats: String = ask(&server, &["INFO", "commandstats"]).await;
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")))
            .map(str::to_owned);
        line.and_then(|line| line.split(',').next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let lists = async || (calls("scard").await, calls("smismember").await);
    let unread = lists().await;
    let before = calls("hmget").await;
    world.claims("ab").await;
    assert_eq!(lists().await, unread);
    assert_eq!(
        calls("hmget").await - before,
        2,
        "meta and claimants, as without a list"
    );
    only_for(&server, &world, "list").await;
    write(&world.redis, 1, 5, &["c"]).await;
    let before = calls("smismember").await;
    world.claims("cd").await;
    assert_eq!(
        calls("smismember").await - before,
        1,
        "one command for the whole call"
    );
    world.apply(&ScriptCommand::Tamper(Tamper::LoseMeta)).await;
    assert_eq!(world.claims("c").await, "[Unloaded(DropId(3))]");
}
