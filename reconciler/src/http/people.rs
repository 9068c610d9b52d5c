//! Routes for single users: find a user, explain the user's history with a coupon, give up a
//! promise, erase the user.

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, NamedDrop, UserId, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::{ErasedPerson, FoundPeople, GivenUp, NamedCoupon, Story};
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::coupons::find;
use super::refusals::unavailable;
use super::state::RouteState;
use crate::by_hand::{self, EraseError};
use crate::explain::{self, OnSlot};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InDrop {
    /// The state in this drop; default: the last one in which the user is known.
    drop_id: Option<i64>,
}

fn user_id(text: &str) -> Result<UserId, Problem> {
    text.parse()
        .map_err(|error| invalid(format!("user_id: {error}")))
}

/// Explain a user's history with a coupon, and the current state
#[utoipa::path(
    get, path = "/v1/coupons/{id}/people/{user_id}", tag = "people", security(("ops" = [])),
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("user_id" = String, Path, description = "The user, percent-encoded", example = "u-37"),
        InDrop,
    ),
    responses(
        (status = 200, description = "The story", body = Story),
        (status = 404, description = "`not_found`"),
    )
)]
pub(super) async fn explain(
    State(app): State<RouteState>,
    StrictPath((_id, user)): StrictPath<(String, String)>,
    uri: Uri,
    StrictQuery(query): StrictQuery<InDrop>,
) -> Result<Json<Story>, Problem> {
    let user = user_id(&user)?;
    // Parse the ID from the raw path, because axum decodes the segments and each coupon must have
    // only one path.
    let id = uri.path().split('/').nth(3).unwrap_or_default();
    let no_such = || Problem::not_found(format!("there is no coupon {id:?}"));
    let coupon = CouponId(canonical_number(id).ok_or_else(no_such)?);
    match explain::explain(&app.stores, coupon, query.drop_id.map(DropId), &user).await {
        Ok(Some(story)) => Ok(Json(story)),
        Ok(None) => Err(no_such()),
        Err(error) => Err(unanswered(&error)),
    }
}

fn unanswered(error: &anyhow::Error) -> Problem {
    tracing::warn!(
        error = format!("{error:#}"),
        "a user's story could not be collected"
    );
    Problem::unavailable("not all stores can be asked right now")
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PeopleQuery {
    /// A coupon's ID, or a part of its name. Without it, every coupon is searched for a row, a
    /// revocation or a broken promise of the user.
    #[param(example = "Winter coupon")]
    coupon: Option<String>,
    /// Default for a slot: the last opened drop.
    drop_id: Option<i64>,
    /// Send this or `slot`.
    #[param(example = "u-37")]
    user_id: Option<String>,
    /// Send this or `user_id`.
    slot: Option<i64>,
    /// Record in `ops_actions` that you (`X-Operator`) saw the ids of the users on the slot.
    reveal: Option<bool>,
}

/// The target of a search: a user or a slot.
enum Sought {
    User(UserId),
    Slot(i64),
}

/// Find a user by coupon, drop and slot, or the coupons of a user
#[utoipa::path(
    get, path = "/v1/people", tag = "people", operation_id = "find_people", params(PeopleQuery), security(("ops" = [])),
    responses(
        (status = 200, description = "The coupons and users found", body = FoundPeople),
        (status = 404, description = "`not_found`: no such coupon or drop, or no user is known"),
    )
)]
pub(super) async fn search(
    State(app): State<RouteState>,
    Extension(operator): Extension<Operator>,
    StrictQuery(query): StrictQuery<PeopleQuery>,
) -> Result<Json<FoundPeople>, Problem> {
    let sought = match (&query.user_id, query.slot) {
        (Some(user), None) => Sought::User(user_id(user)?),
        (None, Some(slot)) => Sought::Slot(slot),
        _ => return Err(invalid("send either user_id or slot")),
    };
    let coupon = query.coupon.as_deref().map(str::trim).unwrap_or_default();
    let coupons = in_question(&app, coupon, &sought).await?;
    let [only] = coupons.as_slice() else {
        return Ok(Json(FoundPeople {
            coupons,
            drop_id: None,
            user_ids: Vec::new(),
        }));
    };
    let (coupon, drops) = find(&app, &only.id.to_string()).await?;
    let drop = query.drop_id.map(DropId);
    if let Some(drop) = drop
        && drops.iter().all(|own| own.id != drop)
    {
        return Err(Problem::not_found(format!("the coupon has no drop {drop}")));
    }
    let (drop_id, user_ids) = match sought {
        Sought::User(user) => (drop, vec![user.to_string()]),
        Sought::Slot(slot) => {
            let found = on_slot(&app, &coupon, &drops, drop, slot).await?;
            if query.reveal.unwrap_or(false) {
                let act = OperatorAct {
                    action: "reveal",
                    coupon: Some(coupon.id),
                    drop: Some(found.drop),
                    detail: json!({"slot": slot}),
                };
                // Record the access before showing anything.
                let recorded = app.stores.db.record_act(operator, act).await;
                recorded.map_err(unavailable)?;
            }
            let user_ids = found.people.iter().map(ToString::to_string).collect();
            (Some(found.drop), user_ids)
        }
    };
    Ok(Json(FoundPeople {
        coupons,
        drop_id,
        user_ids,
    }))
}

