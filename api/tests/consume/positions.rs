//! Reading begins at the positions in MySQL, whatever is committed to Kafka.

use firstcome_shared::domain::OncePer;

use crate::world::{ConsumeWorld, until};

const ALL: &str =
    "SELECT slot, user_id, code, claimed_at, issued_at FROM issued_coupons ORDER BY slot";

/// Why partitions are read again, as recorded in MySQL.
async fn faults(world: &ConsumeWorld) -> Vec<String> {
    let recorded = "SELECT DISTINCT fault FROM topic_positions WHERE fault IS NOT NULL";
    let rows = world.query(recorded).await;
    rows.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_committed_by_a_tool_neither_skip_nor_repeat_messages() {
    let (world, drop) = ConsumeWorld::with_coupon(600, OncePer::Coupon).await;
    world.claim(drop, 1..=100).await;
    world
        .consume_until("100 rows", async || world.rows().await == 100)
        .await;
    let first = world.query(ALL).await;
    // Ahead, the beginning, and beyond the end.
    for (rows, offset, fault) in [(200, 50, 1), (300, 0, 0), (400, 1_000_000, 1)] {
        world.claim(drop, rows - 99..=rows).await;
        world.commit_to_kafka(offset).await;
        world
            .ends_exact(u64::from(rows), [world.consumer(&[])])
            .await;
        assert_eq!(faults(&world).await, vec!["gap"; fault], "{offset}");
        world.query("UPDATE topic_positions SET fault = NULL").await;
    }
    assert_eq!(world.query(ALL).await[..100], first);
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_without_a_position_is_read_from_its_beginning() {
    let (world, drop) = ConsumeWorld::with_coupon(100, OncePer::Coupon).await;
    world.claim(drop, 1..=100).await;
    // A release without positions has read ten messages of each partition.
    world.commit_to_kafka(10).await;
    world.ends_exact(100, [world.consumer(&[])]).await;
    assert_eq!(faults(&world).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_log_is_read_from_its_beginning_and_recorded_once() {
    let (world, drop) = ConsumeWorld::with_coupon(100, OncePer::Coupon).await;
    world.claim(drop, 1..=100).await;
    world
        .consume_until("100 rows", async || world.read_up_to().await == 100)
        .await;
    for (change, fault) in [
        ("next_offset = 1000000", "beyond_end"),
        ("before_print = before_print DIV 2", "other_log"),
        ("next_offset = next_offset - 1", "other_log"),
    ] {
        world.query("DELETE FROM issued_coupons").await;
        world
            .query(&format!(
                "UPDATE topic_positions SET {change}, fault = NULL WHERE next_offset > 0"
            ))
            .await;
        world.ends_exact(100, [world.consumer(&[])]).await;
        assert_eq!(faults(&world).await, [fault], "{change}");
        world.query("UPDATE topic_positions SET fault = NULL").await;
        world.ends_exact(100, [world.consumer(&[])]).await;
        assert!(faults(&world).await.is_empty(), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_consumer_rereads_messages_whose_rows_a_restored_mysql_lacks() {
    let (world, drop) = ConsumeWorld::with_coupon(300, OncePer::Coupon).await;
    let consumer = world.consumer(&[]);
    world.claim(drop, 1..=100).await;
    world.until_rows(100).await;
    let kept = world.query(ALL).await;
    let dump =
        "SELECT partition_id, next_offset, COALESCE(before_print, 'NULL') FROM topic_positions";
    let positions = world.query(dump).await;
    world.claim(drop, 101..=200).await;
    world.until_rows(200).await;
    let lost = "DELETE FROM issued_coupons WHERE slot > 100";
    world.query(lost).await;
    for row in &positions {
        let [partition, next, print] = &row[..] else {
            panic!("{row:?}");
        };
        world
            .query(&format!(
                "UPDATE topic_positions SET next_offset = {next}, before_print = {print} WHERE partition_id = {partition}"
            ))
            .await;
    }
    // No message arrives: the consumer compares the positions anyway.
    world.until_rows(200).await;
    assert_eq!(faults(&world).await, ["gap"]);
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
