//! Returns and revocations while a coupon is paused, closed or sealed, and during other work.

use std::collections::BTreeSet;

use firstcome_reconciler::report::Kind;
use firstcome_testkit::{
    Answer, ApiClient, Fixture, HeldTransaction, LIMIT, MadeCoupon, PromisedAnswer,
    TABLE_LOCK_WAITS, all_issued, assert_exact, coupon_body, eventually, people, redis_holders,
    rows,
};
use futures_util::StreamExt as _;
use serde_json::json;

use crate::drift::support::{clean_pass, passes_until_sealed, until_expired};

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

/// Each user claims and returns at the same moment, twice, at two APIs, while passes and the
/// consumer run.
#[tokio::test]
async fn a_drop_is_exact_after_concurrent_claims_returns_and_passes() {
    const QUANTITY: u32 = 40;
    let fixture = Fixture::new("revoke-orders").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let second = world.serve().await;
    let daemon = world
        .daemon_with(&[
            ("RECONCILE_CRON", "* * * * * *"),
            ("PUBLISH_DEADLINE_MS", "500"),
        ])
        .await;
    let coupon = api
        .create_coupon(&coupon_body("Orders", QUANTITY, 10))
        .await;
    let apis = [&**api, &*second];
    let coming = people(160).into_iter().enumerate().map(|(n, user)| {
        let one = apis[n % 2];
        let other = apis[(n + 1) % 2];
        let coupon = &coupon;
        async move {
            let gives_back = n % 3 == 0;
            let claim = async { patient(|| one.claim(coupon.id, &user)).await };
            if !gives_back {
                return (user.clone(), claim.await, false);
            }
            let back = async {
                // Having nothing to return yet is a valid answer. The final result is checked
                // below.
                let _ = one.give_back(coupon.id, &user).await;
                let _ = other.give_back(coupon.id, &user).await;
            };
            let (answer, ()) = tokio::join!(claim, back);
            let (one, other) =
                tokio::join!(returned(one, coupon, &user), returned(other, coupon, &user));
            assert_eq!(one, other, "{user}");
            (user.clone(), answer, one)
        }
    });
    let came: Vec<_> = futures_util::stream::iter(coming)
        .buffer_unordered(16)
        .collect()
        .await;
    let revoked: BTreeSet<&String> = came
        .iter()
        .filter(|(.., revoked)| *revoked)
        .map(|(user, ..)| user)
        .collect();
    assert!(revoked.len() > 5, "{revoked:?}");
    // Freed slots go to waiting users, or to the next users who claim.
    for (user, ..) in came.iter().filter(|(.., revoked)| !revoked) {
        patient(|| api.claim(coupon.id, user)).await;
    }
    eventually("every slot has its row", LIMIT, async || {
        let rows = rows(world, coupon.drop).await;
        rows.len() == QUANTITY as usize && redis_holders(world, &coupon).await == rows
    })
    .await;
    let rows = rows(world, coupon.drop).await;
    assert!(
        rows.values().all(|user| !revoked.contains(user)),
        "{rows:?}"
    );
    assert_eq!(daemon.process.stop().await, 0);
    assert_eq!(
        world.sql.number("SELECT COUNT(*) FROM failed_claims").await,
        0,
        "a void message is not a dead letter"
    );
    let kept: Vec<PromisedAnswer> = came
        .iter()
        .filter(|(.., revoked)| !revoked)
        .map(|(user, answer, _)| (user.clone(), answer.clone()))
        .collect();
    assert_exact(world, &coupon, QUANTITY, &kept).await;
    world.pass().await;
    clean_pass(world, &coupon).await;
}

async fn patient<F: Future<Output = Answer>>(ask: impl Fn() -> F) -> Answer {
    loop {
        match ask().await {
            Answer::Problem(503, _) | Answer::Unknown(_) => {}
            answer => return answer,
        }
    }
}

/// Returns whether the user had anything to return.
async fn returned(api: &ApiClient, coupon: &MadeCoupon, user: &str) -> bool {
    loop {
        match api.give_back(coupon.id, user).await {
            Err(Answer::Problem(503, _) | Answer::Unknown(_)) => {}
            answer => return answer.is_ok(),
        }
    }
}
