//! Runs with their findings, as they are stored.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;

use super::Conn;
use super::runs::RunRow;
use crate::domain::{CouponId, DropId};
use crate::report::{
    ActionKind, Cause, DropReport, Examined, Finding, Kind, Outcome, Run, Status, Stored, Trigger,
    Unlisted,
};
use crate::schema::{reconcile_findings, reconcile_runs};

/// Findings read of a run for a mail, which lists far fewer.
const FINDINGS: i64 = 20_000;

/// A run with the reports of its drops, which may take megabytes.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = reconcile_runs)]
pub struct StoredRun {
    #[diesel(embed)]
    pub row: RunRow,
    /// `None` if `same_as` stores them.
    pub drops: Option<Value>,
}

/// A finding as it is stored.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = reconcile_findings, treat_none_as_default_value = false)]
pub struct FindingRow {
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    pub kind: Stored<Kind>,
    pub slot: Option<i64>,
    pub user_id: Option<String>,
    pub action: Stored<ActionKind>,
    pub result: Stored<Outcome>,
    pub detail: String,
    pub needs_person: bool,
    pub dead_letter: Option<i64>,
    /// See [`Cause::to_stored`].
    pub cause: String,
}

impl From<Finding> for FindingRow {
    fn from(finding: Finding) -> Self {
        Self {
            coupon_id: finding.coupon_id,
            drop_id: finding.drop_id,
            kind: Stored::Known(finding.kind),
            slot: finding.slot,
            user_id: finding.user_id,
            action: Stored::Known(finding.action),
            result: Stored::Known(finding.result),
            detail: finding.detail,
            needs_person: finding.needs_person,
            dead_letter: finding.dead_letter,
            cause: finding.cause.to_stored(),
        }
    }
}

impl FindingRow {
    /// Returns the finding, or a word of it that this version does not know.
    pub fn known(self) -> Result<Finding, String> {
        Ok(Finding {
            kind: self.kind.known()?,
            coupon_id: self.coupon_id,
            drop_id: self.drop_id,
            slot: self.slot,
            user_id: self.user_id,
            action: self.action.known()?,
            result: self.result.known()?,
            detail: self.detail,
            needs_person: self.needs_person,
            dead_letter: self.dead_letter,
            cause: Cause::from_stored(&self.cause)?,
        })
    }
}

/// Reads a run with its findings. Words of a later version are left out.
pub async fn read(conn: &mut Conn, id: &str) -> QueryResult<Option<Run>> {
    let run = async |conn: &mut Conn, id: &str| {
        reconcile_runs::table
            .find(id.to_owned())
            .select(StoredRun::as_select())
            .first(conn)
            .await
            .optional()
    };
    let Some(mut found) = run(conn, id).await? else {
        return Ok(None);
    };
    let of = found.row.same_as.clone().unwrap_or_else(|| id.to_owned());
    if found.row.same_as.is_some() {
        let same = run(conn, &of).await?;
        found.drops = found.drops.or(same.and_then(|same| same.drops));
    }
    let findings = reconcile_findings::table
        .filter(reconcile_findings::run_id.eq(of))
        .order(reconcile_findings::id)
        .limit(FINDINGS)
        .select(FindingRow::as_select())
        .load(conn)
        .await?;
    Ok(Some(assemble(found, findings)))
}

fn assemble(StoredRun { row, drops }: StoredRun, findings: Vec<FindingRow>) -> Run {
    let drops: Vec<DropReport> = drops
        .and_then(|drops| serde_json::from_value(drops).ok())
        .unwrap_or_default();
    let trigger = row.trigger.known().unwrap_or(Trigger::Cron);
    let mut run = Run {
        status: row.status.known().unwrap_or(Status::Failed),
        drops,
        asked_by: row.asked_by,
        dry_run: row.dry_run,
        deep: row.deep,
        finished_at: row.finished_at,
        error: row.error,
        ..Run::begun(&row.run_id, trigger, row.started_at)
    };
    let (listed, examined) = run.examined();
    let less = |all: i64, listed: u64| u64::try_from(all).unwrap_or(0).saturating_sub(listed);
    run.unlisted = Unlisted {
        drops: u64::from(row.drops_examined).saturating_sub(listed),
        examined: Examined {
            users: less(row.users_examined, examined.users),
            rows: less(row.rows_examined, examined.rows),
            failed_claims: less(row.failed_claims_examined, examined.failed_claims),
        },
    };
    for finding in findings.into_iter().filter_map(|row| row.known().ok()) {
        let mut reports = run.drops.iter_mut();
        match reports.find(|report| Some(report.drop_id) == finding.drop_id) {
            Some(report) => report.findings.push(finding),
            None => run.findings.push(finding),
        }
    }
    run
}
