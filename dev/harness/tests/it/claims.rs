//! Claims: crowds, returns and revocations.

use std::collections::BTreeSet;

use firstcome_harness::{ApiClient, TABLE_LOCK_WAITS, assert_sold_out, open_world};

use crate::drift::support::{assert_whole, until_expired};
use crate::prelude::*;

/// The number of users who compete for 500 slots. `make faults` sets `CROWD=10000`.
fn crowd() -> usize {
    std::env::var("CROWD").map_or(2_000, |text| text.parse().unwrap())
}

/// The slots never exceed the quantity, no user gets two, and every promise has its row on its
/// slot.
#[tokio::test]
async fn a_drop_is_exact_after_thousands_of_claims_over_two_apis_and_consumers() {
    let (world, first) = open_world("two-apis").await;
    let second = world.serve().await;
    let _consumers = [world.consume().await, world.consume().await];
    let coupon = first.open_coupon(500).await;
    let apis: [&ApiClient; 2] = [&first, &second];
    let answers = rush_until_answered(&apis, coupon.id, &people(crowd()), 500).await;
    assert_sold_out(&answers, 500);
    all_issued(&world, coupon.drop, 500).await;
    assert_exact(&world, &coupon, 500).await;
    clean_pass(&world, &coupon).await;
}

/// No copy of a revoked claim restores it, and the user may claim again if the operator says so.
#[tokio::test]
async fn an_operator_revokes_with_a_reason_and_may_allow_another_claim() {
    let fixture = Fixture::new("revoke").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, answers) = fixture.held("Revoked", 3, 3).await;
    let user = answers[0].0.as_str();
    let (drop, old) = answers[0].1.promised().unwrap();
    for body in [
        json!({"by": "Ann"}),
        json!({"reason": "", "by": "Ann"}),
        json!({"reason": "a\u{202e}b", "by": "Ann"}),
        json!({"reason": "fraud"}),
        json!({"reason": "fraud", "by": "Ann", "more": 1}),
    ] {
        let refused = api.revoke(coupon.id, user, &body).await.unwrap_err();
        assert!(matches!(refused, Answer::Problem(400, _)), "{refused:?}");
    }
    let order = json!({"reason": "fraud", "by": "Ann", "may_claim_again": true});
    let nobody = api.revoke(coupon.id, "nobody", &order).await;
    assert!(nobody.is_err_and(|answer| answer.is("not_found")));
    let claimed =
        "SELECT DATE_FORMAT(claimed_at, '%Y-%m-%dT%H:%i:%s.%fZ') FROM issued_coupons WHERE user_id";
    let claimed = format!("{claimed} = '{user}'");
    let claimed_at = world.sql.query(&claimed).await.concat();
    for _ in 0..2 {
        let revoked = api.revoke(coupon.id, user, &order).await;
        assert_eq!(revoked, Ok((drop, Some(old))));
    }
    assert_eq!(api.me(coupon.id, user).await["status"], "revoked");
    let acts = "SELECT detail->>'$.user_id', detail->>'$.reason', detail->>'$.by' \
                FROM ops_actions WHERE action = 'revoke'";
    assert_eq!(world.sql.query(acts).await, [[user, "fraud", "Ann"]]);

    // The old claim's message is delivered again, before and after the new claim gets the slot.
    let claim = json!({"slot": old, "user_id": user, "claimed_at": claimed_at[0]});
    let message = json!({"v": 2, "coupon_id": coupon.id, "drop_id": drop, "claims": [claim]});
    let repeated = async |held: usize| {
        let (key, payload) = (format!("{}:{old}", coupon.id), message.to_string());
        world.topic.produce(None, &key, payload.as_bytes()).await;
        all_issued(world, drop, held).await;
        let letters = "SELECT COUNT(*) FROM failed_claims";
        assert_eq!(world.sql.number(letters).await, 0);
    };
    repeated(2).await;
    let again = api.until_answered(coupon.id, user).await;
    assert_eq!(again.promised(), Some((drop, old)));
    all_issued(world, drop, 3).await;
    repeated(3).await;
    let letter = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, claimed_at) \
                  SELECT coupon_id, drop_id, slot, user_id, 'unpublished', claimed_at FROM revoked_coupons";
    world.sql.query(letter).await;
    world.pass().await;
    let resolution = "SELECT resolution FROM failed_claims";
    assert_eq!(world.sql.query(resolution).await, [["revoked"]]);
    assert_whole(world, &coupon, 3, 3).await;
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn claims_of_paused_closed_and_sealed_drops_can_be_returned_and_sealed_ones_revoked() {
    let fixture = Fixture::new("revoke-states").await;
    let (api, world) = (&fixture.api, &fixture.world);
    world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    let body = json!({
        "name": "States", "quantity": 4, "once_per": "drop", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": "2026-01-01T00:00:00Z"},
    });
    let (coupon, answers) = fixture.held_of(&body, 4).await;
    let back = async |at: usize| {
        let (user, answer) = &answers[at];
        let (drop, slot) = answer.promised().unwrap();
        for _ in 0..2 {
            assert_eq!(api.give_back(coupon.id, user).await, Ok((drop, Some(slot))));
            assert_eq!(api.me(coupon.id, user).await["status"], "revoked");
        }
        Some((drop, slot))
    };
    api.change(coupon.id, &json!({"paused": true})).await;
    let free = back(0).await;
    assert!(api.claim(coupon.id, "next").await.is("paused"));
    api.change(coupon.id, &json!({"paused": false})).await;
    let next = api.until_answered(coupon.id, "next").await;
    assert_eq!(next.promised(), free);
    assert!(api.claim(coupon.id, &answers[0].0).await.is("revoked"));
    all_issued(world, coupon.drop, 4).await;

    api.change(coupon.id, &json!({"close_now": true})).await;
    back(1).await;
    until_sealed(world, &coupon).await;
    let own = world.redis.of_drop(coupon.id, coupon.drop, "");
    until_expired(world, &own).await;
    back(2).await;
    until_sealed(world, &coupon).await;
    let left: BTreeSet<String> = rows(world, coupon.drop).await.into_values().collect();
    assert_eq!(left, [answers[3].0.clone(), "next".to_owned()].into());

    // Once another drop has opened, the API no longer has this one in memory.
    let later = "INSERT INTO drops (id, coupon_id, opens_at, quantity) SELECT 1, id, UTC_TIMESTAMP(3), 4 FROM coupons";
    world.sql.query(later).await;
    eventually("the API knows the later drop", LIMIT, async || {
        let current = api.coupon(coupon.id).await["current_drop"]["id"].as_i64();
        current.is_some_and(|id| id != coupon.drop)
    })
    .await;
    let (user, answer) = &answers[3];
    let (drop, slot) = answer.promised().unwrap();
    let order = json!({"reason": "fraud", "by": "Ann", "drop_id": drop});
    for _ in 0..2 {
        let revoked = api.revoke(coupon.id, user, &order).await;
        assert_eq!(revoked, Ok((drop, Some(slot))));
    }
    until_sealed(world, &coupon).await;
    let answer = api.until_answered(coupon.id, user).await;
    let is_of_later = answer.promised().is_some_and(|(of, _)| of != drop);
    assert!(is_of_later, "one per drop is allowed: {answer:?}");
    // The first pass may report that it waits for claims in flight to a drop that Redis has lost.
    eventually("a deep pass finds free slots only", LIMIT, async || {
        let deep = world.once_with(&["--deep"], &[]).await.run();
        deep.all_findings()
            .all(|finding| finding.kind == Kind::Unfilled)
    })
    .await;
}

