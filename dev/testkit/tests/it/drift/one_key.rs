//! A single key of a coupon or drop is lost, or one of its members is missing, extra or on a wrong
//! slot. No user gets a false promise, and the next pass repairs the damage.

use std::collections::BTreeMap;

use firstcome_testkit::{
    Answer, Fixture, LIMIT, MadeCoupon, all_issued, daily_body, eventually, rows,
};
use serde_json::json;

use crate::drift::support::assert_whole;

const QUANTITY: u32 = 8;
const HOLDERS: [&str; 6] = ["u-1", "u-2", "u-3", "u-4", "u-5", "u-6"];
const REVOKED: &str = "u-3";
/// Winners of the day before.
const EARLIER: [&str; 2] = ["w-1", "w-2"];
/// A user who is manually written into a key.
const EXTRA: &str = "x-extra";

/// The damage to each key. `U` stands for a holder, `S` for the holder's slot, `F` for a free slot,
/// and `D` for the drop.
const DAMAGES: [(&str, &[&str]); 29] = [
    ("users lost", &["DEL", "users"]),
    ("free lost", &["DEL", "free"]),
    ("count lost", &["DEL", "count"]),
    ("meta lost", &["DEL", "meta"]),
    ("restriction lost", &["HDEL", "meta", "allow"]),
    ("end lost", &["HDEL", "meta", "closes_at_ms"]),
    ("pause lost", &["HDEL", "meta", "paused"]),
    ("pause garbled", &["HSET", "meta", "paused", "yes"]),
    ("quantity garbled", &["HSET", "meta", "quantity", "+6"]),
    ("claimants lost", &["DEL", "claimants"]),
    ("times lost", &["DEL", "times"]),
    ("waiting lost", &["DEL", "waiting"]),
    ("revoked lost", &["DEL", "revoked"]),
    ("sizes lost", &["DEL", "sizes"]),
    ("revocation missing", &["HDEL", "revoked", REVOKED]),
    (
        "earlier claimant missing",
        &["HDEL", "claimants", EARLIER[0]],
    ),
    ("size missing", &["HDEL", "sizes", "claimants"]),
    ("size too large", &["HSET", "sizes", "claimants", "99"]),
    ("sizes of another type", &["SET", "sizes", "x"]),
    ("user missing", &["ZREM", "users", "U"]),
    ("user extra", &["ZADD", "users", "S", EXTRA]),
    ("user on another slot", &["ZADD", "users", "8", "U"]),
    ("held slot free", &["ZADD", "free", "S", "S"]),
    ("user above the counter", &["ZADD", "users", "7", "U"]),
    ("claimant missing", &["HDEL", "claimants", "U"]),
    ("claimant extra", &["HSET", "claimants", EXTRA, "D:S"]),
    (
        "claimant of no drop",
        &["HSET", "claimants", EXTRA, "999999:1"],
    ),
    (
        "claimant of a free slot",
        &["HSET", "claimants", EXTRA, "D:F"],
    ),
    (
        "claimant on another slot",
        &["HSET", "claimants", "U", "D:8"],
    ),
];

struct OneKey {
    name: String,
    damage: &'static [&'static str],
    coupon: MadeCoupon,
    /// Slots by holder.
    held: BTreeMap<&'static str, u32>,
    /// The slot of the revoked claim, which is free.
    free: u32,
    earlier: &'static [&'static str],
}

async fn promised(fixture: &Fixture, coupon: i64, user: &str) -> (i64, u32) {
    firstcome_testkit::eventually_some("a claim is admitted", LIMIT, async || {
        let answer = fixture.api.claim(coupon, user).await;
        answer.promised().ok_or_else(|| format!("{answer:?}"))
    })
    .await
}

/// Fills a drop with holders, one of whom is revoked.
async fn filled(
    fixture: &Fixture,
    mut coupon: MadeCoupon,
    name: &str,
    damage: &'static [&'static str],
    earlier: &'static [&'static str],
) -> OneKey {
    let mut held = BTreeMap::new();
    for user in HOLDERS {
        let (drop, slot) = promised(fixture, coupon.id, user).await;
        coupon.drop = drop;
        held.insert(user, slot);
    }
    all_issued(&fixture.world, coupon.drop, HOLDERS.len()).await;
    let fraud = json!({"reason": "fraud", "by": "Ann"});
    fixture
        .api
        .revoke(coupon.id, REVOKED, &fraud)
        .await
        .unwrap();
    let free = held.remove(REVOKED).unwrap();
    OneKey {
        name: format!("{name}, {} earlier days", earlier.len().min(1)),
        damage,
        coupon,
        held,
        free,
        earlier,
    }
}

async fn one_off(fixture: &Fixture) -> Vec<OneKey> {
    let mut cases = Vec::new();
    for damage in DAMAGES {
        let coupon = fixture.api.open_coupon(QUANTITY).await;
        cases.push(filled(fixture, coupon, damage.0, damage.1, &[]).await);
    }
    cases
}

