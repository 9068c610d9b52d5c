//! Messages become rows once, even if several consumers read them or read them again.

use std::time::Duration;

use firstcome_shared::domain::OncePer;

use crate::world::ConsumeWorld;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_becomes_a_row_and_every_offset_is_committed() {
    let (world, drop) = ConsumeWorld::with_coupon(1_000, OncePer::Coupon).await;
    world.claim(drop, 1..=1_000).await;
    let consumer = world.consumer(&[]);
    world.ends_exact(1_000, [consumer]).await;
    let instants = "issued_coupons WHERE claimed_at = FROM_UNIXTIME(1800000000 + slot / 1000)";
    world
        .mysql
        .query("SET GLOBAL time_zone = '+00:00'")
        .await
        .unwrap();
    assert_eq!(world.count(instants).await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_read_again_change_nothing() {
    let (world, drop) = ConsumeWorld::with_coupon(400, OncePer::Drop).await;
    world.claim(drop, 1..=400).await;
    world
        .consume_until("400 rows", async || world.rows().await == 400)
        .await;
    let all = "SELECT slot, user_id, code, claimed_at, issued_at FROM issued_coupons ORDER BY slot";
    let before = world.query(all).await;
    world.read_again().await;
    world
        .consume_until("all is read", async || world.read_up_to().await == 400)
        .await;
    assert_eq!(world.query(all).await, before);
    world.assert_exact(400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_waiting_for_a_store_can_be_stopped() {
    let world = ConsumeWorld::new().await;
    let consumer = world.consumer(&["--kafka-brokers=127.0.0.1:1", "--startup-wait-seconds=3600"]);
    consumer.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), consumer.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}
