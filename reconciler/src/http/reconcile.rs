//! `POST /v1/reconcile` runs a pass.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::JsonBody;
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::StartedRun;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::processes::pass_holder;
use firstcome_shared::mysql::{Db, DbError};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::context::{Confirmation, PassError, PassRequest};
use crate::passes::{NO_SUCH, NotStarted, Passes, StartedPass, exists};
use crate::queries::Scope;
use crate::report::{Fingerprint, Run};

/// The scope and kind of the pass.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PassBody {
    /// Only this coupon.
    #[schema(example = 1)]
    coupon_id: Option<i64>,
    /// Only this drop.
    drop_id: Option<i64>,
    /// Dry run: change nothing.
    dry_run: bool,
    /// Also examine empty drops, sealed drops and uses of codes.
    deep: bool,
    /// Confirm repairs above the repair limit: the `held_back.fingerprint` of each drop, as a run
    /// has shown it. Others are not made.
    #[schema(value_type = Vec<String>, example = json!(["5f0c1d2e3a4b6978"]))]
    confirm: Vec<Fingerprint>,
    /// Wait for the end (default). If false, the run's path is returned at once.
    wait: Option<bool>,
}

/// Run a pass
#[utoipa::path(
    post, path = "/v1/reconcile", tag = "runs",
    security(("ops" = [])),
    request_body = Option<PassBody>,
    responses(
        (status = 200, description = "The run, ended", body = Run),
        (status = 202, description = "Started; `Location` has its path", body = StartedRun),
        (status = 404, description = "`not_found`: no such coupon or drop"),
        (status = 409, description = "`pass_running`, with its `run_id` if it is recorded already"),
        (
            status = 503,
            description = "`unavailable`: the pass could not begin, or the process is stopping"
        )
    )
)]
pub(super) async fn reconcile(
    State(db): State<Db>,
    State(passes): State<Passes>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<PassBody>,
) -> Result<Response, Problem> {
    let scope = Scope {
        coupon: body.coupon_id.map(CouponId),
        drop: body.drop_id.map(DropId),
    };
    let detail = json!({"dry_run": body.dry_run, "deep": body.deep, "confirm": &body.confirm});
    let request = PassRequest {
        dry_run: body.dry_run,
        deep: body.deep,
        confirms: Confirmation::held_back(body.confirm),
        ..PassRequest::by_operator(operator, scope, detail, PATIENCE)
    };
    // Check this before the pass is started: a typing error must not be recorded as a pass.
    if !exists(&db, scope).await {
        return Err(Problem::not_found(NO_SUCH));
    }
    run(&db, passes.start(request), body.wait).await
}

/// Maximum wait for the lock: a pass of another process usually ends within this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a request waits for the pass to begin, if it does not wait for its end.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// Waits until a pass ends or, without `wait`, until it has begun or has waited for a moment. If
/// another pass, of any process, prevents this one, returns an error with the ID of that pass.
pub(crate) async fn run(
    db: &Db,
    started: Result<StartedPass, NotStarted>,
    wait: Option<bool>,
) -> Result<Response, Problem> {
    let wait = wait.unwrap_or(true);
    let started = match started {
        Ok(started) => started,
        // The pass of this process may still wait for the lock, which another process has. Only the
        // run that has the lock is recorded.
        Err(NotStarted::Running) => return Err(busy(db).await?),
        Err(NotStarted::Stopping) => return Err(stopping()),
    };
    let run_id = started.run_id;
    if !wait {
        match timeout(BEGINS_WITHIN, started.begun).await {
            Ok(Ok(())) => return Ok(accepted(run_id, false)),
            // It waits for another pass.
            Err(_) => return Ok(accepted(run_id, true)),
            // The pass ended before it began.
            Ok(Err(_)) => {}
        }
    }
    match started.ended.await {
        Ok(Ok(run)) if wait => Ok(Json(run).into_response()),
        Ok(Ok(Run { error: None, .. })) => Ok(accepted(run_id, false)),
        Ok(Ok(Run {
            error: Some(why), ..
        })) => Err(Problem::unavailable(format!(
            "the pass could not begin: {why}"
        ))),
        Ok(Err(PassError::Busy)) => Err(busy(db).await?),
        Ok(Err(error)) => Err(Problem::unavailable(error.to_string())),
        Err(_) => Err(stopping()),
    }
}

/// Names the run that holds the lock. If none is recorded, a pass is just taking or releasing it.
async fn busy(db: &Db) -> Result<Problem, DbError> {
    let holder = db.run("the running pass", async move |conn| {
        pass_holder(conn).await
    });
    let busy = Problem::new(
        Code::PassRunning,
        "a pass is running; ask again when it has ended",
    );
    Ok(match holder.await? {
        Some(holder) => busy.with("run_id", holder.run_id),
        None => busy,
    })
}

fn stopping() -> Problem {
    Problem::unavailable("the reconciler is stopping")
}

/// Responds that the pass has the lock and is recorded, so that its path is valid; or that it is
/// queued.
fn accepted(run_id: String, queued: bool) -> Response {
    let location = [(header::LOCATION, format!("/v1/runs/{run_id}"))];
    let started = StartedRun { run_id, queued };
    (StatusCode::ACCEPTED, location, Json(started)).into_response()
}
