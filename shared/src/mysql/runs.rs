//! Runs of the reconciler, one row each, with their findings; and values that must survive a
//! restart.
//!
//! Retention: old rows of passes and mails are deleted, a limited number after each pass. Open rows
//! (unresolved findings, firing alerts, unsent mails, broken promises) are kept indefinitely.

use std::time::Duration;

use chrono::{NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde::Serialize;

pub use super::findings::FindingRow;
use super::ops_actions::{Operator, OperatorAct};
use super::schema::{reconcile_runs, reconciler_state};
use super::{Conn, Db, DbError};
use crate::http::views::RunSummary;

/// Name in `reconciler_state` of the time (RFC 3339) of the last successful pass.
pub const LAST_SUCCESS_AT: &str = "last_success_at";

/// The status of a run that has not ended.
pub const RUNNING: &str = "running";

#[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = reconcile_runs, treat_none_as_null = true)]
pub struct RunRow {
    pub id: String,
    pub triggered_by: String,
    pub dry_run: bool,
    pub deep: bool,
    pub confirmed: bool,
    pub status: String,
    pub owner: String,
    pub started_at: NaiveDateTime,
    pub finished_at: Option<NaiveDateTime>,
    pub drops_examined: u32,
    pub users_examined: i64,
    pub rows_examined: i64,
    pub failed_claims_examined: i64,
    pub attempted: u32,
    pub applied: u32,
    pub skipped: u32,
    pub failed: u32,
    pub error: Option<String>,
    /// Drop reports as JSON, or `None` if `same_as` stores them.
    pub drops: Option<String>,
    /// A hash of findings and drop reports. `None` for runs that did not compare everything.
    pub content: Option<i64>,
    /// The earlier run that stores the same findings and drop reports.
    pub same_as: Option<String>,
    /// The operator who requested it.
    pub asked_by: Option<String>,
}

/// A run for lists: without the drop reports, which may take megabytes.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
pub struct RunListRow {
    pub id: String,
    pub triggered_by: String,
    pub dry_run: bool,
    pub deep: bool,
    pub confirmed: bool,
    pub status: String,
    pub started_at: NaiveDateTime,
    pub finished_at: Option<NaiveDateTime>,
    pub drops_examined: u32,
    pub users_examined: i64,
    pub rows_examined: i64,
    pub failed_claims_examined: i64,
    pub applied: u32,
    pub skipped: u32,
    pub failed: u32,
    pub error: Option<String>,
    pub asked_by: Option<String>,
}

impl Db {
    /// Records the start of a run. The caller holds the pass lock, so any other run with status
    /// `running` has died.
    pub async fn begin_run(
        &self,
        run: RunRow,
        asked: Option<(Operator, OperatorAct)>,
    ) -> Result<(), DbError> {
        self.run("begin run", async move |conn| {
            conn.transaction(async |conn| {
                diesel::update(reconcile_runs::table.filter(reconcile_runs::status.eq(RUNNING)))
                    .set((
                        reconcile_runs::status.eq("failed"),
                        reconcile_runs::finished_at.eq(Utc::now().naive_utc()),
                        reconcile_runs::error.eq("the process ended during the run"),
                    ))
                    .execute(conn)
                    .await?;
                diesel::insert_into(reconcile_runs::table)
                    .values(&run)
                    .execute(conn)
                    .await?;
                match asked {
                    Some((operator, act)) => operator.did(conn, act).await,
                    None => Ok(()),
                }
            })
            .await
        })
        .await
    }

    /// Records the end of a run with its findings, even if its start could not be recorded.
    /// `succeeded` is the time that counts as the last success. If the last run over everything had
    /// the same result, only refers to that. Findings are written first, in small statements, and
    /// the run's row last, to keep its lock short.
    ///
    /// # Errors
    /// [`DbError`]; the run is still in progress, and the call may be repeated.
    pub async fn finish_run(
        &self,
        mut run: RunRow,
        findings: Vec<FindingRow>,
        succeeded: Option<String>,
    ) -> Result<(), DbError> {
        if self.has_ended(run.id.clone()).await? {
            return Ok(());
        }
        if let Some(content) = run.content {
            run.same_as = self.with_the_same_content(run.id.clone(), content).await?;
        }
        if run.same_as.is_some() {
            run.drops = None;
        } else {
            self.write_findings(&run.id, findings).await?;
        }
        self.run("finish run", async move |conn| {
            conn.transaction(async |conn| {
                diesel::insert_into(reconcile_runs::table)
                    .values(&run)
                    .on_conflict(diesel::dsl::DuplicatedKeys)
                    .do_update()
                    .set(&run)
                    .execute(conn)
                    .await?;
                match &succeeded {
                    Some(at) => set_state(conn, LAST_SUCCESS_AT, at).await,
                    None => Ok(()),
                }
            })
            .await
        })
        .await
    }

    /// Reads which run stores the findings of the last run over everything, if that had this
    /// content.
    async fn with_the_same_content(
        &self,
        but: String,
        content: i64,
    ) -> Result<Option<String>, DbError> {
        let last = self.run("last result", async move |conn| {
            let others = reconcile_runs::table.filter(reconcile_runs::id.ne(but));
            let last = others.filter(reconcile_runs::content.is_not_null());
            let last = last.order(reconcile_runs::id.desc()).select((
                reconcile_runs::id,
                reconcile_runs::content,
                reconcile_runs::same_as,
            ));
            last.first::<(String, Option<i64>, Option<String>)>(conn)
                .await
                .optional()
        });
        let last = last.await?.filter(|(_, found, _)| *found == Some(content));
        Ok(last.map(|(id, _, same_as)| same_as.unwrap_or(id)))
    }

    async fn has_ended(&self, run: String) -> Result<bool, DbError> {
        let ended = self.run("find run", async move |conn| {
            let ended = reconcile_runs::table
                .find(run)
                .filter(reconcile_runs::finished_at.is_not_null());
            ended.count().get_result::<i64>(conn).await
        });
        Ok(ended.await? > 0)
    }

    /// Reads the run in progress, in any process.
    pub async fn running_run(&self) -> Result<Option<String>, DbError> {
        self.run("running run", async move |conn| {
            reconcile_runs::table
                .filter(reconcile_runs::status.eq(RUNNING))
                .order(reconcile_runs::started_at.desc())
                .select(reconcile_runs::id)
                .first(conn)
                .await
                .optional()
        })
        .await
    }

    /// Reads the last full pass that did not fail.
    pub async fn last_full_run(&self) -> Result<Option<String>, DbError> {
        self.run("last pass over everything", async |conn| {
            let full = reconcile_runs::table.filter(reconcile_runs::content.is_not_null());
            full.filter(reconcile_runs::status.ne("failed"))
                .order(reconcile_runs::id.desc())
                .select(reconcile_runs::id)
                .first(conn)
                .await
                .optional()
        })
        .await
    }

    /// Lists runs, newest first; only those older than `before` if given.
    pub async fn runs(
        &self,
        limit: u32,
        before: Option<String>,
    ) -> Result<Vec<RunSummary>, DbError> {
        self.run("list runs", async move |conn| {
            let mut query = reconcile_runs::table
                .order(reconcile_runs::id.desc())
                .limit(i64::from(limit))
                .into_boxed();
            if let Some(before) = before {
                query = query.filter(reconcile_runs::id.lt(before));
            }
            let rows = query.select(RunListRow::as_select()).load(conn).await?;
            Ok(rows.into_iter().map(RunSummary::from).collect())
        })
        .await
    }

    /// Reads a run with at most `limit` findings with ids above `after`.
    pub async fn run_with_findings(
        &self,
        id: String,
        limit: u32,
        after: i64,
    ) -> Result<Option<(RunRow, Vec<(i64, FindingRow)>)>, DbError> {
        let row = self.run("read run", async move |conn| {
            let row: Option<RunRow> = reconcile_runs::table
                .find(&id)
                .select(RunRow::as_select())
                .first(conn)
                .await
                .optional()?;
            let Some(mut row) = row else { return Ok(None) };
            if let Some(same) = &row.same_as {
                let same = reconcile_runs::table.find(same);
                let drops = same.select(reconcile_runs::drops).first(conn);
                row.drops = drops.await.optional()?.flatten();
            }
            Ok(Some(row))
        });
        let Some(row) = row.await? else {
            return Ok(None);
        };
        let of = row.same_as.clone().unwrap_or_else(|| row.id.clone());
        let findings = self.findings_of(of, limit, after).await?;
        Ok(Some((row, findings)))
    }

    /// Reads the value with this name.
    pub async fn state(&self, name: &'static str) -> Result<Option<String>, DbError> {
        self.run("read state", async move |conn| state(conn, name).await)
            .await
    }

    pub async fn set_state(&self, name: &'static str, value: String) -> Result<(), DbError> {
        self.run("write state", async move |conn| {
            set_state(conn, name, &value).await
        })
        .await
    }
}

/// Serializes a value to the JSON of a column.
pub fn to_json(value: &impl Serialize) -> Result<String, DbError> {
    super::json(value).map_err(|source| DbError::Query {
        what: "write JSON",
        source,
    })
}

/// Reads a value of `reconciler_state` within a transaction.
pub async fn state(conn: &mut Conn, name: &str) -> QueryResult<Option<String>> {
    reconciler_state::table
        .find(name)
        .select(reconciler_state::value)
        .first(conn)
        .await
        .optional()
}

pub async fn set_state(conn: &mut Conn, name: &str, value: &str) -> QueryResult<()> {
    diesel::insert_into(reconciler_state::table)
        .values((
            reconciler_state::name.eq(name),
            reconciler_state::value.eq(value),
        ))
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set((
            reconciler_state::value.eq(value),
            reconciler_state::updated_at.eq(Utc::now().naive_utc()),
        ))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Retention by kind of record.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Runs with the same result as the one before.
    pub repeated_runs: Duration,
    /// Other runs, ended findings, and operators' actions.
    pub runs: Duration,
    /// Ended alerts.
    pub alerts: Duration,
    /// Mails and webhook events that were sent or given up.
    pub mails: Duration,
    /// Broken promises, counted from their resolution.
    pub mended_promises: Duration,
}

/// Rows deleted per statement. The number is small, so that locks stay short, but still allows
/// deleting millions of rows within a day.
const AT_ONCE: u32 = 1_000;

/// Selects the retention of one kind of record.
type Time = fn(&Retention) -> Duration;

/// Rows deleted by age alone, in the order of an index. [`before`] provides `{before}`.
const BY_AGE: &[(&str, Time)] = &[
    // Runs are deleted before, but for those that later runs refer to.
    (
        "reconcile_findings WHERE created_at < {before} \
         AND run_id NOT IN (SELECT id FROM reconcile_runs) ORDER BY created_at",
        |kept| kept.runs,
    ),
    (
        "alerts WHERE status = 'resolved' AND last_seen_at < {before} ORDER BY last_seen_at",
        |kept| kept.alerts,
    ),
    ("outbox WHERE sent_at < {before} ORDER BY sent_at", |kept| {
        kept.mails
    }),
    (
        "outbox WHERE sent_at IS NULL AND given_up_at < {before} ORDER BY given_up_at",
        |kept| kept.mails,
    ),
    (
        "repairs WHERE repaired_at < {before} ORDER BY repaired_at",
        |kept| kept.mails,
    ),
    // If this row is deleted, the next pass reports the held-back repairs again.
    (
        "held_back WHERE planned_at < {before} ORDER BY planned_at",
        |kept| kept.runs,
    ),
    ("ops_actions WHERE at < {before} ORDER BY at", |kept| {
        kept.runs
    }),
    (
        "broken_promises WHERE mended_at < {before} \
         AND drop_id NOT IN (SELECT id FROM drops WHERE sealed_at IS NULL) ORDER BY mended_at",
        |kept| kept.mended_promises,
    ),
];

impl Db {
    /// Deletes a limited number of rows past their retention.
    pub async fn delete_old(&self, kept: Retention) -> Result<(), DbError> {
        self.delete_old_runs(kept.repeated_runs, "IS NOT NULL")
            .await?;
        self.delete_old_runs(kept.runs, "IS NULL").await?;
        for (what, time) in BY_AGE {
            let Some(before) = before(time(&kept)) else {
                continue;
            };
            let sql = format!(
                "DELETE FROM {} LIMIT {AT_ONCE}",
                what.replace("{before}", &before)
            );
            self.run("delete what is old", async move |conn| {
                diesel::sql_query(sql).execute(conn).await
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes old runs, except the last clean run and runs whose reports another run refers to.
    async fn delete_old_runs(&self, kept: Duration, same_as: &'static str) -> Result<(), DbError> {
        let Some(before) = before(kept) else {
            return Ok(());
        };
        self.run("delete old runs", async move |conn| {
            let clean = reconcile_runs::table.filter(reconcile_runs::status.eq("clean"));
            let last: Option<String> = clean
                .filter(reconcile_runs::dry_run.eq(false))
                .order(reconcile_runs::started_at.desc())
                .select(reconcile_runs::id)
                .first(conn)
                .await
                .optional()?;
            let sql = format!(
                "DELETE r FROM reconcile_runs r JOIN (SELECT id FROM reconcile_runs o WHERE o.same_as {same_as} \
                 AND o.started_at < {before} AND o.status <> 'running' AND o.id <> ? AND NOT EXISTS \
                 (SELECT 1 FROM reconcile_runs l WHERE l.same_as = o.id) ORDER BY o.started_at LIMIT {AT_ONCE}) old USING (id)"
            );
            let delete = diesel::sql_query(sql);
            delete.bind::<Text, _>(last.unwrap_or_default()).execute(conn).await.map(|_| ())
        })
        .await
    }
}

/// Returns the SQL for the time before which records with this retention are old. Uses MySQL's
/// clock: a process whose clock is ahead would delete recent rows. `None` if the retention exceeds
/// a hundred years, so that nothing is old.
pub(super) fn before(kept: Duration) -> Option<String> {
    let seconds = Some(kept.as_secs()).filter(|seconds| *seconds <= 100 * 366 * 86_400)?;
    Some(format!("UTC_TIMESTAMP(3) - INTERVAL {seconds} SECOND"))
}
