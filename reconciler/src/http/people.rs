//! Routes for single users: find a user, explain the user's history with a coupon, give up a
//! promise, erase the user.

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use firstcome_shared::domain::{CouponId, DropId, NamedDrop, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::{ErasedPerson, FoundPeople, GivenUp, NamedCoupon, Story};
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::coupons::find;
use super::refusals::{Answer, Refusal, no_such, number, user_id};
use super::state::RouteState;
use crate::erase::{self, EraseError};
use crate::explain;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InDrop {
    /// The state in this drop; default: the last one in which the user is known.
    drop_id: Option<i64>,
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
) -> Answer<Story> {
    let user = user_id(&user)?;
    // Parse the ID from the raw path, because axum decodes the segments and each coupon must have
    // only one path.
    let id = uri.path().split('/').nth(3).unwrap_or_default();
    let coupon = CouponId(number("coupon", id)?);
    let drop = query.drop_id.map(DropId);
    let story = explain::explain(&app.stores, coupon, drop, &user).await?;
    Ok(Json(story.ok_or_else(|| no_such("coupon", id))?))
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
) -> Answer<FoundPeople> {
    let sought = match (&query.user_id, query.slot) {
        (Some(user), None) => Sought::User(user_id(user)?),
        (None, Some(slot)) => Sought::Slot(slot),
        _ => return Err(invalid("send either user_id or slot").into()),
    };
    let db = &app.stores.db;
    let coupon = query.coupon.as_deref().map(str::trim).unwrap_or_default();
    let coupons = in_question(&app, coupon, &sought).await?;
    let mut found = FoundPeople {
        coupons,
        drop_id: query.drop_id.map(DropId),
        user_ids: Vec::new(),
    };
    let [only] = found.coupons.as_slice() else {
        found.drop_id = None;
        return Ok(Json(found));
    };
    let (coupon, drops) = find(&app, &only.id.to_string()).await?;
    if let Some(drop) = found.drop_id
        && drops.iter().all(|own| own.id != drop)
    {
        return Err(Problem::not_found(format!("the coupon has no drop {drop}")).into());
    }
    match sought {
        Sought::User(user) => found.user_ids.push(user.to_string()),
        Sought::Slot(slot) => {
            let drop = found.drop_id.or_else(|| explain::last_opened(&drops));
            let drop =
                drop.ok_or_else(|| Problem::not_found("no drop of the coupon has opened"))?;
            let on_slot = explain::on_slot(&app.stores, coupon.id, drop, slot).await?;
            if let Some(why) = on_slot.nobody(drop, slot) {
                return Err(Problem::not_found(why).into());
            }
            if query.reveal.unwrap_or(false) {
                let act = OperatorAct {
                    action: "reveal",
                    coupon: Some(coupon.id),
                    drop: Some(drop),
                    detail: json!({"slot": slot}),
                };
                // Record the access before showing anything.
                db.record_act(operator, act).await?;
            }
            found.drop_id = Some(drop);
            let users = on_slot.users.iter();
            found.user_ids = users.map(ToString::to_string).collect();
        }
    }
    Ok(Json(found))
}

/// Returns the coupon with that ID, those whose names contain the text, or those in which the user
/// is known.
async fn in_question(
    app: &RouteState,
    coupon: &str,
    sought: &Sought,
) -> Result<Vec<NamedCoupon>, Refusal> {
    let db = &app.stores.db;
    let named = async |ids: Vec<CouponId>| {
        let found = db.coupons_by_id(ids).await?.into_iter();
        let named = found.map(|(coupon, _)| NamedCoupon {
            id: coupon.id,
            name: coupon.settings.name,
        });
        Ok::<Vec<NamedCoupon>, Refusal>(named.collect())
    };
    if let Ok(id) = coupon.parse() {
        let found = named(vec![CouponId(id)]).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let (ids, missing) = match sought {
        _ if !coupon.is_empty() => {
            let missing = format!("there is no coupon {coupon:?}, by number or by name");
            (db.coupons_named(coupon).await?, missing)
        }
        Sought::User(user) => {
            let missing = "no coupon has a row, a revocation or a broken promise of this user; a claim that waits, or is \
                           on its way, is found only with its coupon";
            (db.coupons_of_person(user).await?, missing.to_owned())
        }
        Sought::Slot(_) => {
            return Err(invalid("coupon: name the coupon that the slot belongs to").into());
        }
    };
    let found = named(ids).await?;
    if found.is_empty() {
        return Err(Problem::not_found(missing).into());
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
) -> Answer<GivenUp> {
    let user = user_id(&user)?;
    let (coupon, _) = find(&app, &id).await?;
    let place = NamedDrop {
        coupon: coupon.id,
        drop: DropId(body.drop_id),
    };
    let db = &app.stores.db;
    let promises = db.give_up_promises(place, &user, operator).await? as u64;
    if promises == 0 {
        let why = "the user has no broken promise in that drop";
        return Err(Problem::new(Code::NothingBroken, why).into());
    }
    Ok(Json(GivenUp { promises }))
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
) -> Answer<ErasedPerson> {
    let user = user_id(&user)?;
    let erased = erase::erase(&app.stores, &user, operator).await?;
    Ok(Json(ErasedPerson {
        pseudonym: erased.pseudonym,
        rows: erased.rows.iter().map(|(_, rows)| *rows as u64).sum(),
        allow_lists: erased.lists as u64,
    }))
}

impl From<EraseError> for Refusal {
    fn from(error: EraseError) -> Self {
        let why = match error {
            EraseError::StillNeeded(_) => {
                return Problem::new(Code::StillNeeded, error.to_string()).into();
            }
            EraseError::Database(error) => return error.into(),
            EraseError::Redis(_) => "nothing was erased: Redis does not answer right now",
            EraseError::OnList(_) => {
                "a store did not answer, and the user may still be on an allow list: erase them once more"
            }
        };
        tracing::warn!(%error, "a user could not be erased");
        Problem::unavailable(why).into()
    }
}
