//! Returns and revocations while a coupon is paused, closed or sealed, and during other work.

use std::collections::BTreeSet;

use firstcome_reconciler::report::Kind;
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, TABLE_LOCK_WAITS, all_issued, eventually, rows,
};

use serde_json::json;

use crate::drift::support::{passes_until_sealed, until_expired};

#[tokio::test]
async fn claims_of_paused_closed_and_sealed_drops_can_be_returned_and_revoked() {
    let fixture = Fixture::new("revoke-states").await;
    let world = &fixture.world;
    let api = &fixture.api;
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
        slot
    };
    api.change(coupon.id, &json!({"paused": true})).await;
    let free = back(0).await;
    assert!(api.claim(coupon.id, "next").await.is("paused"));
    api.change(coupon.id, &json!({"paused": false})).await;
    assert_eq!(
        api.claim(coupon.id, "next").await.promised(),
        Some((coupon.drop, free))
    );
    assert!(api.claim(coupon.id, &answers[0].0).await.is("revoked"));
    all_issued(world, coupon.drop, 4).await;

    api.change(coupon.id, &json!({"close_now": true})).await;
    back(1).await;
    passes_until_sealed(world, &coupon).await;
    let own = world.redis.of_drop(coupon.id, coupon.drop, "");
    until_expired(world, &own).await;
    back(2).await;
    passes_until_sealed(world, &coupon).await;
    let left: BTreeSet<String> = rows(world, coupon.drop).await.into_values().collect();
    assert_eq!(left, [answers[3].0.clone(), "next".to_owned()].into());
    assert_eq!(api.me(coupon.id, "next").await["status"], "issued");

    // Another drop has opened since, so the API does not have this one in memory.
    let later = "INSERT INTO drops (id, coupon_id, opens_at, quantity) SELECT id, id, UTC_TIMESTAMP(3), 4 FROM coupons";
    world.sql.query(later).await;
    eventually("the API knows the later drop", LIMIT, async || {
        api.coupon(coupon.id).await["current_drop"]["id"]
            .as_i64()
            .is_some_and(|id| id != coupon.drop)
    })
    .await;
    let (user, answer) = &answers[3];
    let (drop, slot) = answer.promised().unwrap();
    let order = json!({"reason": "fraud", "by": "Ann", "drop_id": drop});
    for _ in 0..2 {
        assert_eq!(
            api.revoke(coupon.id, user, &order).await,
            Ok((drop, Some(slot)))
        );
    }
    passes_until_sealed(world, &coupon).await;
    assert!(
        api.claim(coupon.id, user).await.is_accepted(),
        "one per drop is allowed"
    );
    // The first pass may report that it waits for claims in flight to a drop that Redis has lost.
    eventually("a deep pass finds free slots only", LIMIT, async || {
        let deep = world.once_with(&["--deep"], &[]).await.run();
        deep.all_findings()
            .all(|finding| finding.kind == Kind::Unfilled)
    })
    .await;
}

/// Sealing counts the rows, and a revocation takes one from that number afterwards. Neither may run
/// between the steps of the other.
#[tokio::test]
async fn a_drop_is_not_sealed_while_a_claim_is_being_revoked() {
    let fixture = Fixture::new("revoke-seal").await;
    let world = &fixture.world;
    let api = world
        .serve_with(&[("FIRSTCOME_TEST_QUESTION_TIMEOUT_MS", "60000")])
        .await;
    let (coupon, answers) = fixture.held("Seal", 2, 2).await;
    let lock = format!(
        "SELECT id FROM drops WHERE id = {} FOR UPDATE NOWAIT",
        coupon.drop
    );
    world.sql.query(&lock).await;
    // The audit record is the last write of a revocation.
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run("LOCK TABLES ops_actions WRITE").await;
    let revoking = tokio::spawn({
        let api = api.clone();
        let user = answers[0].0.clone();
        async move {
            api.revoke(coupon.id, &user, &json!({"reason": "fraud", "by": "Ann"}))
                .await
        }
    });
    eventually(
        "the revocation has reached its last write",
        LIMIT,
        async || world.sql.number(TABLE_LOCK_WAITS).await == 1,
    )
    .await;
    assert_eq!(
        world.sql.refusal(&lock).await.code,
        3572,
        "the drop is locked"
    );
    held.run("UNLOCK TABLES").await;
    assert!(revoking.await.unwrap().is_ok());
}
