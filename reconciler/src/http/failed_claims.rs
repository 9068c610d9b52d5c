//! Routes for failed claims (dead letters): list, correct and discard them.

use axum::extract::State;
use axum::{Extension, Json};
use chrono::NaiveDateTime;
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::{
    Discardable, Discarded, FailedClaimDetails, FailedClaimPage, FailureReason, LeftReason,
    ListedFailedClaim,
};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::dead_letters::{
    Correction, DeadLetterQuery, DeadLetterRow, Matching, Payload,
};
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::refusals::{unavailable, within};
use super::state::RouteState;
use crate::by_hand;
use crate::notify::wording::line;

/// Highest page that can be read, since MySQL has to skip all rows before it.
const PAGES: u32 = 200;

/// Maximum length of a reason for discarding, in characters.
const WHY: usize = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FailedClaimsQuery {
    /// If true, resolved ones, newest first; otherwise unresolved ones, by drop and slot.
    resolved: Option<bool>,
    /// Only those that name this drop.
    drop_id: Option<i64>,
    /// Only those with this reason.
    #[param(example = "undecodable")]
    reason: Option<String>,
    /// The page.
    #[param(default = 1, minimum = 1, maximum = 200)]
    page: Option<u32>,
    /// Page size.
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// List failed claims
///
/// Each run retries unresolved ones; those that remain need an operator.
#[utoipa::path(
    get, path = "/v1/failed-claims", tag = "failed claims", operation_id = "list_failed_claims", params(FailedClaimsQuery), security(("ops" = [])),
    responses(
        (status = 200, description = "Failed claims", body = FailedClaimPage),
    )
)]
pub(super) async fn list(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<FailedClaimsQuery>,
) -> Result<Json<FailedClaimPage>, Problem> {
    let limit = within("limit", query.limit, 50, 1..=200)?;
    let page = within("page", query.page, 1, 1..=PAGES)?;
    let wanted = DeadLetterQuery {
        resolved: query.resolved.unwrap_or(false),
        drop: query.drop_id.map(DropId),
        reason: query.reason,
    };
    listed(&app, page, wanted, limit)
        .await
        .map(Json)
        .map_err(unavailable)
}

async fn listed(
    app: &RouteState,
    page: u32,
    wanted: DeadLetterQuery,
    limit: u32,
) -> Result<FailedClaimPage, DbError> {
    let db = &app.stores.db;
    // If this fails, show the list without choices for the filter.
    let reasons = db
        .dead_letter_reasons(wanted.clone())
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "failed claims could not be counted by reason");
            Vec::new()
        });
    let is_filtered = wanted.reason.is_some() || wanted.drop.is_some();
    let discardable = if is_filtered && !wanted.resolved {
        let found = db.matching_dead_letters(wanted.clone()).await?;
        Some(Discardable {
            failed_claims: u32::try_from(found.letters).unwrap_or(0),
            highest_id: found.highest,
        })
    } else {
        None
    };
    let mut found = db
        .list_dead_letters((page - 1) * limit, wanted, limit + 1)
        .await?;
    let has_more = found.len() > limit as usize && page < PAGES;
    found.truncate(limit as usize);
    Ok(FailedClaimPage {
        failed_claims: found.into_iter().map(shown).collect(),
        next_page: has_more.then_some(page + 1),
        reasons: reasons
            .into_iter()
            .map(|one| FailureReason {
                reason: one.reason,
                failed_claims: u64::try_from(one.letters).unwrap_or(0),
            })
            .collect(),
        discardable,
    })
}

