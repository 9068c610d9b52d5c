//! Batches that decompress to more than the memory of a process.

use std::time::Duration;

use firstcome_testkit::{LIMIT, eventually, open_world};

const PATIENCE: Duration = Duration::from_secs(120);

/// Below the limit in `deploy/kubernetes/consumer.yaml`, with a reserve for the allocator.
const MOST_KIB: u64 = 420 * 1024;

/// Another tool created the topic, so a batch may have a megabyte. Three batches decompress to 135
/// MB each.
#[tokio::test]
async fn batches_that_decompress_to_a_large_size_do_not_exceed_a_consumers_memory() {
    let (world, api) = open_world("expands").await;
    world.topic.alter(&[("max.message.bytes", "1048588")]).await;
    eventually("the topic allows it", LIMIT, async || {
        world.topic.topic_setting("max.message.bytes").await == "1048588"
    })
    .await;
    for partition in 0..3 {
        world
            .topic
            .produce_batch(partition, "gzip", &vec![vec![b'a'; 900_000]; 150])
            .await;
    }
    world.topic.alter(&[("max.message.bytes", "65536")]).await;
    eventually("the limit holds", LIMIT, async || {
        world.topic.topic_setting("max.message.bytes").await == "65536"
    })
    .await;
    let consumer = world.consume().await;
    let count = "SELECT COUNT(*) FROM failed_claims WHERE reason = 'undecodable' AND LENGTH(payload) = 4096";
    eventually("all messages are dead letters", PATIENCE, async || {
        world.sql.number(count).await == 450
    })
    .await;
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", consumer.process.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MOST_KIB, "{peak} KiB");
    assert_eq!(consumer.process.stop().await, 0);
    drop(api);
}
