//! Record batches of the topic: compressed by other producers, corrupted by a disk, or larger than
//! memory.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;

use firstcome_testkit::{
    LIMIT, MadeCoupon, World, eventually, open_world, people, rows, rush, shared,
};

use crate::faults::waves::HEALED;

/// Shorter than the reconciler's wait, so rows that appear within this time come from the consumer.
const SECONDS: Duration = Duration::from_secs(20);

/// Encodes claims in which user `u-N` claims slot N.
fn claims(coupon: &MadeCoupon, slots: impl Iterator<Item = u32>) -> Vec<Vec<u8>> {
    let claim = |slot| {
        let user_id = format!("u-{slot}").parse().unwrap();
        let coupon_id = CouponId(coupon.id);
        let drop_id = DropId(coupon.drop);
        ClaimEvent {
            coupon_id,
            drop_id,
            slot,
            user_id,
            claimed_at: Utc::now(),
        }
        .encode()
        .into_bytes()
    };
    slots.map(claim).collect()
}

async fn letters(world: &World) -> Vec<Vec<String>> {
    let kept = "SELECT reason, source_partition, source_offset, error FROM failed_claims ORDER BY source_partition";
    world.sql.query(kept).await
}

/// Partition 0 has a batch with a wrong checksum, partition 1 one that decompresses to 36 MB, and
/// partition 2 a malformed record, for which Kafka's client reports no error.
#[tokio::test]
async fn an_unreadable_batch_delays_only_its_partition_and_becomes_a_dead_letter() {
    let (world, api) = open_world("unreadable").await;
    let coupon = api.open_coupon(40).await;
    let batch = async |partition, from| {
        let claims = claims(&coupon, from..from + 3);
        world.topic.produce_batch(partition, "none", &claims).await
    };
    for (partition, from) in [(0, 1), (0, 4), (0, 7), (1, 10), (2, 16), (2, 19)] {
        batch(partition, from).await;
    }
    let large = vec![vec![b'a'; 900_000]; 40];
    world.topic.produce_batch(1, "zstd", &large).await;
    batch(1, 13).await;
    let (kafka, topic) = (&shared().await.kafka, world.setting("KAFKA_TOPIC"));
    kafka.garble(&topic, 0, b"\"u-5\"").unwrap();
    kafka.malform(&topic, 2, b"\"u-20\"").unwrap();
    let soon_silent = [("FIRSTCOME_TEST_CONSUME_STUCK_SECONDS", "3")];
    let consumer = world.consume_with(&soon_silent).await;
    eventually("earlier messages are issued", LIMIT, async || {
        rows(&world, coupon.drop).await.len() >= 9
    })
    .await;
    assert_eq!(letters(&world).await.len(), 0, "{}", consumer.process.log());
    eventually("unreadable messages are left out", HEALED, async || {
        letters(&world).await.len() == 3
    })
    .await;
    let causes = [("0", "checksum"), ("1", "decompressed"), ("2", "malformed")];
    for ((partition, cause), row) in causes.iter().zip(letters(&world).await) {
        assert_eq!(row[..2], ["unreadable", partition]);
        assert!(
            row[3].contains("offsets ") && row[3].contains(cause),
            "{row:?}"
        );
    }
    // Reading continues behind them.
    let before = rows(&world, coupon.drop).await.len();
    for (partition, from) in [(0, 22), (1, 25), (2, 28)] {
        batch(partition, from).await;
    }
    eventually("later messages are issued", LIMIT, async || {
        rows(&world, coupon.drop).await.len() == before + 9
    })
    .await;
    assert_eq!(letters(&world).await.len(), 3);
    assert_eq!(consumer.process.stop().await, 0);
}

#[tokio::test]
async fn partitions_added_during_a_rush_are_used_within_seconds() {
    let (world, api) = open_world("grown").await;
    let coupon = api.open_coupon(20_000).await;
    let consumer = world.consume().await;
    world.topic.grow(9).await;
    // Written directly to the topic: consumers discover the new partition without an API.
    world
        .topic
        .produce_batch(8, "none", &claims(&coupon, 19_001..19_011))
        .await;
    eventually("rows of a new partition", SECONDS, async || {
        rows(&world, coupon.drop).await.len() == 10
    })
    .await;
    // Each API takes blocks of slots, which rotate over the partitions.
    let mut crowd = 0;
    eventually("an API uses a new partition", SECONDS, async || {
        crowd += 64;
        rush(&[&api], coupon.id, &people(crowd)[crowd - 64..], 64).await;
        let ends = world.topic.offsets().await;
        ends.iter().skip(3).take(5).any(|(_, end)| *end > 0)
    })
    .await;
    assert_eq!(consumer.process.stop().await, 0);
}
