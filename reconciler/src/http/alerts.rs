//! Alerts: list, acknowledge, silence.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use firstcome_shared::http::Problem;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::runs::unavailable;
use crate::notify::{self, AlertError, AlertPage, AlertView};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// `firing`, `resolved` or `told`.
    status: Option<String>,
    /// Only alerts with a lower number.
    before: Option<i64>,
    /// At most so many.
    #[param(default = 100, maximum = 500)]
    limit: Option<u32>,
}

/// Lists alerts, newest first.
#[utoipa::path(
    get, path = "/v1/alerts", params(ListQuery), security(("ops" = [])),
    responses((status = 200, description = "Alerts, newest first", body = AlertPage), (status = 400, description = "Unreadable query", body = Problem))
)]
pub(super) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<AlertPage>, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request("bad_query", e.body_text()))?;
    if query.status.as_deref().is_some_and(|s| !["firing", "resolved", "told"].contains(&s)) {
        return Err(Problem::bad_request("bad_query", "status is firing, resolved or told"));
    }
    let page = notify::list(&app.stores.db, query.status, query.before, query.limit.unwrap_or(100)).await;
    page.map(Json).map_err(unavailable)
}

/// Who acknowledges.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledge {
    /// Your name, 1 to 100 characters.
    by: String,
}

/// Takes an alert on: it is not mailed again until it changes or is over.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/acknowledge", request_body = Acknowledge, security(("ops" = [])),
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = AlertView),
        (status = 400, description = "Unreadable body", body = Problem),
        (status = 404, description = "No such alert", body = Problem),
        (status = 409, description = "It does not fire", body = Problem),
    )
)]
pub(super) async fn acknowledge(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<AlertView>, Problem> {
    let body: Acknowledge = read(&body)?;
    notify::acknowledge(&app.stores.db, number(&id)?, &body.by, Utc::now()).await.map(Json).map_err(refused)
}

/// Until when, and who.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Silence {
    /// No mails about the alert's drop until then; at most 30 days ahead. A time that is past ends
    /// the silence.
    until: DateTime<Utc>,
    /// Your name, 1 to 100 characters.
    by: String,
}

/// Silences the mails about an alert's drop until a time. Alerts go on being kept.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/silence", request_body = Silence, security(("ops" = [])),
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = AlertView),
        (status = 400, description = "Unreadable body", body = Problem),
        (status = 404, description = "No such alert", body = Problem),
        (status = 409, description = "It concerns no drop", body = Problem),
    )
)]
pub(super) async fn silence(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<AlertView>, Problem> {
    let body: Silence = read(&body)?;
    notify::silence(&app.stores.db, number(&id)?, body.until, &body.by, Utc::now()).await.map(Json).map_err(refused)
}

fn number(id: &str) -> Result<i64, Problem> {
    id.parse().map_err(|_| Problem::not_found("no such alert"))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request("bad_body", format!("the body cannot be read: {error}")))
}

#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
fn refused(error: AlertError) -> Problem {
    match error {
        AlertError::NotFound(_) => Problem::not_found(error.to_string()),
        AlertError::NotFiring(_) => Problem::new(StatusCode::CONFLICT, "not_firing", error.to_string()),
        AlertError::NoDrop(_) => Problem::new(StatusCode::CONFLICT, "no_drop", error.to_string()),
        AlertError::NoName | AlertError::TooLong => Problem::bad_request("invalid", error.to_string()),
        AlertError::Database(error) => unavailable(error),
    }
}
