//! `DELETE /v1/coupons/{id}/claims/me` and `POST /v1/coupons/{id}/people/{user_id}/revoke`.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::coupon::line;
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::extract::{CouponPath, JsonBody, Person, PersonPath, StrictQuery, invalid};
use super::view::{NotKept, not_kept};
use crate::serve::auth::Requester;
use crate::serve::claim::revoke::{Order, Revoked};
use crate::serve::state::App;

/// Maximum length of reason and name, in characters.
const MAX_REASON_CHARS: usize = 200;
const MAX_BY_CHARS: usize = 100;

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
    ),
    security(("person" = []))
)]
pub(crate) async fn give_back(
    State(app): State<App>,
    Person(Requester { user, .. }): Person,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<GiveBackQuery>,
) -> Result<NotKept<Revoked>, Problem> {
    let order = Order {
        drop: asked.drop_id.map(DropId),
        reason: "given back".to_owned(),
        by: user.to_string(),
        may_claim_again: false,
        operator: None,
    };
    Ok(not_kept(app.claims.revoke(id, user, order).await?))
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
    ),
    security(("ops" = []))
)]
pub(crate) async fn revoke(
    State(app): State<App>,
    PersonPath(id, user): PersonPath,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<RevokeBody>,
) -> Result<Json<Revoked>, Problem> {
    let order = Order {
        drop: body.drop_id.map(DropId),
        reason: line("reason", MAX_REASON_CHARS, &body.reason).map_err(invalid)?,
        by: line("by", MAX_BY_CHARS, &body.by).map_err(invalid)?,
        may_claim_again: body.may_claim_again,
        operator: Some(operator),
    };
    Ok(Json(app.claims.revoke(id, user, order).await?))
}
