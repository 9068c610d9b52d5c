//! Every coupon, by number. The first screen has only those that are live or need somebody; those
//! that are over are here, with their drops.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop, DropState};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::schedule::Tz;
use serde::Deserialize;

use super::board::zone_of;
use super::html::{Top, answer, unavailable};
use super::session::Session;
use super::state::ScreenState;
use super::times::minute;
use crate::notify::wording::{LONGEST, grouped, line};

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [CouponLine],
    is_first: bool,
    /// The last that is shown, where there are more.
    next_after: Option<CouponId>,
}

/// Coupons on a page.
const COUPONS: u8 = 50;

/// Drops that are listed of each coupon, beside the next one.
const DROPS: u32 = 5;

/// A coupon in the list.
pub(super) struct CouponLine {
    pub(super) id: CouponId,
    pub(super) name: String,
    pub(super) quantity: String,
    pub(super) state: &'static str,
    pub(super) is_over: bool,
    /// Newest first.
    pub(super) drops: Vec<CouponDropLine>,
}

pub(super) struct CouponDropLine {
    pub(super) id: DropId,
    pub(super) opens: String,
    pub(super) state: &'static str,
}

#[derive(Deserialize)]
pub(super) struct CouponsScreenQuery {
    /// The last coupon of the page before.
    after: i64,
}

pub(super) async fn list(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<CouponsScreenQuery>, QueryRejection>,
) -> Response {
    let (db, now) = (&page.app.stores.db, Utc::now());
    let after = query.map_or(0, |Query(query)| query.after);
    let mut found = match db
        .coupons_after(CouponId(after), i64::from(COUPONS) + 1)
        .await
    {
        Ok(found) => found,
        Err(error) => return unavailable(error),
    };
    let has_more = found.len() > usize::from(COUPONS);
    found.truncate(COUPONS.into());
    let ids: Vec<CouponId> = found.iter().map(|(coupon, _)| coupon.id).collect();
    let opened = match db.opened_drops(ids, now, DROPS).await {
        Ok(opened) => opened,
        Err(error) => return unavailable(error),
    };
    let coupons: Vec<CouponLine> = found
        .iter()
        .map(|(coupon, drops)| coupon_line(coupon, drops, &opened, now))
        .collect();
    let next_after = coupons.last().filter(|_| has_more).map(|coupon| coupon.id);
    let top = Top::new("Coupons", "coupons", Some(&session));
    answer(
        StatusCode::OK,
        &CouponsScreen {
            top,
            coupons: &coupons,
            is_first: after == 0,
            next_after,
        },
    )
}

/// `unsealed` may hold a sealed drop too, and `opened` has those of other coupons.
fn coupon_line(
    coupon: &Coupon,
    unsealed: &[Drop],
    opened: &[Drop],
    now: DateTime<Utc>,
) -> CouponLine {
    let next = unsealed
        .iter()
        .filter(|drop| drop.opens_at > now)
        .min_by_key(|drop| drop.opens_at);
    let own = opened.iter().filter(|drop| drop.coupon_id == coupon.id);
    let (state, is_over) = coupon_state(coupon, unsealed, now);
    CouponLine {
        id: coupon.id,
        name: line(&coupon.name, LONGEST),
        quantity: grouped(coupon.quantity.into()),
        state,
        is_over,
        drops: next
            .into_iter()
            .chain(own)
            .map(|drop| drop_line(drop, zone_of(coupon), now))
            .collect(),
    }
}

/// In words, and whether the coupon is over.
pub(super) fn coupon_state(
    coupon: &Coupon,
    drops: &[Drop],
    now: DateTime<Utc>,
) -> (&'static str, bool) {
    let is_to_come = coupon
        .schedule
        .as_ref()
        .is_some_and(|schedule| !schedule.openings(now, 1).is_empty());
    let is_over = !is_to_come && drops.iter().all(|drop| drop.sealed_at.is_some());
    let state = match (is_over, coupon.paused) {
        (true, _) => "over",
        (false, true) => "live, paused",
        (false, false) => "live",
    };
    (state, is_over)
}

fn drop_line(drop: &Drop, zone: Option<Tz>, now: DateTime<Utc>) -> CouponDropLine {
    CouponDropLine {
        id: drop.id,
        opens: minute(drop.opens_at, zone),
        state: drop_state(drop, now),
    }
}

/// By its window alone.
pub(super) fn drop_state(drop: &Drop, now: DateTime<Utc>) -> &'static str {
    match drop.state(now, false, 1) {
        DropState::Scheduled => "to come",
        DropState::Open | DropState::SoldOut | DropState::Paused => "open",
        DropState::Closed => "ended",
        DropState::Sealed => "ended, sealed",
    }
}
