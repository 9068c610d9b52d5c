//! The HTTP API of an attached daemon, and its page: passes and alerts. The reconciler's other
//! routes are about our own coupons, and are absent here.

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use firstcome_attach::Confirm;
use firstcome_attach::file::AttachFile;
use firstcome_console::{Console, Screens};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery};
use firstcome_shared::http::ops::{OpsToken, require};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::AlertPage;
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;

use crate::context::{Confirmation, PassRequest};
use crate::http::alerts::{self, AlertsQuery};
use crate::http::requests::{RouteResult, no_such};
use crate::http::{guarded, passes_and_alerts, reconcile, runs};
use crate::passes::Passes;
use crate::queries::Scope;

/// State that the routes share.
#[derive(Clone)]
pub(super) struct RouteState {
    pub(super) db: Db,
    pub(super) passes: Passes,
    pub(super) file: Arc<AttachFile>,
}

impl FromRef<RouteState> for Db {
    fn from_ref(state: &RouteState) -> Self {
        state.db.clone()
    }
}

impl FromRef<RouteState> for Passes {
    fn from_ref(state: &RouteState) -> Self {
        state.passes.clone()
    }
}

/// Creates the routes and the page in front of them, for operators with the token.
pub(super) fn routes(
    state: RouteState,
    token: OpsToken,
    public_url: Option<String>,
) -> anyhow::Result<Router> {
    let (shared, _) = passes_and_alerts(OpenApiRouter::new()).split_for_parts();
    let ops = shared
        .route("/v1/reconcile", post(start))
        .route("/v1/runs/{id}/confirm", post(confirm))
        .route("/v1/alerts", get(list_alerts))
        .route_layer(from_fn_with_state(token.clone(), require))
        .with_state(state);
    let page = firstcome_console::routes(Console {
        reconciler: guarded(ops.clone()),
        api: None,
        token,
        public_url,
        screens: Screens::PassesAndAlerts,
    })?;
    Ok(ops.merge(page))
}

/// The scope and kind of a pass.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Body {
    /// Only this campaign.
    campaign: Option<String>,
    /// Dry run: change nothing, list the repairs.
    dry_run: bool,
    /// Wait for the end (default). If false, the run's path is returned at once.
    wait: Option<bool>,
}

/// Runs a pass.
async fn start(
    State(app): State<RouteState>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Response, Problem> {
    let campaign = body.campaign.as_ref().map(|name| app.file.coupon_id(name));
    let coupon = campaign.transpose().map_err(Problem::not_found)?;
    let detail = json!({"campaign": body.campaign, "dry_run": body.dry_run});
    let scope = Scope { coupon, drop: None };
    let request = PassRequest {
        dry_run: body.dry_run,
        ..PassRequest::by_operator(operator, scope, detail, super::PATIENCE)
    };
    reconcile::run(&app.db, app.passes.start(request), body.wait).await
}

/// Which repairs of a run are confirmed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownPlan {
    /// As in the reports of the run.
    coupon_id: CouponId,
    /// Wait for the end (default). If false, the run's path is returned at once.
    wait: Option<bool>,
}

/// Confirms the repairs of one campaign that a run has shown, and nothing else. What has changed
/// since is not repaired, and what is new waits for its own confirmation.
async fn confirm(
    State(app): State<RouteState>,
    Extension(operator): Extension<Operator>,
    StrictPath(id): StrictPath<String>,
    JsonBody(body): JsonBody<ShownPlan>,
) -> Result<Response, Problem> {
    let names = app.file.names();
    let campaign = names
        .get(&body.coupon_id)
        .ok_or_else(|| Problem::not_found("the file has no such campaign"))?;
    let shown = runs::page(&app.db, id.clone(), super::FINDINGS, 0).await?;
    let run = shown.ok_or_else(|| no_such("run", &id))?.run;
    let mut drops = run.drops.iter();
    if !drops.any(|report| report.coupon_id == body.coupon_id && report.has_planned()) {
        let why = "that run held back nothing of this campaign";
        return Err(Problem::new(Code::NotPossible, why));
    }
    let detail = json!({"campaign": campaign, "confirm": true, "shown_by": id});
    let scope = Scope {
        coupon: Some(body.coupon_id),
        drop: None,
    };
    let request = PassRequest {
        confirms: Confirmation::Named(Confirm::shown_by(&run)),
        ..PassRequest::by_operator(operator, scope, detail, super::PATIENCE)
    };
    reconcile::run(&app.db, app.passes.start(request), body.wait).await
}

/// Lists alerts with the names of their campaigns, which only the file knows.
async fn list_alerts(
    State(RouteState { db, file, .. }): State<RouteState>,
    query: StrictQuery<AlertsQuery>,
) -> RouteResult<AlertPage> {
    let Json(mut page) = alerts::list(State(db), query).await?;
    let names = file.names();
    for it in &mut page.alerts {
        let id = it.alert.coupon_id.as_ref();
        it.coupon_name = id.and_then(|id| names.get(id).cloned());
    }
    Ok(Json(page))
}
