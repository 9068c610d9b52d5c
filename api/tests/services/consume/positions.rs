//! Reading begins at the positions in MySQL, whatever is committed to Kafka.

use firstcome_shared::domain::OncePer;

use super::world::{ConsumeWorld, PARTITIONS, until};

const ALL: &str =
    "SELECT slot, user_id, code, claimed_at, issued_at FROM issued_coupons ORDER BY slot";

#[tokio::test(flavor = "multi_thread")]
async fn offsets_committed_by_a_tool_neither_skip_nor_repeat_messages() {
    let (world, drop) = ConsumeWorld::with_coupon(600, OncePer::Coupon).await;
    world.claim(drop, 1..=100).await;
    world
        .consume_until("100 rows", async || world.rows().await == 100)
        .await;
    let first = world.query(ALL).await;
    // An offset ahead, the beginning, and one beyond the end.
    for (rows, offset) in [(200, 50), (300, 0), (400, 1_000_000)] {
        world.claim(drop, rows - 99..=rows).await;
        world.commit_to_kafka(offset).await;
        world
            .ends_exact(u64::from(rows), [world.consumer(&[])])
            .await;
    }
    assert_eq!(world.query(ALL).await[..100], first);
}

#[tokio::test(flavor = "multi_thread")]
async fn position_outside_the_log_is_replaced_by_the_first_offset() {
    let (world, drop) = ConsumeWorld::with_coupon(100, OncePer::Coupon).await;
    world.claim(drop, 1..=100).await;
    world
        .consume_until("100 rows", async || world.read_up_to().await == 100)
        .await;
    for outside in ["1000000", "-3"] {
        world.query("DELETE FROM issued_coupons").await;
        world
            .query(&format!(
                "UPDATE topic_positions SET next_offset = {outside}"
            ))
            .await;
        world.ends_exact(100, [world.consumer(&[])]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_consumer_rereads_messages_whose_rows_a_restored_mysql_lacks() {
    let (world, drop) = ConsumeWorld::with_coupon(300, OncePer::Coupon).await;
    let consumer = world.consumer(&[]);
    world.claim(drop, 1..=100).await;
    world.until_rows(100).await;
    let kept = world.query(ALL).await;
    let dump = "SELECT partition_id, next_offset FROM topic_positions";
    let positions = world.query(dump).await;
    world.claim(drop, 101..=200).await;
    world.until_rows(200).await;
    let lost = "DELETE FROM issued_coupons WHERE slot > 100";
    world.query(lost).await;
    for row in &positions {
        let [partition, next] = &row[..] else {
            panic!("{row:?}");
        };
        world
            .query(&format!(
                "UPDATE topic_positions SET next_offset = {next} WHERE partition_id = {partition}"
            ))
            .await;
    }
    // No message arrives: the consumer compares the positions anyway.
    world.until_rows(200).await;
    // A dump from before the partitions were first read.
    world.query(lost).await;
    world.query("DELETE FROM topic_positions").await;
    world.claim(drop, 201..=210).await;
    world.until_rows(210).await;
    assert_eq!(world.query(ALL).await[..100], kept);
    until("positions move on", async || {
        world.read_up_to().await == 210
    })
    .await;
    world.ends_exact(210, [consumer]).await;
}

/// A pass reports a partition with unread messages that nobody has read for a minute.
#[tokio::test(flavor = "multi_thread")]
async fn each_batch_renews_the_time_at_which_its_partition_was_last_read() {
    let (world, drop) = ConsumeWorld::with_coupon(8, OncePer::Coupon).await;
    let consumer = world.consumer(&[]);
    world.claim(drop, 4..=4).await;
    world.until_rows(1).await;
    // The position of a partition that begins later would be recent, too.
    world.until_begun(PARTITIONS).await;
    world
        .query("UPDATE topic_positions SET seen_at = '2020-01-01'")
        .await;
    // The same partition.
    world.claim(drop, 8..=8).await;
    world.until_rows(2).await;
    let recent = "topic_positions WHERE seen_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR";
    assert_eq!(world.count(recent).await, 1);
    consumer.stop().await;
}
