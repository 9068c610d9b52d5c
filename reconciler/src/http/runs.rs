//! Routes for runs: `GET /v1/runs` lists them, `GET /v1/runs/{id}` returns one.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery, invalid};
use firstcome_shared::http::views::{RunPage, Runs};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::stored_run::read_page;
use firstcome_shared::mysql::{Db, DbError};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use uuid::Uuid;

use super::requests::{RouteResult, no_such, reveal, within};
use crate::findings_csv;
use crate::passes::Passes;
use crate::queries;

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
) -> RouteResult<Runs> {
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
) -> RouteResult<RunPage> {
    let limit = within("limit", query.limit, 1_000, 1..=10_000)?;
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
    let found = page(&db.within(LONG), id.clone(), u32::MAX, 0).await?;
    let run = found.ok_or_else(|| no_such("run", &id))?.run;
    let detail = json!({"run_id": id, "findings": run.all_findings().count()});
    reveal(&db, operator, detail).await?;
    let report = findings_csv::write(&run).map_err(|error| {
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

/// Time limit of reading all findings of a run.
const LONG: Duration = Duration::from_secs(30);

/// Whether the text has the form of a run's ID. For other text MySQL would report an error if its
/// character set differs from the column's.
pub(crate) fn is_run_id(text: &str) -> bool {
    text.parse::<Uuid>().is_ok()
}

/// Returns a run with at most `limit` findings after the finding `after`, if there is one.
pub(crate) async fn page(
    db: &Db,
    id: String,
    limit: u32,
    after: i64,
) -> Result<Option<RunPage>, DbError> {
    if !is_run_id(&id) {
        return Ok(None);
    }
    db.run("read run", async move |conn| {
        read_page(conn, &id, limit, after).await
    })
    .await
}
