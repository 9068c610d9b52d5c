//! `GET /v1/overview` returns the state of the installation in one response.

use axum::Json;
use axum::extract::State;
use firstcome_shared::http::extract::StrictQuery;
use firstcome_shared::http::views::Overview;
use serde::Deserialize;
use utoipa::IntoParams;

use super::RouteState;
use super::requests::{RouteResult, within};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OverviewQuery {
    /// The page of drops, from 1; 50 drops a page.
    #[param(default = 1, minimum = 1, maximum = 100_000)]
    page: Option<u32>,
}

/// Show the state of the installation
///
/// Firing alerts, admission, and the drops that are live or need manual attention, the most urgent
/// first. Everything is at most a second old, rows of large drops up to 20 seconds.
#[utoipa::path(
    get, path = "/v1/overview", tag = "overview",
    operation_id = "read_overview", security(("ops" = [])),
    params(OverviewQuery),
    responses((
        status = 200, body = Overview,
        description = "The state, also while a store does not answer"
    ))
)]
pub(super) async fn read(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<OverviewQuery>,
) -> RouteResult<Overview> {
    let page = within("page", query.page, 1, 1..=100_000)?;
    Ok(Json(app.overview.lock().await.page(page as usize).await))
}
