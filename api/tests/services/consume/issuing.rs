//! Every message becomes a row. A consumer that waits for a store can be stopped, and a topic takes
//! messages from an API whose clock is ahead.

use chrono::Utc;
use firstcome_shared::domain::OncePer;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::world::{ConsumeWorld, LIMIT};

#[tokio::test(flavor = "multi_thread")]
async fn every_message_becomes_a_row_and_every_offset_is_committed() {
    let (world, drop) = ConsumeWorld::with_coupon(1_000, OncePer::Coupon).await;
    world.claim(drop, 1..=1_000).await;
    let consumer = world.consumer(&[]);
    world.ends_exact(1_000, [consumer]).await;
    let instants = "issued_coupons WHERE claimed_at = FROM_UNIXTIME(1800000000 + slot / 1000)";
    assert_eq!(world.count(instants).await, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_waiting_for_a_store_can_be_stopped() {
    let world = ConsumeWorld::new().await;
    let consumer = world.consumer(&["--kafka-brokers=127.0.0.1:1", "--startup-wait-seconds=3600"]);
    consumer.stop().await;
}

/// By default, Kafka refuses messages whose time is more than an hour ahead of the broker's.
#[tokio::test]
async fn topic_takes_the_messages_of_an_api_whose_clock_is_hours_ahead() {
    let world = ConsumeWorld::new().await;
    let producer: FutureProducer = world.kafka.producer(LIMIT).create().unwrap();
    let ahead = Utc::now().timestamp_millis() + 7_200_000;
    let record = FutureRecord::to(&world.kafka.topic)
        .key("key")
        .payload("claim")
        .timestamp(ahead);
    let delivered = producer.send(record, LIMIT).await.unwrap();
    assert!(delivered.timestamp.to_millis() < Some(ahead));
}
