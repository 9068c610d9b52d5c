//! The number of rows that passes write grows with events, not with the number of passes and drops.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_reconciler::report::Run;
use firstcome_shared::mysql::DbSettings;
use firstcome_shared::mysql::processes::{PassLock, Work};

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, HeldTransaction, Http, LIMIT, World, eventually, open_world};
use reqwest::Method;

use crate::drift::support::inject;

#[tokio::test]
async fn unchanged_findings_are_written_once_and_shown_in_every_run() {
    let scene = Fixture::new("stays").await;
    let world = &scene.world;
    // The second coupon has no drift at first.
    let [(first, _), (second, _)] = [scene.held("A", 5, 5).await, scene.held("B", 5, 5).await];
    inject(world, &first, Drift::FailedUnrepairable, 2).await;
    let written = "SELECT COUNT(*) FROM reconcile_findings";
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(world.once_with(&[], &[]).await.run());
        assert_eq!(world.sql.number(written).await, 2, "the same in every pass");
    }
    let drops = "SELECT COUNT(drops), COUNT(same_as) FROM reconcile_runs WHERE status = 'drift'";
    let reports = world.sql.query(drops).await;
    assert_eq!(
        reports,
        [["1", "3"]],
        "one run has the reports, three refer to it"
    );
    inject(world, &second, Drift::Unissued, 2).await;
    runs.push(world.once_with(&[], &[]).await.run());
    let resolve = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3)";
    world.sql.query(resolve).await;
    runs.push(world.pass().await);
    let daemon = world.daemon().await;
    for (run, number) in runs.iter().zip([2, 2, 2, 2, 4, 0]) {
        let path = format!("/v1/runs/{}", run.run_id);
        let page = Http::send(daemon.http().ops(Method::GET, &path)).await.body;
        let page: Run = serde_json::from_value(page).unwrap();
        let findings = |run: &Run| {
            let users = run
                .all_findings()
                .map(|one| (one.kind, one.user_id.clone()));
            users.collect::<BTreeSet<_>>()
        };
        assert_eq!(findings(&page).len(), number, "{page:#?}");
        assert_eq!(findings(&page), findings(run));
    }
}

/// The setting, its table, the column that marks a row, the other columns, and their values for a
/// row that ended an hour `ago`.
#[rustfmt::skip]
const OVER: [(&str, &str, &str, &str, &str); 8] = [
    ("RUNS", "reconcile_runs", "id", "triggered_by, dry_run, deep, status, owner, started_at, finished_at",
        "'cron', FALSE, FALSE, 'failed', '', ago, ago"),
    ("RUNS", "reconcile_findings", "run_id", "kind, action, result, created_at", "'own', '', '', ago"),
    ("RUNS", "ops_actions", "token", "action, detail, at", "'pause', JSON_OBJECT(), ago"),
    ("ALERTS", "alerts", "name", "kind, status, summary, size, content, first_seen_at, last_seen_at, resolved_at",
        "'k', 'resolved', '', 1, 0, ago, ago, ago"),
    ("MAILS", "outbox", "kind", "channel, batch, target, subject, body, created_at, sent_at",
        "'mail', UUID(), 'a@b', '', '', ago, ago"),
    ("MAILS", "repairs", "run_id", "drop_id, kind, number, repaired_at", "7, 'k', 1, ago"),
    ("MENDED_PROMISES", "broken_promises", "user_id", "drop_id, coupon_id, reason, run_id, created_at, mended_at",
        "999, 999, '', '', ago, ago"),
    ("FAILED_CLAIMS", "failed_claims", "reason", "failed_at, resolved_at", "ago, ago"),
];

#[tokio::test]
async fn each_retention_setting_applies_to_its_own_tables() {
    let (world, _api) = open_world("kept-seconds").await;
    for (_, table, mark, columns, values) in OVER {
        let hour = "SELECT UTC_TIMESTAMP(3) - INTERVAL 1 HOUR AS ago";
        let insert = format!(
            "INSERT INTO {table} ({mark}, {columns}) SELECT 'hour', {values} FROM ({hour}) t"
        );
        world.sql.query(&insert).await;
    }
    let mut settings = OVER.map(|(setting, ..)| setting).to_vec();
    settings.dedup();
    for (at, setting) in settings.iter().copied().enumerate() {
        let variable = format!("FIRSTCOME_TEST_{setting}_KEPT_SECONDS");
        let once = world.once_with(&[], &[(&*variable, "60")]).await;
        assert_eq!(once.code, 0, "{setting}: {}", once.log);
        for (of, table, mark, ..) in OVER {
            let left = world
                .sql
                .number(&format!(
                    "SELECT COUNT(*) FROM {table} WHERE {mark} = 'hour'"
                ))
                .await;
            let goes_later = settings[at + 1..].contains(&of);
            assert_eq!(
                left,
                i64::from(goes_later),
                "{table} after a pass with {setting}"
            );
        }
    }
}

#[tokio::test]
async fn the_pass_lock_ignores_a_locked_row_of_its_run_and_ends_with_its_connection() {
    let world = World::new("beat").await;
    let settings = DbSettings {
        url: world.sql.url().to_owned().into(),
        pool_size: 1,
        limit: Duration::from_secs(5),
    };
    world.sql.query("INSERT INTO reconcile_runs (id, triggered_by, dry_run, deep, status, owner, started_at) VALUES ('r', 'cron', 0, 0, 'running', '', UTC_TIMESTAMP(3))").await;
    let mut finishing = HeldTransaction::begin(&world.sql).await;
    finishing
        .run("SELECT * FROM reconcile_runs FOR UPDATE")
        .await;
    let lock = PassLock::take(&settings, Work::Pass, Duration::ZERO)
        .await
        .unwrap()
        .unwrap();
    // Longer than MySQL waits for a row lock.
    let lost = tokio::time::timeout(Duration::from_secs(8), lock.lost().cancelled()).await;
    assert!(
        lost.is_err(),
        "the run's row was locked by another connection for long"
    );
    assert!(
        PassLock::take(&settings, Work::Pass, Duration::ZERO)
            .await
            .unwrap()
            .is_none()
    );
    let holder = "SELECT IS_USED_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64))";
    let holder = world.sql.number(holder).await;
    world.sql.query(&format!("KILL {holder}")).await;
    eventually("the pass knows that it lost its lock", LIMIT, async || {
        lock.lost().is_cancelled()
    })
    .await;
}
