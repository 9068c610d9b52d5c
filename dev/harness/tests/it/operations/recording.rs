//! What passes record: findings that stay the same are written once, and old records are deleted.

use std::collections::BTreeSet;

use firstcome_harness::open_world;
use firstcome_reconciler::context::{Ask, Confirmation, PassError, PassRequest};
use firstcome_reconciler::record;
use firstcome_reconciler::report::{Finding, Run, Trigger};
use firstcome_shared::mysql::{Db, DbSettings};

use crate::prelude::*;

#[tokio::test]
async fn unchanged_findings_are_written_once_and_shown_in_every_run() {
    let scene = Fixture::new("stays").await;
    let world = &scene.world;
    let (first, _) = scene.held("A", 5, 5).await;
    let (second, _) = scene.held("B", 5, 5).await;
    inject(world, &first, Drift::FailedUnrepairable, 2).await;
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(world.once_with(&[], &[]).await.run());
    }
    mailed(world, &["action needed"]).await;
    let written = "SELECT COUNT(*) FROM reconcile_findings";
    assert_eq!(world.sql.number(written).await, 2, "the same in every pass");
    // One run has the reports, three refer to it.
    let drops = "SELECT COUNT(drops), COUNT(same_as) FROM reconcile_runs WHERE status = 'drift'";
    assert_eq!(world.sql.query(drops).await, [["1", "3"]]);
    inject(world, &second, Drift::Unissued, 2).await;
    runs.push(world.once_with(&[], &[]).await.run());
    let resolve = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3)";
    world.sql.query(resolve).await;
    runs.push(world.pass().await);
    let daemon = world.daemon().await;
    for (run, number) in runs.iter().zip([2, 2, 2, 2, 4, 0]) {
        let path = format!("/v1/runs/{}", run.run_id);
        let page = daemon.get(&path).await.body;
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

/// The next pass begins before the one that lost its lock ends.
#[tokio::test]
async fn pass_that_lost_its_lock_records_what_it_did() {
    let world = World::of_tables("lost-lock").await;
    let settings = DbSettings {
        url: world.sql.url().to_owned().into(),
        pool_size: 1,
        limit: LIMIT,
    };
    let db = Db::new(&settings).unwrap();
    let request = PassRequest::new(Ask::Startup);
    let mut lost = record::blank(Trigger::Startup);
    for run in [&lost, &record::blank(Trigger::Startup)] {
        record::begin(&db, run, &request).await.unwrap();
    }
    lost.findings = vec![Finding::report(Kind::Unissued, "inserted")];
    record::fail(&mut lost, &PassError::LockLost, &Confirmation::None);
    for _ in 0..2 {
        record::finish(&db, &lost, false).await.unwrap();
    }
    let recorded = "SELECT COUNT(*) FROM reconcile_findings JOIN reconcile_runs r ON r.id = run_id \
        WHERE r.error LIKE '%lost its lock%'";
    assert_eq!(world.sql.number(recorded).await, 2);
}

/// The setting, its table, the column that marks a row, the other columns, and their values for a
/// row that ended an hour `ago`.
#[rustfmt::skip]
const OVER: [(&str, &str, &str, &str, &str); 8] = [
    ("RUNS", "reconcile_runs", "id", "triggered_by, dry_run, deep, status, owner, started_at, finished_at",
        "'cron', FALSE, FALSE, 'failed', '', ago, ago"),
    ("RUNS", "reconcile_findings", "run_id", "kind, action, result, created_at", "'own', '', '', ago"),
    ("RUNS", "ops_actions", "token", "action, detail, at", "'pause', JSON_OBJECT(), ago"),
    ("ALERTS", "told", "name", "subject, kind, summary, began_at, ended_at", "'drop', 'k', '', ago, ago"),
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
        let hour = "(SELECT UTC_TIMESTAMP(3) - INTERVAL 1 HOUR AS ago) t";
        let insert =
            format!("INSERT INTO {table} ({mark}, {columns}) SELECT 'hour', {values} FROM {hour}");
        world.sql.query(&insert).await;
    }
    let mut settings = OVER.map(|(setting, ..)| setting).to_vec();
    settings.dedup();
    for (at, setting) in settings.iter().enumerate() {
        let variable = format!("FIRSTCOME_TEST_{setting}_KEPT_SECONDS");
        let once = world.once_with(&[], &[(&*variable, "60")]).await;
        assert_eq!(once.code, 0, "{setting}: {}", once.log);
        for (of, table, mark, ..) in OVER {
            let left = format!("SELECT COUNT(*) FROM {table} WHERE {mark} = 'hour'");
            let left = world.sql.number(&left).await;
            let goes_later = settings[at + 1..].contains(&of);
            assert_eq!(left, i64::from(goes_later), "{table}, with {setting}");
        }
    }
}
