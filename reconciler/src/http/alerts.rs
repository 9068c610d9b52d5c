//! Alerts: list, acknowledge, silence.

use axum::extract::State;
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::refusals::{Answer, Refusal, number, within};
use super::state::RouteState;
use crate::notify::{self, AlertError, AlertPage, ListedAlert};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AlertsQuery {
    /// `firing` or `resolved`.
    #[param(pattern = "^(firing|resolved)$", example = "firing")]
    status: Option<String>,
    /// Only alerts with a lower ID.
    before: Option<i64>,
    /// Page size.
    #[param(default = 100, minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// List alerts, newest first
#[utoipa::path(
    get, path = "/v1/alerts", tag = "alerts", operation_id = "list_alerts", params(AlertsQuery), security(("ops" = [])),
    responses((status = 200, description = "Alerts, newest first", body = AlertPage))
)]
pub(super) async fn list(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<AlertsQuery>,
) -> Answer<AlertPage> {
    let limit = within("limit", query.limit, 100, 1..=500)?;
    let status = query.status.as_deref();
    if let Some(other) = status.filter(|s| !["firing", "resolved"].contains(s)) {
        let why = format!("status is firing or resolved, not {other:?}");
        return Err(invalid(why).into());
    }
    let db = &app.stores.db;
    Ok(Json(
        notify::list(db, query.status, query.before, limit).await?,
    ))
}

/// The operator who acknowledges it.
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
    post, path = "/v1/alerts/{id}/acknowledge", tag = "alerts", request_body = Acknowledge, security(("ops" = [])),
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = ListedAlert),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`not_firing`"),
    )
)]
pub(super) async fn acknowledge(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<Acknowledge>,
) -> Answer<ListedAlert> {
    let db = &app.stores.db;
    let id = number("alert", &id)?;
    Ok(Json(
        notify::acknowledge(db, id, &body.by, Utc::now(), operator).await?,
    ))
}

/// The end of the silence, and the operator.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Silence {
    /// At most 30 days ahead. A time in the past ends the silence.
    #[schema(example = "2026-12-01T14:00:00Z")]
    #[serde(deserialize_with = "firstcome_shared::schedule::instants::one")]
    until: DateTime<Utc>,
    /// Your name, 1 to 100 characters.
    #[schema(example = "Kim")]
    by: String,
}

/// Silence mails about an alert's drop until a given time
///
/// Alerts are still recorded. Critical problems, such as broken promises and losses of Redis data,
/// are still mailed.
#[utoipa::path(
    post, path = "/v1/alerts/{id}/silence", tag = "alerts", request_body = Silence, security(("ops" = [])),
    params(("id" = i64, Path, description = "The alert")),
    responses(
        (status = 200, description = "The alert", body = ListedAlert),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`no_silence`: the alert does not concern a drop, or is critical"),
    )
)]
pub(super) async fn silence(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<Silence>,
) -> Answer<ListedAlert> {
    let db = &app.stores.db;
    let id = number("alert", &id)?;
    Ok(Json(
        notify::silence(db, id, body.until, &body.by, Utc::now(), operator).await?,
    ))
}

impl From<AlertError> for Refusal {
    fn from(error: AlertError) -> Self {
        let why = error.to_string();
        match error {
            AlertError::NotFound(_) => Problem::not_found(why).into(),
            AlertError::NotFiring(_) => Problem::new(Code::NotFiring, why).into(),
            AlertError::NoSilence(_) => Problem::new(Code::NoSilence, why).into(),
            AlertError::NoName | AlertError::TooLong => invalid(why).into(),
            AlertError::Database(error) => error.into(),
        }
    }
}
