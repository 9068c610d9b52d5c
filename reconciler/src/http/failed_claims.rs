//! Routes for failed claims (dead letters): list, correct and discard them.

use axum::extract::State;
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{JsonBody, StrictPath, StrictQuery, invalid};
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::{Discarded, FailedClaimDetails, FailedClaimPage, LeftReason};
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schema::reconcile_findings;
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::requests::{RouteResult, no_such, number, reveal, user_id, within};
use crate::notify::wording::line;
use crate::queries;
use crate::queries::letters::{Correction, DeadLetterQuery, Payload};

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
    get, path = "/v1/failed-claims", tag = "failed claims",
    operation_id = "list_failed_claims", security(("ops" = [])),
    params(FailedClaimsQuery),
    responses((status = 200, description = "Failed claims", body = FailedClaimPage))
)]
pub(super) async fn list(
    State(db): State<Db>,
    StrictQuery(query): StrictQuery<FailedClaimsQuery>,
) -> RouteResult<FailedClaimPage> {
    let limit = within("limit", query.limit, 50, 1..=200)?;
    let page = within("page", query.page, 1, 1..=PAGES)?;
    let wanted = DeadLetterQuery {
        resolved: query.resolved.unwrap_or(false),
        drop: query.drop_id.map(DropId),
        reason: query.reason,
    };
    let skipped = (page - 1) * limit;
    let mut found = queries::letters::list_dead_letters(&db, skipped, wanted, limit + 1).await?;
    let has_more = found.len() > limit as usize && page < PAGES;
    found.truncate(limit as usize);
    Ok(Json(FailedClaimPage {
        failed_claims: found,
        next_page: has_more.then_some(page + 1),
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FailedClaimQuery {
    /// Record in `ops_actions` that you (`X-Operator`) saw the user's id and the message.
    reveal: Option<bool>,
}

/// Read one failed claim with its message
#[utoipa::path(
    get, path = "/v1/failed-claims/{id}", tag = "failed claims",
    operation_id = "read_failed_claim", security(("ops" = [])),
    params(("id" = i64, Path, description = "The failed claim"), FailedClaimQuery),
    responses((status = 200, description = "The failed claim", body = FailedClaimDetails))
)]
pub(super) async fn read(
    State(db): State<Db>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    StrictQuery(query): StrictQuery<FailedClaimQuery>,
) -> RouteResult<FailedClaimDetails> {
    let (row, payload) = find(&db, &id).await?;
    if query.reveal.unwrap_or(false) {
        reveal(&db, operator, json!({"dead_letter": row.id})).await?;
    }
    Ok(Json(details(&db, row, payload).await?))
}

async fn find(db: &Db, id: &str) -> Result<(DeadLetterRow, Payload), Problem> {
    let found = queries::letters::dead_letter(db, number("failed claim", id)?).await?;
    found.ok_or_else(|| no_such("failed claim", id))
}

/// Reads why the last pass left a dead letter unresolved, and when.
async fn why_left(
    db: &Db,
    letter: i64,
    drop: Option<i64>,
) -> Result<Option<(String, DateTime<Utc>)>, DbError> {
    // The condition matches the index on drop and result.
    let mut left = reconcile_findings::table
        .filter(reconcile_findings::result.eq("skipped"))
        .filter(reconcile_findings::dead_letter.eq(Some(letter)))
        .order(reconcile_findings::created_at.desc())
        .limit(1)
        .select((reconcile_findings::detail, reconcile_findings::created_at))
        .into_boxed();
    left = match drop {
        Some(drop) => left.filter(reconcile_findings::drop_id.eq(Some(drop))),
        None => left.filter(reconcile_findings::drop_id.is_null()),
    };
    db.row("why a dead letter stays", left).await
}

async fn details(
    db: &Db,
    row: DeadLetterRow,
    payload: Payload,
) -> Result<FailedClaimDetails, DbError> {
    let coupon = match row.coupon_id {
        Some(id) => db.coupon(CouponId(id)).await?,
        None => None,
    };
    let mut drops = coupon.iter().flat_map(|(_, drops)| drops);
    let drop_exists = drops.any(|drop| Some(drop.id.0) == row.drop_id);
    let mut left = None;
    if row.resolved_at.is_none() {
        left = why_left(db, row.id, row.drop_id).await?;
    }
    let left = left.map(|(why, at)| LeftReason { why, at });
    let message = payload.beginning;
    Ok(FailedClaimDetails {
        claim: row,
        coupon_name: coupon.map(|(coupon, _)| coupon.settings.name),
        drop_exists,
        left,
        message: message.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
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
    #[schema(value_type = u32, example = 37)]
    slot: Slot,
    #[schema(example = "u-37")]
    user_id: String,
}

/// Correct the claim that a failed claim stands for
///
/// The next run over the drop issues it, unless its user already holds a coupon. If its slot is
/// taken, its user is owed the next free one, except in a sealed drop.
#[utoipa::path(
    post, path = "/v1/failed-claims/{id}/correct", tag = "failed claims",
    operation_id = "correct_failed_claim", security(("ops" = [])),
    request_body = CorrectedClaim,
    params(("id" = i64, Path, description = "The failed claim")),
    responses(
        (status = 200, description = "The corrected claim", body = FailedClaimDetails),
        (status = 409, description = "`already_resolved`")
    )
)]
pub(super) async fn correct(
    State(db): State<Db>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<CorrectedClaim>,
) -> RouteResult<FailedClaimDetails> {
    let letter = number("failed claim", &id)?;
    let found = db.coupon(CouponId(body.coupon_id)).await?;
    let mut drops = found.into_iter().flat_map(|(_, drops)| drops);
    let drop = drops.find(|drop| drop.id.0 == body.drop_id);
    let none = "coupon_id and drop_id: there is no such coupon, or it has no such drop";
    let drop = drop.ok_or_else(|| invalid(none))?;
    if !(1..=drop.quantity).contains(&body.slot) {
        let why = format!("slot: the drop has the slots 1 to {}", drop.quantity);
        return Err(invalid(why));
    }
    let to = Correction {
        coupon: drop.coupon_id,
        drop: drop.id,
        slot: body.slot,
        user: user_id(&body.user_id)?,
    };
    let is_corrected = queries::letters::correct_dead_letter(&db, letter, to, operator).await?;
    let (row, payload) = find(&db, &id).await?;
    must_be_open(is_corrected, letter)?;
    Ok(Json(details(&db, row, payload).await?))
}

/// Returns an error if a failed claim was not changed, because it is resolved.
fn must_be_open(was_changed: bool, id: i64) -> Result<(), Problem> {
    if was_changed {
        return Ok(());
    }
    let why = format!("failed claim {id} is resolved already");
    Err(Problem::new(Code::AlreadyResolved, why))
}

/// Why a failed claim is discarded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Discard {
    /// 1 to 200 characters.
    #[schema(example = "sent by a script")]
    why: String,
}

/// Discard one failed claim
///
/// No run tries it again. Users who are in Redis or have a row lose nothing. If it is the only
/// record of a promise, the promise is lost.
#[utoipa::path(
    post, path = "/v1/failed-claims/{id}/discard", tag = "failed claims",
    operation_id = "discard_failed_claim", security(("ops" = [])),
    request_body = Discard,
    params(("id" = i64, Path, description = "The failed claim")),
    responses(
        (status = 200, description = "It was discarded", body = Discarded),
        (status = 409, description = "`already_resolved`")
    )
)]
pub(super) async fn discard(
    State(db): State<Db>,
    StrictPath(id): StrictPath<String>,
    Extension(operator): Extension<Operator>,
    JsonBody(body): JsonBody<Discard>,
) -> RouteResult<Discarded> {
    let mut why = line(&body.why, WHY);
    if why.is_empty() {
        return Err(invalid("why must say why, in 1 to 200 characters"));
    }
    if let Some(name) = &operator.name {
        why = format!("{why} ({name})");
    }
    let (letter, _) = find(&db, &id).await?;
    let is_discarded = queries::letters::discard_dead_letter(&db, letter.id, why, operator).await?;
    must_be_open(is_discarded, letter.id)?;
    Ok(Json(Discarded { failed_claims: 1 }))
}