/// Creates coupons whose first day is over and sealed.
async fn of_second_day(fixture: &Fixture) -> Vec<OneKey> {
    let api = &fixture.api;
    let world = &fixture.world;
    let mut coupons = Vec::new();
    for _ in DAMAGES {
        let coupon = api.create_coupon(&daily_body(QUANTITY, 2)).await;
        for user in EARLIER {
            promised(fixture, coupon.id, user).await;
        }
        all_issued(world, coupon.drop, EARLIER.len()).await;
        let closed = api.patch(coupon.id, &json!({"close_now": true})).await;
        assert_eq!(closed.status, 200, "{closed:?}");
        coupons.push(coupon);
    }
    let sealed = "SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL";
    let expected = i64::try_from(DAMAGES.len()).unwrap();
    eventually("the first days are sealed", LIMIT, async || {
        world.once_with(&[], &[]).await;
        world.sql.number(sealed).await == expected
    })
    .await;
    let open = "UPDATE drops SET opens_at = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND \
                WHERE local_date = UTC_DATE() + INTERVAL 1 DAY";
    world.sql.query(open).await;
    world.pass().await;
    let mut cases = Vec::new();
    for (coupon, damage) in coupons.into_iter().zip(DAMAGES) {
        cases.push(filled(fixture, coupon, damage.0, damage.1, &EARLIER).await);
    }
    cases
}

async fn do_damage(fixture: &Fixture, case: &OneKey) {
    let redis = &fixture.world.redis;
    let user = HOLDERS[1];
    let slot = case.held[HOLDERS[1]];
    let word = |(at, word): (usize, &&str)| match (at, *word) {
        (1, "claimants") => redis.claimants(case.coupon.id),
        (1, "revoked" | "sizes") => redis.own(&format!("{{{}}}:{word}", case.coupon.id)),
        (1, key) => redis.of_drop(case.coupon.id, case.coupon.drop, key),
        (_, "U") => user.to_owned(),
        (_, "S") => slot.to_string(),
        (_, "D:S") => format!("{}:{slot}", case.coupon.drop),
        (_, "D:F") => format!("{}:{}", case.coupon.drop, case.free),
        (_, "D:8") => format!("{}:8", case.coupon.drop),
        (_, other) => other.to_owned(),
    };
    let words: Vec<String> = case.damage.iter().enumerate().map(word).collect();
    redis.command::<()>(&words).await;
}

fn is_closed(answer: &Answer) -> bool {
    matches!(answer, Answer::Problem(503, _))
}

/// Checks all answers before any pass has run. Returns the accepted users.
async fn nobody_hears_a_false_yes(fixture: &Fixture, case: &OneKey) -> Vec<(&'static str, u32)> {
    let api = &fixture.api;
    let mut accepted = Vec::new();
    for user in ["s-1", "s-2"] {
        let answer = api.claim(case.coupon.id, user).await;
        match answer {
            Answer::Accepted { drop, slot, .. } if drop == case.coupon.drop => {
                assert!(
                    !case.held.values().any(|held| *held == slot),
                    "{}: {user} got a held slot: {answer:?}",
                    case.name
                );
                accepted.push((user, slot));
            }
            other => assert!(is_closed(&other), "{}: {user}: {other:?}", case.name),
        }
    }
    for (user, slot) in &case.held {
        let answer = api.claim(case.coupon.id, user).await;
        let right = Answer::Already {
            drop: case.coupon.drop,
            slot: *slot,
        };
        assert!(
            answer == right || is_closed(&answer),
            "{}: {user}: {answer:?}",
            case.name
        );
    }
    for user in case.earlier {
        let answer = api.claim(case.coupon.id, user).await;
        let is_earlier = matches!(answer, Answer::Already { drop, .. } if drop != case.coupon.drop);
        assert!(
            is_earlier || is_closed(&answer),
            "{}: {user}: {answer:?}",
            case.name
        );
    }
    let answer = api.claim(case.coupon.id, REVOKED).await;
    assert!(
        answer.is("revoked") || is_closed(&answer),
        "{}: the revoked user: {answer:?}",
        case.name
    );
    let answer = api.claim(case.coupon.id, EXTRA).await;
    match answer {
        Answer::Accepted { drop, slot, .. } if drop == case.coupon.drop => {
            assert!(!case.held.values().any(|held| *held == slot));
            accepted.push((EXTRA, slot));
        }
        other => assert!(
            is_closed(&other) || other.is("sold_out"),
            "{}: {EXTRA}: {other:?}",
            case.name
        ),
    }
    accepted
}

