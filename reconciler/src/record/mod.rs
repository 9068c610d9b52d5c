//! What a pass did, in MySQL: one row a run, one a finding.

mod read;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::Datetime;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_shared::mysql::runs::LAST_SUCCESS_AT;
use firstcome_shared::mysql::schema::{reconcile_findings, reconcile_runs, reconciler_state};
use firstcome_shared::mysql::{Conn, Db, DbError};

use crate::report::{DropReport, Finding, Outcome, Run, Status};

pub use read::{RunSummary, list, read, running};

/// Findings written in one statement.
const FINDINGS_AT_ONCE: usize = 500;

/// Notes that a run begins. The caller holds the pass lock, so any other run that is still "running" died.
pub async fn begin(db: &Db, run: &Run, confirmed: bool, owner: String) -> Result<(), DbError> {
    let run = run.clone();
    db.run("begin run", async move |conn| {
        conn.transaction(async |conn| {
            diesel::update(reconcile_runs::table.filter(reconcile_runs::status.eq(Status::Running.as_str())))
                .set((
                    reconcile_runs::status.eq(Status::Failed.as_str()),
                    reconcile_runs::finished_at.eq(Utc::now().naive_utc()),
                    reconcile_runs::error.eq("the process that ran it ended in the middle"),
                ))
                .execute(conn)
                .await?;
            insert(conn, &run, confirmed, &owner).await
        })
        .await
    })
    .await
}

