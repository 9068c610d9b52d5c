//! The routes of a user's claim: `…/claims`, `…/claims/me` and `…/people/{user_id}/revoke`.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::coupon::line;
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::extract::{CouponPath, JsonBody, Person, PersonPath, StrictQuery, invalid};
use crate::serve::claim::ClaimAnswer;
use crate::serve::claim::revoke::{Order, Revoked};
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
        (status = 409, description = "`sold_out`, `paused`, `not_open` with `opens_at`, or `revoked`: you had one and may not have another"),
        (status = 410, description = "`closed`"),
        (status = 503, description = "`unavailable`: nothing is certain, try again"),
    )
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
        (status = 503, description = "`unavailable`: too little is known right now"),
    )
)]
pub(crate) async fn mine(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<Json<MyClaim>, Problem> {
    Ok(Json(app.claims.my_claim(id, requester).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GiveBackQuery {
    /// The drop of the claim; default: the open one, else the last opened.
    drop_id: Option<i64>,
}

/// Give your coupon back, or leave the waiting list
///
/// This is final: a claim gets 409 `revoked` from then on. Safe to repeat. With `once_per` `drop`,
/// send `drop_id`: without it, a repeat may apply to the next drop.
#[utoipa::path(
    delete, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    params(("id" = i64, Path, description = "Coupon ID", example = 7), GiveBackQuery),
    responses(
        (status = 200, description = "It was given back", body = Revoked),
        (status = 404, description = "`not_found`: no such coupon, or nothing to give back"),
    )
)]
pub(crate) async fn give_back(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<GiveBackQuery>,
) -> Result<Json<Revoked>, Problem> {
    let order = Order {
        drop: asked.drop_id.map(DropId),
        reason: "given back".to_owned(),
        by: requester.user.to_string(),
        may_claim_again: false,
        operator: None,
    };
    Ok(Json(app.claims.revoke(id, requester.user, order).await?))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeBody {
    /// Kept with the revocation.
    #[schema(example = "bought by a script", min_length = 1, max_length = 200)]
    reason: String,
    #[schema(example = "Kim", min_length = 1, max_length = 100)]
    by: String,
    /// Default: the open drop, else the last opened.
    drop_id: Option<i64>,
    /// The user may claim another.
    #[serde(default)]
    may_claim_again: bool,
}

/// Revoke a user's coupon
///
/// Its slot goes to the next user. Safe to repeat: the first reason stays. But a user who may claim
/// again may have done so, and a repeat revokes that claim too.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/people/{user_id}/revoke", tag = "operators", request_body = RevokeBody,
    params(
        ("id" = i64, Path, description = "Coupon ID", example = 7),
        ("user_id" = String, Path, description = "The user, percent-encoded", pattern = r"^(?!\.{1,2}$)[A-Za-z0-9._@+|:=/-]{1,128}$", example = "u-37"),
    ),
    responses(
        (status = 200, description = "It was revoked", body = Revoked),
        (status = 404, description = "`not_found`: no such coupon, or nothing to revoke"),
    )
)]
pub(crate) async fn revoke(
    State(app): State<App>,
    PersonPath(id, user): PersonPath,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<RevokeBody>,
) -> Result<Json<Revoked>, Problem> {
    let order = Order {
        drop: body.drop_id.map(DropId),
        reason: line("reason", 200, &body.reason).map_err(invalid)?,
        by: line("by", 100, &body.by).map_err(invalid)?,
        may_claim_again: body.may_claim_again,
        operator: Some(operator),
    };
    Ok(Json(app.claims.revoke(id, user, order).await?))
}