fn shown(row: DeadLetterRow) -> ListedFailedClaim {
    let utc = |at: NaiveDateTime| at.and_utc();
    ListedFailedClaim {
        id: row.id,
        coupon_id: row.coupon_id,
        drop_id: row.drop_id,
        slot: row.slot,
        user_id: row.user_id,
        claimed_at: row.claimed_at.map(utc),
        reason: row.reason,
        error: row.error,
        failed_at: utc(row.failed_at),
        resolved_at: row.resolved_at.map(utc),
        resolution: row.resolution,
        resolution_detail: row.resolution_detail,
        partition: row.source_partition,
        offset: row.source_offset,
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FailedClaimQuery {
    /// Record in `ops_actions` that you (`X-Operator`) saw the user's id and the message.
    reveal: Option<bool>,
}

fn no_such(id: &str) -> Problem {
    Problem::not_found(format!("there is no failed claim {id:?}"))
}

fn number(id: &str) -> Result<i64, Problem> {
    canonical_number(id).ok_or_else(|| no_such(id))
}

fn resolved_already(id: i64) -> Problem {
    let why = format!("failed claim {id} is resolved already");
    Problem::new(Code::AlreadyResolved, why)
}

/// Read one failed claim with its message
#[utoipa::path(
    get, path = "/v1/failed-claims/{id}", tag = "failed claims", operation_id = "read_failed_claim", security(("ops" = [])),
    params(("id" = i64, Path, description = "The failed claim"), FailedClaimQuery),
    responses(
        (status = 200, description = "The failed claim", body = FailedClaimDetails),
        (status = 404, description = "`not_found`"),
    )
)]
pub(super) async fn read(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    StrictQuery(query): StrictQuery<FailedClaimQuery>,
) -> Result<Json<FailedClaimDetails>, Problem> {
    let db = &app.stores.db;
    let letter = number(&id)?;
    let found = db.dead_letter(letter).await.map_err(unavailable)?;
    let (row, payload) = found.ok_or_else(|| no_such(&id))?;
    if query.reveal.unwrap_or(false) {
        let act = OperatorAct {
            action: "reveal",
            detail: json!({"dead_letter": letter}),
            ..OperatorAct::default()
        };
        // Record the access before showing anything.
        db.record_act(operator, act).await.map_err(unavailable)?;
    }
    details(&app, row, payload)
        .await
        .map(Json)
        .map_err(unavailable)
}

async fn details(
    app: &RouteState,
    row: DeadLetterRow,
    payload: Payload,
) -> Result<FailedClaimDetails, DbError> {
    let db = &app.stores.db;
    let coupon = match row.coupon_id {
        Some(id) => db.coupon(CouponId(id)).await?,
        None => None,
    };
    let drop_exists = coupon
        .as_ref()
        .is_some_and(|(_, drops)| drops.iter().any(|drop| Some(drop.id.0) == row.drop_id));
    let left = if row.resolved_at.is_none() {
        db.why_left(row.id, row.drop_id).await?
    } else {
        None
    };
    Ok(FailedClaimDetails {
        claim: shown(row),
        coupon_name: coupon.map(|(coupon, _)| coupon.name),
        drop_exists,
        left: left.map(|(why, at)| LeftReason {
            why,
            at: at.and_utc(),
        }),
        message: payload
            .beginning
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        message_bytes: u64::try_from(payload.bytes).unwrap_or(0),
    })
}

/// The intended claim.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CorrectedClaim {
    #[schema(example = 1)]
    coupon_id: i64,
    #[schema(example = 1)]
    drop_id: i64,
    #[schema(example = 37)]
    slot: Slot,
    #[schema(example = "u-37")]
    user_id: String,
}

/// Correct the claim that a failed claim stands for
///
/// The next run over the drop issues it. If its slot is taken, its user is owed the next free one.
#[utoipa::path(
    post, path = "/v1/failed-claims/{id}/correct", tag = "failed claims", operation_id = "correct_failed_claim",
    request_body = CorrectedClaim, security(("ops" = [])),
    params(("id" = i64, Path, description = "The failed claim")),
    responses(
        (status = 200, description = "The corrected claim", body = FailedClaimDetails),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`already_resolved`"),
    )
)]
pub(super) async fn correct(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<CorrectedClaim>,
) -> Result<Json<FailedClaimDetails>, Problem> {
    let letter = number(&id)?;
    let found = app.stores.db.coupon(CouponId(body.coupon_id)).await;
    let found = found.map_err(unavailable)?.and_then(|(coupon, drops)| {
        let drop = drops.into_iter().find(|drop| drop.id.0 == body.drop_id)?;
        Some((coupon, drop))
    });
    let (coupon, drop) = found.ok_or_else(|| {
        invalid("coupon_id and drop_id: there is no such coupon, or it has no such drop")
    })?;
    if !(1..=drop.quantity).contains(&body.slot) {
        return Err(invalid(format!(
            "slot: the drop has the slots 1 to {}",
            drop.quantity
        )));
    }
    let user: UserId = body
        .user_id
        .parse()
        .map_err(|error| invalid(format!("user_id: {error}")))?;
    let to = Correction {
        coupon: coupon.id,
        drop: drop.id,
        slot: body.slot,
        user,
    };
    let corrected = by_hand::correct(&app.stores, letter, to, operator).await;
    let corrected = corrected.map_err(unavailable)?;
    let found = app.stores.db.dead_letter(letter).await;
    let (row, payload) = found.map_err(unavailable)?.ok_or_else(|| no_such(&id))?;
    if !corrected {
        return Err(resolved_already(letter));
    }
    details(&app, row, payload)
        .await
        .map(Json)
        .map_err(unavailable)
}

