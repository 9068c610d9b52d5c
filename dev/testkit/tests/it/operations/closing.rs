//! Closing a coupon immediately while the reconciler runs: the waiting list gets nothing, the drop
//! is sealed, and a Redis that was down is updated later.

use std::time::Duration;

use firstcome_stack::ProxyFault;
use firstcome_testkit::{Fixture, LIMIT, MadeCoupon, coupon_body, eventually, rows, rush, shared};
use serde_json::json;

use crate::drift::support::passes_until_sealed;

/// Creates a coupon with three holders and two waiting users, then changes it. No pass has run
/// since.
async fn with_two_waiting(fixture: &Fixture, name: &str, change: serde_json::Value) -> MadeCoupon {
    let (coupon, _) = fixture.held_of(&coupon_body(name, 3, 5), 3).await;
    let waiting: Vec<String> = (1..=2).map(|n| format!("{name}-{n}")).collect();
    let answers = rush(&[&fixture.api], coupon.id, &waiting, 2).await;
    assert!(
        answers
            .iter()
            .all(|(_, answer)| answer.promised().is_none()),
        "{answers:?}"
    );
    fixture.api.change(coupon.id, &change).await;
    coupon
}

async fn sealed(fixture: &Fixture, coupon: &MadeCoupon) -> usize {
    passes_until_sealed(&fixture.world, coupon).await;
    rows(&fixture.world, coupon.drop).await.len()
}

#[tokio::test]
async fn no_user_is_promoted_after_a_drop_was_closed_immediately() {
    let fixture = Fixture::new("closed-now").await;
    let closed = with_two_waiting(&fixture, "now", json!({"quantity": 5, "close_now": true})).await;
    // For comparison: if a drop closes at the end of its window, waiting users get the remaining
    // slots.
    let over = with_two_waiting(&fixture, "over", json!({"quantity": 5})).await;
    let then = format!(
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3) WHERE id = {}",
        over.drop
    );
    fixture.world.sql.query(&then).await;
    assert_eq!(
        (
            sealed(&fixture, &closed).await,
            sealed(&fixture, &over).await
        ),
        (3, 5)
    );
    assert!(fixture.api.claim(closed.id, "now-1").await.is("closed"));
}

#[tokio::test]
async fn after_closing_only_broken_promises_get_slots() {
    let fixture = Fixture::new("closed-promise").await;
    let coupon = with_two_waiting(
        &fixture,
        "promise",
        json!({"quantity": 5, "close_now": true}),
    )
    .await;
    let promise = format!(
        "INSERT INTO broken_promises (drop_id, user_id, coupon_id, slot, reason, run_id) \
         VALUES ({}, 'promised', {}, 9, 'by hand', 'by-hand')",
        coupon.drop, coupon.id
    );
    fixture.world.sql.query(&promise).await;
    assert_eq!(sealed(&fixture, &coupon).await, 4);
    assert!(
        rows(&fixture.world, coupon.drop)
            .await
            .values()
            .any(|user| user == "promised")
    );
}

#[tokio::test]
async fn closing_while_redis_is_down_is_finished_by_the_reconciler() {
    let fixture = Fixture::new("closed-away").await;
    let world = &fixture.world;
    let redis = &shared().await.redis;
    let proxy = redis.proxy().await.unwrap();
    let url = redis.url_via(&proxy);
    let cut_off = world
        .serve_with(&[("REDIS_URL", &url), ("STORE_TIMEOUT_MS", "500")])
        .await;
    let coupon = fixture.api.open_coupon(100).await;
    assert!(
        fixture
            .api
            .claim(coupon.id, "u-1")
            .await
            .promised()
            .is_some()
    );
    eventually("the other API knows the coupon", LIMIT, async || {
        cut_off
            .http()
            .get(&format!("/v1/coupons/{}", coupon.id))
            .await
            .status
            == 200
    })
    .await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    let answer = cut_off.patch(coupon.id, &json!({"close_now": true})).await;
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    assert_eq!(
        (answer.status, detail.contains("MySQL has the change")),
        (503, true),
        "{answer:?}"
    );
    let once = world.once_with(&[], &[]).await;
    assert_ne!(once.code, 2, "{}", once.log);
    assert!(fixture.api.claim(coupon.id, "u-2").await.is("closed"));
    proxy.set(ProxyFault::Pass).await.unwrap();
    eventually(
        "a repeated request completes the change",
        Duration::from_secs(30),
        async || {
            cut_off
                .patch(coupon.id, &json!({"close_now": true}))
                .await
                .status
                == 200
        },
    )
    .await;
    assert_eq!(sealed(&fixture, &coupon).await, 1);
}
