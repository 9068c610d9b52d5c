//! Alerts: list, acknowledge.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::{AlertPage, ListedAlert};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::requests::{RouteResult, no_such, number, within};
use crate::notify::queries::alerts;
use crate::notify::wording::line;
use crate::report::AlertState;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AlertsQuery {
    /// Only alerts with this status.
    #[param(inline, example = "firing")]
    status: Option<AlertState>,
    /// Only alerts with a lower ID.
    before: Option<i64>,
    /// Page size.
    #[param(default = 100, minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// List alerts, newest first
#[utoipa::path(
    get, path = "/v1/alerts", tag = "alerts",
    operation_id = "list_alerts", security(("ops" = [])),
    params(AlertsQuery),
    responses((status = 200, description = "Alerts, newest first", body = AlertPage))
)]
pub(crate) async fn list(
    State(db): State<Db>,
    StrictQuery(query): StrictQuery<AlertsQuery>,
) -> RouteResult<AlertPage> {
    let limit = within("limit", query.limit, 100, 1..=500)?;
    let listed = alerts::list(&db, query.status, query.before, limit).await?;
    Ok(Json(listed))
}

/// The operator who acknowledges the alert.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
    /// Your name, 1 to 100 characters.
    #[schema(example = "Kim")]
    by: String,
}

/// Acknowledge an alert
///
/// The alert is not mailed again until it changes or is over.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/acknowledge", tag = "alerts",
    security(("ops" = [])),
    request_body = Acknowledge,
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = ListedAlert),
        (status = 409, description = "`not_firing`")
    )
)]
pub(super) async fn acknowledge(
    State(db): State<Db>,
    StrictPath(text): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<Acknowledge>,
) -> RouteResult<ListedAlert> {
    let id = number("alert", &text)?;
    let by = line(&body.by, 100);
    if by.is_empty() {
        return Err(invalid("`by` must say who you are, in 1 to 100 characters"));
    }
    let found = alerts::acknowledge(&db, id, by, operator).await?;
    let alert = found.ok_or_else(|| no_such("alert", &text))?;
    if alert.alert.state != AlertState::Resolved {
        return Ok(Json(alert));
    }
    let why = format!("alert {id} no longer fires, so there is nothing to acknowledge");
    Err(Problem::new(Code::NotFiring, why))
}
