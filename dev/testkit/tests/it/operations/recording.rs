//! The number of rows that passes write grows with events, not with the number of passes and drops.

use std::time::Duration;

use firstcome_reconciler::report::{Finding, Kind, Run, Status};
use firstcome_shared::mysql::DbSettings;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_stack::ProxyFault;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, ReconcilerClient, Running, World, WorldStores, eventually,
    open_world, status_of,
};
use serde_json::json;

use crate::drift::support::injector;
use crate::faults::waves::{HEALED, kafka_behind_proxy};

/// Returns the findings of a run from the endpoint, and the findings in the run itself.
async fn told(daemon: &Running<ReconcilerClient>, run: &Run) -> (Vec<Finding>, Vec<Finding>) {
    let page = daemon
        .http()
        .ops(reqwest::Method::GET, &format!("/v1/runs/{}", run.run_id));
    let page: Run = serde_json::from_value(firstcome_testkit::Http::send(page).await.body).unwrap();
    let sorted = |run: &Run| {
        let mut findings: Vec<Finding> = run.all_findings().cloned().collect();
        findings
            .sort_by(|a, b| (a.drop_id, a.slot, &a.user_id).cmp(&(b.drop_id, b.slot, &b.user_id)));
        findings
    };
    for report in &page.drops {
        let made = run
            .drops
            .iter()
            .find(|made| made.drop_id == report.drop_id)
            .expect("a drop of the run");
        assert_eq!(
            (report.before, report.after, report.exact),
            (made.before, made.after, made.exact)
        );
    }
    (sorted(&page), sorted(run))
}

#[tokio::test]
async fn unchanged_findings_are_written_once_and_shown_in_every_run() {
    let scene = Fixture::new("stays").await;
    let world = &scene.world;
    let mut coupons = Vec::new();
    for name in ["A", "B", "C", "D", "E"] {
        coupons.push(scene.held(name, 5, 5).await.0);
    }
    // The fifth coupon has no drift.
    for coupon in &coupons[..4] {
        injector(world, coupon)
            .await
            .make(Drift::FailedUnrepairable, 1)
            .await
            .unwrap();
    }
    let written = async || {
        world
            .sql
            .number("SELECT COUNT(*) FROM reconcile_findings")
            .await
    };
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(world.once_with(&[], &[]).await.run());
        assert_eq!(written().await, 4, "the same in every pass");
    }
    let drops = "SELECT COUNT(drops), COUNT(same_as) FROM reconcile_runs WHERE status = 'drift'";
    assert_eq!(
        world.sql.query(drops).await,
        [["1", "3"]],
        "one run has the reports, three refer to it"
    );
    let one =
        "SELECT JSON_LENGTH(drops) FROM reconcile_runs WHERE same_as IS NULL AND status = 'drift'";
    assert_eq!(
        world.sql.number(one).await,
        4,
        "the drop without findings has no report"
    );

    injector(world, &coupons[0])
        .await
        .make(Drift::FailedUnrepairable, 1)
        .await
        .unwrap();
    injector(world, &coupons[4])
        .await
        .make(Drift::Unissued, 2)
        .await
        .unwrap();
    runs.push(world.once_with(&[], &[]).await.run());
    assert_eq!(
        written().await,
        11,
        "another result: five findings, and two repairs"
    );
    world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3)")
        .await;
    runs.push(world.pass().await);
    assert_eq!(runs[5].status, Status::Clean);
    let daemon = world.daemon().await;
    for (run, findings) in runs.iter().zip([4, 4, 4, 4, 7, 0]) {
        let (told, made) = told(&daemon, run).await;
        assert_eq!((told.len(), &told), (findings, &made), "{run:#?}");
    }
    let clean = format!(
        "SELECT CAST(drops AS CHAR) FROM reconcile_runs WHERE id = '{}'",
        runs[5].run_id
    );
    assert_eq!(world.sql.query(&clean).await, [["[]"]]);
}

/// Requests a pass, and waits until it fails.
async fn fails(world: &World, daemon: &Running<ReconcilerClient>) -> String {
    let run = daemon.begin().await;
    let status = async || status_of(world, &run).await;
    eventually("the pass fails", HEALED, async || {
        status().await.as_deref() == Some("failed")
    })
    .await;
    run
}

