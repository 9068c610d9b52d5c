//! Routes for single users: find a user, explain the user's history with a coupon, give up a
//! promise.

use axum::extract::State;
use axum::{Extension, Json};
use firstcome_shared::domain::{CouponId, DropId, NamedDrop, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::{FoundCoupons, GivenUp, NamedCoupon, Story};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::RedisError;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::RouteState;
use super::requests::{RouteResult, no_such, number, read_coupon, user_id};
use crate::context::Stores;
use crate::explain;
use crate::queries;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InDrop {
    /// The state in this drop; default: the last one in which the user is known.
    drop_id: Option<i64>,
}

/// Explain a user's history with a coupon, and the current state
#[utoipa::path(
    get, path = "/v1/coupons/{id}/people/{user_id}", tag = "people",
    security(("ops" = [])),
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("user_id" = String, Path, description = "The user, percent-encoded", example = "u-37"),
        InDrop
    ),
    responses((status = 200, description = "The story", body = Story))
)]
pub(super) async fn explain(
    State(app): State<RouteState>,
    StrictPath((id, user)): StrictPath<(String, String)>,
    StrictQuery(query): StrictQuery<InDrop>,
) -> RouteResult<Story> {
    let user = user_id(&user)?;
    let coupon = CouponId(number("coupon", &id)?);
    let drop = query.drop_id.map(DropId);
    let story = explain::explain(&app.stores.db, &app.stores.redis, coupon, drop, &user).await?;
    Ok(Json(story.ok_or_else(|| no_such("coupon", &id))?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PeopleQuery {
    /// A coupon's ID, or a part of its name.
    #[param(example = "Winter coupon")]
    coupon: Option<String>,
    /// Without a coupon, every coupon is searched for a row, a revocation or a broken promise of
    /// the user, and those that are not over for a slot or a place on the waiting list.
    #[param(example = "u-37")]
    user_id: Option<String>,
}

/// Find a coupon by number or name, or the coupons of a user
#[utoipa::path(
    get, path = "/v1/people", tag = "people",
    operation_id = "find_people", security(("ops" = [])),
    params(PeopleQuery),
    responses(
        (status = 200, description = "The coupons found", body = FoundCoupons),
        (
            status = 404,
            description = "`not_found`: no such coupon, or no coupon knows the user"
        )
    )
)]
pub(super) async fn search(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<PeopleQuery>,
) -> RouteResult<FoundCoupons> {
    let user = query.user_id.as_deref().map(user_id).transpose()?;
    let found = in_question(&app.stores, query.coupon.as_deref(), user.as_ref()).await?;
    Ok(Json(found))
}

/// Maximum number of coupons that a search by name returns.
const NAMED: usize = 50;

/// Returns the coupon with that ID or with a drop of that ID, those whose names contain the text,
/// or those in which the user is known.
async fn in_question(
    stores: &Stores,
    coupon: Option<&str>,
    user: Option<&UserId>,
) -> Result<FoundCoupons, Problem> {
    let db = &stores.db;
    let coupon = coupon.map(str::trim).filter(|text| !text.is_empty());
    let number = coupon.and_then(|text| text.parse().ok().map(CouponId));
    let mut found = db.coupons_by_id(number.into_iter().collect()).await?;
    if let (true, Some(number)) = (found.is_empty(), number) {
        // The number may come from a mail, which contains the IDs of drops, too.
        let of_drop = queries::drops::coupon_of_drop(db, DropId(number.0)).await?;
        found = db.coupons_by_id(of_drop.into_iter().collect()).await?;
    }
    let mut has_more = false;
    let mut redis_answered = true;
    if found.is_empty() {
        let ids = match (coupon, user) {
            (Some(text), _) => {
                let mut ids = queries::coupons::coupons_named(db, text, NAMED + 1).await?;
                has_more = ids.len() > NAMED;
                ids.truncate(NAMED);
                ids
            }
            (None, Some(user)) => {
                let mut ids = queries::coupons::coupons_of_user(db, user).await?;
                match known_in_redis(stores, user).await? {
                    Ok(known) => ids.extend(known),
                    // The coupons that MySQL names are shown nevertheless.
                    Err(error) => {
                        tracing::warn!(%error, "a user was searched for in MySQL only");
                        redis_answered = false;
                    }
                }
                ids.sort_unstable();
                ids.dedup();
                ids
            }
            (None, None) => return Err(invalid("send coupon or user_id")),
        };
        found = db.coupons_by_id(ids).await?;
    }
    if found.is_empty() && redis_answered {
        return Err(Problem::not_found(
            "no coupon has this number or name, or knows this user; of a place that was lost with \
            Redis's data, nothing is known",
        ));
    }
    let named = found.into_iter().map(|(coupon, _)| NamedCoupon {
        id: coupon.id,
        name: coupon.settings.name,
    });
    Ok(FoundCoupons {
        coupons: named.collect(),
        has_more,
        redis_answered,
    })
}

/// Returns the coupons that are not over in which Redis has the user. MySQL does not know users who
/// wait, or whose claim has no row yet.
async fn known_in_redis(
    stores: &Stores,
    user: &UserId,
) -> Result<Result<Vec<CouponId>, RedisError>, DbError> {
    let mut drops = Vec::new();
    for (_, all) in stores.db.catalogue().await? {
        let unsealed = all.iter().filter(|drop| drop.sealed_at.is_none());
        drops.extend(unsealed.map(|drop| stores.redis.keys(drop.coupon_id, drop.id)));
    }
    let found = stores.redis.have_user(&drops, user).await;
    Ok(found.map(|found| {
        let known = drops.iter().zip(found);
        known
            .filter_map(|(keys, has_user)| has_user.then_some(keys.coupon))
            .collect()
    }))
}

/// The drop of the promise.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PromiseGivenUp {
    #[schema(example = 1)]
    drop_id: i64,
}

/// Give up a broken promise after informing the user
///
/// For promises that cannot be kept. Giving up the last open promise of a drop ends the drop's
/// alert. A slot that becomes free before the drop is sealed can still go to the user: to prevent
/// that, revoke the claim instead.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/people/{user_id}/give-up", tag = "people",
    operation_id = "give_up_promise", security(("ops" = [])),
    request_body = PromiseGivenUp,
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("user_id" = String, Path, description = "The user, percent-encoded", example = "u-37")
    ),
    responses(
        (status = 200, description = "It was given up", body = GivenUp),
        (status = 409, description = "`nothing_broken`: no broken promise in that drop")
    )
)]
pub(super) async fn give_up(
    State(db): State<Db>,
    StrictPath((id, user)): StrictPath<(String, String)>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<PromiseGivenUp>,
) -> RouteResult<GivenUp> {
    let user = user_id(&user)?;
    let place = NamedDrop {
        coupon: read_coupon(&db, &id).await?.0.id,
        drop: DropId(body.drop_id),
    };
    let promises = queries::promises::give_up_promises(&db, place, &user, operator).await? as u64;
    if promises == 0 {
        let why = "the user has no broken promise in that drop";
        return Err(Problem::new(Code::NothingBroken, why));
    }
    Ok(Json(GivenUp { promises }))
}
