//! Messages that the API did not send, or that contradict their drop.

use chrono::{TimeDelta, Utc};
use firstcome_reconciler::report::{Kind, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, Fixture, LIMIT, MadeCoupon, World, all_issued, eventually, open_world, people, rush,
};
use serde_json::json;

use crate::drift::sealing::until_sealed;
use crate::drift::support::injector;

/// A forged message in the form of a genuine one.
async fn forge(world: &World, coupon: &MadeCoupon, slot: u32, user: &str) {
    let MadeCoupon { id, drop, .. } = coupon;
    let claim = json!({"slot": slot, "user_id": user, "claimed_at": Utc::now().to_rfc3339()});
    let message = json!({"v": 2, "coupon_id": id, "drop_id": drop, "claims": [claim]});
    world
        .topic
        .produce(
            None,
            &format!("{id}:{slot}"),
            message.to_string().as_bytes(),
        )
        .await;
}

#[tokio::test]
async fn a_forged_message_takes_no_slot_when_redis_is_rebuilt() {
    let (world, api) = open_world("d-forged-tail").await;
    world.set("KAFKA_UNSIGNED", "reject");
    let coupon = api.open_coupon(5).await;
    let answers = rush(&[&api], coupon.id, &people(3), 3).await;
    forge(&world, &coupon, 4, "m-forged").await;
    injector(&world, &coupon)
        .await
        .make(Drift::RedisLost, 1)
        .await
        .unwrap();
    eventually("the drop is rebuilt", LIMIT, async || {
        world.once_with(&[], &[]).await;
        api.claim(coupon.id, "late").await.promised() == Some((coupon.drop, 4))
    })
    .await;
    let consumer = world.consume().await;
    all_issued(&world, coupon.drop, 4).await;
    eventually("the forged message is read", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
    let kept = world
        .sql
        .query("SELECT reason, slot, user_id FROM failed_claims")
        .await;
    assert_eq!(kept, [["forged", "NULL", "NULL"]]);
    for (user, answer) in &answers {
        let (drop, slot) = answer.promised().unwrap();
        assert_eq!(
            api.claim(coupon.id, user).await,
            Answer::Already { drop, slot },
            "{user}"
        );
    }
    let run = world.once_with(&[], &[]).await.run();
    let told: Vec<_> = run
        .all_findings()
        .map(|finding| (finding.kind, finding.needs_person))
        .collect();
    assert_eq!(told, [(Kind::FailedClaim, true)], "a person has to decide");
    assert_eq!(consumer.process.stop().await, 0);
}

async fn produce(world: &World, coupon: &MadeCoupon, user: &str, slot: u32, claimed_at: &str) {
    let MadeCoupon { id, drop, .. } = coupon;
    let claim = json!({"v": 1, "coupon_id": id, "drop_id": drop, "slot": slot, "user_id": user, "claimed_at": claimed_at});
    world
        .topic
        .produce(None, &format!("{id}:{slot}"), claim.to_string().as_bytes())
        .await;
    eventually("the consumer has read it", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
}

#[tokio::test]
async fn promises_survive_a_moved_window_and_sealed_drops_reject_forged_claims() {
    let fixture = Fixture::new("d-forged").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Forged", 6, 4).await;
    let reasons =
        "SELECT slot, reason, COALESCE(resolution, 'open') FROM failed_claims ORDER BY id";

    // An operator moves the window while a claim is in flight, and Redis has its user.
    let on_slot = format!("slot = 2 AND drop_id = {}", coupon.drop);
    let claimed_at = "DATE_FORMAT(claimed_at, '%Y-%m-%dT%H:%i:%s.%fZ')";
    let late = world
        .sql
        .query(&format!(
            "SELECT user_id, {claimed_at} FROM issued_coupons WHERE {on_slot}"
        ))
        .await;
    let [user, at] = &late[0][..] else {
        panic!("{late:?}")
    };
    world
        .sql
        .query(&format!("DELETE FROM issued_coupons WHERE {on_slot}"))
        .await;
    let opens = |at: &str| {
        format!(
            "UPDATE drops SET opens_at = {at} WHERE id = {}",
            coupon.drop
        )
    };
    world
        .sql
        .query(&opens("UTC_TIMESTAMP(3) + INTERVAL 2 HOUR"))
        .await;
    produce(world, &coupon, user, 2, at).await;
    assert_eq!(
        world.sql.query(reasons).await,
        [["2", "outside_window", "open"]]
    );
    // Redis has no user of this claim.
    produce(world, &coupon, "m-forged", 5, at).await;
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!(run.status, Status::Drift, "{run:#?}");
    assert_eq!(
        world.sql.query(reasons).await,
        [
            ["2", "outside_window", "issued"],
            ["5", "outside_window", "open"]
        ]
    );
    world.sql.query("DELETE FROM failed_claims").await;
    world
        .sql
        .query(&opens("UTC_TIMESTAMP(3) - INTERVAL 2 HOUR"))
        .await;
    world.once_with(&[], &[]).await;

    assert_eq!(
        fixture
            .api
            .patch(coupon.id, &json!({"close_now": true}))
            .await
            .status,
        200
    );
    until_sealed(&fixture, &coupon).await;
    let now = Utc::now();
    produce(world, &coupon, "m-now", 5, &now.to_rfc3339()).await;
    produce(
        world,
        &coupon,
        "m-later",
        6,
        &(now + TimeDelta::days(30)).to_rfc3339(),
    )
    .await;
    assert_eq!(
        world.sql.query(reasons).await,
        [["5", "sealed_drop", "open"], ["6", "sealed_drop", "open"]]
    );
    for flags in [&[][..], &["--deep"], &["--coupon", &coupon.id.to_string()]] {
        let once = world.once_with(flags, &[]).await;
        let run = once.run();
        let told = run
            .all_findings()
            .filter(|f| f.kind == Kind::FailedClaim && f.needs_person)
            .map(|f| f.slot);
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        told.dedup();
        assert_eq!(
            (once.code, told),
            (1, vec![Some(5), Some(6)]),
            "{flags:?}: {}",
            once.log
        );
        assert_eq!(
            world
                .sql
                .number("SELECT COUNT(*) FROM issued_coupons")
                .await,
            4,
            "{flags:?}"
        );
        assert_eq!(
            world
                .sql
                .number("SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL")
                .await,
            1,
            "{flags:?}"
        );
    }
    for (user, answer) in &answers {
        let (drop, slot) = answer.promised().unwrap();
        assert_eq!(
            fixture.api.claim(coupon.id, user).await,
            Answer::Already { drop, slot },
            "{user}"
        );
    }
}
