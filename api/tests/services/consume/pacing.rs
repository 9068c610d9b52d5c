//! `ROWS_PER_SECOND`: all consumers together keep a pace, and a partition that waits for it does
//! not look forgotten.

use firstcome_shared::claim::Claim;
use firstcome_shared::domain::{NamedDrop, OncePer};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use tokio::time::Instant;

use super::world::{ConsumeWorld, LIMIT, PARTITIONS, claim_event, until};

/// Number of claims in each message, which is written whole.
const TOGETHER: u32 = 100;

impl ConsumeWorld {
    /// Sends a message with [`TOGETHER`] claims to each of these partitions.
    async fn claim_together(&self, drop: NamedDrop, partitions: &[i32]) {
        let messages = (0..).zip(partitions).map(|(number, partition)| {
            let slots = number * TOGETHER + 1..=(number + 1) * TOGETHER;
            let claim = |slot| claim_event(drop.coupon, drop.drop, slot, &format!("u-{slot}"));
            let claims: Vec<Claim> = slots.map(claim).collect();
            let claims: Vec<&Claim> = claims.iter().collect();
            let value = Claim::encode_batch(&claims, chrono::Utc::now()).unwrap();
            (*partition, Some(claims[0].key()), Some(value))
        });
        self.send(messages.collect()).await;
    }

    /// Waits until an owner has reported again that it attends to each partition.
    async fn until_touched(&self) {
        self.query("UPDATE topic_positions SET seen_at = '2020-01-01'")
            .await;
        until("partitions are touched", async || {
            let recent = "topic_positions WHERE seen_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR";
            self.count(recent).await == u64::try_from(PARTITIONS).unwrap()
        })
        .await;
    }

    /// Increases the topic's partitions to this number.
    async fn grow(&self, partitions: i32) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka.brokers);
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        let number = usize::try_from(partitions).unwrap();
        let more = NewPartitions::new(&self.kafka.topic, number);
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let grown = admin.create_partitions([&more], &options).await.unwrap();
        assert!(grown[0].is_ok(), "{grown:?}");
    }
}

/// The next message is due in 100 seconds, after the time limit of `until`.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_partitions_are_touched_and_a_suspended_pace_delays_no_message() {
    let (world, drop) = ConsumeWorld::with_coupon(500, OncePer::Coupon).await;
    let consumer = world.consumer(&["--rows-per-second=1"]);
    world.until_begun(PARTITIONS).await;
    // Another owner may wait for the pace meanwhile.
    world.until_touched().await;
    world.claim_together(drop, &[0, 0, 0, 0, 0]).await;
    world.until_rows(u64::from(TOGETHER)).await;
    // The first message is written, and the other four wait.
    world.until_touched().await;
    assert_eq!(world.rows().await, u64::from(TOGETHER));
    let suspended = Instant::now();
    world.db.suspend_pace().await.unwrap();
    world.until_rows(500).await;
    let took = suspended.elapsed().as_secs_f64();
    println!("400 claims without a pace: {took:.1} s");
    consumer.stop().await;
    world.assert_exact(500).await;
}

/// The first consumer has a debt of more than a minute when the other takes over its partitions.
#[tokio::test(flavor = "multi_thread")]
async fn next_owner_of_a_partition_does_not_inherit_its_debt() {
    let (world, drop) = ConsumeWorld::with_coupon(200, OncePer::Coupon).await;
    let pace = ["--rows-per-second=1"];
    let first = world.consumer(&pace);
    world.until_begun(PARTITIONS).await;
    world.claim_together(drop, &[0, 0]).await;
    world.until_rows(u64::from(TOGETHER)).await;
    let second = world.consumer(&pace);
    first.stop().await;
    world.until_rows(200).await;
    second.stop().await;
    world.assert_exact(200).await;
}

/// If two consumers counted only the first partitions, each would take the whole pace for its half.
#[tokio::test(flavor = "multi_thread")]
async fn added_partitions_do_not_raise_the_pace() {
    let (world, drop) = ConsumeWorld::with_coupon(100, OncePer::Coupon).await;
    let pace = ["--rows-per-second=10"];
    let consumers = [world.consumer(&pace), world.consumer(&pace)];
    world.until_begun(PARTITIONS).await;
    world.grow(2 * PARTITIONS).await;
    world.until_begun(2 * PARTITIONS).await;
    let messages = (1..=100).map(|slot: u32| {
        let claim = claim_event(drop.coupon, drop.drop, slot, &format!("u-{slot}"));
        let partition = i32::try_from(slot).unwrap() % (2 * PARTITIONS);
        (partition, Some(claim.key()), Some(claim.encode()))
    });
    let begun = Instant::now();
    world.send(messages.collect()).await;
    world.until_rows(100).await;
    let took = begun.elapsed().as_secs_f64();
    println!("100 claims at 10 a second by two consumers: {took:.1} s");
    assert!(took > 8.0, "{took}");
    for consumer in consumers {
        consumer.stop().await;
    }
}

#[tokio::test]
async fn suspension_from_before_the_clock_of_mysql_was_set_back_has_ended() {
    let world = ConsumeWorld::new().await;
    world.db.suspend_pace().await.unwrap();
    assert!(world.db.is_pace_suspended().await.unwrap());
    let state = format!("{}.reconciler_state", world.database);
    world
        .query(&format!(
            "UPDATE {state} SET updated_at = updated_at + INTERVAL 1 HOUR"
        ))
        .await;
    assert!(!world.db.is_pace_suspended().await.unwrap());
}
