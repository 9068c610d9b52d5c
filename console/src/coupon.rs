//! Coupons: the list of all, as the API has it, and one coupon (`screen`) with the changes that
//! operators can make.

mod change;
mod days;
mod done;
mod form;
mod history;
mod screen;
mod state;

use askama::Template;
use axum::extract::Path;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use firstcome_shared::coupon::DropState;
use firstcome_shared::domain::{CouponId, Slot};
use firstcome_shared::schedule::{Schedule, Tz};
use serde::Deserialize;
use serde_json::Value;

use self::state::{ApiDrop, CANCELLED, Openness, coupon_state, drop_state, open_state};
use super::client::{HttpRefusal, encoded};
use super::page::{OrDefault, Page, Screen, Top, answer};
use super::text::{Text, short, window};

pub(super) use change::{change, change_list};
pub(crate) use days::clock;
pub(crate) use done::Done;
pub(crate) use history::act;
pub(super) use screen::read;

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [ApiCoupon],
    has_api: bool,
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

impl ApiCoupon {
    fn is_over(&self) -> bool {
        let current = self.current_drop.as_ref();
        self.next_drop.is_none()
            && current.is_none_or(|drop: &ApiDrop| drop.state == DropState::Sealed)
    }

    fn drops(&self) -> impl Iterator<Item = &ApiDrop> {
        [&self.next_drop, &self.current_drop].into_iter().flatten()
    }

    fn state(&self) -> String {
        let next = self.next_drop.as_ref();
        let opens = next.map(|drop| short(drop.opens_at, self.zone()));
        if self.drops().next().is_some() && self.drops().all(ApiDrop::is_cancelled) {
            return CANCELLED.to_owned();
        }
        let now = Openness {
            open: open_state(self.drops().map(|drop| drop.state)),
            opens: opens.as_deref(),
        };
        coupon_state(self.is_over(), self.paused, now)
    }

    fn zone(&self) -> Option<Tz> {
        self.schedule.as_ref().and_then(Schedule::time_zone)
    }

    /// When a drop opens, and its state.
    fn describe(&self, drop: &ApiDrop) -> String {
        if drop.is_cancelled() {
            return "cancelled".to_owned();
        }
        let opens = window(drop.opens_at, None, self.zone());
        format!("{opens}, {}", drop_state(drop.state))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CouponsQuery {
    /// The last coupon of the previous page.
    after: i64,
}

pub(super) async fn list(page: Page, OrDefault(query): OrDefault<CouponsQuery>) -> Screen {
    let after = query.after.max(0);
    let mut found: Vec<ApiCoupon> = Vec::new();
    if page.has_api() {
        let path = format!("/v1/coupons?limit={}&after={after}", COUPONS + 1);
        found = page.get_from_api(&path).await?;
    }
    let has_more = found.len() > COUPONS;
    found.truncate(COUPONS);
    let screen = CouponsScreen {
        top: page.top("Coupons", "coupons"),
        coupons: &found,
        has_api: page.has_api(),
        next_after: found.last().filter(|_| has_more).map(|last| last.id),
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Passes the API's list of holders through, as a file.
pub(super) async fn winners(page: Page, Path(id): Path<String>) -> Screen {
    let path = format!("/v1/coupons/{}/issued", encoded(&id));
    let csv = Some(("accept", "text/csv".to_owned()));
    let mut answer = page
        .send_to_api(&Method::GET, &path, &Value::Null, csv)
        .await?;
    if !answer.status().is_success() {
        let why = "The API did not give the list of holders";
        return Err(HttpRefusal::new(answer.status(), why));
    }
    let csv = HeaderValue::from_static("text/csv; charset=utf-8");
    let file = HeaderValue::from_static("attachment; filename=\"winners.csv\"");
    answer.headers_mut().clear();
    answer.headers_mut().insert(CONTENT_TYPE, csv);
    answer.headers_mut().insert(CONTENT_DISPOSITION, file);
    Ok(answer)
}
