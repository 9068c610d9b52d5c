//! Alerts: list, acknowledge, silence.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use firstcome_shared::http::{Problem, json};
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::refusals::{invalid, unavailable, within};
use super::state::RouteState;
use crate::notify::{self, AlertError, AlertPage, ListedAlert};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertsQuery {
    /// `firing`, `resolved` or `told`.
    status: Option<String>,
    /// Only alerts with a lower number.
    before: Option<i64>,
    /// At most so many.
    #[param(default = 100, maximum = 500)]
    limit: Option<u32>,
}

/// List alerts, newest first
#[utoipa::path(
    get, path = "/v1/alerts", tag = "alerts", operation_id = "list_alerts", params(AlertsQuery), security(("ops" = [])),
    responses((status = 200, description = "Alerts, newest first", body = AlertPage), (status = 400, description = "`invalid`: the sentence names the parameter"), (status = 503, description = "`unavailable`"))
)]
pub(super) async fn list(
    State(app): State<RouteState>,
    query: Result<Query<AlertsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<AlertPage>, Problem> {
    let Query(query) = query.map_err(|e| invalid(e.body_text()))?;
    if let Some(other) = query.status.as_deref().filter(|s| !["firing", "resolved", "told"].contains(s)) {
        return Err(invalid(format!("status is firing, resolved or told, not {other:?}")));
    }
    let page = notify::list(&app.stores.db, query.status, query.before, within(query.limit, 100, 500)?).await;
    page.map(Json).map_err(unavailable)
}

/// Who acknowledges.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
    /// Your name, 1 to 100 characters.
    #[schema(example = "Kim")]
    by: String,
}

/// Take an alert on
///
/// It is not mailed again until it changes or is over.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/acknowledge", tag = "alerts", request_body = Acknowledge, security(("ops" = [])),
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = ListedAlert),
        (status = 400, description = "`invalid`: the sentence names the field"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`not_firing`"),
        (status = 503, description = "`unavailable`"),
    )
)]
pub(super) async fn acknowledge(
    State(app): State<RouteState>,
    Path(id): Path<String>,
    Extension(operator): Extension<Operator>,
    body: Bytes,
) -> Result<Json<ListedAlert>, Problem> {
    let body: Acknowledge = json::read(&body).map_err(invalid)?;
    let now = Utc::now();
    notify::acknowledge(&app.stores.db, number(&id)?, &body.by, now, operator).await.map(Json).map_err(refused)
}

/// Until when, and who.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Silence {
    /// No mails about the alert's drop until then; at most 30 days ahead. A time that is past ends
    /// the silence.
    #[schema(example = "2026-12-01T14:00:00Z")]
    until: DateTime<Utc>,
    /// Your name, 1 to 100 characters.
    #[schema(example = "Kim")]
    by: String,
}

/// Silence the mails about an alert's drop until a time
///
/// Alerts go on being kept.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/silence", tag = "alerts", request_body = Silence, security(("ops" = [])),
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = ListedAlert),
        (status = 400, description = "`invalid`: the sentence names the field"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`no_drop`: it concerns none"),
        (status = 503, description = "`unavailable`"),
    )
)]
pub(super) async fn silence(
    State(app): State<RouteState>,
    Path(id): Path<String>,
    Extension(operator): Extension<Operator>,
    body: Bytes,
) -> Result<Json<ListedAlert>, Problem> {
    let body: Silence = json::read(&body).map_err(invalid)?;
    let (db, now) = (&app.stores.db, Utc::now());
    notify::silence(db, number(&id)?, body.until, &body.by, now, operator).await.map(Json).map_err(refused)
}

fn number(id: &str) -> Result<i64, Problem> {
    id.parse().map_err(|_| Problem::not_found(format!("there is no alert {id:?}")))
}

#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
fn refused(error: AlertError) -> Problem {
    match error {
        AlertError::NotFound(_) => Problem::not_found(error.to_string()),
        AlertError::NotFiring(_) => Problem::new(StatusCode::CONFLICT, "not_firing", error.to_string()),
        AlertError::NoDrop(_) => Problem::new(StatusCode::CONFLICT, "no_drop", error.to_string()),
        AlertError::NoName | AlertError::TooLong => invalid(error.to_string()),
        AlertError::Database(error) => unavailable(error),
    }
}
