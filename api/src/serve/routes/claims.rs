//! The routes of a user's claim: `…/claims`, `…/claims/me` and `…/people/{user_id}/revoke`.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::coupon::line;
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;

use super::extract::{CouponPath, JsonBody, Person, PersonPath, StrictQuery, invalid};
use crate::serve::claim::ClaimAnswer;
use crate::serve::claim::admit::admit;
use crate::serve::claim::revoke::{RevokeOrder, Revoked, revoke_claim};
use crate::serve::claim::status::{MyClaim, my_claim};
use crate::serve::state::App;

/// Claim a coupon
///
/// A retry is always safe: it gets `already_claimed`. No body is needed.
pub(crate) async fn claim(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<ClaimAnswer, Problem> {
    Ok(admit(&app, id, requester).await?)
}

/// Read your claim
pub(crate) async fn mine(
    State(app): State<App>,
    Person(requester): Person,
    CouponPath(id): CouponPath,
) -> Result<Json<MyClaim>, Problem> {
    Ok(Json(my_claim(&app, id, requester.user).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GiveBackQuery {
    /// The drop of the claim; default: the open one, else the last opened.
    drop_id: Option<DropId>,
}

/// Give your coupon back, or leave the waiting list
///
/// This is final: a claim gets 409 `revoked` from then on. Safe to repeat. With `once_per` `drop`,
/// send `drop_id`: without it, a repeat may apply to the next drop.
pub(crate) async fn give_back(
    State(app): State<App>,
    Person(requester): Person,
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
pub(crate) async fn revoke(
    State(app): State<App>,
    PersonPath(id, user): PersonPath,
    Extension(operator): Extension<Operator>,
    JsonBody(mut order): JsonBody<RevokeOrder>,
) -> Result<Json<Revoked>, Problem> {
    order.reason = line("reason", 200, &order.reason).map_err(invalid)?;
    order.by = line("by", 100, &order.by).map_err(invalid)?;
    let revoked = revoke_claim(&app, id, user, order, Some(operator));
    Ok(Json(revoked.await?))
}
