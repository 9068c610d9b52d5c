//! `DELETE /v1/coupons/{id}/claims/me` and `POST /v1/coupons/{id}/people/{user_id}/revoke`.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::ops_actions::Operator;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::extract::{CouponPath, JsonBody, Person, PersonPath, StrictQuery};
use super::validate;
use super::view::{NotKept, not_kept};
use crate::serve::auth::Requester;
use crate::serve::claim::revoke::{Order, Revoked};
use crate::serve::state::App;

/// Longest reason and name, in characters.
const MAX_REASON_CHARS: usize = 200;
const MAX_BY_CHARS: usize = 100;

/// What an operator revokes, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeBody {
    /// Why; kept with the revocation.
    #[schema(example = "bought by a script", min_length = 1, max_length = 200)]
    reason: String,
    /// Who decided it.
    #[schema(example = "Kim", min_length = 1, max_length = 100)]
    by: String,
    /// The drop; by default the one that is open or was open last.
    drop_id: Option<i64>,
    /// Whether the person may claim another.
    #[serde(default)]
    may_claim_again: bool,
}

/// Of which drop a person gives a coupon back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GiveBackQuery {
    /// The drop, as the claim has it; by default the one that is open or was open last.
    drop_id: Option<i64>,
}

/// Give your coupon back
///
/// Or leave the waiting list. It is final: a claim is answered 409 `revoked` from then on. Safe to
/// repeat: the answer is the same. Where one each is allowed in each drop, name it: without
/// `drop_id` the answer is about the drop of the moment, and a repeat may meet the next one.
#[utoipa::path(
    delete, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    params(("id" = i64, Path, description = "Number of the coupon", example = 7), GiveBackQuery),
    responses(
        (status = 200, description = "It is given back, and goes to the next", body = Revoked),
        (status = 400, description = "`bad_user_id`, or `invalid`: the sentence names the header or parameter"),
        (status = 404, description = "`not_found`: no such coupon, or nothing to give back"),
        (status = 503, description = "`unavailable`: repeat it to be certain"),
    ),
    security(("person" = []))
)]
pub(crate) async fn give_back(
    State(app): State<App>,
    Person(Requester { user, .. }): Person,
    CouponPath(id): CouponPath,
    StrictQuery(asked): StrictQuery<GiveBackQuery>,
) -> Result<NotKept<Revoked>, Problem> {
    let (drop, reason, by) = (
        asked.drop_id.map(DropId),
        "given back".to_owned(),
        user.to_string(),
    );
    let order = Order {
        drop,
        reason,
        by,
        may_claim_again: false,
        operator: None,
    };
    Ok(not_kept(app.claims.revoke(id, user, order).await?))
}

/// Revoke a person's coupon
///
/// Its slot goes to the next. Safe to repeat: what is revoked stays so, with its first reason. But
/// anybody who may claim again may have done so: a repeat revokes that claim too.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/people/{user_id}/revoke", tag = "operators", request_body = RevokeBody,
    params(
        ("id" = i64, Path, description = "Number of the coupon", example = 7),
        ("user_id" = String, Path, description = "The person, percent-encoded", pattern = "^[A-Za-z0-9._@+|:=-]{1,64}$", example = "u-37"),
    ),
    responses(
        (status = 200, description = "It is revoked, and goes to the next", body = Revoked),
        (status = 400, description = "`invalid`: the sentence names the field"),
        (status = 404, description = "`not_found`: no such coupon, or nothing to revoke"),
        (status = 503, description = "`unavailable`: repeat it to be certain"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn revoke(
    State(app): State<App>,
    PersonPath(id, user): PersonPath,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<RevokeBody>,
) -> Result<Json<Revoked>, Problem> {
    let reason = validate::text("reason", MAX_REASON_CHARS, &body.reason)?;
    let by = validate::text("by", MAX_BY_CHARS, &body.by)?;
    let (drop, may_claim_again) = (body.drop_id.map(DropId), body.may_claim_again);
    let order = Order {
        drop,
        reason,
        by,
        may_claim_again,
        operator: Some(operator),
    };
    Ok(Json(app.claims.revoke(id, user, order).await?))
}
