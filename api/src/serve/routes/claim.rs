//! The routes of a claim: `POST /v1/coupons/{id}/claims` and `GET /v1/coupons/{id}/claims/me`.

use axum::extract::State;
use firstcome_shared::http::Problem;

use super::extract::{CouponPath, Person};
use super::view::{NotKept, not_kept};
use crate::serve::claim::ClaimAnswer;
use crate::serve::claim::status::MyClaim;
use crate::serve::state::App;

/// Claim a coupon
///
/// A retry is always safe: it gets `already_claimed`. No body is needed.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/claims", tag = "claims",
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 202, description = "`accepted`: you have a slot; or `waiting`: you are on the waiting list", body = ClaimAnswer),
        (status = 200, description = "`already_claimed`: you hold one", body = ClaimAnswer),
        (status = 403, description = "`not_allowed`: you are not on the allow list, or not in the group. Users who \
            already hold a coupon or wait for one get that answer instead"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`sold_out`, `paused`, `not_open` with `opens_at`, or `revoked`: you had one and may not have another"),
        (status = 410, description = "`closed`"),
        (status = 503, description = "`unavailable`: nothing is certain, try again"),
    ),
    security(("person" = []))
)]
pub(crate) async fn claim(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<ClaimAnswer, Problem> {
    Ok(app.claims.admit(id, requester).await?)
}

/// Read your claim
#[utoipa::path(
    get, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    params(("id" = i64, Path, description = "Coupon ID", example = 7)),
    responses(
        (status = 200, description = "Your claim", body = MyClaim),
        (status = 404, description = "`not_found`"),
        (status = 503, description = "`unavailable`: too little is known right now"),
    ),
    security(("person" = []))
)]
pub(crate) async fn mine(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<NotKept<MyClaim>, Problem> {
    Ok(not_kept(app.claims.my_claim(id, requester).await?))
}