/// Returns the coupon with that ID, those whose names contain the text, or those in which the user
/// is known.
async fn in_question(
    app: &RouteState,
    coupon: &str,
    sought: &Sought,
) -> Result<Vec<NamedCoupon>, Problem> {
    let db = &app.stores.db;
    let named = async |ids: Vec<CouponId>| {
        let found = db.coupons_by_id(ids).await.map_err(unavailable)?;
        let named = found.into_iter().map(|(coupon, _)| NamedCoupon {
            id: coupon.id,
            name: coupon.name,
        });
        Ok::<Vec<NamedCoupon>, Problem>(named.collect())
    };
    if let Ok(id) = coupon.parse() {
        let found = named(vec![CouponId(id)]).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let (ids, missing) = if !coupon.is_empty() {
        let ids = db.coupons_named(coupon).await.map_err(unavailable)?;
        (
            ids,
            format!("there is no coupon {coupon:?}, by number or by name"),
        )
    } else if let Sought::User(user) = sought {
        let ids = db.coupons_of_person(user).await.map_err(unavailable)?;
        let missing = "no coupon has a row, a revocation or a broken promise of this user; a claim that waits, or is \
                       on its way, is found only with its coupon";
        (ids, missing.to_owned())
    } else {
        return Err(invalid("coupon: name the coupon that the slot belongs to"));
    };
    let found = named(ids).await?;
    if found.is_empty() {
        Err(Problem::not_found(missing))
    } else {
        Ok(found)
    }
}

/// Returns the users on a slot, or an error if there are none.
async fn on_slot(
    app: &RouteState,
    coupon: &Coupon,
    drops: &[Drop],
    drop: Option<DropId>,
    slot: i64,
) -> Result<OnSlot, Problem> {
    let found = explain::on_slot(&app.stores, coupon, drops, drop, slot).await;
    let found = found.map_err(|error| unanswered(&error))?;
    let found =
        found.ok_or_else(|| Problem::not_found("no drop of the coupon has opened".to_owned()))?;
    if found.people.is_empty() {
        let drop = found.drop;
        let but = found
            .not_asked
            .map_or("", |_| ", but Redis does not answer right now");
        return Err(Problem::not_found(format!(
            "nobody is known on slot {slot} of drop {drop}{but}"
        )));
    }
    Ok(found)
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
/// alert.
#[utoipa::path(
    post, path = "/v1/coupons/{id}/people/{user_id}/give-up", tag = "people", operation_id = "give_up_promise",
    request_body = PromiseGivenUp, security(("ops" = [])),
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("user_id" = String, Path, description = "The user, percent-encoded", example = "u-37"),
    ),
    responses(
        (status = 200, description = "It was given up", body = GivenUp),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`nothing_broken`: no broken promise in that drop"),
    )
)]
pub(super) async fn give_up(
    State(app): State<RouteState>,
    StrictPath((id, user)): StrictPath<(String, String)>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<PromiseGivenUp>,
) -> Result<Json<GivenUp>, Problem> {
    let user = user_id(&user)?;
    let (coupon, _) = find(&app, &id).await?;
    let place = NamedDrop {
        coupon: coupon.id,
        drop: DropId(body.drop_id),
    };
    let given_up = by_hand::give_up(&app.stores, place, &user, operator).await;
    match given_up.map_err(unavailable)? {
        0 => Err(Problem::new(
            Code::NothingBroken,
            "the user has no broken promise in that drop",
        )),
        promises => Ok(Json(GivenUp {
            promises: promises as u64,
        })),
    }
}

/// Erase a user: a pseudonym replaces the id in every table
///
/// Possible once all coupons of the user are over. It cannot be undone.
#[utoipa::path(
    post, path = "/v1/people/{user_id}/erase", tag = "people", operation_id = "erase_person", security(("ops" = [])),
    params(("user_id" = String, Path, description = "The user, percent-encoded", example = "u-37")),
    responses(
        (status = 200, description = "The user was erased", body = ErasedPerson),
        (status = 409, description = "`still_needed`: the message says what still needs the ID"),
        (status = 503, description = "`unavailable`: the message says whether to repeat the request"),
    )
)]
pub(super) async fn erase(
    State(app): State<RouteState>,
    StrictPath(user): StrictPath<String>,
    Extension(operator): Extension<Operator>,
) -> Result<Json<ErasedPerson>, Problem> {
    let user = user_id(&user)?;
    match by_hand::erase(&app.stores, &user, operator).await {
        Ok(erased) => Ok(Json(ErasedPerson {
            pseudonym: erased.pseudonym,
            rows: erased.rows.iter().map(|(_, rows)| *rows as u64).sum(),
            allow_lists: erased.lists as u64,
        })),
        Err(refused @ EraseError::StillNeeded(_)) => {
            Err(Problem::new(Code::StillNeeded, refused.to_string()))
        }
        Err(EraseError::Database(error)) => Err(unavailable(error)),
        Err(EraseError::Redis(error)) => {
            tracing::warn!(%error, "a user could not be erased");
            Err(Problem::unavailable(
                "nothing was erased: Redis does not answer right now",
            ))
        }
        Err(EraseError::OnList(error)) => {
            tracing::warn!(%error, "a user may still be on an allow list");
            let why = "a store did not answer, and the user may still be on an allow list: erase them once more";
            Err(Problem::unavailable(why))
        }
    }
}
