//! Missed runs are caught up immediately and reported by mail.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, World, eventually};
use serde_json::json;

use crate::drift::support::{assert_settled, inject, mailed, subjects};

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

#[tokio::test]
async fn two_daemons_send_one_digest_and_run_one_scheduled_deep_pass() {
    let fixture = Fixture::new("d-twice").await;
    let world = &fixture.world;
    fixture.held("Twice", 20, 20).await;
    let deep = "SELECT COUNT(*) FROM reconcile_runs WHERE deep";
    let soon = "SELECT DATE_FORMAT(UTC_TIMESTAMP() + INTERVAL 6 SECOND, '%s %i %H * * *')";
    let soon = world.sql.query(soon).await[0][0].clone();
    let env = [("DIGEST_CRON", soon.as_str()), ("DEEP_CRON", soon.as_str())];
    let daemons: [_; 2] = tokio::join!(world.daemon_with(&env), world.daemon_with(&env)).into();
    mailed(world, &["daily digest"]).await;
    eventually("the deep pass has run", LIMIT, async || {
        world
            .sql
            .number(&format!("{deep} AND status = 'clean'"))
            .await
            > 0
    })
    .await;
    // Both daemons check their schedules several times in these seconds.
    let seen = world.sql.number("SELECT UNIX_TIMESTAMP()").await;
    eventually("seconds have passed", LIMIT, async || {
        world.sql.number("SELECT UNIX_TIMESTAMP()").await > seen + 4
    })
    .await;
    for daemon in &daemons {
        assert_eq!(daemon.process.stop().await, 0);
    }
    let statement = "SELECT COUNT(*) FROM outbox WHERE kind = 'digest'";
    assert_eq!(world.sql.number(statement).await, 1);
    assert_eq!(world.sql.number(deep).await, 1);
}

/// Backdates the last pass of a schedule by two hours.
async fn ran_two_hours_ago(world: &World, schedule: &str) {
    let ago = "DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 2 HOUR, '%Y-%m-%dT%H:%i:%s+00:00')";
    let statement =
        format!("UPDATE reconciler_state SET value = {ago} WHERE name = 'last_run:{schedule}'");
    world.sql.query(&statement).await;
}
