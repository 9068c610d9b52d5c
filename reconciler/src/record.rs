//! What a pass did, in MySQL: one row a run, one a finding.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_shared::mysql::schema::{reconcile_findings, reconcile_runs, reconciler_state};
use firstcome_shared::mysql::{Conn, Db, DbError};

use crate::report::{DropReport, Finding, Outcome, Run, Status};

/// Name in `reconciler_state` of the last pass that neither failed nor was a dry run.
pub const LAST_SUCCESS: &str = "last_success_at";

/// Findings written in one statement.
const FINDINGS_AT_ONCE: usize = 500;

/// Notes that a run begins. The caller holds the pass lock, so any other run that is still "running" died.
///
/// # Errors
/// [`DbError`].
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
    db.run_within(std::time::Duration::from_secs(60), "finish run", async move |conn| {
        conn.transaction(async |conn| {
            let known: i64 =
                reconcile_runs::table.filter(reconcile_runs::id.eq(&run.run_id)).count().get_result(conn).await?;
            if known == 0 {
                insert(conn, &run, confirmed, &owner).await?;
            }
            update(conn, &run).await?;
            insert_findings(conn, &run).await?;
            if run.status != Status::Failed && !run.dry_run {
                set_state(conn, LAST_SUCCESS, &run.finished_at.unwrap_or_else(Utc::now).to_rfc3339()).await?;
            }
            Ok(())
        })
        .await
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
                    reconcile_findings::action.eq(&finding.action),
                    reconcile_findings::result.eq(finding.result.as_str()),
                    reconcile_findings::detail.eq(&finding.detail),
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
///
/// # Errors
/// [`DbError`].
pub async fn remember(db: &Db, name: &'static str, at: DateTime<Utc>) -> Result<(), DbError> {
    db.run("remember", async move |conn| set_state(conn, name, &at.to_rfc3339()).await).await
}

/// An instant kept by [`remember`] or by a pass.
///
/// # Errors
/// [`DbError`].
pub async fn recall(db: &Db, name: &'static str) -> Result<Option<DateTime<Utc>>, DbError> {
    let text: Option<String> = db
        .run("recall", async move |conn| {
            reconciler_state::table.find(name).select(reconciler_state::value).first(conn).await.optional()
        })
        .await?;
    Ok(text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map(|at| at.with_timezone(&Utc)))
}

/// A run as lists show it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
#[allow(missing_docs)] // as in the run itself
pub struct RunSummary {
    pub run_id: String,
    pub trigger: String,
    pub dry_run: bool,
    pub deep: bool,
    pub confirmed: bool,
    pub status: String,
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
    pub error: Option<String>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
struct RunRow {
    id: String,
    triggered_by: String,
    dry_run: bool,
    deep: bool,
    confirmed: bool,
    status: String,
    started_at: chrono::NaiveDateTime,
    finished_at: Option<chrono::NaiveDateTime>,
    drops_examined: u32,
    users_examined: i64,
    rows_examined: i64,
    failed_claims_examined: i64,
    applied: u32,
    skipped: u32,
    failed: u32,
    error: Option<String>,
    drops: Option<String>,
}

impl From<RunRow> for RunSummary {
    fn from(row: RunRow) -> Self {
        Self {
            run_id: row.id,
            trigger: row.triggered_by,
            dry_run: row.dry_run,
            deep: row.deep,
            confirmed: row.confirmed,
            status: row.status,
            started_at: row.started_at.and_utc(),
            finished_at: row.finished_at.map(|at| at.and_utc()),
            drops_examined: row.drops_examined,
            users_examined: row.users_examined,
            rows_examined: row.rows_examined,
            failed_claims_examined: row.failed_claims_examined,
            applied: row.applied,
            skipped: row.skipped,
            failed: row.failed,
            error: row.error,
        }
    }
}

/// The pass that runs now, in whatever process.
///
/// # Errors
/// [`DbError`].
pub async fn running(db: &Db) -> Result<Option<String>, DbError> {
    db.run("running pass", async move |conn| {
        reconcile_runs::table
            .filter(reconcile_runs::status.eq(Status::Running.as_str()))
            .order(reconcile_runs::started_at.desc())
            .select(reconcile_runs::id)
            .first(conn)
            .await
            .optional()
    })
    .await
}

/// Runs, newest first; only those older than `before`.
///
/// # Errors
/// [`DbError`].
pub async fn list(db: &Db, limit: u32, before: Option<String>) -> Result<Vec<RunSummary>, DbError> {
    db.run("list runs", async move |conn| {
        let mut query = reconcile_runs::table.order(reconcile_runs::id.desc()).limit(i64::from(limit)).into_boxed();
        if let Some(before) = before {
            query = query.filter(reconcile_runs::id.lt(before));
        }
        let rows: Vec<RunRow> = query.select(RunRow::as_select()).load(conn).await?;
        Ok(rows.into_iter().map(RunSummary::from).collect())
    })
    .await
}

type FindingRow = (i64, Option<i64>, Option<i64>, String, Option<i64>, Option<String>, String, String, Option<String>);

/// A run with at most `limit` findings after the finding `after`, and where the next page begins.
///
/// # Errors
/// [`DbError`].
pub async fn read(db: &Db, id: String, limit: u32, after: i64) -> Result<Option<(Run, Option<i64>)>, DbError> {
    db.run("read run", async move |conn| {
        let row: Option<RunRow> =
            reconcile_runs::table.find(&id).select(RunRow::as_select()).first(conn).await.optional()?;
        let Some(row) = row else { return Ok(None) };
        let findings: Vec<FindingRow> = reconcile_findings::table
            .filter(reconcile_findings::run_id.eq(&id).and(reconcile_findings::id.gt(after)))
            .order(reconcile_findings::id)
            .limit(i64::from(limit))
            .select((
                reconcile_findings::id,
                reconcile_findings::coupon_id,
                reconcile_findings::drop_id,
                reconcile_findings::kind,
                reconcile_findings::slot,
                reconcile_findings::user_id,
                reconcile_findings::action,
                reconcile_findings::result,
                reconcile_findings::detail,
            ))
            .load(conn)
            .await?;
        let next = (findings.len() == limit as usize).then(|| findings.last().map(|f| f.0)).flatten();
        Ok(Some((assemble(row, findings), next)))
    })
    .await
}

fn assemble(row: RunRow, findings: Vec<FindingRow>) -> Run {
    // The words are this program's own; one that an older build wrote and this one does not know reads as the mildest.
    fn word<T: serde::de::DeserializeOwned>(text: &str, otherwise: T) -> T {
        serde_json::from_value(serde_json::Value::from(text)).unwrap_or(otherwise)
    }
    let mut run = Run {
        trigger: word(&row.triggered_by, crate::report::Trigger::Cron),
        status: word(&row.status, Status::Failed),
        drops: row.drops.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        run_id: row.id,
        dry_run: row.dry_run,
        deep: row.deep,
        partial: false,
        started_at: row.started_at.and_utc(),
        finished_at: row.finished_at.map(|at| at.and_utc()),
        error: row.error,
        findings: Vec::new(),
    };
    for (_, coupon, drop, kind, slot, user_id, action, result, detail) in findings {
        let finding = Finding {
            kind: word(&kind, crate::report::Kind::Stalled),
            coupon_id: coupon.map(firstcome_shared::domain::CouponId),
            drop_id: drop.map(firstcome_shared::domain::DropId),
            slot,
            user_id,
            needs_person: result == Outcome::Failed.as_str() || action == "report",
            action,
            result: word(&result, Outcome::Skipped),
            detail: detail.unwrap_or_default(),
        };
        match run.drops.iter_mut().find(|d| Some(d.drop_id) == finding.drop_id) {
            Some(report) => report.findings.push(finding),
            None => run.findings.push(finding),
        }
    }
    run
}
