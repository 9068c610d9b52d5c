//! Routes for the drops of a coupon (`GET /v1/coupons/{id}/drops`) and a single drop
//! (`GET /v1/coupons/{id}/drops/{drop_id}`).

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use chrono::Utc;
use diesel::prelude::*;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{DropId, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery};
use firstcome_shared::http::views::{
    CouponDetails, CouponDrops, CouponReadiness, DropDetails, ListedDrop,
};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schema::broken_promises;
use serde::Deserialize;
use utoipa::IntoParams;

use super::RouteState;
use super::requests::{RouteResult, read_coupon, within};
use crate::queries::drops::DropCount;
use crate::{queries, ready};

/// Drops per page.
const DROPS: usize = 50;

/// Maximum number of slots, over all drops of a page, whose rows are counted.
const COUNTED: u64 = 200_000;

/// Returns the settings and the state in the format of the API.
fn details(app: &RouteState, coupon: &Coupon, drops: &[Drop]) -> CouponDetails {
    CouponDetails {
        id: coupon.id,
        settings: coupon.settings.clone(),
        allow_list_users: coupon.allow_list.people,
        revision: coupon.revision,
        over: coupon.is_over_for_good(drops, Utc::now()),
        page: app.notifier.links().coupon_page(coupon.id),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CouponDropsQuery {
    /// The page of drops, from 1; 50 drops a page.
    #[param(default = 1, minimum = 1, maximum = 100_000)]
    page: Option<u32>,
}

/// List the drops of a coupon, newest first, with their rows
#[utoipa::path(
    get, path = "/v1/coupons/{id}/drops", tag = "coupons",
    operation_id = "list_drops", security(("ops" = [])),
    params(("id" = i64, Path, description = "The coupon"), CouponDropsQuery),
    responses((status = 200, description = "The coupon and its drops", body = CouponDrops))
)]
pub(super) async fn drops(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    StrictQuery(query): StrictQuery<CouponDropsQuery>,
) -> RouteResult<CouponDrops> {
    let page = within("page", query.page, 1, 1..=100_000)?;
    let (coupon, drops) = read_coupon(&app.stores.db, &id).await?;
    let skipped = (page as usize - 1).saturating_mul(DROPS);
    let shown: Vec<&Drop> = drops.iter().rev().skip(skipped).take(DROPS).collect();
    let rows = count_rows(&app.stores.db, &shown).await?;
    let now = Utc::now();
    Ok(Json(CouponDrops {
        drops: shown
            .iter()
            .map(|drop| ListedDrop {
                id: drop.id,
                opens_at: drop.opens_at,
                closes_at: drop.closes_at,
                quantity: drop.quantity,
                state: drop.state(now, false, 1),
                rows: rows.get(&drop.id).copied(),
            })
            .collect(),
        next_page: (drops.len() > skipped.saturating_add(DROPS)).then_some(page + 1),
        history: queries::coupons::acts_on(&app.stores.db, coupon.id).await?,
        coupon: details(&app, &coupon, &drops),
    }))
}

/// Counts the rows of the first of these drops, up to [`COUNTED`] slots, because counting more
/// takes too long.
async fn count_rows(db: &Db, drops: &[&Drop]) -> Result<HashMap<DropId, u64>, DbError> {
    let mut slots = 0_u64;
    let counted: Vec<DropId> = drops
        .iter()
        .take_while(|drop| {
            slots += u64::from(drop.quantity);
            slots <= COUNTED
        })
        .map(|drop| drop.id)
        .collect();
    let found = queries::drops::count(db, DropCount::Rows, &counted).await?;
    Ok(counted
        .into_iter()
        .map(|drop| (drop, found.get(&drop).copied().unwrap_or(0)))
        .collect())
}

/// Read one drop: its state, and what needs an operator
#[utoipa::path(
    get, path = "/v1/coupons/{id}/drops/{drop_id}", tag = "coupons",
    operation_id = "read_drop", security(("ops" = [])),
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("drop_id" = i64, Path, description = "The drop")
    ),
    responses(
        (status = 200, description = "The drop", body = DropDetails),
        (status = 404, description = "`not_found`: no such coupon or drop")
    )
)]
pub(super) async fn drop(
    State(app): State<RouteState>,
    StrictPath((id, drop_id)): StrictPath<(String, String)>,
) -> RouteResult<DropDetails> {
    let db = &app.stores.db;
    let (coupon, drops) = read_coupon(db, &id).await?;
    let own = canonical_number(&drop_id).map(DropId);
    let own = drops.iter().find(|drop| Some(drop.id) == own);
    let drop =
        own.ok_or_else(|| Problem::not_found(format!("the coupon has no drop {drop_id:?}")))?;
    let details = details(&app, &coupon, &drops);
    Ok(Json(DropDetails {
        coupon: details,
        overview: app
            .overview
            .lock()
            .await
            .read_one(coupon, drop.clone())
            .await,
        broken_promises: broken_promises(db, drop.id).await?,
    }))
}

/// Check whether the next drop of a coupon can open
///
/// Reads what its claims will need, and changes nothing. Daemons check the same every 20 seconds in
/// the 30 minutes before each opening.
#[utoipa::path(
    get, path = "/v1/coupons/{id}/ready", tag = "coupons",
    operation_id = "check_readiness", security(("ops" = [])),
    params(("id" = i64, Path, description = "The coupon")),
    responses(
        (status = 200, description = "What is ready, part by part", body = CouponReadiness),
        (status = 404, description = "`not_found`: no such coupon")
    )
)]
pub(super) async fn ready(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
) -> RouteResult<CouponReadiness> {
    let (coupon, drops) = read_coupon(&app.stores.db, &id).await?;
    let now = Utc::now();
    // The drop that opens next, or the open one.
    let next = drops.iter().find(|drop| drop.can_give_slots(now));
    let checks = match next {
        Some(drop) => ready::checks(&app.stores, &coupon, drop, now).await,
        None => Vec::new(),
    };
    Ok(Json(CouponReadiness {
        coupon_id: coupon.id,
        drop_id: next.map(|drop| drop.id),
        opens_at: next.map(|drop| drop.opens_at),
        ready: next.is_some() && checks.iter().all(|check| check.ready),
        checks,
    }))
}

/// Counts the open broken promises of a drop.
async fn broken_promises(db: &Db, drop: DropId) -> Result<u64, DbError> {
    let open = broken_promises::table
        .filter(broken_promises::drop_id.eq(drop))
        .filter(broken_promises::mended_at.is_null())
        .count();
    let open: Option<i64> = db.row("count broken promises", open).await?;
    Ok(open.unwrap_or(0).cast_unsigned())
}
