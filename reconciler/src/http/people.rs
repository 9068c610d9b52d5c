//! `GET /v1/coupons/{id}/people/{user_id}`.

use axum::Json;
use axum::extract::{Path, State};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::Problem;

use super::App;
use crate::explain::{self, Story};

/// Tells one person's whole story with a coupon, and what holds now.
#[utoipa::path(
    get, path = "/v1/coupons/{id}/people/{user_id}", security(("ops" = [])),
    params(("id" = i64, Path, description = "The coupon"), ("user_id" = String, Path, description = "The person")),
    responses(
        (status = 200, description = "The story", body = Story),
        (status = 400, description = "No user id", body = Problem),
        (status = 404, description = "No such coupon", body = Problem),
    )
)]
pub(super) async fn explain(
    State(app): State<App>,
    Path((id, user)): Path<(String, String)>,
) -> Result<Json<Story>, Problem> {
    let user: UserId = user
        .parse()
        .map_err(|e: firstcome_shared::domain::BadUserId| Problem::bad_request("bad_user_id", e.to_string()))?;
    let id: i64 = id.parse().map_err(|_| Problem::not_found("no such coupon"))?;
    match explain::explain(&app.stores, CouponId(id), &user).await {
        Ok(Some(story)) => Ok(Json(story)),
        Ok(None) => Err(Problem::not_found("no such coupon")),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a story could not be told");
            Err(Problem::unavailable("not all stores can be asked right now"))
        }
    }
}
