//! Routes for the drops of a coupon (`GET /v1/coupons/{id}/drops`), a single drop
//! (`GET /v1/coupons/{id}/drops/{drop_id}`), and the latency of rows by day (`GET /v1/days`).

use std::collections::{HashMap, HashSet};

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, NaiveDateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, Slot, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictPath, StrictQuery};
use firstcome_shared::http::views::{
    CouponDrops, CouponSettings, Day, Days, DropDetails, ListedDrop, Overview, SlotTimes,
};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::pace::{DayPace, SlotPace, sampled};
use serde::Deserialize;
use utoipa::IntoParams;

use super::refusals::{unavailable, within};
use super::state::RouteState;
use crate::notify::alerts::About;

/// Drops per page.
const DROPS: usize = 50;

/// Maximum number of slots, over all drops of a page, whose rows are counted.
const COUNTED: u64 = 200_000;

/// Number of days that are listed.
const DAYS: u32 = 14;

/// Finds the coupon of a path, with its drops in order of opening.
pub(super) async fn find(app: &RouteState, id: &str) -> Result<(Coupon, Vec<Drop>), Problem> {
    let no_such = || Problem::not_found(format!("there is no coupon {id:?}"));
    let coupon = CouponId(canonical_number(id).ok_or_else(no_such)?);
    let found = app.stores.db.coupon(coupon).await.map_err(unavailable)?;
    found.ok_or_else(no_such)
}

/// Returns the settings in the format of the API.
fn settings(app: &RouteState, coupon: &Coupon, drops: &[Drop]) -> CouponSettings {
    let is_to_come = coupon
        .schedule
        .as_ref()
        .is_some_and(|schedule| !schedule.openings(Utc::now(), 1).is_empty());
    CouponSettings {
        id: coupon.id,
        name: coupon.name.clone(),
        quantity: coupon.quantity,
        once_per: coupon.once_per,
        waiting_list: coupon.waiting_list,
        paused: coupon.paused,
        allow: coupon.allow.clone(),
        allow_list_users: coupon.allow_list.people,
        revision: coupon.revision,
        schedule: coupon.schedule.clone(),
        over: !is_to_come && drops.iter().all(|drop| drop.sealed_at.is_some()),
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
    get, path = "/v1/coupons/{id}/drops", tag = "coupons", operation_id = "list_drops", security(("ops" = [])),
    params(("id" = i64, Path, description = "The coupon"), CouponDropsQuery),
    responses(
        (status = 200, description = "The coupon and its drops", body = CouponDrops),
        (status = 404, description = "`not_found`"),
    )
)]
pub(super) async fn drops(
    State(app): State<RouteState>,
    StrictPath(id): StrictPath<String>,
    StrictQuery(query): StrictQuery<CouponDropsQuery>,
) -> Result<Json<CouponDrops>, Problem> {
    let page = within("page", query.page, 1, 1..=100_000)?;
    let (coupon, drops) = find(&app, &id).await?;
    let skipped = (page as usize - 1).saturating_mul(DROPS);
    let shown: Vec<&Drop> = drops.iter().rev().skip(skipped).take(DROPS).collect();
    let rows = rows(&app, &shown).await.map_err(unavailable)?;
    let now = Utc::now();
    let listed = |drop: &&Drop| ListedDrop {
        id: drop.id,
        opens_at: drop.opens_at,
        closes_at: drop.closes_at,
        quantity: drop.quantity,
        state: drop.state(now, false, 1),
        rows: rows.get(&drop.id).copied(),
    };
    Ok(Json(CouponDrops {
        drops: shown.iter().map(listed).collect(),
        next_page: (drops.len() > skipped.saturating_add(DROPS)).then_some(page + 1),
        coupon: settings(&app, &coupon, &drops),
    }))
}

/// Counts the rows of the first of these drops, up to [`COUNTED`] slots, because counting more
/// takes too long.
async fn rows(app: &RouteState, drops: &[&Drop]) -> Result<HashMap<DropId, u64>, DbError> {
    let mut slots = 0_u64;
    let counted = drops.iter().take_while(|drop| {
        slots += u64::from(drop.quantity);
        slots <= COUNTED
    });
    let counted: Vec<DropId> = counted.map(|drop| drop.id).collect();
    let found = app.stores.db.rows_by_drop(counted.clone()).await?;
    let rows = |drop: &DropId| {
        found
            .get(drop)
            .and_then(|rows| u64::try_from(*rows).ok())
            .unwrap_or(0)
    };
    Ok(counted.iter().map(|drop| (*drop, rows(drop))).collect())
}

