//! Processes stopped and killed in the middle of their work.

use std::time::Duration;

use firstcome_reconciler::report::Status;
use firstcome_testkit::{
    Answer, HeldTransaction, LIMIT, LOCK_WAITS, PromisedAnswer, World, all_issued, assert_clean,
    assert_exact, eventually, holders, open_world, people, rows, rush,
};
use rustix::process::Signal;

use crate::consumer::versions::announce_old_reader;

fn promised(answers: &[PromisedAnswer]) -> usize {
    answers
        .iter()
        .filter(|(_, answer)| answer.promised().is_some())
        .count()
}

/// The rows after a pass: everything that Redis gave out, which includes every promise, even those
/// whose answer was lost.
async fn mended(world: &World, coupon: &firstcome_testkit::MadeCoupon, answers: &[PromisedAnswer]) {
    eventually("every message was read", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
    // Admissions that were never published are issued after the publishing deadline.
    let count = world.redis.of_drop(coupon.id, coupon.drop, "count");
    let given: u32 = world.redis.command(&["GET", &count]).await;
    eventually("a pass leaves nothing", LIMIT, async || {
        let run = world.pass().await;
        run.status == Status::Clean && rows(world, coupon.drop).await.len() == given as usize
    })
    .await;
    assert_exact(world, coupon, given, answers).await;
    assert!(given as usize >= promised(answers));
}

#[tokio::test]
async fn an_api_stopped_under_load_ends_cleanly_and_keeps_every_promise() {
    let (world, api) = open_world("api-term").await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(3_000).await;
    let users = people(3_000);
    let claims = rush(&[&api], coupon.id, &users, 200);
    let stop = async {
        eventually("the rush is on", LIMIT, async || {
            rows(&world, coupon.drop).await.len() > 100
        })
        .await;
        api.process.stop().await
    };
    let (answers, code) = tokio::join!(claims, stop);
    assert_eq!(code, 0, "{}", api.process.log());
    let unknown = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Answer::Unknown(_)))
        .count();
    assert!(
        promised(&answers) >= 100 && unknown > 0,
        "stopped in mid-rush: {} accepted, {unknown} unknown",
        promised(&answers)
    );
    let unqueued = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Answer::Accepted { queued: false, .. }))
        .count();
    assert_eq!(unqueued, 0, "claims in progress were finished");
    mended(&world, &coupon, &answers).await;
}

#[tokio::test]
async fn a_consumer_stopped_under_load_hands_over_without_gap_or_duplicate() {
    let (world, api) = open_world("consumer-term").await;
    // Makes each claim a separate message, which is counted below.
    announce_old_reader(&world).await;
    let first = world.consume().await;
    let coupon = api.open_coupon(3_000).await;
    let claims = rush(&[&api], coupon.id, &people(3_000), 200);
    let stop = async {
        eventually("the rush is on", LIMIT, async || {
            rows(&world, coupon.drop).await.len() > 50
        })
        .await;
        let code = first.process.stop().await;
        (code, rows(&world, coupon.drop).await.len())
    };
    let (answers, (code, written)) = tokio::join!(claims, stop);
    assert_eq!(code, 0, "{}", first.process.log());
    let committed: i64 = world
        .topic
        .offsets()
        .await
        .iter()
        .map(|(committed, _)| committed)
        .sum();
    assert_eq!(
        committed,
        i64::try_from(written).unwrap(),
        "written rows were committed before the end"
    );
    let _second = world.consume().await;
    all_issued(&world, coupon.drop, 3_000).await;
    assert_exact(&world, &coupon, 3_000, &answers).await;
    assert!(
        world
            .sql
            .query("SELECT * FROM failed_claims")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn partitions_of_a_killed_consumer_are_taken_over_within_ten_seconds() {
    let (world, api) = open_world("take-over").await;
    let coupon = api.open_coupon(500).await;
    let first = world.consume().await;
    let mut answers = rush(&[&api], coupon.id, &people(100), 100).await;
    all_issued(&world, coupon.drop, 100).await;
    // A drop's messages are on all three partitions, and each of the two consumers has at least
    // one.
    let _other = world.consume().await;
    first.process.kill().await;
    let at = std::time::Instant::now();
    let users: Vec<String> = (0..100).map(|n| format!("later-{n}")).collect();
    answers.extend(rush(&[&api], coupon.id, &users, 100).await);
    all_issued(&world, coupon.drop, 200).await;
    assert!(at.elapsed() < Duration::from_secs(12), "{:?}", at.elapsed());
    assert_exact(&world, &coupon, 200, &answers).await;
}

#[tokio::test]
async fn the_whole_system_restarted_in_mid_rush_is_exact() {
    let (world, api) = open_world("all-term").await;
    world.set("RECONCILE_CRON", "* * * * * *");
    let (consumer, daemon) = (world.consume().await, world.daemon().await);
    let coupon = api.open_coupon(2_000).await;
    let users = people(2_500);
    let claims = rush(&[&api], coupon.id, &users, 200);
    let end = async {
        eventually("the rush is on", LIMIT, async || {
            rows(&world, coupon.drop).await.len() > 100
        })
        .await;
        for process in [&api.process, &consumer.process, &daemon.process] {
            process.signal(Signal::TERM);
        }
        for process in [&api.process, &consumer.process, &daemon.process] {
            assert_eq!(process.ended(LIMIT).await, 0, "{}", process.log());
        }
    };
    let (mut answers, ()) = tokio::join!(claims, end);
    assert!(
        promised(&answers) >= 100
            && answers
                .iter()
                .any(|(_, answer)| matches!(answer, Answer::Unknown(_)))
    );

    let (api, _consumer, _daemon) = (
        world.serve().await,
        world.consume().await,
        world.daemon().await,
    );
    answers.extend(rush(&[&api], coupon.id, &users, 200).await);
    assert_eq!(holders(&world, &coupon).await, 2_000);
    all_issued(&world, coupon.drop, 2_000).await;
    assert_exact(&world, &coupon, 2_000, &answers).await;
    let failed = world
        .sql
        .query("SELECT reason, resolved_at FROM failed_claims WHERE resolved_at IS NULL")
        .await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_reconciler_frozen_in_mid_pass_does_not_block_other_passes() {
    let (world, api) = open_world("reconciler-frozen").await;
    let coupon = api.open_coupon(50).await;
    let consumer = world.consume().await;
    let answers = rush(&[&api], coupon.id, &people(50), 50).await;
    all_issued(&world, coupon.drop, 50).await;
    consumer.process.stop().await;
    let daemon = world.daemon().await;
    world
        .sql
        .query("DELETE FROM issued_coupons WHERE slot > 40")
        .await;

    // It is suspended while it writes, holding the pass lock and row locks.
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding
        .run(&format!(
            "SELECT drop_id FROM slot_limits WHERE drop_id = {} FOR UPDATE",
            coupon.drop
        ))
        .await;
    daemon.begin().await;
    eventually("it waits for the row locks", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    })
    .await;
    daemon.process.freeze();
    holding.commit().await;

    let once = world.once_with(&["--wait-seconds", "30"], &[]).await;
    assert_eq!(once.code, 0, "{}", once.log);
    assert_exact(&world, &coupon, 50, &answers).await;
    daemon.process.thaw();
    let left = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running'";
    eventually("no run is recorded as running", LIMIT, async || {
        world.sql.number(left).await == 0
    })
    .await;
    assert_clean(&world.pass().await, &coupon);
    assert_eq!(daemon.process.stop().await, 0);
}
