//! Processes that are killed or frozen during their work.

use std::time::Duration;

use firstcome_testkit::{
    HeldTransaction, LIMIT, LOCK_WAITS, all_issued, assert_clean, assert_exact, eventually,
    open_world, people, rush,
};

#[tokio::test]
#[ignore = "release"]
async fn partitions_of_a_killed_consumer_are_taken_over_within_ten_seconds() {
    let (world, api) = open_world("take-over").await;
    let coupon = api.open_coupon(500).await;
    let first = world.consume().await;
    let mut answers = rush(&[&api], coupon.id, &people(100), 100).await;
    all_issued(&world, coupon.drop, 100).await;
    // The drop's messages are on three partitions, so each of the two consumers reads some of them.
    let _other = world.consume().await;
    first.process.kill().await;
    let at = std::time::Instant::now();
    let users: Vec<String> = (0..100).map(|n| format!("later-{n}")).collect();
    answers.extend(rush(&[&api], coupon.id, &users, 100).await);
    all_issued(&world, coupon.drop, 200).await;
    assert!(at.elapsed() < Duration::from_secs(12), "{:?}", at.elapsed());
    assert_exact(&world, &coupon, 200, &answers).await;
}

#[tokio::test]
async fn a_reconciler_frozen_during_a_pass_does_not_block_other_passes() {
    let (world, api) = open_world("reconciler-frozen").await;
    let coupon = api.open_coupon(50).await;
    let consumer = world.consume().await;
    let answers = rush(&[&api], coupon.id, &people(50), 50).await;
    all_issued(&world, coupon.drop, 50).await;
    consumer.process.stop().await;
    let daemon = world.daemon().await;
    world
        .sql
        .query("DELETE FROM issued_coupons WHERE slot > 40")
        .await;

    // The daemon is frozen during a write, while it holds the pass lock and row locks.
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding
        .run(&format!(
            "SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE",
            coupon.drop
        ))
        .await;
    daemon.begin().await;
    eventually("the pass waits for the row locks", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    })
    .await;
    daemon.process.freeze();
    holding.commit().await;

    let once = world.once_with(&["--wait-seconds", "30"], &[]).await;
    assert_eq!(once.code, 0, "{}", once.log);
    assert_exact(&world, &coupon, 50, &answers).await;
    daemon.process.thaw();
    let left = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
    eventually("no run is recorded as running", LIMIT, async || {
        world.sql.number(left).await == 0
    })
    .await;
    assert_clean(&world.pass().await, &coupon);
    assert_eq!(daemon.process.stop().await, 0);
}