async fn insert(conn: &mut Conn, run: &Run, confirmed: bool, owner: &str) -> QueryResult<()> {
    diesel::insert_into(reconcile_runs::table)
        .values((
            reconcile_runs::id.eq(&run.run_id),
            reconcile_runs::triggered_by.eq(run.trigger.as_str()),
            reconcile_runs::dry_run.eq(run.dry_run),
            reconcile_runs::deep.eq(run.deep),
            reconcile_runs::confirmed.eq(confirmed),
            reconcile_runs::status.eq(run.status.as_str()),
            reconcile_runs::owner.eq(owner),
            reconcile_runs::started_at.eq(run.started_at.naive_utc()),
            reconcile_runs::heartbeat_at.eq(run.started_at.naive_utc()),
        ))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Notes how a run ended, with its findings; also where its beginning could not be noted.
///
/// # Errors
/// [`DbError`]; nothing was noted.
pub async fn finish(db: &Db, run: &Run, confirmed: bool, owner: String) -> Result<(), DbError> {
    let run = run.clone();
    db.run_within(Duration::from_secs(60), "finish run", async move |conn| {
        conn.transaction(async |conn| {
            let known: i64 =
                reconcile_runs::table.filter(reconcile_runs::id.eq(&run.run_id)).count().get_result(conn).await?;
            if known == 0 {
                insert(conn, &run, confirmed, &owner).await?;
            }
            update(conn, &run).await?;
            insert_findings(conn, &run).await?;
            if run.status != Status::Failed && !run.dry_run {
                set_state(conn, LAST_SUCCESS_AT, &run.finished_at.unwrap_or_else(Utc::now).to_rfc3339()).await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

/// Runs thrown away in one statement: short locks, and thousands of passes are caught up with in a few.
const FORGOTTEN_AT_ONCE: u32 = 500;

/// Runs that found something are the memory of `explain` and stay for this long.
const TELLING_RUNS_KEPT: Duration = Duration::from_secs(366 * 86_400);

/// Throws away runs that began longer ago: `kept` for those that found nothing, a year for the others (with their findings).
pub async fn forget_old(db: &Db, kept: Duration) -> Result<(), DbError> {
    db.run("forget old runs", async move |conn| {
        for (of, kept) in [("status = 'clean'", kept), ("status NOT IN ('clean', 'running')", TELLING_RUNS_KEPT)] {
            let sql = format!(
                "DELETE FROM reconcile_runs WHERE {of} AND started_at < ? ORDER BY started_at LIMIT {FORGOTTEN_AT_ONCE}"
            );
            // Longer than time itself: nothing is old.
            let before = TimeDelta::from_std(kept).ok().and_then(|kept| Utc::now().checked_sub_signed(kept));
            let Some(before) = before else { continue };
            diesel::sql_query(sql).bind::<Datetime, _>(before.naive_utc()).execute(conn).await?;
        }
        Ok(())
    })
    .await
}

async fn update(conn: &mut Conn, run: &Run) -> QueryResult<()> {
    let total = |of: fn(&DropReport) -> u64| i64::try_from(run.drops.iter().map(of).sum::<u64>()).unwrap_or(i64::MAX);
    let with = |outcome: Outcome| small(run.all_findings().filter(|f| f.result == outcome).count());
    // The findings have rows of their own.
    let drops: Vec<DropReport> = run.drops.iter().map(|d| DropReport { findings: Vec::new(), ..d.clone() }).collect();
    let drops = serde_json::to_string(&drops).map_err(|e| diesel::result::Error::SerializationError(Box::new(e)))?;
    diesel::update(reconcile_runs::table.find(&run.run_id))
        .set((
            reconcile_runs::status.eq(run.status.as_str()),
            reconcile_runs::finished_at.eq(run.finished_at.map(|at| at.naive_utc())),
            reconcile_runs::drops_examined.eq(small(run.drops.len())),
            reconcile_runs::users_examined.eq(total(|d| d.examined.users)),
            reconcile_runs::rows_examined.eq(total(|d| d.examined.rows)),
            reconcile_runs::failed_claims_examined.eq(total(|d| d.examined.failed_claims)),
            reconcile_runs::attempted.eq(with(Outcome::Applied) + with(Outcome::Failed)),
            reconcile_runs::applied.eq(with(Outcome::Applied)),
            reconcile_runs::skipped.eq(with(Outcome::Skipped)),
            reconcile_runs::failed.eq(with(Outcome::Failed)),
            reconcile_runs::error.eq(&run.error),
            reconcile_runs::drops.eq(drops),
        ))
        .execute(conn)
        .await
        .map(|_| ())
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

async fn insert_findings(conn: &mut Conn, run: &Run) -> QueryResult<()> {
    let findings: Vec<&Finding> = run.all_findings().collect();
    for chunk in findings.chunks(FINDINGS_AT_ONCE) {
        let rows: Vec<_> = chunk
            .iter()
            .map(|finding| {
                (
                    reconcile_findings::run_id.eq(&run.run_id),
                    reconcile_findings::coupon_id.eq(finding.coupon_id.map(|c| c.0)),
                    reconcile_findings::drop_id.eq(finding.drop_id.map(|d| d.0)),
                    reconcile_findings::kind.eq(finding.kind.as_str()),
                    reconcile_findings::slot.eq(finding.slot),
                    reconcile_findings::user_id.eq(&finding.user_id),
                    reconcile_findings::action.eq(finding.action.as_str()),
                    reconcile_findings::result.eq(finding.result.as_str()),
                    reconcile_findings::detail.eq(&finding.detail),
                    reconcile_findings::needs_person.eq(finding.needs_person),
                )
            })
            .collect();
        diesel::insert_into(reconcile_findings::table).values(rows).execute(conn).await?;
    }
    Ok(())
}

async fn set_state(conn: &mut Conn, name: &str, value: &str) -> QueryResult<()> {
    diesel::insert_into(reconciler_state::table)
        .values((reconciler_state::name.eq(name), reconciler_state::value.eq(value)))
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set((reconciler_state::value.eq(value), reconciler_state::updated_at.eq(Utc::now().naive_utc())))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Keeps a small fact over restarts.
pub async fn remember(db: &Db, name: &'static str, at: DateTime<Utc>) -> Result<(), DbError> {
    db.run("remember", async move |conn| set_state(conn, name, &at.to_rfc3339()).await).await
}

/// An instant kept by [`remember`] or by a pass.
pub async fn recall(db: &Db, name: &'static str) -> Result<Option<DateTime<Utc>>, DbError> {
    let text = db.state(name).await?;
    Ok(text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map(|at| at.with_timezone(&Utc)))
}
