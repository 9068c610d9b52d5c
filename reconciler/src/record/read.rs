//! Reading runs back, for the endpoint.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::mysql::schema::{reconcile_findings, reconcile_runs};
use firstcome_shared::mysql::{Db, DbError};

use crate::report::{ActionKind, Finding, Outcome, Run, Status};

/// A run as lists show it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
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

type FindingRow =
    (i64, Option<i64>, Option<i64>, String, Option<i64>, Option<String>, String, String, Option<String>, bool);

/// A run with at most `limit` findings after the finding `after`, and where the next page begins.
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
                reconcile_findings::needs_person,
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
    fn word<T: std::str::FromStr>(text: &str, otherwise: T) -> T {
        text.parse().unwrap_or(otherwise)
    }
    let mut run = Run {
        trigger: word(&row.triggered_by, crate::report::Trigger::Cron),
        status: word(&row.status, Status::Failed),
        drops: row.drops.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
        run_id: row.id,
        dry_run: row.dry_run,
        deep: row.deep,
        partial: false,
        stopped: false,
        started_at: row.started_at.and_utc(),
        finished_at: row.finished_at.map(|at| at.and_utc()),
        error: row.error,
        findings: Vec::new(),
    };
    for (_, coupon, drop, kind, slot, user_id, action, result, detail, needs_person) in findings {
        let finding = Finding {
            kind: word(&kind, crate::report::Kind::Stalled),
            coupon_id: coupon.map(firstcome_shared::domain::CouponId),
            drop_id: drop.map(firstcome_shared::domain::DropId),
            slot,
            user_id,
            needs_person,
            action: word(&action, ActionKind::Report),
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
