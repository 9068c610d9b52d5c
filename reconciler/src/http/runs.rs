//! Routes for runs: `GET /v1/runs` lists them, `GET /v1/runs/{id}` returns one.

use std::collections::HashMap;

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery, invalid};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::runs::RunRow;
use firstcome_shared::mysql::{Db, DbError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::requests::{Answer, no_such, reveal, within};
use crate::passes::Passes;
use crate::report::{Examined, Finding, Run, Unlisted};

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

/// Runs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Runs {
    runs: Vec<RunRow>,
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
    let runs = db.runs(limit, query.before).await?;
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

/// A run with a page of its findings.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunPage {
    #[serde(flatten)]
    run: Run,
    /// `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_after: Option<i64>,
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
    let (run, next_after) = found.ok_or_else(|| {
        let why = "the run is just beginning, or waits for another";
        let is_beginning = is_under_way.then(|| Problem::unavailable(why));
        is_beginning.unwrap_or_else(|| no_such("run", &id))
    })?;
    if query.reveal.unwrap_or(false) {
        let findings = run.all_findings().count();
        let detail = json!({"run_id": run.run_id, "after": after, "findings": findings});
        reveal(&db, operator, detail).await?;
    }
    Ok(Json(RunPage { run, next_after }))
}

/// Whether the text has the form of a run's ID. For other text MySQL would report an error if its
/// character set differs from the column's.
pub(crate) fn is_run_id(text: &str) -> bool {
    text.parse::<Uuid>().is_ok()
}

/// Returns a run with at most `limit` findings after the finding `after`, and the start of the next
/// page.
pub(crate) async fn page(
    db: &Db,
    id: String,
    limit: u32,
    after: i64,
) -> Result<Option<(Run, Option<i64>)>, DbError> {
    let Some((row, findings)) = db.run_with_findings(id, limit, after).await? else {
        return Ok(None);
    };
    let last = findings.last().map(|(id, _)| *id);
    let next = last.filter(|_| findings.len() == limit as usize);
    let findings = findings.into_iter().map(|(_, finding)| finding);
    Ok(Some((assemble(row, findings), next)))
}

fn assemble(row: RunRow, findings: impl Iterator<Item = Finding>) -> Run {
    let drops = row
        .drops
        .as_deref()
        .and_then(|json| serde_json::from_str(json).ok());
    let mut run = Run {
        status: row.status,
        drops: drops.unwrap_or_default(),
        asked_by: row.asked_by,
        dry_run: row.dry_run,
        deep: row.deep,
        finished_at: row.finished_at,
        error: row.error,
        ..Run::begun(&row.run_id, row.trigger, row.started_at)
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
        match finding.drop_id.and_then(|drop| places.get(&drop)) {
            Some(at) => run.drops[*at].findings.push(finding),
            None => run.findings.push(finding),
        }
    }
    run
}
