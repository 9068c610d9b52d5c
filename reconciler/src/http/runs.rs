//! Routes for runs: `GET /v1/runs` lists them, `GET /v1/runs/{id}` returns one.

use std::collections::{BTreeSet, HashMap};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery, invalid};
use firstcome_shared::http::views::{RunPage, Runs};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{Db, DbError};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use uuid::Uuid;

use super::requests::{Answer, no_such, reveal, within};
use crate::findings_csv;
use crate::passes::Passes;
use crate::queries;
use crate::queries::runs::StoredRun;
use crate::queries::runs::{FindingRow, ListedFinding};
use crate::report::{DropReport, Examined, Run, Status, Trigger, Unlisted};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// Page size.
    #[param(default = 20, minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Only runs older than this one.
    #[param(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    before: Option<String>,
}

/// List runs, newest first, without their findings
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs",
    operation_id = "list_runs", security(("ops" = [])),
    params(RunsQuery),
    responses((status = 200, description = "Runs, newest first", body = Runs))
)]
pub(super) async fn list(
    State(db): State<Db>,
    StrictQuery(query): StrictQuery<RunsQuery>,
) -> Answer<Runs> {
    let limit = within("limit", query.limit, 20, 1..=200)?;
    if query.before.as_deref().is_some_and(|id| !is_run_id(id)) {
        return Err(invalid("before must be the id of a run"));
    }
    let runs = queries::runs::runs(&db, limit, query.before).await?;
    Ok(Json(Runs { runs }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunQuery {
    /// Page size.
    #[param(default = 1000, minimum = 1, maximum = 10000)]
    limit: Option<u32>,
    /// Only findings after this one: `next_after` of the previous page.
    after: Option<i64>,
    /// Record in `ops_actions` that you (`X-Operator`) saw the ids of the users in these findings.
    reveal: Option<bool>,
}

/// Read one run with its findings, a page at a time
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs",
    operation_id = "read_run", security(("ops" = [])),
    params(
        (
            "id" = String, Path, description = "The run",
            example = "0193a1f2-7c00-7d31-8000-0000000000a1"
        ),
        RunQuery
    ),
    responses((status = 200, description = "The run", body = RunPage))
)]
pub(super) async fn read(
    State(db): State<Db>,
    State(passes): State<Passes>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    StrictQuery(query): StrictQuery<RunQuery>,
) -> Answer<RunPage> {
    let limit = within("limit", query.limit, 1_000, 1..=10_000)?;
    if !is_run_id(&id) {
        return Err(no_such("run", &id));
    }
    let after = query.after.unwrap_or(0);
    let is_under_way = passes.current.has(&id);
    let found = page(&db, id.clone(), limit, after).await?;
    // A run is recorded once it has the lock.
    let page = found.ok_or_else(|| {
        let why = "the run is just beginning, or waits for another";
        let is_beginning = is_under_way.then(|| Problem::unavailable(why));
        is_beginning.unwrap_or_else(|| no_such("run", &id))
    })?;
    if query.reveal.unwrap_or(false) {
        let findings = page.run.all_findings().count();
        let detail = json!({"run_id": page.run.run_id, "after": after, "findings": findings});
        reveal(&db, operator, detail).await?;
    }
    Ok(Json(page))
}

/// Read one run as a CSV: the numbers of its drops before and after, and all stored findings
///
/// At most 200 findings of a drop are stored for each kind, action and result; `once --report` has
/// all of them. That you saw the users' ids is recorded in `ops_actions`.
#[utoipa::path(
    get, path = "/v1/runs/{id}/findings.csv", tag = "runs",
    operation_id = "read_run_as_csv", security(("ops" = [])),
    params((
        "id" = String, Path, description = "The run",
        example = "0193a1f2-7c00-7d31-8000-0000000000a1"
    )),
    responses((status = 200, description = "The report", content((String = "text/csv"))))
)]
pub(super) async fn csv(
    State(db): State<Db>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
) -> Result<Response, Problem> {
    const PART: u32 = 10_000;
    if !is_run_id(&id) {
        return Err(no_such("run", &id));
    }
    let found = page(&db, id.clone(), PART, 0).await?;
    let mut run = found.ok_or_else(|| no_such("run", &id))?;
    while let Some(after) = run.next_after {
        let Some(more) = page(&db, id.clone(), PART, after).await? else {
            break;
        };
        run.next_after = more.next_after;
        run.run.findings.extend(more.run.findings);
        for (drop, more) in run.run.drops.iter_mut().zip(more.run.drops) {
            drop.findings.extend(more.findings);
        }
    }
    let detail = json!({"run_id": id, "findings": run.run.all_findings().count()});
    reveal(&db, operator, detail).await?;
    let report = findings_csv::write(&run.run).map_err(|error| {
        tracing::error!(%error, run_id = id, "a run cannot be written as CSV");
        Problem::internal()
    })?;
    let name = format!("attachment; filename=\"run-{id}.csv\"");
    let headers = [
        (CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (CONTENT_DISPOSITION, name.as_str()),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, report).into_response())
}

/// Whether the text has the form of a run's ID. For other text MySQL would report an error if its
/// character set differs from the column's.
pub(crate) fn is_run_id(text: &str) -> bool {
    text.parse::<Uuid>().is_ok()
}

/// Returns a run with at most `limit` findings after the finding `after`.
pub(crate) async fn page(
    db: &Db,
    id: String,
    limit: u32,
    after: i64,
) -> Result<Option<RunPage>, DbError> {
    let Some((stored, findings)) = queries::runs::run_with_findings(db, id, limit, after).await?
    else {
        return Ok(None);
    };
    let last = findings.last().map(|found: &ListedFinding| found.id);
    let findings = findings.into_iter().map(|found| found.finding);
    Ok(Some(RunPage {
        next_after: last.filter(|_| findings.len() == limit as usize),
        ..assemble(stored, findings)
    }))
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
    let less = |all: i64, listed: u64| u64::try_from(all).unwrap_or(0).saturating_sub(listed);
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
    use firstcome_shared::report::{Finding, Kind, Stored};

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
