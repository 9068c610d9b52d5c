//! `GET /v1/coupons/{id}/people/{user_id}`.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use firstcome_shared::domain::{CouponId, DropId, UserId, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery, invalid};
use serde::Deserialize;
use utoipa::IntoParams;

use super::state::RouteState;
use crate::explain::{self, Story};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
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
        (status = 400, description = "`invalid`: the sentence names the parameter"),
        (status = 404, description = "`not_found`"),
        (status = 503, description = "`unavailable`: a store did not answer"),
    )
)]
pub(super) async fn explain(
    State(app): State<RouteState>,
    StrictPath((_id, user)): StrictPath<(String, String)>,
    uri: Uri,
    StrictQuery(query): StrictQuery<InDrop>,
) -> Result<Json<Story>, Problem> {
    let user: UserId = user
        .parse()
        .map_err(|error| invalid(format!("user_id: {error}")))?;
    // As it was sent: a coupon has one path, and axum decodes the parts of a path.
    let id = uri.path().split('/').nth(3).unwrap_or_default();
    let no_such = || Problem::not_found(format!("there is no coupon {id:?}"));
    let coupon = CouponId(canonical_number(id).ok_or_else(no_such)?);
    match explain::explain(&app.stores, coupon, query.drop_id.map(DropId), &user).await {
        Ok(Some(story)) => Ok(Json(story)),
        Ok(None) => Err(no_such()),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a story could not be told");
            Err(Problem::unavailable(
                "not all stores can be asked right now",
            ))
        }
    }
}
