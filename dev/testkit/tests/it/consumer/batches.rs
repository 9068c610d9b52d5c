//! Record batches of the topic: compressed by other producers, corrupted by a disk, or larger than
//! memory.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;
use firstcome_stack::{KafkaServer, RedisOptions, RedisServer};
use firstcome_testkit::{
    LIMIT, MadeCoupon, World, WorldStores, all_issued, assert_exact, eventually, open_world,
    people, rows, rush, shared,
};

use crate::faults::waves::{HEALED, impatient};

/// Shorter than the reconciler's wait, so rows that appear within this time come from the consumer.
const SECONDS: Duration = Duration::from_secs(20);

/// A partition is probed after three seconds without a message.
const SOON_SILENT: [(&str, &str); 1] = [("FIRSTCOME_TEST_CONSUME_STUCK_SECONDS", "3")];

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

#[tokio::test]
async fn batches_of_every_codec_become_rows() {
    let (world, api) = open_world("codecs").await;
    let coupon = api.open_coupon(50).await;
    let consumer = world.consume().await;
    for (codec, from) in ["none", "gzip", "snappy", "lz4", "zstd"]
        .into_iter()
        .zip([1, 11, 21, 31, 41])
    {
        world
            .topic
            .produce_batch(1, codec, &claims(&coupon, from..from + 10))
            .await;
    }
    all_issued(&world, coupon.drop, 50).await;
    assert_eq!(letters(&world).await.len(), 0);
    assert_eq!(consumer.process.stop().await, 0);
}

/// Returns the unreadable ranges, by partition.
async fn unreadable(world: &World, number: usize) -> Vec<Vec<String>> {
    eventually("unreadable messages are left out", HEALED, async || {
        letters(world).await.len() == number
    })
    .await;
    letters(world).await
}

/// Kafka's client stays stuck at the batch of partition 1. In partitions 0 and 2 it resumes at the
/// first message after the bad one.
#[tokio::test]
async fn an_unreadable_batch_delays_only_its_partition_and_becomes_a_dead_letter() {
    let (world, api) = open_world("unreadable").await;
    let coupon = api.open_coupon(30).await;
    let batch = async |partition, from| {
        world
            .topic
            .produce_batch(partition, "none", &claims(&coupon, from..from + 3))
            .await
    };
    for (partition, from) in [(0, 1), (0, 4), (0, 7), (1, 10), (2, 16), (2, 19)] {
        batch(partition, from).await;
    }
    // This batch decompresses to 36 MB.
    world
        .topic
        .produce_batch(1, "zstd", &vec![vec![b'a'; 900_000]; 40])
        .await;
    batch(1, 13).await;
    let kafka = &shared().await.kafka;
    for (partition, user) in [(0, "u-5"), (2, "u-20")] {
        kafka
            .garble(
                &world.setting("KAFKA_TOPIC"),
                partition,
                format!("\"{user}\"").as_bytes(),
            )
            .unwrap();
    }
    let consumer = world.consume_with(&SOON_SILENT).await;
    eventually("earlier messages are issued", LIMIT, async || {
        rows(&world, coupon.drop).await.len() >= 9
    })
    .await;
    assert_eq!(letters(&world).await.len(), 0, "{}", consumer.process.log());
    let places = [
        ("0", "3", "offsets 3 to 8 of partition 0", "checksum"),
        ("1", "3", "offsets 3 to 45 of partition 1", "decompressed"),
        ("2", "3", "offsets 3 to 5 of partition 2", "checksum"),
    ];
    let kept = unreadable(&world, 3).await;
    for ((partition, offset, named, cause), row) in places.iter().zip(&kept) {
        assert_eq!(row[..3], ["unreadable", partition, offset]);
        assert!(row[3].contains(named) && row[3].contains(cause), "{row:?}");
    }
    // Reading continues behind them.
    for (partition, from) in [(0, 22), (1, 25), (2, 28)] {
        batch(partition, from).await;
    }
    all_issued(&world, coupon.drop, 18).await;
    assert_eq!(letters(&world).await.len(), 3);
    assert_eq!(consumer.process.stop().await, 0);
}

/// Kafka's client reports no error for a malformed record, because it mistakes the record for a
/// truncated response.
#[tokio::test]
async fn a_malformed_record_delays_only_its_partition_and_becomes_a_dead_letter() {
    let (world, api) = open_world("malformed").await;
    let coupon = api.open_coupon(15).await;
    let batch = async |partition, from| {
        world
            .topic
            .produce_batch(partition, "none", &claims(&coupon, from..from + 3))
            .await
    };
    for (partition, from) in [(0, 1), (0, 4), (0, 7), (1, 10)] {
        batch(partition, from).await;
    }
    shared()
        .await
        .kafka
        .malform(&world.setting("KAFKA_TOPIC"), 0, b"\"u-5\"")
        .unwrap();
    let consumer = world.consume_with(&SOON_SILENT).await;
    let kept = unreadable(&world, 1).await;
    assert_eq!(kept[0][..3], ["unreadable", "0", "4"]);
    assert!(
        kept[0][3].contains("offsets 4 to 8") && kept[0][3].contains("malformed"),
        "{kept:?}"
    );
    batch(0, 13).await;
    all_issued(&world, coupon.drop, 10).await;
    assert_eq!(letters(&world).await.len(), 1);
    assert_eq!(consumer.process.stop().await, 0);
}

#[tokio::test]
async fn a_redis_restart_while_a_batch_is_unreadable_loses_no_promise() {
    let garble = |kafka: &KafkaServer, topic: &str, partition| {
        kafka.garble(topic, partition, b"\"slot\":5").is_ok()
    };
    reopens_without_a_lost_promise("garbled", garble, "checksum").await;
}

#[tokio::test]
async fn a_redis_restart_while_a_record_is_malformed_loses_no_promise() {
    let malform = |kafka: &KafkaServer, topic: &str, partition| {
        kafka.malform(topic, partition, b"\"slot\":5").is_ok()
    };
    reopens_without_a_lost_promise("deformed", malform, "malformed").await;
}

async fn reopens_without_a_lost_promise(
    name: &str,
    spoil: impl Fn(&KafkaServer, &str, i32) -> bool,
    cause: &str,
) {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let world = impatient(stores, name).await;
    let (api, ()) = tokio::join!(world.serve(), world.open());
    let coupon = api.open_coupon(20).await;
    let mut answers = rush(&[&api], coupon.id, &people(10), 10).await;
    let kafka = &shared().await.kafka;
    let topic = world.setting("KAFKA_TOPIC");
    assert!((0..3).any(|partition| spoil(kafka, &topic, partition)));
    redis.kill().await.unwrap();
    redis.start_again().await.unwrap();
    assert!(api.claim(coupon.id, "late").await.is("unavailable"));
    let daemon = world
        .daemon_with(&[("RECONCILE_CRON", "* * * * * *")])
        .await;
    let consumer = world.consume_with(&SOON_SILENT).await;
    eventually("admission is open again", HEALED, async || {
        api.claim(coupon.id, "late").await.promised().is_some()
    })
    .await;
    answers.extend(rush(&[&api], coupon.id, &people(20)[10..19], 10).await);
    all_issued(&world, coupon.drop, 20).await;
    assert_exact(&world, &coupon, 20, &answers).await;
    let kept = letters(&world).await;
    assert!(
        matches!(&kept[..], [row] if row[0] == "unreadable" && row[3].contains(cause)),
        "{kept:?}"
    );
    assert_eq!(
        (consumer.process.stop().await, daemon.process.stop().await),
        (0, 0)
    );
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
