//! `DELETE /v1/coupons/{id}/claims/me` and `POST /v1/coupons/{id}/people/{user_id}/revoke`.

use axum::Json;
use axum::extract::{Path, State};
use firstcome_shared::domain::{DropId, UserId};
use firstcome_shared::http::Problem;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{Body, CouponPath, Person, coupon_id, invalid};
use super::refusals::no_such_coupon;
use crate::serve::claim::revoke::{Order, Revoked};
use crate::serve::state::App;

/// Longest reason and name, in characters.
const LONGEST: (usize, usize) = (200, 100);

/// What an operator revokes, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RevokeBody {
    /// Why; kept with the revocation.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
    /// Who decided it.
    #[schema(min_length = 1, max_length = 100)]
    by: String,
    /// The drop; by default the one that is open or was open last.
    drop_id: Option<i64>,
    /// Whether the person may claim another.
    #[serde(default)]
    may_claim_again: bool,
}

/// Give your coupon back
///
/// Or leave the waiting list. It is final: a claim is answered 409 `revoked` from then on. Safe to repeat:
/// the answer is the same.
#[utoipa::path(
    delete, path = "/v1/coupons/{id}/claims/me", tag = "claims",
    params(
        ("id" = i64, Path, description = "Number of the coupon"),
        ("X-User-Id" = Option<String>, Header, description = "The person, with USER_AUTH=trusted-header", example = "u-37"),
    ),
    responses(
        (status = 200, description = "It is given back, and goes to the next", body = Revoked),
        (status = 400, description = "`bad_user_id`"),
        (status = 401, description = "`unauthorized`"),
        (status = 404, description = "`not_found`: no such coupon, or nothing to give back"),
        (status = 503, description = "`unavailable`: repeat it to be certain"),
    ),
    security(("person" = []))
)]
pub(crate) async fn give_back(
    State(app): State<App>,
    Person(user): Person,
    CouponPath(id): CouponPath,
) -> Result<Json<Revoked>, Problem> {
    let (reason, by) = ("given back".to_owned(), user.to_string());
    let order = Order { drop: None, reason, by, may_claim_again: false };
    Ok(Json(app.claims.revoke(id, user, order).await?))
}

/// Revoke a person's coupon
///
/// Its slot goes to the next. Safe to repeat: what is revoked stays so, with its first reason.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/people/{user_id}/revoke", tag = "operators", request_body = RevokeBody,
    params(
        ("id" = i64, Path, description = "Number of the coupon"),
        ("user_id" = String, Path, description = "The person"),
    ),
    responses(
        (status = 200, description = "It is revoked, and goes to the next", body = Revoked),
        (status = 400, description = "`invalid`: the sentence names the field"),
        (status = 401, description = "`unauthorized`"),
        (status = 404, description = "`not_found`: no such coupon, or nothing to revoke"),
        (status = 413, description = "`too_large`"),
        (status = 503, description = "`unavailable`: repeat it to be certain"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn revoke(
    State(app): State<App>,
    Path((id, user)): Path<(String, String)>,
    Body(body): Body<RevokeBody>,
) -> Result<Json<Revoked>, Problem> {
    let id = coupon_id(&id).ok_or_else(no_such_coupon)?;
    let user: UserId = user.parse().map_err(|_| invalid("user_id: not a user id"))?;
    let reason = text("reason", &body.reason, LONGEST.0)?;
    let by = text("by", &body.by, LONGEST.1)?;
    let drop = body.drop_id.map(DropId);
    let order = Order { drop, reason, by, may_claim_again: body.may_claim_again };
    tracing::info!(coupon = %id, by = order.by, reason = order.reason, "an operator revokes a claim");
    Ok(Json(app.claims.revoke(id, user, order).await?))
}

fn text(field: &str, text: &str, most: usize) -> Result<String, Problem> {
    let length = text.trim().chars().count();
    if (1..=most).contains(&length) {
        Ok(text.trim().to_owned())
    } else {
        Err(invalid(format!("{field}: give 1 to {most} characters")))
    }
}
