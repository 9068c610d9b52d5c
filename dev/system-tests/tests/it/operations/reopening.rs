//! How soon admission reopens after a loss of Redis, beside a pass that runs and many other coupons.

use std::time::{Duration, Instant};

use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::scale::measured;
use firstcome_testkit::{Fixture, Stores, eventually};

use super::sizes::insert;
use crate::faults::waves::{HEALED, impatient};

#[tokio::test]
async fn after_a_loss_an_open_coupon_opens_beside_a_pass_and_many_others() {
    let what = "after a loss of Redis, beside a running pass and as many dead letters and coupons: an open one is open, \
                beyond the safety wait";
    // A busy machine may take longer than the target of a quiet one.
    assert!(measured(what, (1.0, "s"), [100, 100_000], beyond_the_wait).await < 20.0);
}

/// Seconds between the end of the safety wait and the first admission.
async fn beyond_the_wait(others: u32) -> f64 {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = Stores::shared().await.with_redis(&server);
    let fixture = Fixture::of(impatient(stores, "reopening").await).await;
    let (coupon, answers) = fixture.held("Open", 20, 10).await;
    let world = &fixture.world;
    let letters = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)";
    insert(world, others, letters, "i + 1000, i + 1000, 1, CONCAT('u-', i), 'unpublished'").await;
    for other in 0..others.min(1_000) {
        fixture.api.create_coupon(&firstcome_testkit::coupon_body(&format!("Other {other}"), 10, 0)).await;
    }
    let _daemon = world.settled_daemon().await;
    let pass = world.start("firstcome-reconciler", &["once"], &[("FIRSTCOME_STALL_AT", "run_begun")]);
    let running = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running' AND triggered_by = 'cli'";
    eventually("the pass has begun", HEALED, async || world.sql.number(running).await == 1).await;
    server.kill().await.unwrap();
    server.start_again().await.unwrap();
    let began = Instant::now();
    let user = &answers[0].0;
    eventually("admission is open", HEALED, async || fixture.api.claim(coupon.id, user).await.promised().is_some())
        .await;
    let took = began.elapsed();
    pass.kill().await;
    let millis = |name: &str| Duration::from_millis(world.setting(name).parse().unwrap());
    (took.saturating_sub(millis("PUBLISH_DEADLINE_MS") + millis("BACKUP_DEADLINE_MS"))).as_secs_f64()
}
