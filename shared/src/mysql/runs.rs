//! Runs of the reconciler, one row each, with their findings; and values that must survive a
//! restart.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::findings::ListedFinding;
use super::ops_actions::{Operator, OperatorAct};
use super::{Db, DbResult, Sql};
use crate::columns::{At, now};
use crate::report::{Finding, Status, Stored, Trigger};
use crate::schema::{reconcile_findings, reconcile_runs};
use crate::sql;

/// Name in `reconciler_state` of the time (RFC 3339) of the last successful pass.
pub const LAST_SUCCESS_AT: &str = "last_success_at";

/// The status of a run that has not ended.
pub const RUNNING: &str = "running";

/// A run, as recorded and listed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, Queryable, Selectable, Insertable)]
#[diesel(table_name = reconcile_runs, treat_none_as_default_value = false)]
#[schema(as = RunSummary)]
pub struct RunRow {
    #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    #[diesel(column_name = id)]
    pub run_id: String,
    #[schema(value_type = Trigger)]
    #[diesel(column_name = triggered_by)]
    pub trigger: Stored<Trigger>,
    pub dry_run: bool,
    pub deep: bool,
    pub confirmed: bool,
    #[schema(value_type = Status)]
    pub status: Stored<Status>,
    #[serde(skip)]
    pub owner: String,
    #[diesel(serialize_as = At)]
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

/// A run with the reports of its drops, which may take megabytes.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
pub struct StoredRun {
    #[diesel(embed)]
    pub row: RunRow,
    /// `None` if `same_as` stores them.
    pub drops: Option<Value>,
}

/// The result of a run, as the next one compares it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
struct LastResult {
    id: String,
    content: Option<i64>,
    same_as: Option<String>,
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
            let died = reconcile_runs::table.filter(reconcile_runs::status.eq(RUNNING));
            diesel::update(died)
                .set((
                    reconcile_runs::status.eq("failed"),
                    reconcile_runs::finished_at.eq(now().nullable()),
                    reconcile_runs::error.eq("the process ended during the run"),
                ))
                .execute(conn)
                .await?;
            diesel::insert_into(reconcile_runs::table)
                .values(run)
                .execute(conn)
                .await?;
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
        mut run: StoredRun,
        findings: Vec<Finding>,
        succeeded: Option<String>,
    ) -> DbResult<()> {
        let id = run.row.run_id.clone();
        let ended = reconcile_runs::table
            .find(id.clone())
            .filter(reconcile_runs::finished_at.is_not_null())
            .select(reconcile_runs::id);
        if self.row::<String, _>("find run", ended).await?.is_some() {
            return Ok(());
        }
        let last = reconcile_runs::table
            .filter(reconcile_runs::id.ne(id.clone()))
            .filter(reconcile_runs::content.is_not_null())
            .order(reconcile_runs::id.desc())
            .limit(1)
            .select(LastResult::as_select());
        let last = self.row("last result", last).await?;
        if let Some(last) = last
            && last.content == run.row.content
        {
            run.row.same_as = Some(last.same_as.unwrap_or(last.id));
            run.drops = None;
        } else {
            self.write_findings(&id, findings).await?;
        }
        self.transaction("finish run", async move |conn| {
            diesel::replace_into(reconcile_runs::table)
                .values((run.row, reconcile_runs::drops.eq(run.drops)))
                .execute(conn)
                .await?;
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
        let running = reconcile_runs::table
            .filter(reconcile_runs::status.eq(RUNNING))
            .order(reconcile_runs::started_at.desc())
            .limit(1)
            .select(reconcile_runs::id);
        self.row("running run", running).await
    }

    /// Reads the id of the last full pass that did not fail.
    pub async fn last_full_run(&self) -> DbResult<Option<String>> {
        let last = reconcile_runs::table
            .filter(reconcile_runs::content.is_not_null())
            .filter(reconcile_runs::status.ne("failed"))
            .order(reconcile_runs::id.desc())
            .limit(1)
            .select(reconcile_runs::id);
        self.row("last pass over everything", last).await
    }

    /// Lists runs, newest first; only those older than `before` if given.
    pub async fn runs(&self, limit: u32, before: Option<String>) -> DbResult<Vec<RunRow>> {
        let mut page = reconcile_runs::table
            .order(reconcile_runs::id.desc())
            .limit(limit.into())
            .select(RunRow::as_select())
            .into_boxed();
        if let Some(before) = before {
            page = page.filter(reconcile_runs::id.lt(before));
        }
        self.rows("list runs", page).await
    }

    /// Reads a run with at most `limit` findings with ids above `after`.
    pub async fn run_with_findings(
        &self,
        id: String,
        limit: u32,
        after: i64,
    ) -> DbResult<Option<(StoredRun, Vec<ListedFinding>)>> {
        let run = |id: String| {
            reconcile_runs::table
                .find(id)
                .select(StoredRun::as_select())
        };
        let Some(mut found) = self.row("read run", run(id.clone())).await? else {
            return Ok(None);
        };
        let of = found.row.same_as.clone().unwrap_or(id);
        if found.row.same_as.is_some() {
            let same = self.row("read the run with the findings", run(of.clone()));
            found.drops = found.drops.or(same.await?.and_then(|same| same.drops));
        }
        let page = reconcile_findings::table
            .filter(reconcile_findings::run_id.eq(of))
            .filter(reconcile_findings::id.gt(after))
            .order(reconcile_findings::id)
            .limit(limit.into())
            .select(ListedFinding::as_select());
        Ok(Some((found, self.rows("findings of a run", page).await?)))
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
        let hanging = sql_query(
            "SELECT 1 FROM performance_schema.processlist \
             WHERE state = 'waiting for handler commit' AND time >= ?",
        )
        .bind::<BigInt, _>(HANGS_SECONDS);
        let found = self.write("look for commits that hang", hanging).await?;
        Ok(found > 0)
    }

    pub async fn set_state(&self, name: &'static str, value: String) -> DbResult<()> {
        let set = set_state(name, &value);
        self.write("write state", set).await.map(|_| ())
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
const HANGS_SECONDS: i64 = 3;

/// Returns the SQL for the time before which records with this retention are old. Uses MySQL's
/// clock: a process whose clock is ahead would delete recent rows. `None` if the retention exceeds
/// a hundred years, so that nothing is old.
pub fn before(kept: Duration) -> Option<String> {
    let seconds = Some(kept.as_secs()).filter(|seconds| *seconds <= 100 * 366 * 86_400)?;
    Some(format!("UTC_TIMESTAMP(3) - INTERVAL {seconds} SECOND"))
}
