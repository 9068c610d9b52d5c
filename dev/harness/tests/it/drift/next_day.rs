//! A daily coupon with a sealed earlier day: after Redis goes back in time, nobody wins a second
//! time.

use firstcome_harness::{Answer, Fixture, LIMIT, OldCopy, all_issued, daily_body, eventually_some};
use serde_json::json;

use crate::drift::support::{CLEAN, pass_ends, until_sealed};

/// Two of three slots are given out before Redis is copied. Afterwards one of them is revoked, the
/// third is given out, and the day is sealed.
#[tokio::test]
async fn a_sealed_day_that_is_open_in_an_older_redis_admits_nobody_and_its_winners_count() {
    let (fixture, redis) = Fixture::with_own_redis("d-next-day", &[]).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let mut body = daily_body(3, 2);
    body["schedule"]["closes"] = json!("23:59");
    let (coupon, mut winners) = fixture.held_of(&body, 2).await;
    redis.stop().await.unwrap();
    let old = OldCopy::of(&redis).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;
    winners.push(("w-last".into(), api.claim(coupon.id, "w-last").await));
    all_issued(world, coupon.drop, 3).await;
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    let (revoked, _) = winners.remove(0);
    api.revoke(coupon.id, &revoked, &order).await.unwrap();
    api.change(coupon.id, &json!({"close_now": true})).await;
    until_sealed(world, &coupon).await;
    redis.kill().await.unwrap();
    old.put_back(&redis).unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;

    // Until an API has read that the day is sealed, it asks the user to retry.
    for user in ["u-late", revoked.as_str()] {
        let late = eventually_some("the day is known to be over", LIMIT, async || {
            match api.claim(coupon.id, user).await {
                refused @ Answer::Problem(503, _) => Err(format!("{refused:?}")),
                answer => Ok(answer),
            }
        })
        .await;
        assert!(late.is("not_open"), "{user}: {late:?}");
    }
    let open =
        "UPDATE drops SET opens_at = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND WHERE sealed_at IS NULL";
    world.sql.query(open).await;
    world.pass().await;
    for (user, answer) in &winners {
        let (drop, slot) = answer.promised().unwrap();
        let again = api.claim(coupon.id, user).await;
        assert_eq!(again, Answer::Already { drop, slot }, "{user}");
    }
    // A user who may claim again is not blocked by Redis's old data.
    for (slot, user) in [(1, "u-late"), (2, revoked.as_str())] {
        let next = eventually_some("the next day is open", LIMIT, async || {
            let answer = api.claim(coupon.id, user).await;
            answer.promised().ok_or(format!("{answer:?}"))
        })
        .await;
        assert!(next.0 != coupon.drop && next.1 == slot, "{user}: {next:?}");
    }
    let next = "SELECT id FROM drops WHERE sealed_at IS NULL";
    all_issued(world, world.sql.number(next).await, 2).await;
    pass_ends(world, &[], CLEAN).await;
}