/// Why a failed claim is discarded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Discard {
    /// 1 to 200 characters.
    #[schema(example = "sent by a script")]
    why: String,
}

/// Returns the reason to store, with the name of the operator.
fn reason(why: &str, operator: &Operator) -> Result<String, Problem> {
    let why = line(why, WHY);
    if why.is_empty() {
        return Err(invalid("why must say why, in 1 to 200 characters"));
    }
    let name = operator.name.as_ref();
    Ok(name.map_or(why.clone(), |name| format!("{why} ({name})")))
}

/// Discard one failed claim
///
/// No run tries it again. Users who are in Redis or have a row lose nothing. If it is the only
/// record of a promise, the promise is lost.
#[utoipa::path(
    post, path = "/v1/failed-claims/{id}/discard", tag = "failed claims", operation_id = "discard_failed_claim",
    request_body = Discard, security(("ops" = [])),
    params(("id" = i64, Path, description = "The failed claim")),
    responses(
        (status = 200, description = "It was discarded", body = Discarded),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`already_resolved`"),
    )
)]
pub(super) async fn discard(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<Discard>,
) -> Result<Json<Discarded>, Problem> {
    let letter = number(&id)?;
    let why = reason(&body.why, &operator)?;
    let discarded = by_hand::discard(&app.stores, letter, why, operator).await;
    if discarded.map_err(unavailable)? {
        return Ok(Json(Discarded { failed_claims: 1 }));
    }
    let found = app.stores.db.dead_letter(letter).await;
    found.map_err(unavailable)?.ok_or_else(|| no_such(&id))?;
    Err(resolved_already(letter))
}

/// The failed claims to discard, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscardMany {
    /// Those that name this drop.
    drop_id: Option<i64>,
    /// Those with this reason.
    #[schema(example = "undecodable")]
    reason: Option<String>,
    /// At most this many.
    #[schema(minimum = 1, maximum = 10_000, example = 12)]
    failed_claims: u32,
    /// Claims with a higher ID are kept, because they were added after you looked.
    highest_id: i64,
    /// 1 to 200 characters.
    #[schema(example = "sent by a script")]
    why: String,
}

/// Discard all failed claims that match a filter
///
/// Send a drop or a reason, and the `discardable` of `GET /v1/failed-claims`.
#[utoipa::path(
    post, path = "/v1/failed-claims/discard", tag = "failed claims", operation_id = "discard_failed_claims",
    request_body = DiscardMany, security(("ops" = [])),
    responses(
        (status = 200, description = "How many were discarded", body = Discarded),
    )
)]
pub(super) async fn discard_many(
    State(app): State<RouteState>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<DiscardMany>,
) -> Result<Json<Discarded>, Problem> {
    if body.drop_id.is_none() && body.reason.is_none() {
        return Err(invalid("name a drop_id or a reason"));
    }
    if !(1..=10_000).contains(&body.failed_claims) {
        return Err(invalid("failed_claims must be from 1 to 10000"));
    }
    let why = reason(&body.why, &operator)?;
    let wanted = DeadLetterQuery {
        resolved: false,
        drop: body.drop_id.map(DropId),
        reason: body.reason,
    };
    let seen = Matching {
        letters: body.failed_claims.into(),
        highest: body.highest_id,
    };
    let discarded = by_hand::discard_all(&app.stores, wanted, seen, why, operator).await;
    Ok(Json(Discarded {
        failed_claims: discarded.map_err(unavailable)? as u64,
    }))
}
