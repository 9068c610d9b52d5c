//! `POST /v1/coupons/{id}/claims`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use firstcome_shared::http::Problem;

use crate::serve::auth::Person;
use crate::serve::claim::Yes;
use crate::serve::routes::extract::CouponPath;
use crate::serve::state::App;

/// Claim a coupon
///
/// One each, first come, first served. A retry is always safe: it finds `already_claimed`. No body is needed.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/claims", tag = "claims",
    params(("id" = i64, Path, description = "Number of the coupon")),
    responses(
        (status = 202, description = "`accepted`: a slot is yours; or `waiting`: a place on the waiting list", body = Yes),
        (status = 200, description = "`already_claimed`: you hold one already", body = Yes),
        (status = 400, description = "`bad_user_id`", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`: nobody is named", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`sold_out`, `paused`, or `not_open` with `opens_at`", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "`closed`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`, with `Retry-After`: nothing is certain, try again", body = Problem, content_type = "application/problem+json"),
    ),
    security(("person" = []))
)]
pub(crate) async fn claim(
    State(app): State<App>,
    Person(user): Person,
    CouponPath(id): CouponPath,
) -> Result<Response, Problem> {
    let entry = app.catalogue.find(id).await?;
    Ok(yes(app.claims.claim(entry, user).await?))
}

/// The answer to a claim that was not refused.
pub(crate) fn yes(said: Yes) -> Response {
    let status = match said {
        Yes::AlreadyClaimed { .. } => StatusCode::OK,
        Yes::Accepted { .. } | Yes::Waiting { .. } => StatusCode::ACCEPTED,
    };
    (status, Json(said)).into_response()
}
