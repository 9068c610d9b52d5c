//! Runs with their findings, as they are stored.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Conn;
use super::runs::RunRow;
use crate::domain::{CouponId, DropId};
use crate::report::{
    ActionKind, Cause, DropReport, Examined, Finding, Kind, Outcome, Run, Status, Stored, Trigger,
    Unlisted,
};
use crate::schema::{reconcile_findings, reconcile_runs};

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

/// A run with a page of its findings.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RunPage {
    #[serde(flatten)]
    pub run: Run,
    /// `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<i64>,
    /// What another version has recorded, and this one cannot read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(required = false)]
    pub unreadable: BTreeSet<String>,
}

/// Reads a run with at most `limit` findings with ids above `after`.
pub async fn read_page(
    conn: &mut Conn,
    id: &str,
    limit: u32,
    after: i64,
) -> QueryResult<Option<RunPage>> {
    let Some(mut stored) = find(conn, id).await? else {
        return Ok(None);
    };
    let of = stored.row.same_as.clone().unwrap_or_else(|| id.to_owned());
    if stored.row.same_as.is_some() {
        let same = find(conn, &of).await?;
        stored.drops = stored.drops.or(same.and_then(|same| same.drops));
    }
    let findings: Vec<ListedFinding> = reconcile_findings::table
        .filter(reconcile_findings::run_id.eq(of))
        .filter(reconcile_findings::id.gt(after))
        .order(reconcile_findings::id)
        .limit(limit.into())
        .select(ListedFinding::as_select())
        .load(conn)
        .await?;
    let last = findings.last().map(|found| found.id);
    Ok(Some(RunPage {
        next_after: last.filter(|_| findings.len() == limit as usize),
        ..assemble(stored, findings.into_iter().map(|found| found.finding))
    }))
}

async fn find(conn: &mut Conn, id: &str) -> QueryResult<Option<StoredRun>> {
    reconcile_runs::table
        .find(id.to_owned())
        .select(StoredRun::as_select())
        .first(conn)
        .await
        .optional()
}

/// A finding with its id.
#[derive(Queryable, Selectable)]
#[diesel(table_name = reconcile_findings)]
struct ListedFinding {
    id: i64,
    #[diesel(embed)]
    finding: FindingRow,
}

fn assemble(stored: StoredRun, findings: impl Iterator<Item = FindingRow>) -> RunPage {
    let StoredRun { row, drops } = stored;
    let mut unreadable = BTreeSet::new();
    let status = row.status.known().unwrap_or_else(|word| {
        unreadable.insert(format!("the status {word}"));
        Status::Failed
    });
    let trigger = row.trigger.known().unwrap_or_else(|word| {
        unreadable.insert(format!("the trigger {word}"));
        Trigger::Cron
    });
    let drops: Vec<DropReport> = match drops.map(serde_json::from_value) {
        Some(Ok(drops)) => drops,
        Some(Err(error)) => {
            unreadable.insert(format!("the drops ({error})"));
            Vec::new()
        }
        None => Vec::new(),
    };
    let mut run = Run {
        status,
        drops,
        asked_by: row.asked_by,
        dry_run: row.dry_run,
        deep: row.deep,
        finished_at: row.finished_at,
        error: row.error,
        ..Run::begun(&row.run_id, trigger, row.started_at)
    };
    let (drops, listed) = run.examined();
    let less = |all, listed| u64::try_from(all).unwrap_or(0).saturating_sub(listed);
    run.unlisted = Unlisted {
        drops: u64::from(row.drops_examined).saturating_sub(drops),
        examined: Examined {
            users: less(row.users_examined, listed.users),
            rows: less(row.rows_examined, listed.rows),
            failed_claims: less(row.failed_claims_examined, listed.failed_claims),
        },
    };
    let places: HashMap<_, _> = run
        .drops
        .iter()
        .enumerate()
        .map(|(at, report)| (report.drop_id, at))
        .collect();
    for finding in findings {
        let finding = match finding.known() {
            Ok(finding) => finding,
            Err(word) => {
                unreadable.insert(format!("findings with the word {word}"));
                continue;
            }
        };
        match finding.drop_id.and_then(|drop| places.get(&drop)) {
            Some(at) => run.drops[*at].findings.push(finding),
            None => run.findings.push(finding),
        }
    }
    RunPage {
        run,
        next_after: None,
        unreadable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_a_run_that_cannot_be_read_are_listed_and_the_others_returned() {
        let row = json!({
            "run_id": "1", "trigger": "moon", "status": "eclipsed", "dry_run": false,
            "deep": false, "confirmed": false, "started_at": "2026-12-01T06:00:00Z",
            "finished_at": null, "drops_examined": 3, "users_examined": 0, "rows_examined": 0,
            "failed_claims_examined": 0, "applied": 0, "skipped": 0, "failed": 0
        });
        let stored = StoredRun {
            row: serde_json::from_value(row).unwrap(),
            drops: Some(json!([{}])),
        };
        let known = FindingRow::from(Finding::report(Kind::Unfilled, ""));
        let other = FindingRow {
            kind: Stored::Unknown("shadowed".to_owned()),
            ..known.clone()
        };
        let page = assemble(stored, [known, other].into_iter());
        assert_eq!(page.run.findings.len(), 1);
        assert_eq!(page.run.findings[0].kind, Kind::Unfilled);
        let unreadable = Vec::from_iter(page.unreadable);
        assert!(unreadable[0].starts_with("findings with the word shadowed"));
        assert!(unreadable[1].starts_with("the drops (missing field"));
        assert_eq!(unreadable[2..], ["the status eclipsed", "the trigger moon"]);
    }
}
