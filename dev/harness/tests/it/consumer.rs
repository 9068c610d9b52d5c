//! The consumer: batches that a disk has corrupted or that are too large once decompressed, and a
//! loop that is stuck.

use firstcome_harness::open_world;

use crate::faults::waves::{Waves, impatient};
use crate::prelude::*;

/// Partition 0 has a batch with a wrong checksum, partition 1 one that decompresses to 36 MB, and
/// partition 2 a malformed record, for which Kafka's client reports no error.
#[tokio::test]
async fn an_unreadable_batch_becomes_a_dead_letter_and_later_messages_are_issued() {
    let (world, api) = open_world("unreadable").await;
    let coupon = api.open_coupon(40).await;
    // Sends a batch of three claims, each of user `u-N` on slot N.
    let batch = async |partition, from: u32| {
        let claim = |slot| {
            let at = "2026-06-01T00:00:00.000Z";
            let claim = json!({"slot": slot, "user_id": format!("u-{slot}"), "claimed_at": at});
            json!({"v": 2, "coupon_id": coupon.id, "drop_id": coupon.drop, "claims": [claim]})
        };
        let claims: Vec<_> = (from..from + 3)
            .map(|slot| claim(slot).to_string().into())
            .collect();
        world.topic.produce_batch(partition, "none", &claims).await
    };
    let letters = async || {
        let letters =
            "SELECT reason, source_partition, error FROM failed_claims ORDER BY source_partition";
        world.sql.query(letters).await
    };
    for (partition, from) in [(0, 1), (0, 4), (0, 7), (1, 10), (2, 16), (2, 19)] {
        batch(partition, from).await;
    }
    let large = vec![vec![b'a'; 900_000]; 40];
    world.topic.produce_batch(1, "zstd", &large).await;
    batch(1, 13).await;
    let kafka = &Stack::shared().await.unwrap().kafka;
    let topic = world.setting("KAFKA_TOPIC");
    kafka.garble(&topic, 0, b"\"u-5\"").unwrap();
    kafka.malform(&topic, 2, b"\"u-20\"").unwrap();
    let soon_silent = [("FIRSTCOME_TEST_CONSUME_STUCK_SECONDS", "6")];
    let _consumer = world.consume_with(&soon_silent).await;
    eventually("earlier messages are issued", LIMIT, async || {
        rows(&world, coupon.drop).await.len() >= 9
    })
    .await;
    eventually("unreadable messages are left out", LIMIT, async || {
        letters().await.len() == 3
    })
    .await;
    let causes = [
        ("0", "checksum", 1),
        ("1", "decompressed", 10),
        ("2", "malformed", 16),
    ];
    for ((partition, cause, slot), row) in causes.iter().zip(letters().await) {
        assert_eq!(row[..2], ["unreadable", partition]);
        let is_after = format!(
            "SELECT failed_at >= (SELECT MAX(issued_at) FROM issued_coupons \
             WHERE slot BETWEEN {slot} AND {slot} + 2) \
             FROM failed_claims WHERE source_partition = {partition}"
        );
        assert_eq!(
            world.sql.number(&is_after).await,
            1,
            "after its earlier messages"
        );
        let names = row[2].contains("offsets ") && row[2].contains(cause);
        assert!(names, "{row:?}");
    }
    // Reading continues behind the unreadable messages.
    let before = rows(&world, coupon.drop).await.len();
    for (partition, from) in [(0, 22), (1, 25), (2, 28)] {
        batch(partition, from).await;
    }
    eventually("later messages are issued", LIMIT, async || {
        rows(&world, coupon.drop).await.len() == before + 9
    })
    .await;
    assert_eq!(letters().await.len(), 3);
}

/// After three seconds without progress, `/readyz` and `/healthz` answer 503, and another consumer
/// gets the partitions.
#[tokio::test]
async fn a_stuck_consumer_reports_the_problem_and_loses_its_partitions() {
    let world = impatient(WorldStores::shared().await, "stuck").await;
    world.set("FIRSTCOME_TEST_CONSUME_STUCK_SECONDS", "3");
    let waves = Waves::begin(world).await;
    let survived = waves.survives(async |waves| {
        let stall = [("FIRSTCOME_STALL_AT", "rows_committed")];
        waves.consumer_with(&stall).await;
        waves.wave().await;
        waves.consumer_says("stall point").await;
        let other = waves.world.consume().await;
        let stuck = std::mem::replace(&mut waves.consumer, other);
        waves.wave().await;
        waves.until_answered(60).await;
        eventually("it says that it is stuck", LIMIT, async || {
            let reply = stuck.get("/readyz").await;
            reply.status == 503 && reply.text.contains("the loop has stood still")
        })
        .await;
        // These claims are still on the topic, so only a consumer can have issued them.
        waves.issued(60).await;
        assert_eq!(stuck.get("/healthz").await.status, 503);
        stuck.process.kill().await;
    });
    survived.await;
}
