//! Only a successful pass counts as a run. A pass that another process blocks is reported by mail
//! and retried. An accepted pass can always be read.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, HeldTransaction, Http, LIMIT, World, eventually};
use reqwest::Method;
use serde_json::json;

use crate::drift::support::{inject, mailed, ran_two_hours_ago, subjects};

/// Waits for the lock, because a pass may be about to release it.
const TAKE: &str = "DO GET_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64), 30)";
const LAST_SUCCESS: &str =
    "SELECT COALESCE(MAX(value), '') FROM reconciler_state WHERE name = 'last_success_at'";

async fn runs(world: &World, which: &str) -> i64 {
    world
        .sql
        .number(&format!(
            "SELECT COUNT(*) FROM reconcile_runs WHERE {which}"
        ))
        .await
}

/// Opens a foreign session that holds the pass lock.
async fn holder(world: &World) -> HeldTransaction {
    let mut holder = HeldTransaction::begin(&world.sql).await;
    holder.run(TAKE).await;
    holder
}

#[tokio::test]
async fn a_deep_pass_blocked_by_an_operators_pass_is_reported_by_mail_and_retried() {
    let fixture = Fixture::new("d-deep-lost").await;
    let world = &fixture.world;
    fixture.held("Deep", 20, 20).await;
    let first = world.daemon().await;
    first.reconcile(&json!({})).await;
    assert_eq!(first.process.stop().await, 0);
    // The deep pass was due a minute ago and is due next in a year.
    let holder = holder(world).await;
    let due = "SELECT DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 1 MINUTE, '0 %i %H %d %m *')";
    let due = world.sql.query(due).await[0][0].clone();
    ran_two_hours_ago(world, "deep").await;
    let daemons = [
        world
            .daemon_with(&[
                ("DEEP_CRON", &due),
                ("FIRSTCOME_TEST_MISSED_AFTER_SECONDS", "1"),
            ])
            .await,
        world.daemon_with(&[]).await,
    ];
    let mail = mailed(world, &["run missed: DEEP_CRON"]).await;
    assert!(mail.text.contains("Due:"), "{}", mail.text);
    assert!(
        daemons[0].process.log().contains("holds the pass lock"),
        "{}",
        daemons[0].process.log()
    );
    assert_eq!(runs(world, "deep").await, 0);
    holder.commit().await;
    eventually("the deep pass has run", LIMIT, async || {
        runs(world, "deep AND status = 'clean'").await == 1
    })
    .await;
    let state = "SELECT value > DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 1 MINUTE, '%Y-%m-%dT%H:%i:%s') \
                 FROM reconciler_state WHERE name = 'last_run:deep'";
    eventually("the deep pass counts as run", LIMIT, async || {
        world.sql.number(state).await == 1
    })
    .await;
    assert_eq!(
        subjects(world)
            .iter()
            .filter(|subject| subject.contains("DEEP_CRON"))
            .count(),
        1
    );
}

#[tokio::test]
async fn only_a_complete_full_pass_counts_as_a_success() {
    let fixture = Fixture::new("d-success").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Success", 20, 20).await;
    let daemon = world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let last = async || world.sql.query(LAST_SUCCESS).await[0][0].clone();
    let before = last().await;
    daemon.reconcile(&json!({"coupon_id": coupon.id})).await;
    daemon.reconcile(&json!({"dry_run": true})).await;
    let holder = holder(world).await;
    assert_eq!(
        daemon.ask(&json!({})).await.status,
        503,
        "there is no run that a 409 could name"
    );
    holder.commit().await;
    assert_eq!(
        last().await,
        before,
        "partial, dry and refused passes do not count"
    );
    // A pass whose findings need manual attention still counts as a success.
    inject(world, &coupon, Drift::FailedUnrepairable, 1).await;
    assert_eq!(
        daemon.reconcile(&json!({})).await.status,
        firstcome_reconciler::report::Status::Drift
    );
    assert!(last().await > before);
}

#[tokio::test]
async fn accepted_and_blocking_passes_can_be_read_immediately() {
    let fixture = Fixture::new("d-location").await;
    let world = &fixture.world;
    fixture.held("Location", 20, 20).await;
    let daemons = [world.daemon().await, world.daemon().await];
    let mut accepted = 0;
    let mut refused = 0;
    for n in 0..15 {
        let ask = daemons.each_ref().map(|daemon| async move {
            let reply = daemon.ask(&json!({"wait": false})).await;
            let named = |id: &str| format!("/v1/runs/{id}");
            let location = reply.location().map_or_else(
                || reply.body["run_id"].as_str().map(named),
                |it| Some(it.into()),
            );
            let location = location.unwrap_or_else(|| panic!("{reply:?}"));
            (
                reply.status,
                Http::send(daemon.http().ops(Method::GET, &location)).await,
            )
        });
        let [one, two] = ask;
        for (status, read) in <[_; 2]>::from(tokio::join!(one, two)) {
            assert!(
                matches!(status, 202 | 409) && read.status == 200,
                "round {n}: {status} {read:?}"
            );
            *(if status == 202 {
                &mut accepted
            } else {
                &mut refused
            }) += 1;
        }
    }
    assert!(
        accepted > 0 && refused > 0,
        "{accepted} accepted, {refused} refused"
    );
    let holder = holder(world).await;
    // The lock is held without a run, so there is nothing to read.
    firstcome_testkit::eventually_some(
        "the last pass is over, and only the lock is reported",
        LIMIT,
        async || {
            let reply = daemons[0].ask(&json!({"wait": false})).await;
            let says = reply.body["detail"].as_str().unwrap_or_default();
            let is_named =
                reply.status == 503 && says.contains("holds the pass lock, and runs no pass");
            if is_named { Ok(()) } else { Err(reply.text) }
        },
    )
    .await;
    holder.commit().await;
}

#[tokio::test]
async fn two_daemons_send_one_digest_and_run_one_scheduled_deep_pass() {
    let fixture = Fixture::new("d-twice").await;
    let world = &fixture.world;
    fixture.held("Twice", 20, 20).await;
    let soon = "SELECT DATE_FORMAT(UTC_TIMESTAMP() + INTERVAL 6 SECOND, '%s %i %H * * *')";
    let soon = world.sql.query(soon).await[0][0].clone();
    let env = [("DIGEST_CRON", soon.as_str()), ("DEEP_CRON", soon.as_str())];
    let daemons: [_; 2] = tokio::join!(world.daemon_with(&env), world.daemon_with(&env)).into();
    mailed(world, &["daily digest"]).await;
    eventually("the deep pass has run", LIMIT, async || {
        runs(world, "deep AND status = 'clean'").await > 0
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
    let statement = "SELECT COUNT(*) FROM mail_outbox WHERE kind = 'digest'";
    assert_eq!(world.sql.number(statement).await, 1);
    assert_eq!(runs(world, "deep").await, 1);
}
