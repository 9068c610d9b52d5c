//! A consumer that is frozen in the middle of a batch.

use std::time::Duration;

use firstcome_testkit::{
    HeldTransaction, LIMIT, LOCK_WAITS, all_issued, assert_exact, eventually, open_world, people,
    rush,
};

#[tokio::test]
async fn a_frozen_consumer_is_replaced_and_its_late_writes_are_harmless() {
    let (world, api) = open_world("frozen").await;
    world.set("KAFKA_PROPERTIES", "session.timeout.ms=2000");
    let coupon = api.open_coupon(200).await;
    let mut answers = rush(&[&api], coupon.id, &people(100), 100).await;
    // The consumer is frozen in the middle of a transaction: MySQL has executed its statements,
    // keeps the rows locked, and waits for more.
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding
        .run(&format!(
            "SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE",
            coupon.drop
        ))
        .await;
    let frozen = world.consume().await;
    eventually(
        "the consumer's batch waits for the lock",
        LIMIT,
        async || world.sql.number(LOCK_WAITS).await > 0,
    )
    .await;
    frozen.process.freeze();
    holding.commit().await;

    answers.extend(rush(&[&api], coupon.id, &people(200)[100..], 100).await);
    let at = std::time::Instant::now();
    let _other = world.consume().await;
    all_issued(&world, coupon.drop, 200).await;
    assert!(at.elapsed() < Duration::from_secs(25), "{:?}", at.elapsed());
    frozen.process.thaw();
    assert_exact(&world, &coupon, 200, &answers).await;
    assert!(
        world
            .sql
            .query("SELECT * FROM failed_claims")
            .await
            .is_empty()
    );
    assert_eq!(frozen.process.stop().await, 0);
    assert_exact(&world, &coupon, 200, &answers).await;
}
