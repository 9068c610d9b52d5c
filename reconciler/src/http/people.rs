//! `GET /v1/coupons/{id}/people/{user_id}`.

use axum::Json;
use axum::extract::{Path, Query, State};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::http::Problem;
use serde::Deserialize;
use utoipa::IntoParams;

use super::state::RouteState;
use crate::explain::{self, Story};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InDrop {
    /// What holds in this drop; else in the last one in which anything is known.
    drop_id: Option<i64>,
}

/// Explain one person's whole story with a coupon, and what holds now
#[utoipa::path(
    get, path = "/v1/coupons/{id}/people/{user_id}", tag = "people", security(("ops" = [])),
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("user_id" = String, Path, description = "The person", example = "u-37"),
        InDrop,
    ),
    responses(
        (status = 200, description = "The story", body = Story),
        (status = 400, description = "`bad_user_id`"),
        (status = 404, description = "`not_found`"),
        (status = 503, description = "`unavailable`: a store did not answer"),
    )
)]
pub(super) async fn explain(
    State(app): State<RouteState>,
    Path((id, user)): Path<(String, String)>,
    query: Result<Query<InDrop>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Story>, Problem> {
    let Query(query) = query.map_err(|e| Problem::bad_request("bad_query", e.body_text()))?;
    let user: UserId = user
        .parse()
        .map_err(|e: firstcome_shared::domain::BadUserId| Problem::bad_request("bad_user_id", e.to_string()))?;
    let no_such = || Problem::not_found(format!("there is no coupon {id:?}"));
    let coupon = CouponId(id.parse().map_err(|_| no_such())?);
    match explain::explain(&app.stores, coupon, query.drop_id.map(DropId), &user).await {
        Ok(Some(story)) => Ok(Json(story)),
        Ok(None) => Err(no_such()),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a story could not be told");
            Err(Problem::unavailable("not all stores can be asked right now"))
        }
    }
}