#[tokio::test]
async fn passes_that_cannot_read_the_topic_do_not_rewrite_findings() {
    let (server, proxy, _turn) = kafka_behind_proxy().await;
    let scene = Fixture::on(
        WorldStores::shared().await.with_kafka(server),
        "stays-unread",
    )
    .await;
    let world = &scene.world;
    for name in ["A", "B", "C", "D"] {
        let (coupon, _) = scene.held(name, 5, 5).await;
        injector(world, &coupon)
            .await
            .make(Drift::FailedUnrepairable, 1)
            .await
            .unwrap();
    }
    let daemon = world.daemon().await;
    assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Drift);
    let letters = async || {
        let sql = "SELECT COUNT(*) FROM reconcile_findings WHERE kind = 'failed_claim'";
        world.sql.number(sql).await
    };
    assert_eq!(letters().await, 4);
    let success = "SELECT value FROM reconciler_state WHERE name = 'last_success_at'";
    let success = async || world.sql.query(success).await;
    let before = success().await;

    proxy.set(ProxyFault::Cut).await.unwrap();
    for _ in 0..3 {
        let run = fails(world, &daemon).await;
        assert_eq!(letters().await, 8, "once more, then the same in every pass");
        let page = daemon
            .http()
            .ops(reqwest::Method::GET, &format!("/v1/runs/{run}"));
        let page: Run =
            serde_json::from_value(firstcome_testkit::Http::send(page).await.body).unwrap();
        let of = |kind| {
            page.all_findings()
                .filter(|finding| finding.kind == kind)
                .count()
        };
        assert_eq!(
            (of(Kind::FailedClaim), of(Kind::Stalled)),
            (4, 1),
            "{page:#?}"
        );
    }
    assert_eq!(success().await, before, "none of them counts as a success");
    let drops =
        "SELECT COUNT(drops) <= 1, COUNT(same_as) >= 2 FROM reconcile_runs WHERE status = 'failed'";
    assert_eq!(
        world.sql.query(drops).await,
        [["1", "1"]],
        "the reports are not written again"
    );

    proxy.set(ProxyFault::Pass).await.unwrap();
    eventually("the topic can be read", HEALED, async || {
        daemon.reconcile(&json!({})).await.error.is_none()
    })
    .await;
    assert_ne!(success().await, before);
}

#[tokio::test]
async fn old_rows_are_deleted_in_batches_after_any_pass_and_open_ones_are_kept() {
    let scene = Fixture::new("old").await;
    let world = &scene.world;
    let (coupon, _) = scene.held("Old", 5, 5).await;
    injector(world, &coupon)
        .await
        .make(Drift::FailedUnrepairable, 1)
        .await
        .unwrap();
    let alert = "INSERT INTO alerts (drop_id, name, kind, status, summary, size, content, first_seen_at, last_seen_at, resolved_at) VALUES";
    for (at, state) in ["resolved", "firing"].iter().enumerate() {
        world.sql.query(&format!("{alert} (999, 'old-{at}', 'k', '{state}', '', 1, 0, '2020-01-01', '2020-01-01', IF('{state}' = 'resolved', '2020-01-01', NULL))")).await;
    }
    let mail = "INSERT INTO outbox (channel, kind, batch, target, subject, body, attempts, created_at, next_attempt_at, sent_at, given_up_at)";
    let of = |sent: &str, given_up: &str| {
        format!(
            "SELECT 'mail', 'old', UUID(), 'a@b', '', '', 1, '2020-01-01', UTC_TIMESTAMP(3) + INTERVAL 1 HOUR, {sent}, {given_up}"
        )
    };
    for (sent, given_up) in [
        ("'2020-01-01'", "NULL"),
        ("NULL", "'2020-01-01'"),
        ("NULL", "NULL"),
    ] {
        let many = "FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT i FROM n) n JOIN (SELECT 1 UNION SELECT 2) twice";
        world
            .sql
            .query(&format!("{mail} {} {many}", of(sent, given_up)))
            .await;
    }
    let promise = "INSERT INTO broken_promises (drop_id, user_id, coupon_id, reason, run_id, created_at, mended_at)";
    world.sql.query(&format!("{promise} VALUES (999, 'mended', 999, '', '', '2020-01-01', '2020-01-02'), (999, 'open', 999, '', '', '2020-01-01', NULL)")).await;
    let run = "INSERT INTO reconcile_runs (id, triggered_by, dry_run, deep, status, owner, started_at, finished_at) VALUES";
    world.sql.query(&format!("{run} ('old', 'cron', 0, 0, 'drift', '', '2020-01-01', '2020-01-01'), ('older', 'cron', 0, 0, 'failed', '', '2019-01-01', '2019-01-01')")).await;
    let finding =
        "INSERT INTO reconcile_findings (run_id, kind, action, result, created_at) VALUES";
    world.sql.query(&format!("{finding} ('old', 'over', '', '', '2020-01-01'), ('older', 'own', '', '', '2019-01-01')")).await;

    assert_eq!(world.once_with(&[], &[]).await.code, 1, "not a clean pass");
    let one = async |sql: &str| world.sql.number(sql).await;
    let alerts = world
        .sql
        .query("SELECT name, status FROM alerts WHERE name LIKE 'old%'")
        .await;
    assert_eq!(
        alerts,
        [["old-1", "resolved"]],
        "its drop is gone, so it ends now and its retention starts"
    );
    assert_eq!(
        world.sql.query("SELECT user_id FROM broken_promises").await,
        [["open"]]
    );
    assert_eq!(
        one("SELECT COUNT(*) FROM reconcile_runs WHERE id LIKE 'old%'").await,
        0
    );
    assert_eq!(
        one("SELECT COUNT(*) FROM reconcile_findings WHERE run_id = 'older'").await,
        0
    );
    let left = "SELECT COUNT(sent_at), COUNT(given_up_at), COUNT(*) FROM outbox WHERE kind = 'old'";
    assert_eq!(
        world.sql.query(left).await,
        [["1000", "1000", "4000"]],
        "a bounded part"
    );
    assert_eq!(world.once_with(&["--dry-run"], &[]).await.code, 1);
    assert_eq!(
        one("SELECT COUNT(*) FROM outbox WHERE kind = 'old'").await,
        4_000,
        "a dry run deletes nothing"
    );
    assert_eq!(world.once_with(&[], &[]).await.code, 1);
    assert_eq!(
        world.sql.query(left).await,
        [["0", "0", "2000"]],
        "unsent rows stay"
    );
    assert_eq!(
        one("SELECT COUNT(*) FROM reconcile_findings WHERE run_id = 'old'").await,
        0,
        "no run refers to it"
    );
}

