//! Runs of the reconciler, one row each, with their findings; and values that must survive a
//! restart.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::findings::FindingRow;
use super::ops_actions::{Operator, OperatorAct};
use super::sql::{insert_rows, row};
use super::{Columns as _, Db, DbResult, Sql};
use crate::report::{Finding, Status, Stored, Trigger};
use crate::sql;

/// Name in `reconciler_state` of the time (RFC 3339) of the last successful pass.
pub const LAST_SUCCESS_AT: &str = "last_success_at";

/// The status of a run that has not ended.
pub const RUNNING: &str = "running";

row! {
    /// A run, as recorded and listed.
    #[derive(Serialize, Deserialize, ToSchema)]
    #[schema(as = RunSummary)]
    pub struct RunRow {
        #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
        pub run_id as id: String,
        #[schema(value_type = Trigger)]
        pub trigger as triggered_by: Stored<Trigger>,
        pub dry_run: bool,
        pub deep: bool,
        pub confirmed: bool,
        #[schema(value_type = Status)]
        pub status: Stored<Status>,
        #[serde(skip)]
        pub owner: String,
        pub started_at: DateTime<Utc>,
        pub finished_at: Option<DateTime<Utc>>,
        pub drops_examined: u32,
        pub users_examined: i64,
        pub rows_examined: i64,
        pub failed_claims_examined: i64,
        pub applied: u32,
        pub skipped: u32,
        pub failed: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(example = "MySQL did not answer")]
        pub error: Option<String>,
        /// Drop reports as JSON, or `None` if `same_as` stores them. Lists do not read them.
        #[serde(skip)]
        pub drops: Option<String>,
        /// A hash of findings and drop reports. `None` for dry runs, and for runs that did not
        /// compare everything.
        #[serde(skip)]
        pub content: Option<i64>,
        /// The earlier run that stores the same findings and drop reports.
        #[serde(skip)]
        pub same_as: Option<String>,
        /// The operator who asked for it, if a name was sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(example = "Kim")]
        pub asked_by: Option<String>,
    }
}

