//! Two daemons share the scheduled work.

use firstcome_harness::{Fixture, LIMIT, eventually};

use crate::drift::support::mailed;

#[tokio::test]
async fn two_daemons_send_one_digest_and_run_one_scheduled_deep_pass() {
    let fixture = Fixture::new("d-twice").await;
    let world = &fixture.world;
    fixture.held("Twice", 20, 20).await;
    let deep = "SELECT COUNT(*) FROM reconcile_runs WHERE deep";
    // A busy machine takes a while to start both daemons.
    let soon = "SELECT DATE_FORMAT(UTC_TIMESTAMP() + INTERVAL 20 SECOND, '%s %i %H * * *')";
    let soon = world.sql.query(soon).await[0][0].clone();
    let env = [("DIGEST_CRON", soon.as_str()), ("DEEP_CRON", soon.as_str())];
    let daemons: [_; 2] = tokio::join!(world.daemon_with(&env), world.daemon_with(&env)).into();
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
