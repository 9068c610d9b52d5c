//! Scheduled work: two daemons share it, and a change of clocks skips none.

use chrono::{DateTime, Utc};
use firstcome_harness::Running;
use firstcome_stack::Clocks;

use crate::prelude::*;

/// Starts two daemons before both jobs are due, and again in another world if the machine was too
/// slow for that.
async fn with_a_digest_and_a_deep_pass_due_soon() -> (Fixture, [Running<ReconcilerClient>; 2]) {
    loop {
        let fixture = Fixture::new("d-twice").await;
        let world = &fixture.world;
        fixture.held("Twice", 20, 20).await;
        let soon = "SELECT UTC_TIMESTAMP() + INTERVAL 20 SECOND";
        let soon = world.sql.query(soon).await[0][0].clone();
        let cron = format!("SELECT DATE_FORMAT('{soon}', '%s %i %H * * *')");
        let cron = world.sql.query(&cron).await[0][0].clone();
        let env = [("DIGEST_CRON", cron.as_str()), ("DEEP_CRON", cron.as_str())];
        let daemons = tokio::join!(world.daemon_with(&env), world.daemon_with(&env));
        let is_early = format!("SELECT UTC_TIMESTAMP() + INTERVAL 2 SECOND < '{soon}'");
        if world.sql.number(&is_early).await == 1 {
            return (fixture, daemons.into());
        }
    }
}

#[tokio::test]
async fn two_daemons_send_one_digest_and_run_one_scheduled_deep_pass() {
    let (fixture, daemons) = with_a_digest_and_a_deep_pass_due_soon().await;
    let world = &fixture.world;
    // A pass that failed is repeated.
    let deep = "SELECT COUNT(*) FROM reconcile_runs WHERE deep AND status <> 'failed'";
    mailed(world, &["daily digest"]).await;
    // Both daemons check their schedules several times in the seconds after the pass.
    let ended = format!(
        "{deep} AND status = 'clean' AND finished_at < UTC_TIMESTAMP(3) - INTERVAL 4 SECOND"
    );
    eventually(
        "the deep pass has ended four seconds ago",
        LIMIT,
        async || world.sql.number(&ended).await > 0,
    )
    .await;
    for daemon in &daemons {
        assert_eq!(daemon.process.stop().await, 0);
    }
    let statement = "SELECT COUNT(*) FROM outbox WHERE kind = 'digest'";
    assert_eq!(world.sql.number(statement).await, 1);
    assert_eq!(world.sql.number(deep).await, 1);
}

/// In New York, clocks do not show 02:00 to 03:00 on 14 March 2027.
#[tokio::test]
async fn run_at_a_time_that_clocks_skip_comes_when_they_change() {
    let fixture = Fixture::new("d-skipped").await;
    let world = &fixture.world;
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("reconciler").unwrap();
    let change: DateTime<Utc> = "2027-03-14T07:00:00Z".parse().unwrap();
    let before_ms = change.timestamp_millis() - 2_000;
    clock.stop_at_ms(before_ms).unwrap();
    let [library, offset] = &clock.env();
    let [library, offset] = [library, offset].map(|(name, value)| (*name, value.as_str()));
    let cron = ("DEEP_CRON", "0 30 2 * * *");
    let zone = ("CRON_TIME_ZONE", "America/New_York");
    let _daemon = world.daemon_with(&[library, offset, cron, zone]).await;
    let deep = "SELECT COUNT(*) FROM reconcile_runs WHERE deep";
    assert_eq!(world.sql.number(deep).await, 0);
    clock
        .shift_ms(before_ms - Utc::now().timestamp_millis())
        .unwrap();
    eventually("the deep pass", LIMIT, async || {
        world.sql.number(deep).await == 1
    })
    .await;
}
