//! An attacker writes many records that no Kafka client can decode.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;
use firstcome_testkit::{
    World, WorldStores, all_issued, assert_exact, eventually, people, rush, shared,
};
use futures_util::future::join_all;

use crate::faults::waves::impatient;

const PARTITIONS: u32 = 12;
const BATCHES: u32 = 90;

/// A partition waits for the time without a message (3 s here) and a probe, once or twice.
const HEALED: Duration = Duration::from_secs(120);

/// Writes 1,080 malformed records.
async fn flood(world: &World, foreign: (CouponId, DropId)) {
    let (coupon_id, drop_id) = foreign;
    let claim = |slot: u32| {
        let claim = ClaimEvent {
            coupon_id,
            drop_id,
            slot,
            user_id: format!("malformed-{slot}-").parse().unwrap(),
            claimed_at: Utc::now(),
        };
        claim.encode().into_bytes()
    };
    join_all((0..PARTITIONS).map(|partition| {
        let slot = |batch: u32| batch * PARTITIONS + partition + 1;
        let claims: Vec<_> = (0..BATCHES).map(|batch| claim(slot(batch))).collect();
        let topic = &world.topic;
        async move {
            topic
                .produce_batches(partition.cast_signed(), "none", &claims, 1)
                .await
        }
    }))
    .await;
    let topic = world.setting("KAFKA_TOPIC");
    for slot in 1..=PARTITIONS * BATCHES {
        let user = format!("\"malformed-{slot}-\"");
        let partition = ((slot - 1) % PARTITIONS).cast_signed();
        let kafka = &shared().await.kafka;
        kafka.malform(&topic, partition, user.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn a_flood_of_malformed_records_on_all_partitions_loses_no_promise() {
    let world = impatient(WorldStores::shared().await, "flood").await;
    world.topic.grow(PARTITIONS as usize).await;
    let (api, daemon) = tokio::join!(world.serve(), world.daemon_with(&[]));
    let foreign = api.open_coupon(2_000).await;
    let coupon = api.open_coupon(300).await;
    // Claims before, between and after the malformed records.
    let mut answers = rush(&[&api], coupon.id, &people(100), 20).await;
    flood(&world, (CouponId(foreign.id), DropId(foreign.drop))).await;
    answers.extend(rush(&[&api], coupon.id, &people(200)[100..], 20).await);
    let consumer = world
        .consume_with(&[("FIRSTCOME_TEST_CONSUME_STUCK_SECONDS", "3")])
        .await;
    let letters =
        "SELECT COUNT(DISTINCT source_partition) FROM failed_claims WHERE reason = 'unreadable'";
    eventually("the flood is left out", HEALED, async || {
        world.sql.number(letters).await == i64::from(PARTITIONS)
    })
    .await;
    answers.extend(rush(&[&api], coupon.id, &people(300)[200..], 20).await);
    all_issued(&world, coupon.drop, 300).await;
    assert_exact(&world, &coupon, 300, &answers).await;
    assert_eq!(
        (consumer.process.stop().await, daemon.process.stop().await),
        (0, 0)
    );
}