/// Read one drop: its state, what needs an operator, and how fast its slots were given away
#[utoipa::path(
    get, path = "/v1/coupons/{id}/drops/{drop_id}", tag = "coupons", operation_id = "read_drop", security(("ops" = [])),
    params(
        ("id" = i64, Path, description = "The coupon"),
        ("drop_id" = i64, Path, description = "The drop"),
    ),
    responses(
        (status = 200, description = "The drop", body = DropDetails),
        (status = 404, description = "`not_found`: no such coupon or drop"),
    )
)]
pub(super) async fn drop(
    State(app): State<RouteState>,
    StrictPath((id, drop_id)): StrictPath<(String, String)>,
) -> Result<Json<DropDetails>, Problem> {
    let (coupon, drops) = find(&app, &id).await?;
    let own = canonical_number(&drop_id)
        .and_then(|id| drops.iter().find(|drop| drop.id == DropId(id)))
        .cloned();
    let drop =
        own.ok_or_else(|| Problem::not_found(format!("the coupon has no drop {drop_id:?}")))?;
    details(&app, coupon, drop, &drops)
        .await
        .map(Json)
        .map_err(unavailable)
}

async fn details(
    app: &RouteState,
    coupon: Coupon,
    drop: Drop,
    drops: &[Drop],
) -> Result<DropDetails, DbError> {
    let db = &app.stores.db;
    let id = drop.id;
    let quantity = drop.quantity;
    let now = Utc::now();
    let slots = with_admissions(app, &drop, db.pace(id).await?).await;
    let broken_promises = db.open_promises(id, String::new()).await?.len() as u64;
    let is_open =
        |drop: &&Drop| drop.sealed_at.is_none() && drop.closes_at.is_none_or(|closes| now < closes);
    let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
    let largest_quantity = unsealed.map(|drop| drop.quantity).max();
    let settings = settings(app, &coupon, drops);
    let largest_quantity = largest_quantity.unwrap_or(0).max(coupon.quantity);
    let overview = app.looks.one(coupon, drop).await;
    let held_back = if is_held_back(&overview, id) {
        db.shown_repairs(id).await?.map(|shown| shown.number)
    } else {
        None
    };
    Ok(DropDetails {
        coupon: settings,
        overview,
        open_drops: u32::try_from(drops.iter().filter(is_open).count()).unwrap_or(u32::MAX),
        largest_quantity,
        held_back,
        broken_promises,
        sampled: u32::try_from(sampled(quantity).len()).unwrap_or(u32::MAX),
        slots,
    })
}

/// Whether an alert reports that repairs of the drop wait for an operator.
fn is_held_back(overview: &Overview, drop: DropId) -> bool {
    overview
        .alerts
        .iter()
        .any(|one| one.alert.drop_id == Some(drop) && one.alert.kind == About::Braked.word())
}

/// Adds the slots of the sample that have no row yet, if Redis has them.
async fn with_admissions(app: &RouteState, drop: &Drop, rows: Vec<SlotPace>) -> Vec<SlotTimes> {
    let utc = |at: NaiveDateTime| at.and_utc();
    let mut times: Vec<SlotTimes> = rows
        .into_iter()
        .map(|row| SlotTimes {
            slot: row.slot,
            claimed_at: utc(row.claimed_at),
            issued_at: row.issued_at.map(utc),
        })
        .collect();
    if drop.sealed_at.is_some() {
        return times;
    }
    let with_row: HashSet<Slot> = times.iter().map(|one| one.slot).collect();
    let slots: Vec<Slot> = sampled(drop.quantity)
        .into_iter()
        .filter(|slot| !with_row.contains(slot))
        .collect();
    let redis = &app.stores.redis;
    let keys = redis.keys(drop.coupon_id, drop.id);
    match redis.slots(&keys, &slots).await {
        Ok(page) => {
            times.extend(page.users.into_iter().filter_map(|holder| {
                Some(SlotTimes {
                    slot: Slot::try_from(holder.slot).ok()?,
                    claimed_at: DateTime::from_timestamp_millis(holder.at_ms?)?,
                    issued_at: None,
                })
            }));
            times.sort_unstable_by_key(|one| one.slot);
        }
        Err(error) => tracing::debug!(%error, "showing the slots of a drop from rows only"),
    }
    times
}

/// Show how soon rows were written, by day
///
/// Sampled from up to 200 slots of each drop. A broken promise counts as late, on the day when a
/// run found it. Promises whose row is still to come are not counted (`GET /v1/overview` shows
/// them).
#[utoipa::path(
    get, path = "/v1/days", tag = "coupons", operation_id = "list_days", security(("ops" = [])),
    responses((status = 200, description = "The days", body = Days))
)]
pub(super) async fn days(State(app): State<RouteState>) -> Result<Json<Days>, Problem> {
    let days = app.stores.db.pace_by_day(DAYS).await.map_err(unavailable)?;
    let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
    let day = |day: DayPace| Day {
        day: day.day,
        drops: unsigned(day.drops),
        examined: unsigned(day.looked_at),
        within_a_second: unsigned(day.within_a_second),
    };
    Ok(Json(Days {
        days: days.into_iter().map(day).collect(),
    }))
}
