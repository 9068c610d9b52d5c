//! Messages that the API did not send, and messages that contradict their drop.

use chrono::Utc;
use firstcome_reconciler::report::Kind;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, LIMIT, MadeCoupon, World, all_issued, eventually, open_world, people, rush,
};
use serde_json::json;

use crate::drift::support::inject;

/// Sends a forged message that has the format of a genuine one.
async fn forge(world: &World, coupon: &MadeCoupon, slot: u32, user: &str) {
    let MadeCoupon { id, drop, .. } = coupon;
    let claim = json!({"slot": slot, "user_id": user, "claimed_at": Utc::now().to_rfc3339()});
    let message = json!({"v": 2, "coupon_id": id, "drop_id": drop, "claims": [claim]});
    world
        .topic
        .unsigned()
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
    let coupon = api.open_coupon(5).await;
    let answers = rush(&[&api], coupon.id, &people(3), 3).await;
    forge(&world, &coupon, 4, "m-forged").await;
    inject(&world, &coupon, Drift::RedisLost, 1).await;
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
