//! Two daemons share the scheduled work.

use firstcome_harness::{Fixture, LIMIT, ReconcilerClient, Running, eventually};

use crate::drift::support::mailed;

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
