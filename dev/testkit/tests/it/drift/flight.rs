//! Only one pass runs at a time in the whole system, even if its process dies or loses the lock.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_reconciler::report::{Kind, Status};
use firstcome_stack::ProxyFault;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, TABLE_LOCK_WAITS, World, all_issued, assert_exact, error_of,
    eventually, status_of,
};
use serde_json::json;

use crate::drift::support::{
    FoundDrift, Hindered, assert_settled, clean_pass, expected, inject, injector, mailed,
};

/// Limit for the end of a slow pass.
const SLOW: Duration = Duration::from_secs(60);

/// Checks that each repair is recorded as applied exactly once over all runs.
async fn applied_once(world: &World, wanted: &BTreeSet<FoundDrift>) {
    let applied = world
        .sql
        .query("SELECT kind, slot, user_id FROM reconcile_findings WHERE result = 'applied'")
        .await;
    let unique: BTreeSet<_> = applied.iter().cloned().collect();
    assert_eq!(
        (applied.len(), unique.len()),
        (wanted.len(), wanted.len()),
        "{applied:?}"
    );
}

#[tokio::test]
async fn a_daemon_killed_during_a_pass_is_replaced_and_its_run_recorded_as_failed() {
    let fixture = Fixture::new("d-killed").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Killed", 200, 200).await;
    let slow = Hindered::start(world, &[]).await;
    let mut injector = injector(world, &coupon).await;
    let mut wanted = expected(
        Kind::Unissued,
        &injector.make(Drift::Unissued, 3).await.unwrap(),
    );
    wanted.extend(expected(
        Kind::MissingAdmission,
        &injector.make(Drift::MissingAdmission, 3).await.unwrap(),
    ));
    let dead = slow.begin_slow_pass(world).await;

    // While the first process lives, the other one refuses and names the ID of the running pass.
    let other = world
        .daemon_with(&[("RECONCILE_CRON", "* * * * * *")])
        .await;
    // The daemon must not name its scheduled pass, which may be waiting for the lock and cannot be
    // read yet.
    let reply = other.ask(&json!({})).await;
    assert_eq!(
        (reply.status, &reply.body["code"]),
        (409, &json!("pass_running")),
        "{reply:?}"
    );
    assert_eq!(reply.body["run_id"], dead.as_str());
    assert_eq!(
        status_of(world, &dead).await.as_deref(),
        Some("running"),
        "the slow pass is still running"
    );
    slow.daemon.process.kill().await;

    eventually("the dead run is recorded as failed", LIMIT, async || {
        status_of(world, &dead).await.as_deref() == Some("failed")
    })
    .await;
    assert!(
        error_of(world, &dead)
            .await
            .contains("ended during the run")
    );
    let repaired = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'repaired'";
    eventually("the other daemon has repaired", LIMIT, async || {
        world.sql.number(repaired).await > 0
    })
    .await;
    assert_eq!(other.process.stop().await, 0);
    assert_settled(world, &coupon, 200, 200, &answers).await;
    let found: BTreeSet<FoundDrift> = wanted;
    applied_once(world, &found).await;
    clean_pass(world, &coupon).await;
    mailed(world, &["repaired", "Killed"]).await;
}

#[tokio::test]
async fn a_pass_that_loses_its_lock_aborts_and_the_next_one_repairs() {
    let fixture = Fixture::new("d-cut").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Cut", 200, 200).await;
    let slow = Hindered::start(world, &[]).await;
    let done = inject(world, &coupon, Drift::Unissued, 3).await;
    let cut = slow.begin_slow_pass(world).await;
    let holder = world
        .sql
        .number("SELECT IS_USED_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64))")
        .await;
    world.sql.query(&format!("KILL {holder}")).await;
    eventually("the pass has ended", SLOW, async || {
        status_of(world, &cut).await.as_deref() != Some("running")
    })
    .await;
    assert_eq!(status_of(world, &cut).await.as_deref(), Some("failed"));
    assert!(
        error_of(world, &cut).await.contains("lost its lock"),
        "{}",
        error_of(world, &cut).await
    );
    mailed(world, &["action needed"]).await;

    slow.proxy.set(ProxyFault::Pass).await.unwrap();
    let run = slow.daemon.reconcile(&json!({})).await;
    assert!(
        matches!(run.status, Status::Repaired | Status::Clean),
        "{run:#?}"
    );
    assert_settled(world, &coupon, 200, 200, &answers).await;
    applied_once(world, &expected(Kind::Unissued, &done)).await;
    mailed(world, &["repaired", "Cut"]).await;
    clean_pass(world, &coupon).await;
}

#[tokio::test]
async fn users_admitted_to_slots_added_during_a_pass_are_not_reported() {
    let fixture = Fixture::new("d-raised").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, mut answers) = fixture.held("Raised", 20, 20).await;
    // Every pass, including a dry run, has read the coupon before it reaches this table.
    let mut lock = HeldTransaction::begin(&world.sql).await;
    lock.run("LOCK TABLES broken_promises WRITE").await;
    let (once, ()) = tokio::join!(world.once_with(&["--dry-run"], &[]), async {
        eventually("the pass waits", LIMIT, async || {
            world.sql.number(TABLE_LOCK_WAITS).await > 0
        })
        .await;
        api.change(coupon.id, &json!({"quantity": 25})).await;
        for n in 0..5 {
            let user = format!("u-added-{n}");
            answers.push((user.clone(), api.claim(coupon.id, &user).await));
        }
        lock.run("UNLOCK TABLES").await;
    });
    let run = once.run();
    assert_eq!((run.status, once.code), (Status::Clean, 0), "{run:#?}");
    assert_eq!(run.drops[0].quantity, 25);
    all_issued(world, coupon.drop, 25).await;
    assert_exact(world, &coupon, 25, &answers).await;
}
