//! Manual changes of a drop's keys after which the counters still match.

use firstcome_shared::domain::{OncePer, UserId};
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::repair::Done;
use firstcome_shared::redis::wrong_key::WrongKey;

use crate::command::{ScriptCommand, Start};
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, revocation, server};

#[tokio::test]
async fn invalid_slots_and_waiting_positions_are_never_returned() {
    let server = server().await;
    let start = Start::new(2, OncePer::Coupon, 9);
    for (coupon, commands, claims) in [
        (
            1,
            &["ZADD users 1.5 a", "SET count 1"][..],
            &[("a", "Unverified"), ("b", "Unverified")][..],
        ),
        (
            2,
            &["ZADD free 0.5 0.5", "SET count 1"],
            &[("b", "Unverified")],
        ),
        (
            3,
            &["ZADD free -3 -3", "SET count 1"],
            &[("b", "Unverified")],
        ),
        (
            4,
            &["SET times x"],
            &[("b", "Accepted(1)"), ("b", "Already(DropId(3), 1)")],
        ),
        (
            5,
            &["ZADD waiting inf x 1e300 y 5 z"],
            &[
                ("c", "Waiting(4)"),
                ("b", "Waiting(5)"),
                ("c", "Waiting(2)"),
                ("b", "Waiting(3)"),
            ],
        ),
        (
            6,
            &["HSET meta closes_at_ms x"],
            &[("b", "Unloaded(DropId(3))")],
        ),
        (
            7,
            &["HSET meta quantity nan"],
            &[("b", "Unloaded(DropId(3))")],
        ),
        (
            8,
            &["HSET meta quantity 0x64"],
            &[("b", "Unloaded(DropId(3))")],
        ),
        (
            9,
            &["HSET meta opens_at_ms inf"],
            &[("b", "Unloaded(DropId(3))")],
        ),
        (
            10,
            &["HSET meta paused yes"],
            &[("b", "Unloaded(DropId(3))")],
        ),
        (
            11,
            &["HSET meta quantity 0200"],
            &[("b", "Unloaded(DropId(3))")],
        ),
    ] {
        let mut world = ScriptWorld::open(&server.url(), coupon, &start).await;
        for command in commands {
            let mut words: Vec<&str> = command.split(' ').collect();
            words[1] = world
                .keys
                .own()
                .into_iter()
                .find(|key| key.rsplit(':').next() == Some(words[1]))
                .unwrap();
            ask::<firstcome_shared::redis::Value>(&server, &words).await;
        }
        for (person, expected) in claims {
            assert_eq!(
                world.claims(person).await,
                format!("[{expected}]"),
                "{commands:?}"
            );
        }
    }
}

#[tokio::test]
async fn numbers_that_only_a_person_can_have_written_count_as_missing() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    let keys = world.keys.clone();
    let sizes: i64 = ask(&server, &["HSET", &keys.sizes, "claimants", "01"]).await;
    assert_eq!(sizes, 0, "the field exists");
    assert_eq!(world.claims("a").await, "[Accepted(1)]");

    for written in ["999999999999999", "-1", "0x9"] {
        ask::<String>(&server, &["SET", &keys.revision, written]).await;
        let write = ScriptCommand::WriteMeta(3, 2, false);
        assert_eq!(world.apply(&write).await.0, "Applied(())", "{written}");
        let revision: String = ask(&server, &["GET", &keys.revision]).await;
        assert_eq!(revision, "3", "{written}");
    }
}

#[tokio::test]
async fn final_revocation_has_no_end() {
    let (server, mut world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    let keys = world.keys.clone();
    let once_per = OncePer::Coupon;
    let last = Revocation {
        may_claim_again: false,
        ..revocation("a", 7, None)
    };
    world.redis.revoke(&keys, once_per, &last).await.unwrap();
    for written in ["8:1", "7:1", "6:1"] {
        ask::<i64>(&server, &["HSET", &keys.revoked, "a", written]).await;
        let all = [last.clone()];
        let found = world.redis.banned(&keys, once_per, &all).await.unwrap();
        assert!(!found[0].is_known, "{written}");
        world.redis.revoke(&keys, once_per, &last).await.unwrap();
        let noted: String = ask(&server, &["HGET", &keys.revoked, "a"]).await;
        assert_eq!(noted, "7", "{written}");
        assert_eq!(world.claims("a").await, "[Revoked]", "{written}");
    }
}

#[tokio::test]
async fn key_of_the_wrong_type_is_reported_with_the_expected_type() {
    let (server, world) = ScriptWorld::start(Start::new(3, OncePer::Coupon, 0)).await;
    let redis = &world.redis;
    let keys = &world.keys;
    assert_eq!(redis.wrong_key(keys).await.unwrap(), None);
    for (key, made, found, wanted) in [
        (&keys.free, "LPUSH", "a list", "a sorted set"),
        (&keys.users, "SADD", "a set", "a sorted set"),
        (&keys.claimants, "LPUSH", "a list", "a hash"),
        (&keys.count, "LPUSH", "a list", "a string"),
    ] {
        ask::<firstcome_shared::redis::Value>(&server, &["DEL", key]).await;
        ask::<firstcome_shared::redis::Value>(&server, &[made, key, "x"]).await;
        let wrong = WrongKey {
            key: key.clone(),
            found,
            wanted,
        };
        assert_eq!(redis.wrong_key(keys).await.unwrap(), Some(wrong));
        ask::<firstcome_shared::redis::Value>(&server, &["DEL", key]).await;
    }
}

#[tokio::test]
async fn invalid_user_id_is_removed_from_the_waiting_list_and_the_next_is_promoted() {
    let (_server, world) = ScriptWorld::start(Start::new(300, OncePer::Coupon, 0)).await;
    let redis = &world.redis;
    let keys = &world.keys;
    let mut names: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![b'a', byte]).collect();
    names.extend([
        Vec::new(),
        vec![b'b'; 128],
        vec![b'b'; 129],
        b"last".to_vec(),
    ]);
    let mut conn = redis.connection();
    for (place, name) in names.iter().enumerate() {
        redis::cmd("ZADD")
            .arg(&keys.waiting)
            .arg(place)
            .arg(name)
            .query_async::<()>(&mut conn)
            .await
            .unwrap();
    }
    let first = redis.first_waiting(keys, 1_000).await.unwrap();
    let people: Vec<UserId> = first
        .into_iter()
        .filter(|name| UserId::has_form(name.as_str()))
        .collect();
    assert_eq!(
        people.len(),
        26 + 26 + 10 + 9 + 2,
        "the letters of an id, and two complete ids"
    );

    let mut promoted = Vec::new();
    // The last call promotes fewer than allowed, because no user is left.
    for (limit, at_most) in [(1, 1), (20, 20), (300, 300)] {
        let Done::Applied(some) = redis
            .promote(keys, &world.fence, DROP, limit)
            .await
            .unwrap()
        else {
            panic!("stale")
        };
        assert!(some.people.len() <= at_most);
        promoted.extend(some.people.into_iter().map(|(user, _)| user));
    }
    assert_eq!(promoted, people);
    assert_eq!(redis.first_waiting(keys, 10).await.unwrap(), []);
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
        let Done::Applied(some) = redis.promote(keys, &world.fence, DROP, 1).await.unwrap() else {
            panic!("stale")
        };
        left.push((some.left_without, some.people.len()));
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
