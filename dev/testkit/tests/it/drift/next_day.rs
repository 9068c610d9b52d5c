//! Daily coupons with sealed earlier days: after Redis restarts or goes back in time, nobody wins a
//! second time.

use chrono::{NaiveDate, TimeDelta};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    Answer, Fixture, LIMIT, MadeCoupon, OldCopy, PromisedAnswer, World, WorldStores, all_issued,
    eventually, eventually_some, people,
};
use serde_json::{Value, json};

use crate::drift::sealing::{one_day, until_sealed};
use crate::drift::support::{CLEAN, pass_ends};

fn two_days() -> Value {
    let mut body = one_day();
    let day: NaiveDate = serde_json::from_value(body["schedule"]["first_day"].clone()).unwrap();
    body["schedule"]["last_day"] = json!(day + TimeDelta::days(1));
    body
}

/// Opens the next day in MySQL; the next pass updates Redis.
async fn open_next_day(world: &World) {
    let open =
        "UPDATE drops SET opens_at = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND WHERE sealed_at IS NULL";
    world.sql.query(open).await;
}

/// Seals a day after Redis was copied, and restarts Redis from the copy. Two of three slots were
/// given out before the copy. Afterwards one of them was revoked, and the third was given out.
async fn back_from_before_the_sealing(
    once_per: &str,
) -> (Fixture, RedisServer, MadeCoupon, Vec<PromisedAnswer>) {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(
        WorldStores::shared().await.with_redis(&redis),
        &format!("d-{once_per}"),
    )
    .await;
    let api = &fixture.api;
    let world = &fixture.world;
    let mut body = two_days();
    body["schedule"]["closes"] = json!("23:59");
    body["once_per"] = json!(once_per);
    let (coupon, mut answers) = fixture.held_of(&body, 2).await;
    redis.stop().await.unwrap();
    let old = OldCopy::of(&redis).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;
    answers.push(("w-last".into(), api.claim(coupon.id, "w-last").await));
    all_issued(world, coupon.drop, 3).await;
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    let revoked = api.revoke(coupon.id, &answers[0].0, &order).await.unwrap();
    assert_eq!(
        (revoked.0, revoked.1),
        answers
            .remove(0)
            .1
            .promised()
            .map(|(drop, slot)| (drop, Some(slot)))
            .unwrap()
    );
    api.change(coupon.id, &json!({"close_now": true})).await;
    until_sealed(&fixture, &coupon).await;
    redis.kill().await.unwrap();
    old.put_back(&redis).unwrap();
    (fixture, redis, coupon, answers)
}

/// Starts the older Redis, which closes admission, and runs the pass that opens it.
async fn reopened(fixture: &Fixture, redis: &RedisServer, coupon: &MadeCoupon) {
    redis.start_again().await.unwrap();
    eventually(
        "the API reaches Redis and finds the gate closed",
        LIMIT,
        async || {
            matches!(
                fixture.api.claim(coupon.id, "u-late").await,
                Answer::Problem(503, _)
            )
        },
    )
    .await;
    fixture.world.pass().await;
}

async fn assert_still_theirs(fixture: &Fixture, coupon: &MadeCoupon, answers: &[PromisedAnswer]) {
    for (user, answer) in answers {
        let (drop, slot) = answer.promised().unwrap();
        assert_eq!(
            fixture.api.claim(coupon.id, user).await,
            Answer::Already { drop, slot },
            "{user}"
        );
    }
}

#[tokio::test]
async fn a_winner_of_a_sealed_day_forgotten_by_redis_cannot_win_the_next() {
    let (fixture, redis, coupon, answers) = back_from_before_the_sealing("coupon").await;
    let world = &fixture.world;
    open_next_day(world).await;
    reopened(&fixture, &redis, &coupon).await;
    assert_still_theirs(&fixture, &coupon, &answers).await;
    // A user who may claim again is not blocked by Redis's old data.
    for (slot, user) in [(1, "u-late"), (2, people(1)[0].as_str())] {
        let promised = fixture.api.claim(coupon.id, user).await.promised().unwrap();
        assert!(
            promised.0 != coupon.drop && promised.1 == slot,
            "{user}: {promised:?}"
        );
    }
    let next = world.sql.number("SELECT MAX(id) FROM drops").await;
    all_issued(world, next, 2).await;
    pass_ends(world, &[], CLEAN).await;
}

#[tokio::test]
async fn a_sealed_day_that_is_open_in_an_older_redis_admits_nobody() {
    let (fixture, redis, coupon, answers) = back_from_before_the_sealing("drop").await;
    let api = &fixture.api;
    let world = &fixture.world;
    reopened(&fixture, &redis, &coupon).await;
    // Until an API has read that the day is sealed, it asks the user to retry.
    let late = eventually_some(
        "the API knows the drop is sealed",
        LIMIT,
        async || match api.claim(coupon.id, "u-late").await {
            refused @ Answer::Problem(503, _) => Err(format!("{refused:?}")),
            answer => Ok(answer),
        },
    )
    .await;
    assert!(late.is("not_open"), "{late:?}");
    // Holders who never received their answer get it again.
    for (user, answer) in &answers {
        let (drop, slot) = answer.promised().unwrap();
        assert_eq!(
            api.claim(coupon.id, user).await,
            Answer::Already { drop, slot },
            "{user}"
        );
    }
    let revoked = api.claim(coupon.id, &people(1)[0]).await;
    assert!(revoked.is("not_open"), "{revoked:?}");
    let statement = "SELECT COUNT(*) FROM issued_coupons";
    assert_eq!(world.sql.number(statement).await, 2);
    pass_ends(world, &[], CLEAN).await;
}
