//! An attacker writes many records that no Kafka client can decode.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::ClaimEvent;
use firstcome_testkit::{all_issued, eventually, open_world, people, rows, rush, shared};
use futures_util::future::join_all;

const PARTITIONS: u32 = 12;
const BATCHES: u32 = 90;

/// Each malformed record delays the rows behind it in its partition by a second or two, and the
/// partitions work in parallel.
const HEALED: Duration = Duration::from_secs(600);

/// 1,080 malformed records, each in a batch between two valid claims.
#[tokio::test]
async fn a_flood_of_malformed_records_on_all_partitions_loses_no_claim() {
    let (world, api) = open_world("flood").await;
    world.topic.grow(PARTITIONS as usize).await;
    let batches = PARTITIONS * BATCHES;
    let foreign = api.open_coupon(3 * batches).await;
    let coupon_id = CouponId(foreign.id);
    let drop_id = DropId(foreign.drop);
    let claim = |slot: u32, user: String| {
        let claim = ClaimEvent {
            coupon_id,
            drop_id,
            slot,
            user_id: user.parse().unwrap(),
            claimed_at: Utc::now(),
        };
        claim.encode().into_bytes()
    };
    join_all((0..PARTITIONS).map(|partition| {
        let claims: Vec<_> = (0..BATCHES)
            .flat_map(|batch| {
                let slot = 3 * (batch * PARTITIONS + partition) + 1;
                [
                    claim(slot, format!("good-{slot}")),
                    claim(slot + 1, format!("malformed-{slot}-")),
                    claim(slot + 2, format!("good-{}", slot + 2)),
                ]
            })
            .collect();
        let topic = &world.topic;
        async move {
            topic
                .produce_batches(partition.cast_signed(), "none", &claims, 3)
                .await
        }
    }))
    .await;
    let topic = world.setting("KAFKA_TOPIC");
    for batch in 0..batches {
        let user = format!("\"malformed-{}-\"", 3 * batch + 1);
        let partition = (batch % PARTITIONS).cast_signed();
        shared()
            .await
            .kafka
            .malform(&topic, partition, user.as_bytes())
            .unwrap();
    }

    let consumer = world.consume().await;
    // Claims that arrive during the flood.
    let coupon = api.open_coupon(100).await;
    rush(&[&api], coupon.id, &people(200), 20).await;
    let good = 2 * batches as usize;
    eventually("all valid claims are issued", HEALED, async || {
        rows(&world, foreign.drop).await.len() == good
    })
    .await;
    all_issued(&world, coupon.drop, 100).await;
    let letters = "SELECT COUNT(*) FROM failed_claims WHERE reason = 'unreadable'";
    assert_eq!(world.sql.number(letters).await, i64::from(batches));
    assert_eq!(consumer.process.stop().await, 0);
}
