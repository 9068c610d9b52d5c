//! Daily coupons with a sealed earlier day, and claims that are made again after a revocation. If
//! Redis loses data or goes back in time, nobody wins a second time. An intact Redis is not
//! rewritten.

use firstcome_harness::{OldCopy, daily_body};

use crate::prelude::*;

/// Returns the body of a coupon that is open today and tomorrow, with a minute between the days.
fn two_days(quantity: u32) -> Value {
    let mut body = daily_body(quantity, 2);
    body["schedule"]["closes"] = json!("23:59");
    body
}

/// Lets the day after the sealed one begin now.
async fn open_next_day(world: &World) {
    let open =
        "UPDATE drops SET opens_at = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND WHERE sealed_at IS NULL";
    world.sql.query(open).await;
    world.pass().await;
}

/// Simulates an API that died before it let the keys expire.
#[tokio::test]
async fn keys_of_a_removed_day_expire_although_its_api_has_died() {
    let fixture = Fixture::new("d-removed-day").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let body = two_days(3);
    let (coupon, _) = fixture.held_of(&body, 1).await;
    let next = "SELECT id FROM drops ORDER BY opens_at DESC LIMIT 1";
    let next = world.sql.number(next).await;
    assert_ne!(next, coupon.drop);
    world.pass().await;
    let first_day = &body["schedule"]["first_day"];
    api.change(coupon.id, &json!({"last_day": first_day})).await;
    let keys = ["meta", "count"].map(|name| world.redis.of_drop(coupon.id, next, name));
    for key in &keys {
        let persisted: i64 = world.redis.command(&["PERSIST", key]).await;
        assert_eq!(persisted, 1, "{key}");
    }
    world.pass().await;
    for key in &keys {
        let expiry: i64 = world.redis.command(&["TTL", key]).await;
        assert!(expiry > 0, "{key}: {expiry}");
    }
}

/// Two of three slots are given out before Redis is copied. Afterwards the third is given out, one
/// of the first two users is revoked, and the day is sealed.
#[tokio::test]
async fn a_sealed_day_open_in_an_older_redis_admits_nobody_and_its_winners_still_count() {
    let (fixture, redis) = Fixture::with_own_redis("d-next-day", &[]).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, mut winners) = fixture.held_of(&two_days(3), 2).await;
    redis.stop().await.unwrap();
    let old = OldCopy::of(redis.data_dir()).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;
    let last = api.until_answered(coupon.id, "w-last").await;
    winners.push(("w-last".into(), last));
    all_issued(world, coupon.drop, 3).await;
    let (revoked, _) = winners.remove(0);
    api.revoke(coupon.id, &revoked, &order(true)).await.unwrap();
    api.change(coupon.id, &json!({"close_now": true})).await;
    until_sealed(world, &coupon).await;
    redis.kill().await.unwrap();
    old.put_back(redis.data_dir()).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;

    // Until an API has read that the day is sealed, it asks the user to retry.
    for user in ["u-late", revoked.as_str()] {
        let late = api.until_answered(coupon.id, user).await;
        assert!(late.is("not_open"), "{user}: {late:?}");
    }
    open_next_day(world).await;
    for (user, answer) in &winners {
        let (drop, slot) = answer.promised().unwrap();
        let again = api.until_answered(coupon.id, user).await;
        assert_eq!(again, Answer::Already { drop, slot }, "{user}");
    }
    // A user who may claim again is not blocked by Redis's old data.
    for (slot, user) in [(1, "u-late"), (2, revoked.as_str())] {
        let next = api.until_promised(coupon.id, user).await;
        assert!(next.0 != coupon.drop && next.1 == slot, "{user}: {next:?}");
    }
    let next = "SELECT id FROM drops WHERE sealed_at IS NULL";
    all_issued(world, world.sql.number(next).await, 2).await;
    pass_ends(world, &[], CLEAN).await;
}

/// The test changes a claimant of the sealed day by hand, to see whether claimants are rewritten.
#[tokio::test]
async fn an_intact_redis_is_reopened_without_rewriting_and_a_damaged_one_is_written_again() {
    let (fixture, redis) = Fixture::with_own_redis("d-intact", &[]).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, winners) = fixture.held_of(&two_days(3), 3).await;
    api.revoke(coupon.id, &winners[0].0, &order(true))
        .await
        .unwrap();
    let claimants = world.redis.of_coupon(coupon.id, "claimants");
    let revoked = world.redis.of_coupon(coupon.id, "revoked");
    let own = ["HEXISTS", &revoked, &winners[0].0];
    assert_eq!(world.redis.command::<i64>(&own).await, 1);
    api.change(coupon.id, &json!({"close_now": true})).await;
    until_sealed(world, &coupon).await;
    let ended = world.redis.command::<i64>(&own).await;
    assert_eq!(ended, 0, "a return of a sealed day concerns no claim");
    api.revoke(coupon.id, &winners[2].0, &order(true))
        .await
        .unwrap();
    open_next_day(world).await;
    let late = ["HEXISTS", &revoked, &winners[2].0];
    assert_eq!(world.redis.command::<i64>(&late).await, 0);
    let next = "SELECT id FROM drops WHERE sealed_at IS NULL ORDER BY opens_at LIMIT 1";
    let next = world.sql.number(next).await;
    // Two users claim on the open day. One of them then gives the coupon back.
    for user in ["n-1", "n-2"] {
        api.until_promised(coupon.id, user).await;
    }
    all_issued(world, next, 2).await;
    api.give_back(coupon.id, "n-1").await.unwrap();

    let (winner, answer) = &winners[1];
    let (drop, slot) = answer.promised().unwrap();
    let reopen = async || {
        redis.restart().await.unwrap();
        world.pass().await;
        let read = ["HGET", &claimants, winner];
        world.redis.command::<String>(&read).await
    };
    let by_hand = format!("{drop}:9");
    let words = ["HSET", &claimants, winner, &by_hand];
    world.redis.command::<i64>(&words).await;
    assert_eq!(
        reopen().await,
        by_hand,
        "nothing differs, nothing is written"
    );
    world.redis.command::<i64>(&["DEL", &claimants]).await;
    assert_eq!(
        reopen().await,
        format!("{drop}:{slot}"),
        "claimants are lost"
    );
    pass_ends(world, &[], CLEAN).await;
}

