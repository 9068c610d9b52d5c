//! One pass at a time in the whole system, whatever happens to the process that runs it.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_reconciler::report::{Kind, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, World, all_issued, assert_exact, error_of, eventually,
    status_of,
};
use serde_json::json;

use crate::drift::support::{
    FoundDrift, Hindered, assert_settled, clean_pass, expected, injector, mailed,
};

/// Long enough for a slow pass to end.
const SLOW: Duration = Duration::from_secs(60);

/// Each repair is recorded as applied exactly once over all runs.
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
async fn a_daemon_killed_in_mid_pass_is_replaced_and_its_run_recorded_as_failed() {
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

    // The other process is refused while the first one lives, with the id of the running pass.
    let other = world
        .daemon_with(&[("RECONCILE_CRON", "* * * * * *")])
        .await;
    // Its own scheduled pass may be waiting for the lock; that one could not be read.
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
        "it takes seconds"
    );
    slow.daemon.process.kill().await;

    eventually("the dead run is recorded as failed", LIMIT, async || {
        status_of(world, &dead).await.as_deref() == Some("failed")
    })
    .await;
    assert!(error_of(world, &dead).await.contains("ended during the run"));
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
    let done = injector(world, &coupon)
        .await
        .make(Drift::Unissued, 3)
        .await
        .unwrap();
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

    slow.proxy
        .set(firstcome_stack::ProxyFault::Pass)
        .await
        .unwrap();
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
async fn a_schedule_shorter_than_a_pass_does_not_pile_up() {
    let fixture = Fixture::new("d-pile").await;
    let world = &fixture.world;
    fixture.held("Long", 200, 200).await;
    let slow = Hindered::start(world, &[("RECONCILE_CRON", "* * * * * *")]).await;
    slow.proxy
        .set(firstcome_stack::ProxyFault::Delay(Duration::from_millis(
            20,
        )))
        .await
        .unwrap();
    let long = "SELECT COUNT(*) FROM reconcile_runs WHERE TIMESTAMPDIFF(MICROSECOND, started_at, finished_at) > 1500000";
    eventually("three long passes", SLOW, async || {
        world.sql.number(long).await >= 3
    })
    .await;
    slow.proxy
        .set(firstcome_stack::ProxyFault::Pass)
        .await
        .unwrap();
    let runs = world
        .sql
        .number("SELECT COUNT(*) FROM reconcile_runs")
        .await;
    let at = world
        .sql
        .number("SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)")
        .await;
    eventually("passes are short again", LIMIT, async || {
        world
            .sql
            .number("SELECT COUNT(*) FROM reconcile_runs")
            .await
            >= runs + 4
    })
    .await;
    let took = world
        .sql
        .number("SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)")
        .await
        - at;
    assert!(
        took >= 2_000,
        "4 passes within {took} ms: some had queued up"
    );
    assert_eq!(slow.daemon.process.stop().await, 0);
    let overlapping = "SELECT COUNT(*) FROM reconcile_runs a JOIN reconcile_runs b \
                       ON a.id < b.id AND b.started_at < a.finished_at";
    assert_eq!(world.sql.number(overlapping).await, 0, "one pass at a time");
    let missed = world
        .mail
        .mails()
        .iter()
        .filter(|mail| mail.text().contains("RECONCILE_CRON"))
        .count();
    assert_eq!(missed, 0, "a running pass is not missed");
}

/// A session for which others wait.
const WAITS: &str = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() \
    AND state = 'Waiting for table metadata lock'";

#[tokio::test]
async fn users_admitted_to_slots_added_during_a_pass_are_not_findings() {
    let fixture = Fixture::new("d-raised").await;
    let world = &fixture.world;
    let (coupon, mut answers) = fixture.held("Raised", 20, 20).await;
    // The pass has read the coupon when it reaches this table, as has a repairing pass.
    let mut lock = HeldTransaction::begin(&world.sql).await;
    lock.run("LOCK TABLES broken_promises WRITE").await;
    let (once, ()) = tokio::join!(world.once_with(&["--dry-run"], &[]), async {
        eventually("the pass waits", LIMIT, async || {
            world.sql.number(WAITS).await > 0
        })
        .await;
        assert_eq!(
            fixture
                .api
                .patch(coupon.id, &json!({"quantity": 25}))
                .await
                .status,
            200
        );
        for n in 0..5 {
            let user = format!("u-added-{n}");
            answers.push((user.clone(), fixture.api.claim(coupon.id, &user).await));
        }
        lock.run("UNLOCK TABLES").await;
    });
    let run = once.run();
    assert_eq!((run.status, once.code), (Status::Clean, 0), "{run:#?}");
    assert_eq!(run.drops[0].quantity, 25);
    all_issued(world, coupon.drop, 25).await;
    assert_exact(world, &coupon, 25, &answers).await;
}