impl Db {
    /// Records the start of a run. The caller holds the pass lock, so any other run with status
    /// `running` has died.
    pub async fn begin_run(
        &self,
        run: RunRow,
        asked: Option<(Operator, OperatorAct)>,
    ) -> DbResult<()> {
        self.transaction("begin run", async move |conn| {
            let died = "UPDATE reconcile_runs SET status = 'failed', finished_at = UTC_TIMESTAMP(3), \
                        error = 'the process ended during the run' WHERE status = ?";
            sql!(died, RUNNING).run(conn).await?;
            insert_rows(conn, "reconcile_runs", vec![run], "").await?;
            match asked {
                Some((operator, act)) => operator.did(conn, act).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Records the end of a run with its findings, even if its start could not be recorded.
    /// `succeeded` is the time that counts as the last success; `None` keeps the earlier one. If
    /// the last run over everything had the same result, this run's row only refers to it. Findings
    /// are written first, in small statements, and the run's row last, to keep its lock short.
    ///
    /// # Errors
    /// `DbError`. The end may have been recorded nevertheless. The call may be repeated.
    pub async fn finish_run(
        &self,
        mut run: RunRow,
        findings: Vec<Finding>,
        succeeded: Option<String>,
    ) -> DbResult<()> {
        let ended: Option<i64> = self
            .first(
                "find run",
                sql!(
                    "SELECT 1 FROM reconcile_runs WHERE id = ? AND finished_at IS NOT NULL",
                    &run.run_id
                ),
            )
            .await?;
        if ended.is_some() {
            return Ok(());
        }
        let last = "SELECT id, content, same_as FROM reconcile_runs \
                    WHERE id <> ? AND content IS NOT NULL ORDER BY id DESC LIMIT 1";
        let last: Option<(String, Option<i64>, Option<String>)> =
            self.first("last result", sql!(last, &run.run_id)).await?;
        if let Some((id, content, same_as)) = last
            && content == run.content
        {
            run.same_as = Some(same_as.unwrap_or(id));
            run.drops = None;
        } else {
            self.write_findings(&run.run_id, findings).await?;
        }
        self.transaction("finish run", async move |conn| {
            let begun = sql!("DELETE FROM reconcile_runs WHERE id = ?", &run.run_id);
            begun.run(conn).await?;
            insert_rows(conn, "reconcile_runs", vec![run], "").await?;
            if let Some(at) = &succeeded {
                set_state(LAST_SUCCESS_AT, at).run(conn).await?;
            }
            Ok(())
        })
        .await
    }

    /// Reads the id of the run in progress, in any process. After a process died, this may be its
    /// run, until the next one begins.
    pub async fn running_run(&self) -> DbResult<Option<String>> {
        let running =
            "SELECT id FROM reconcile_runs WHERE status = ? ORDER BY started_at DESC LIMIT 1";
        self.first("running run", sql!(running, RUNNING)).await
    }

    /// Reads the id of the last full pass that did not fail.
    pub async fn last_full_run(&self) -> DbResult<Option<String>> {
        let last = "SELECT id FROM reconcile_runs \
                    WHERE content IS NOT NULL AND status <> 'failed' ORDER BY id DESC LIMIT 1";
        self.first("last pass over everything", sql!(last)).await
    }

    /// Lists runs, newest first; only those older than `before` if given.
    pub async fn runs(&self, limit: u32, before: Option<String>) -> DbResult<Vec<RunRow>> {
        // Drop reports may take megabytes.
        let columns = RunRow::NAMES
            .iter()
            .map(|name| if *name == "drops" { "NULL" } else { name })
            .collect::<Vec<_>>()
            .join(", ");
        let page = format!(
            "SELECT {columns} FROM reconcile_runs WHERE COALESCE(id < ?, TRUE) ORDER BY id DESC LIMIT ?"
        );
        self.all("list runs", sql!(page, before, limit)).await
    }

    /// Reads a run with at most `limit` findings with ids above `after`.
    pub async fn run_with_findings(
        &self,
        id: String,
        limit: u32,
        after: i64,
    ) -> DbResult<Option<(RunRow, Vec<(i64, FindingRow)>)>> {
        let run = "SELECT {r.columns}, s.drops FROM reconcile_runs r \
            LEFT JOIN reconcile_runs s ON s.id = r.same_as WHERE r.id = ?";
        let found: Option<(RunRow, Option<String>)> =
            self.first("read run", sql!(run, &id)).await?;
        let Some((mut row, drops)) = found else {
            return Ok(None);
        };
        row.drops = row.drops.or(drops);
        let of = row.same_as.clone().unwrap_or(id);
        let page = "SELECT id, {columns} FROM reconcile_findings WHERE run_id = ? \
            AND id > ? ORDER BY id LIMIT ?";
        let findings = self.all("findings of a run", sql!(page, of, after, limit));
        Ok(Some((row, findings.await?)))
    }

    /// Reads the value with this name.
    pub async fn state(&self, name: &'static str) -> DbResult<Option<String>> {
        self.first("read state", state(name)).await
    }

    /// Checks that MySQL accepts writes.
    pub async fn check_writes(&self) -> DbResult<()> {
        let now = chrono::Utc::now().to_rfc3339();
        self.of_primary().set_state("writes_checked_at", now).await
    }

    /// Whether commits hang, as far as this user's connections show. While the disk of the binary
    /// log is full, MySQL answers reads and lets every commit wait, without an error; each attempt
    /// to write would keep a connection until the disk has space.
    pub async fn commits_hang(&self) -> DbResult<bool> {
        let hanging = "SELECT COUNT(*) FROM performance_schema.processlist \
            WHERE state = 'waiting for handler commit' AND time >= ?";
        let hanging = sql!(hanging, HANGS_SECONDS);
        let found: Option<u64> = self.first("look for commits that hang", hanging).await?;
        Ok(found.is_some_and(|found| found > 0))
    }

    pub async fn set_state(&self, name: &'static str, value: String) -> DbResult<()> {
        let set = set_state(name, &value);
        self.execute("write state", set).await.map(|_| ())
    }
}

/// Selects the value of `reconciler_state` with this name.
pub fn state(name: &str) -> Sql {
    sql!("SELECT value FROM reconciler_state WHERE name = ?", name)
}

/// Selects the earlier run with the same result, if there is one.
pub fn same_as(run_id: &str) -> Sql {
    sql!(
        "SELECT same_as FROM reconcile_runs WHERE id = ? AND same_as IS NOT NULL",
        run_id
    )
}

pub fn set_state(name: &str, value: &str) -> Sql {
    let set = "REPLACE INTO reconciler_state (name, value) VALUES (?, ?)";
    sql!(set, name, value)
}

/// A commit that has lasted this long counts as one that hangs.
const HANGS_SECONDS: u32 = 3;

/// Returns the SQL for the time before which records with this retention are old. Uses MySQL's
/// clock: a process whose clock is ahead would delete recent rows. `None` if the retention exceeds
/// a hundred years, so that nothing is old.
pub fn before(kept: Duration) -> Option<String> {
    let seconds = Some(kept.as_secs()).filter(|seconds| *seconds <= 100 * 366 * 86_400)?;
    Some(format!("UTC_TIMESTAMP(3) - INTERVAL {seconds} SECOND"))
}
