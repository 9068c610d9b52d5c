//! Four consumers, twenty thousand messages, forty of the consumers killed in the middle of a batch.

use std::time::{Duration, Instant};

use firstcome_testkit::{Api, Coupon, LIMIT, Promise, Stores, World, assert_exact, eventually, people, rows, rush};

const CONSUMERS: usize = 4;
const KILLS_EACH: usize = 10;
const COUPONS: usize = 20;
const QUANTITY: u32 = 1_000;

/// Until every row is there, on a busy machine.
const ISSUED: Duration = Duration::from_secs(120);

/// Where a batch is cut: before its transaction, in it, and after it but before its offsets are committed.
const IN_MID_BATCH: [&str; 3] = ["rows_begun", "rows_inserted", "rows_committed"];

/// Starts a consumer again and again; each stands still in the middle of a batch and is killed there.
async fn killed_again_and_again(world: &World, consumer: usize) -> usize {
    let mut kills = 0;
    for round in 0..KILLS_EACH {
        let point = IN_MID_BATCH[(consumer + round) % IN_MID_BATCH.len()];
        let at = format!("{point}:{}", 1 + round % 3);
        let process = world.start("firstcome-api", &["consume"], &[("FIRSTCOME_STALL_AT", &at)]);
        let there = format!("stall point {point}");
        eventually(&format!("consumer {consumer} is in mid-batch"), ISSUED, async || {
            assert!(process.status().is_none(), "{}", process.log());
            process.log().contains(&there)
        })
        .await;
        process.kill().await;
        kills += 1;
    }
    kills
}

async fn crowd(api: &Api, coupons: &[Coupon]) -> Vec<Vec<Promise>> {
    let mut answers = Vec::new();
    for coupon in coupons {
        answers.push(rush(&[api], coupon.id, &people(QUANTITY as usize), 200).await);
    }
    answers
}

#[tokio::test]
async fn four_consumers_killed_forty_times_in_mid_batch_leave_no_gap_and_no_double_in_twenty_thousand_messages() {
    let world = World::bare(Stores::shared().await, "forty").await;
    world.set("KAFKA_PARTITIONS", "8");
    world.set("CONSUME_BATCH_MAX", "50");
    world.set("CONSUME_SESSION_TIMEOUT_MS", "1000");
    assert_eq!(world.start("firstcome-api", &["migrate"], &[]).ended(LIMIT).await, 0);
    let api = world.serve().await;
    world.open().await;
    let mut coupons = Vec::new();
    for _ in 0..COUPONS {
        coupons.push(api.open_coupon(QUANTITY).await);
    }
    let begun = Instant::now();
    let kills = futures_util::future::join_all((0..CONSUMERS).map(|n| killed_again_and_again(&world, n)));
    let (answers, kills) = tokio::join!(crowd(&api, &coupons), kills);
    assert_eq!(kills.iter().sum::<usize>(), 40);
    let killed_at = begun.elapsed();

    let mut last = Vec::new();
    for _ in 0..CONSUMERS {
        last.push(world.consume().await);
    }
    let all = i64::from(QUANTITY) * i64::try_from(COUPONS).unwrap();
    let issued = "SELECT COUNT(*) FROM issued_coupons";
    eventually("every row is there", ISSUED, async || {
        world.sql.number(issued).await == all && world.topic.lag().await == 0
    })
    .await;
    for (coupon, answers) in coupons.iter().zip(&answers) {
        assert_eq!(rows(&world, coupon.drop).await.len(), QUANTITY as usize);
        assert_exact(&world, coupon, QUANTITY, answers).await;
        assert!(answers.iter().all(|(_, answer)| answer.is_accepted()));
    }
    let by = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'consumer'";
    assert_eq!(world.sql.number(by).await, all, "no pass helped");
    assert!(world.sql.query("SELECT * FROM failed_claims").await.is_empty());
    println!("40 kills in {killed_at:.1?}, {all} rows in {:.1?}", begun.elapsed());
}
