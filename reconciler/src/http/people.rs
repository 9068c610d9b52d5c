//! `GET /v1/coupons/{id}/people/{user_id}`.

use axum::Json;
use axum::extract::{Path, State};
use firstcome_shared::domain::{CouponId, UserId};
use firstcome_shared::http::Problem;

use super::App;
use crate::explain::{self, Story};

/// Explain one person's whole story with a coupon, and what holds now
#[utoipa::path(
    get, path = "/v1/coupons/{id}/people/{user_id}", tag = "people", security(("ops" = [])),
    params(("id" = i64, Path, description = "The coupon"), ("user_id" = String, Path, description = "The person", example = "u-37")),
    responses(
        (status = 200, description = "The story", body = Story),
        (status = 400, description = "`bad_user_id`"),
        (status = 404, description = "`not_found`"),
        (status = 503, description = "`unavailable`: a store did not answer"),
    )
)]
pub(super) async fn explain(
    State(app): State<App>,
    Path((id, user)): Path<(String, String)>,
) -> Result<Json<Story>, Problem> {
    let user: UserId = user
        .parse()
        .map_err(|e: firstcome_shared::domain::BadUserId| Problem::bad_request("bad_user_id", e.to_string()))?;
    let no_such = || Problem::not_found(format!("there is no coupon {id:?}"));
    let coupon = CouponId(id.parse().map_err(|_| no_such())?);
    match explain::explain(&app.stores, coupon, &user).await {
        Ok(Some(story)) => Ok(Json(story)),
        Ok(None) => Err(no_such()),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a story could not be told");
            Err(Problem::unavailable("not all stores can be asked right now"))
        }
    }
}