/// Sealing records the number of rows, and a later revocation lowers that number by one. Neither
/// may run between the steps of the other.
#[tokio::test]
async fn a_revocation_still_locks_its_drop_at_its_last_write() {
    let fixture = Fixture::new("revoke-seal").await;
    let world = &fixture.world;
    let patient = [
        ("FIRSTCOME_TEST_QUESTION_TIMEOUT_MS", "60000"),
        ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "60000"),
    ];
    let api = world.serve_with(&patient).await;
    let (MadeCoupon { id, drop, .. }, answers) = fixture.held("Seal", 2, 2).await;
    let lock = format!("SELECT id FROM drops WHERE id = {drop} FOR UPDATE NOWAIT");
    world.sql.query(&lock).await;
    // The audit record is the last write of a revocation.
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run("LOCK TABLES ops_actions WRITE").await;
    let order = order(false);
    let looks = async {
        eventually("the revocation is at its last write", LIMIT, async || {
            world.sql.number(TABLE_LOCK_WAITS).await == 1
        })
        .await;
        let code = world.sql.refusal(&lock).await.code;
        assert_eq!(code, 3572, "the drop is locked");
        held.run("UNLOCK TABLES").await;
    };
    let (revoked, ()) = tokio::join!(api.revoke(id, &answers[0].0, &order), looks);
    assert!(revoked.is_ok(), "{revoked:?}");
}