async fn is_healed(fixture: &Fixture, case: &OneKey, accepted: &[(&'static str, u32)]) {
    let api = &fixture.api;
    let world = &fixture.world;
    let found = rows(world, case.coupon.drop).await;
    for (user, slot) in case
        .held
        .iter()
        .map(|(u, s)| (*u, *s))
        .chain(accepted.iter().copied())
    {
        assert_eq!(
            found.get(&slot).map(String::as_str),
            Some(user),
            "{}: {found:?}",
            case.name
        );
    }
    println!("{}: {} rows", case.name, found.len());
    assert_whole(world, &case.coupon, QUANTITY, found.len()).await;
    let answer = api.claim(case.coupon.id, HOLDERS[0]).await;
    let slot = case.held[HOLDERS[0]];
    let drop = case.coupon.drop;
    assert_eq!(answer, Answer::Already { drop, slot }, "{}", case.name);
    for user in case.earlier {
        let answer = api.claim(case.coupon.id, user).await;
        assert!(
            matches!(answer, Answer::Already { drop, .. } if drop != case.coupon.drop),
            "{}: {user}: {answer:?}",
            case.name
        );
    }
    let answer = api.claim(case.coupon.id, REVOKED).await;
    assert!(answer.is("revoked"), "{}: {answer:?}", case.name);
    let own = |key: &str| world.redis.own(&format!("{{{}}}:{key}", case.coupon.id));
    for hash in ["claimants", "revoked"] {
        let fields: u64 = world.redis.command(&["HLEN", &own(hash)]).await;
        let words = ["HGET", &own("sizes"), hash];
        let recorded: Option<u64> = world.redis.command(&words).await;
        assert_eq!(recorded, Some(fields), "{}: {hash}", case.name);
    }
}

async fn all_heal(name: &str, of_second_days: bool) {
    let fixture = Fixture::new(name).await;
    let world = &fixture.world;
    let cases = if of_second_days {
        of_second_day(&fixture).await
    } else {
        one_off(&fixture).await
    };
    let mut accepted = Vec::new();
    for case in &cases {
        do_damage(&fixture, case).await;
        accepted.push(nobody_hears_a_false_yes(&fixture, case).await);
    }
    let mut log = String::new();
    for _ in 0..3 {
        let once = world.once_with(&[], &[]).await;
        if once.code == 0 && once.run().all_findings().count() == 0 {
            break;
        }
        log = once.stdout;
    }
    for (case, accepted) in cases.iter().zip(&accepted) {
        is_healed(&fixture, case, accepted).await;
    }
    let last = world.once_with(&[], &[]).await;
    assert_eq!(last.code, 0, "{}\n{log}", last.log);
}

#[tokio::test]
async fn damage_to_any_key_of_a_one_off_coupon_is_repaired_without_a_false_promise() {
    all_heal("d-one-key", false).await;
}

#[tokio::test]
async fn damage_to_any_key_of_a_second_day_is_repaired_without_a_false_promise() {
    all_heal("d-one-key-days", true).await;
}

#[tokio::test]
async fn missing_claimants_and_revocations_of_a_sealed_day_are_restored_by_the_next_pass() {
    let fixture = Fixture::new("d-claimant-day").await;
    let world = &fixture.world;
    let coupon = fixture.api.create_coupon(&daily_body(QUANTITY, 2)).await;
    for user in EARLIER {
        promised(&fixture, coupon.id, user).await;
    }
    promised(&fixture, coupon.id, REVOKED).await;
    all_issued(world, coupon.drop, EARLIER.len() + 1).await;
    let fraud = json!({"reason": "fraud", "by": "Ann"});
    fixture
        .api
        .revoke(coupon.id, REVOKED, &fraud)
        .await
        .unwrap();
    let closed = fixture
        .api
        .patch(coupon.id, &json!({"close_now": true}))
        .await;
    assert_eq!(closed.status, 200, "{closed:?}");
    let sealed = "SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL";
    eventually("the first day is sealed", LIMIT, async || {
        world.once_with(&[], &[]).await;
        world.sql.number(sealed).await == 1
    })
    .await;
    let claimants = world.redis.claimants(coupon.id);
    // A claimant whom no other store confirms gets no promise.
    let extra = format!("{}:7", coupon.drop);
    let words = ["HSET", &claimants, EXTRA, &extra];
    world.redis.command::<()>(&words).await;
    let answer = fixture.api.claim(coupon.id, EXTRA).await;
    assert!(is_closed(&answer) || answer.is("not_open"), "{answer:?}");
    let revoked = world.redis.own(&format!("{{{}}}:revoked", coupon.id));
    world.redis.command::<()>(&["DEL", &revoked]).await;
    eventually("the revocation is restored", LIMIT, async || {
        assert_eq!(world.once_with(&[], &[]).await.code, 0);
        world
            .redis
            .command::<bool>(&["HEXISTS", &revoked, REVOKED])
            .await
    })
    .await;
    for missing in [&EARLIER[..1], &EARLIER[1..]] {
        let words = ["HDEL", &claimants, EXTRA, missing[0]];
        world.redis.command::<()>(&words).await;
        let once = world.once_with(&[], &[]).await;
        assert_eq!(once.code, 0, "{}", once.log);
        let words = ["HEXISTS", &claimants, missing[0]];
        assert!(world.redis.command::<bool>(&words).await, "{}", once.log);
    }
}
