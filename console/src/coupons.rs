//! The screen of all coupons in order of ID, as the API lists them. Unlike the first screen, it
//! includes coupons that have ended.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use firstcome_notifier::wording::{LONGEST, grouped, line};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::schedule::{Schedule, Tz};
use serde::Deserialize;
use serde_json::Value;

use super::client::HttpRefusal;
use super::html::{Top, answer};
use super::state::{OrDefault, Page};
use super::times::minute;

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [CouponLine],
    has_api: bool,
    is_first: bool,
    /// The last coupon shown, if there are more.
    next_after: Option<CouponId>,
}

/// Number of coupons per page.
const COUPONS: usize = 50;

/// A coupon as the API shows it.
#[derive(Deserialize)]
struct ApiCoupon {
    id: CouponId,
    name: String,
    quantity: Slot,
    paused: bool,
    schedule: Option<Schedule>,
    current_drop: Option<ApiDrop>,
    next_drop: Option<ApiDrop>,
}

#[derive(Deserialize)]
struct ApiDrop {
    id: DropId,
    opens_at: DateTime<Utc>,
    state: DropState,
}

/// A coupon in the list.
struct CouponLine {
    id: CouponId,
    name: String,
    quantity: String,
    state: &'static str,
    is_over: bool,
    /// The next drop, and the last one that has opened.
    drops: Vec<CouponDropLine>,
}

struct CouponDropLine {
    id: DropId,
    opens: String,
    state: &'static str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CouponsScreenQuery {
    /// The last coupon of the previous page.
    after: i64,
}

pub(super) async fn list(
    page: Page,
    OrDefault(query): OrDefault<CouponsScreenQuery>,
) -> Result<Response, HttpRefusal> {
    let after = query.after.max(0);
    let has_api = page.has_api();
    let mut found = if has_api {
        let path = format!("/v1/coupons?limit={}&after={after}", COUPONS + 1);
        page.api::<Vec<ApiCoupon>>(Method::GET, &path, &Value::Null, None)
            .await?
    } else {
        Vec::new()
    };
    let has_more = found.len() > COUPONS;
    found.truncate(COUPONS);
    let coupons: Vec<CouponLine> = found.iter().map(coupon_line).collect();
    let next_after = coupons.last().filter(|_| has_more).map(|coupon| coupon.id);
    Ok(answer(
        StatusCode::OK,
        &CouponsScreen {
            top: Top::new("Coupons", Some(&page.session), "coupons"),
            coupons: &coupons,
            has_api,
            is_first: after == 0,
            next_after,
        },
    ))
}

fn coupon_line(coupon: &ApiCoupon) -> CouponLine {
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    let drops = [&coupon.next_drop, &coupon.current_drop];
    let is_sealed = |drop: &ApiDrop| drop.state == DropState::Sealed;
    let is_over = coupon.next_drop.is_none() && coupon.current_drop.as_ref().is_none_or(is_sealed);
    CouponLine {
        id: coupon.id,
        name: line(&coupon.name, LONGEST),
        quantity: grouped(coupon.quantity.into()),
        state: coupon_state(is_over, coupon.paused),
        is_over,
        drops: drops
            .into_iter()
            .flatten()
            .map(|drop| drop_line(drop, zone))
            .collect(),
    }
}

/// Describes the state of a coupon.
pub(super) fn coupon_state(is_over: bool, is_paused: bool) -> &'static str {
    match (is_over, is_paused) {
        (true, _) => "over",
        (false, true) => "live, paused",
        (false, false) => "live",
    }
}

fn drop_line(drop: &ApiDrop, zone: Option<Tz>) -> CouponDropLine {
    CouponDropLine {
        id: drop.id,
        opens: minute(drop.opens_at, zone),
        state: drop_state(drop.state),
    }
}

/// Describes the state of a drop, as derived from its window.
pub(super) fn drop_state(state: DropState) -> &'static str {
    match state {
        DropState::Scheduled => "to come",
        DropState::Open | DropState::SoldOut | DropState::Paused => "open",
        DropState::Closed => "ended",
        DropState::Sealed => "ended, sealed",
    }
}