/// The setting, its table, the column that marks a row, the other columns, and their values for a
/// row that ended an hour `ago`.
const OVER: [(&str, &str, &str, &str, &str); 8] = [
    (
        "FIRSTCOME_TEST_RUNS_KEPT_SECONDS",
        "reconcile_runs",
        "id",
        "triggered_by, dry_run, deep, status, owner, started_at, finished_at",
        "'cron', FALSE, FALSE, 'failed', '', ago, ago",
    ),
    (
        "FIRSTCOME_TEST_RUNS_KEPT_SECONDS",
        "reconcile_findings",
        "run_id",
        "kind, action, result, created_at",
        "'own', '', '', ago",
    ),
    (
        "FIRSTCOME_TEST_RUNS_KEPT_SECONDS",
        "ops_actions",
        "token",
        "action, detail, at",
        "'pause', JSON_OBJECT(), ago",
    ),
    (
        "FIRSTCOME_TEST_ALERTS_KEPT_SECONDS",
        "alerts",
        "name",
        "kind, status, summary, size, content, first_seen_at, last_seen_at, resolved_at",
        "'k', 'resolved', '', 1, 0, ago, ago, ago",
    ),
    (
        "FIRSTCOME_TEST_MAILS_KEPT_SECONDS",
        "outbox",
        "kind",
        "channel, batch, target, subject, body, created_at, sent_at",
        "'mail', UUID(), 'a@b', '', '', ago, ago",
    ),
    (
        "FIRSTCOME_TEST_MAILS_KEPT_SECONDS",
        "repairs",
        "run_id",
        "drop_id, kind, number, repaired_at",
        "7, 'k', 1, ago",
    ),
    (
        "FIRSTCOME_TEST_MENDED_PROMISES_KEPT_SECONDS",
        "broken_promises",
        "user_id",
        "drop_id, coupon_id, reason, run_id, created_at, mended_at",
        "999, 999, '', '', ago, ago",
    ),
    (
        "FIRSTCOME_TEST_FAILED_CLAIMS_KEPT_SECONDS",
        "failed_claims",
        "reason",
        "failed_at, resolved_at",
        "ago, ago",
    ),
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
        let once = world.once_with(&[], &[(setting, "60")]).await;
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
