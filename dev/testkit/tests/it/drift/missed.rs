//! Missed runs are caught up immediately and reported by mail.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, eventually};
use serde_json::json;

use crate::drift::support::{assert_settled, inject, mailed, ran_two_hours_ago, subjects};

#[tokio::test]
async fn a_daemon_that_starts_late_catches_up_immediately_and_reports_missed_runs() {
    let fixture = Fixture::new("d-late").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Late", 20, 20).await;
    let settings = [
        ("RECONCILE_CRON", "0 0 * * * *"),
        ("FIRSTCOME_TEST_MISSED_AFTER_SECONDS", "1"),
    ];
    let daemon = world.daemon_with(&settings).await;
    eventually("the daemon has recorded its run", LIMIT, async || {
        world
            .sql
            .number("SELECT COUNT(*) FROM reconciler_state WHERE name = 'last_run:reconcile'")
            .await
            == 1
    })
    .await;
    daemon.reconcile(&json!({})).await;
    assert_eq!(daemon.process.stop().await, 0);
    // The daemon has been down for two hours.
    ran_two_hours_ago(world, "reconcile").await;
    inject(world, &coupon, Drift::MissingAdmission, 2).await;
    let before = world
        .sql
        .number("SELECT COUNT(*) FROM reconcile_runs")
        .await;
    let daemon = world.daemon_with(&settings).await;
    let repaired = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'repaired'";
    eventually("the daemon has caught up", LIMIT, async || {
        world.sql.number(repaired).await == 1
    })
    .await;
    mailed(world, &["RECONCILE_CRON"]).await;
    assert_settled(world, &coupon, 20, 20, &answers).await;
    assert_eq!(daemon.process.stop().await, 0);
    let runs = world
        .sql
        .number("SELECT COUNT(*) FROM reconcile_runs")
        .await
        - before;
    assert!(
        runs <= 2,
        "{runs} passes: missed runs are caught up once, not one by one"
    );
    assert_eq!(
        subjects(world)
            .iter()
            .filter(|subject| subject.contains("RECONCILE_CRON"))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_deep_pass_due_in_the_same_second_as_another_is_not_skipped() {
    let fixture = Fixture::new("d-both").await;
    let world = &fixture.world;
    fixture.held("Both", 200, 200).await;
    let every = "*/2 * * * * *";
    let daemon = world
        .daemon_with(&[
            ("RECONCILE_CRON", every),
            ("DEEP_CRON", every),
            ("FIRSTCOME_TEST_RECONCILE_PAGE_SLOTS", "10"),
        ])
        .await;
    let runs = "SELECT COUNT(*) FROM reconcile_runs WHERE triggered_by = 'cron' AND deep";
    eventually("three deep passes", 3 * LIMIT, async || {
        world.sql.number(runs).await >= 3
    })
    .await;
    assert_eq!(daemon.process.stop().await, 0);
    let others = world
        .sql
        .number(&runs.replace("AND deep", "AND NOT deep"))
        .await;
    assert!(others <= 1, "{others} passes took the place of a deep one");
}
