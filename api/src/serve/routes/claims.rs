//! The routes of a user's claim: `…/claims`, `…/claims/me` and `…/people/{user_id}/revoke`.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::coupon::line;
use firstcome_shared::domain::{DropId, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{
    AuthenticatedUser, CouponParam, CouponPath, JsonBody, StrictQuery, UserPath, invalid,
};
use crate::serve::claim::admit::admit;
use crate::serve::claim::outcome::{ClaimAnswer, ClaimRefusal};
use crate::serve::claim::revoke::{RevokeOrder, Revoked, revoke_claim};
use crate::serve::claim::status::{MyClaim, my_claim};
use crate::serve::state::App;

/// Claim a coupon
///
/// A retry is always safe: a user who holds a coupon gets `already_claimed`, and one who waits gets
/// `waiting` again while the coupon is open. No body is needed.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/claims", tag = "claims",
    security(("person" = []), ("user_token" = [])),
    params(CouponParam),
    responses(
        (
            status = 202, body = ClaimAnswer,
            description = "`accepted`: you have a slot; or `waiting`: you are on the waiting list"
        ),
        (status = 200, description = "`already_claimed`: you hold one", body = ClaimAnswer),
        (
            status = 403,
            description = "`not_allowed`: you are not on the allow list, or not in the group. \
                Users who already hold a coupon or wait for one get that answer instead"
        ),
        (
            status = 409,
            description = "`sold_out`, `paused`, `not_open` with `opens_at`, or `revoked`: you \
                had one and may not have another"
        ),
        (status = 410, description = "`closed`"),
        (status = 503, description = "`unavailable`: nothing is certain, try again")
    )
)]
pub(crate) async fn claim(
    State(app): State<App>,
    AuthenticatedUser(requester): AuthenticatedUser,
    CouponPath(id): CouponPath,
) -> Result<ClaimAnswer, ClaimRefusal> {
    admit(&app, id, requester).await
}

/// Read your claim
#[utoipa::path(
    get, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    security(("person" = []), ("user_token" = [])),
    params(CouponParam),
    responses(
        (status = 200, description = "Your claim", body = MyClaim),
        (status = 503, description = "`unavailable`: too little is known right now")
    )
)]
pub(crate) async fn mine(
    State(app): State<App>,
    AuthenticatedUser(requester): AuthenticatedUser,
    CouponPath(id): CouponPath,
) -> Result<Json<MyClaim>, Problem> {
    Ok(Json(my_claim(&app, id, requester.user).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GiveBackQuery {
    /// The drop of the claim; default: the open one, else the last opened; with `once_per`
    /// `coupon`, the one with your claim.
    drop_id: Option<DropId>,
}

/// Give your coupon back, or leave the waiting list
///
/// This is final: from then on, a claim on the same drop or, with `once_per` `coupon`, on any drop
/// gets 409 `revoked`. Safe to repeat. With `once_per` `drop`, send `drop_id`: without it, a repeat
/// may apply to the next drop.
#[utoipa::path(
    delete, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    security(("person" = []), ("user_token" = [])),
    params(CouponParam, GiveBackQuery),
    responses(
        (status = 200, description = "It was given back", body = Revoked),
        (status = 404, description = "`not_found`: no such coupon, or nothing to give back"),
        (status = 409, description = "`used`: a shop uses the coupon's code")
    )
)]
pub(crate) async fn give_back(
    State(app): State<App>,
    AuthenticatedUser(requester): AuthenticatedUser,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<GiveBackQuery>,
) -> Result<Json<Revoked>, Problem> {
    let order = RevokeOrder {
        reason: "given back".to_owned(),
        by: "the user".to_owned(),
        drop_id: asked.drop_id,
        may_claim_again: false,
    };
    let given_back = revoke_claim(&app, id, requester.user, order, None);
    Ok(Json(given_back.await?))
}

/// Revoke a user's coupon
///
/// Its slot goes to the next user. Safe to repeat: the first reason stays. But a user who may claim
/// again may have done so, and a repeat revokes that claim too.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/people/{user_id}/revoke", tag = "operators",
    security(("ops" = [])), request_body = RevokeOrder,
    params(
        CouponParam,
        (
            "user_id" = inline(UserId), Path, description = "The user, percent-encoded",
            example = "u-37"
        )
    ),
    responses(
        (status = 200, description = "It was revoked", body = Revoked),
        (status = 404, description = "`not_found`: no such coupon, or nothing to revoke"),
        (status = 409, description = "`used`: a shop uses the coupon's code")
    )
)]
pub(crate) async fn revoke(
    State(app): State<App>,
    UserPath(id, user): UserPath,
    Extension(operator): Extension<Operator>,
    JsonBody(mut order): JsonBody<RevokeOrder>,
) -> Result<Json<Revoked>, Problem> {
    order.reason = line("reason", 200, &order.reason).map_err(invalid)?;
    order.by = line("by", 100, &order.by).map_err(invalid)?;
    let revoked = revoke_claim(&app, id, user, order, Some(operator));
    Ok(Json(revoked.await?))
}
