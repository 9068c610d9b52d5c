//! Coupons: the list of all, as the API has it, the form for a new one, and one coupon (`screen`)
//! with the changes that operators can make.

mod change;
mod fields;
mod history;
mod new;
mod screen;
mod state;

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::views::{CouponDetails, CouponView, DropView};
use firstcome_shared::schedule::{Schedule, Tz};
use serde::Deserialize;

use self::state::{CANCELLED, never_opens};
use super::client::{HttpRefusal, encoded};
use super::page::{ConsolePage, Screen, Top, answer};
use super::requests::{SentBody, SentHeader};
use super::text::{Text, window};

pub(super) use change::{change, change_list};
pub(crate) use fields::labelled;
pub(super) use new::{form, make};
pub(super) use screen::read;
pub(crate) use state::drop_state;

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [CouponView],
    /// The last coupon shown, if there are more.
    next_after: Option<CouponId>,
}

/// Says when a drop opens, and its state.
fn describe(coupon: &CouponView, drop: &DropView) -> String {
    if never_opens(drop.opens_at, drop.closes_at) {
        return CANCELLED.to_owned();
    }
    let schedule = coupon.settings.schedule.as_ref();
    let zone = schedule.and_then(Schedule::time_zone);
    let opens = window(drop.opens_at, None, zone);
    format!("{opens}, {}", drop_state(drop.state))
}

/// Number of coupons per page.
const COUPONS: usize = 50;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CouponsQuery {
    /// The last coupon of the previous page.
    after: i64,
}

pub(super) async fn list(page: ConsolePage, Query(query): Query<CouponsQuery>) -> Screen {
    let after = query.after.max(0);
    let path = format!("/v1/coupons?limit={}&after={after}", COUPONS + 1);
    let mut found: Vec<CouponView> = page.get_from_api(&path).await?;
    let has_more = found.len() > COUPONS;
    found.truncate(COUPONS);
    let screen = CouponsScreen {
        top: page.top("Coupons", "coupons"),
        coupons: &found,
        next_after: found.last().filter(|_| has_more).map(|last| last.id),
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Passes the API's list of holders through, as a file.
pub(super) async fn winners(page: ConsolePage, Path(id): Path<String>) -> Screen {
    let path = format!("/v1/coupons/{}/issued", encoded(&id));
    let csv = SentHeader {
        name: "accept",
        value: "text/csv".to_owned(),
    };
    let mut answer = page
        .send_to_api(Method::GET, &path, SentBody::Nothing, Some(csv))
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

/// The zone in which a coupon's times are shown. `None` is UTC.
fn zone(coupon: &CouponDetails) -> Option<Tz> {
    coupon.schedule.as_ref().and_then(Schedule::time_zone)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::http::views::CouponDrops;
    use serde_json::{Value, json};

    /// A coupon in Seoul with a quantity of 100 and these settings, whose only drop is in this state
    /// and opens an hour after the epoch.
    pub(super) fn found(settings: &Value, state: &str) -> CouponDrops {
        let opens_at = "1970-01-01T01:00:00Z";
        let mut coupon = json!({
            "id": 1, "name": "Winter", "quantity": 100, "once_per": "coupon", "waiting_list": 0,
            "paused": false, "allow_list_users": 2, "revision": 3, "over": false, "page": "",
            "schedule": {"type": "once", "time_zone": "Asia/Seoul", "opens_at": opens_at},
        });
        for (name, value) in settings.as_object().unwrap() {
            coupon[name] = value.clone();
        }
        let drop = json!({"id": 7, "opens_at": opens_at, "quantity": 100, "state": state});
        let found = json!({"coupon": coupon, "drops": [drop], "history": []});
        serde_json::from_value(found).unwrap()
    }
}
