//! Returns and revocations: the slot goes to the next user, and no copy of the revoked claim
//! restores it.

use firstcome_testkit::{
    Answer, Fixture, Http, LIMIT, MadeCoupon, World, all_issued, eventually, rows,
};
use reqwest::Method;
use serde_json::json;

use crate::drift::support::{assert_whole, clean_pass};

async fn failed_claims(world: &World) -> i64 {
    world.sql.number("SELECT COUNT(*) FROM failed_claims").await
}

/// Delivers the message of a claim, which may be a duplicate.
async fn message(fixture: &Fixture, coupon: &MadeCoupon, user: &str, slot: u32, claimed_at: &str) {
    let world = &fixture.world;
    let MadeCoupon { id, drop, .. } = coupon;
    let claim = json!({"slot": slot, "user_id": user, "claimed_at": claimed_at});
    let payload = json!({"v": 2, "coupon_id": id, "drop_id": drop, "claims": [claim]});
    let (key, payload) = (format!("{id}:{slot}"), payload.to_string());
    world.topic.produce(None, &key, payload.as_bytes()).await;
    eventually("the consumer has read it", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
}

#[tokio::test]
async fn an_operator_revokes_with_a_reason_and_may_allow_another_claim() {
    let fixture = Fixture::new("revoke").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, answers) = fixture.held("Revoked", 3, 3).await;
    let user = answers[0].0.as_str();
    let old = answers[0].1.promised().unwrap().1;
    for (body, field) in [
        (json!({"by": "Ann"}), "reason"),
        (json!({"reason": "", "by": "Ann"}), "reason"),
        (json!({"reason": "x".repeat(10_000), "by": "Ann"}), "reason"),
        (json!({"reason": "a\u{202e}b", "by": "Ann"}), "reason"),
        (json!({"reason": "fraud", "by": "An\u{200b}n"}), "by"),
        (json!({"reason": "fraud"}), "by"),
        (json!({"reason": "fraud", "by": "Ann", "more": 1}), "more"),
    ] {
        let path = format!("/v1/coupons/{}/people/{user}/revoke", coupon.id);
        let reply = Http::send(api.http().ops(Method::POST, &path).json(&body)).await;
        assert_eq!(
            (reply.status, reply.text.contains(field)),
            (400, true),
            "{}",
            reply.text
        );
        let reply = Http::send(api.http().request(Method::POST, &path).json(&body)).await;
        assert_eq!(reply.status, 401, "{}", reply.text);
    }
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    assert!(
        api.revoke(coupon.id, "nobody", &order)
            .await
            .is_err_and(|answer| answer.is("not_found"))
    );
    let mut elsewhere = order.clone();
    elsewhere["drop_id"] = json!(coupon.drop + 1);
    let elsewhere = api.revoke(coupon.id, user, &elsewhere).await;
    assert!(elsewhere.is_err_and(|answer| answer.is("not_found")));
    let claimed = format!(
        "SELECT DATE_FORMAT(claimed_at, '%Y-%m-%dT%H:%i:%s.%fZ') FROM issued_coupons WHERE user_id = '{user}'"
    );
    let claimed_at = world.sql.query(&claimed).await[0][0].clone();
    for _ in 0..2 {
        assert_eq!(
            api.revoke(coupon.id, user, &order).await,
            Ok((coupon.drop, Some(old)))
        );
    }
    assert_eq!(api.me(coupon.id, user).await["status"], "revoked");
    let acts = "SELECT detail->>'$.user_id', detail->>'$.reason', detail->>'$.by' \
                FROM ops_actions WHERE action = 'revoke'";
    let once = [user, "fraud", "Ann"];
    assert_eq!(world.sql.query(acts).await, [once]);

    // The old claim's message is delivered again. It has no effect and needs no manual attention.
    message(&fixture, &coupon, user, old, &claimed_at).await;
    assert_eq!(
        (
            rows(world, coupon.drop).await.len(),
            failed_claims(world).await
        ),
        (2, 0)
    );

    // A new claim gets the same slot.
    let again = api.claim(coupon.id, user).await;
    assert_eq!(
        again,
        Answer::Accepted {
            drop: coupon.drop,
            slot: old,
            queued: true
        }
    );
    all_issued(world, coupon.drop, 3).await;
    message(&fixture, &coupon, user, old, &claimed_at).await;
    assert_eq!(failed_claims(world).await, 0);
    let letter = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, claimed_at) \
         SELECT coupon_id, drop_id, slot, user_id, 'unpublished', claimed_at FROM revoked_coupons WHERE user_id = '{user}'"
    );
    world.sql.query(&letter).await;
    world.pass().await;
    let statement = "SELECT resolution FROM failed_claims";
    assert_eq!(world.sql.query(statement).await, [["revoked"]]);
    assert_whole(world, &coupon, 3, 3).await;
    clean_pass(world, &coupon).await;
}
