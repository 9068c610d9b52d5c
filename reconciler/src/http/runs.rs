//! Routes for runs: `GET /v1/runs` lists them, `GET /v1/runs/{id}` returns one.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery, invalid};
use firstcome_shared::http::views::RunSummary;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::refusals::{Answer, no_such, within};
use super::state::RouteState;
use crate::record;
use crate::report::Run;

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
    runs: Vec<RunSummary>,
}

/// List runs, newest first, without their findings
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs", operation_id = "list_runs", params(RunsQuery), security(("ops" = [])),
    responses(
        (status = 200, description = "Runs, newest first", body = Runs),
    )
)]
pub(super) async fn list(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<RunsQuery>,
) -> Answer<Runs> {
    let limit = within("limit", query.limit, 20, 1..=200)?;
    if query.before.as_deref().is_some_and(|id| !is_run_id(id)) {
        return Err(invalid("before must be the id of a run").into());
    }
    let runs = app.stores.db.runs(limit, query.before).await?;
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
    /// Null unless this process runs it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressView>,
}

/// Progress of a run.
#[derive(Debug, Serialize, ToSchema)]
struct ProgressView {
    /// Drops to compare.
    drops: u64,
    drops_done: u64,
    /// Users and rows compared.
    compared: u64,
}

/// Read one run with its findings, a page at a time
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs", operation_id = "read_run", security(("ops" = [])),
    params(("id" = String, Path, description = "The run", example = "0193a1f2-7c00-7d31-8000-0000000000a1"), RunQuery),
    responses(
        (status = 200, description = "The run", body = RunPage),
        (status = 404, description = "`not_found`"),
    )
)]
pub(super) async fn read(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    StrictQuery(query): StrictQuery<RunQuery>,
) -> Answer<RunPage> {
    let limit = within("limit", query.limit, 1_000, 1..=10_000)?;
    if !is_run_id(&id) {
        return Err(no_such("run", &id).into());
    }
    let db = &app.stores.db;
    let after = query.after.unwrap_or(0);
    let is_under_way = app.passes.current().as_deref() == Some(&id);
    let Some((run, next_after)) = record::read(db, id.clone(), limit, after).await? else {
        // A run is recorded once it has the lock.
        return Err(if is_under_way {
            Problem::unavailable("the run is just beginning").into()
        } else {
            no_such("run", &id).into()
        });
    };
    if query.reveal.unwrap_or(false) {
        let findings = run.all_findings().count();
        let act = OperatorAct {
            action: "reveal",
            detail: json!({"run_id": run.run_id, "after": after, "findings": findings}),
            ..OperatorAct::default()
        };
        // Record the access before showing anything.
        db.record_act(operator, act).await?;
    }
    let progress = &app.passes.memory.progress;
    Ok(Json(RunPage {
        run,
        next_after,
        progress: is_under_way.then(|| ProgressView {
            drops: progress.drops.load(Relaxed),
            drops_done: progress.drops_done.load(Relaxed),
            compared: progress.compared.load(Relaxed),
        }),
    }))
}

/// Whether the text has the form of a run's ID. For other text MySQL would report an error if its
/// character set differs from the column's.
fn is_run_id(text: &str) -> bool {
    text.parse::<Uuid>().is_ok()
}