/// If the second claim kept the time of the first one, a late revocation of the first claim would
/// take the slot of the second.
#[tokio::test]
async fn a_claim_that_was_made_again_has_its_own_time_after_redis_went_back() {
    let (fixture, redis) = Fixture::with_own_redis("d-again", &[]).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, answers) = fixture.held("Again", 3, 1).await;
    let user = &answers[0].0;
    redis.stop().await.unwrap();
    let old = OldCopy::of(redis.data_dir()).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;
    // After returning a coupon, a user may not claim again. An operator who revokes can allow it.
    api.revoke(coupon.id, user, &order(true)).await.unwrap();
    // Until the API has read the new era, it asks the user to retry.
    let promised = api.until_promised(coupon.id, user).await;
    assert_eq!(promised, (coupon.drop, 1));
    all_issued(world, coupon.drop, 1).await;
    redis.kill().await.unwrap();
    old.put_back(redis.data_dir()).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;
    let times = world.redis.of_drop(coupon.id, coupon.drop, "times");
    let time: i64 = world.redis.command(&["HGET", &times, "1"]).await;
    let row = "SELECT CAST(UNIX_TIMESTAMP(claimed_at) * 1000 AS SIGNED) FROM issued_coupons";
    assert_eq!(time, world.sql.number(row).await);
    let promised = api.until_promised(coupon.id, user).await;
    assert_eq!(promised, (coupon.drop, 1));
}

/// The whole `claimants` key is lost after the next day opened and before anybody claimed. No other
/// key in Redis says who holds a coupon of the day before.
#[tokio::test]
async fn winner_of_the_day_before_gets_no_second_coupon_when_the_claimants_are_lost() {
    let fixture = Fixture::new("d-claimants").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, winners) = fixture.held_of(&two_days(3), 2).await;
    api.change(coupon.id, &json!({"close_now": true})).await;
    until_sealed(world, &coupon).await;
    open_next_day(world).await;
    world
        .redis
        .command::<i64>(&["DEL", &world.redis.of_coupon(coupon.id, "claimants")])
        .await;
    for (user, _) in &winners {
        let again = api.claim(coupon.id, user).await;
        assert!(!again.is_accepted(), "{user}: {again:?}");
    }
    // The watch of a daemon detects the loss without a pass.
    let _daemon = world.daemon().await;
    for (user, answer) in &winners {
        let (drop, slot) = answer.promised().unwrap();
        let again = eventually_some("the claimants are back", LIMIT, async || {
            let again = api.claim(coupon.id, user).await;
            again
                .promised()
                .map(|_| again.clone())
                .ok_or(format!("{again:?}"))
        });
        assert_eq!(again.await, Answer::Already { drop, slot }, "{user}");
    }
}

/// Simulates a claim that was made while Redis's clock was an hour ahead. Its revocation ends at
/// that time.
#[tokio::test]
async fn revocation_that_ends_later_gives_its_user_503_instead_of_a_void_claim() {
    let fixture = Fixture::new("d-later").await;
    let Fixture { api, world, .. } = &fixture;
    let (coupon, holders) = fixture.held_of(&two_days(3), 1).await;
    let (revoked, answer) = &holders[0];
    let (_, slot) = answer.promised().unwrap();
    let times = world.redis.of_drop(coupon.id, coupon.drop, "times");
    let ahead = world.redis.now_ms().await + 3_600_000;
    let admitted = ["HSET", &times, &slot.to_string(), &ahead.to_string()];
    world.redis.command::<i64>(&admitted).await;
    api.revoke(coupon.id, revoked, &order(true)).await.unwrap();
    api.change(coupon.id, &json!({"close_now": true})).await;
    until_sealed(world, &coupon).await;
    open_next_day(world).await;
    api.until_promised(coupon.id, "another").await;
    let early = api.claim(coupon.id, revoked).await;
    assert!(matches!(early, Answer::Problem(503, _)), "{early:?}");
}
