//! Runs with their findings. A run with the same result as the one before it stores no findings, but
//! refers to the run that stores them (`same_as`), so the table grows with events and not with passes.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use firstcome_shared::columns::now;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::runs::{LAST_SUCCESS_AT, RUNNING, RunRow, set_state};
pub(crate) use firstcome_shared::mysql::stored_run::{FindingRow, StoredRun};
use firstcome_shared::mysql::{Db, DbResult};
use firstcome_shared::report::Finding;
use firstcome_shared::schema::{reconcile_findings, reconcile_runs};

/// Findings inserted per statement.
const ROWS_AT_ONCE: usize = 200;

/// The result of a run, as the next one compares it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
struct LastResult {
    id: String,
    content: Option<i64>,
    same_as: Option<String>,
}

/// Records the start of a run. The caller holds the pass lock, so any other run with status
/// `running` has died.
pub(crate) async fn begin_run(
    db: &Db,
    run: RunRow,
    asked: Option<(Operator, OperatorAct)>,
) -> DbResult<()> {
    db.transaction("begin run", async move |conn| {
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
pub(crate) async fn finish_run(
    db: &Db,
    mut run: StoredRun,
    findings: Vec<Finding>,
    succeeded: Option<String>,
) -> DbResult<()> {
    let id = run.row.run_id.clone();
    // A pass that lost its lock may have been marked as ended, but its result is not recorded.
    let has_result = reconcile_runs::drops
        .is_not_null()
        .or(reconcile_runs::same_as.is_not_null());
    let recorded = reconcile_runs::table
        .find(id.clone())
        .filter(has_result)
        .select(reconcile_runs::id);
    if db.row::<String, _>("find run", recorded).await?.is_some() {
        return Ok(());
    }
    let last = reconcile_runs::table
        .filter(reconcile_runs::id.ne(id.clone()))
        .filter(reconcile_runs::content.is_not_null())
        .order(reconcile_runs::id.desc())
        .limit(1)
        .select(LastResult::as_select());
    let last = db.row("last result", last).await?;
    if let Some(last) = last
        && last.content == run.row.content
    {
        run.row.same_as = Some(last.same_as.unwrap_or(last.id));
        run.drops = None;
    } else {
        write_findings(db, &id, findings).await?;
    }
    db.transaction("finish run", async move |conn| {
        diesel::replace_into(reconcile_runs::table)
            .values((run.row, reconcile_runs::drops.eq(run.drops)))
            .execute(conn)
            .await?;
        if let Some(at) = &succeeded {
            set_state(conn, LAST_SUCCESS_AT, at).await?;
        }
        Ok(())
    })
    .await
}

/// Reads the id of the last full pass that did not fail.
pub(crate) async fn last_full_run(db: &Db) -> DbResult<Option<String>> {
    let last = reconcile_runs::table
        .filter(reconcile_runs::content.is_not_null())
        .filter(reconcile_runs::status.ne("failed"))
        .order(reconcile_runs::id.desc())
        .limit(1)
        .select(reconcile_runs::id);
    db.row("last pass over everything", last).await
}

/// Lists runs, newest first; only those older than `before` if given.
pub(crate) async fn runs(db: &Db, limit: u32, before: Option<String>) -> DbResult<Vec<RunRow>> {
    let mut page = reconcile_runs::table
        .order(reconcile_runs::id.desc())
        .limit(limit.into())
        .select(RunRow::as_select())
        .into_boxed();
    if let Some(before) = before {
        page = page.filter(reconcile_runs::id.lt(before));
    }
    db.rows("list runs", page).await
}

/// Time limit for writing all findings of a run.
const LONG: Duration = Duration::from_secs(60);

/// Writes the findings of a run that has no row yet or is in progress, in small statements.
/// Safe to repeat after an error.
async fn write_findings(db: &Db, run_id: &str, findings: Vec<Finding>) -> DbResult<()> {
    // Delete the findings that an earlier attempt wrote before it failed.
    let run_id = run_id.to_owned();
    let db = db.within(LONG);
    db.run("write findings", async move |conn| {
        let earlier = sql_query("DELETE FROM reconcile_findings WHERE run_id = ? LIMIT 5000")
            .bind::<Text, _>(&run_id);
        while earlier.clone().execute(conn).await? > 0 {}
        for some in findings.chunks(ROWS_AT_ONCE) {
            let rows: Vec<_> = some
                .iter()
                .map(|finding| {
                    let row = FindingRow::from(finding.clone());
                    (row, reconcile_findings::run_id.eq(&run_id))
                })
                .collect();
            diesel::insert_into(reconcile_findings::table)
                .values(rows)
                .execute(conn)
                .await?;
        }
        Ok(())
    })
    .await
}
