//! Coupons: the list of all, as the API has it, and one coupon (`screen`) with the changes that
//! operators can make.

mod change;
mod days;
mod forms;
mod history;
mod screen;
mod state;

use askama::Template;
use axum::extract::Path;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::views::CouponView;
use serde::Deserialize;
use serde_json::Value;

use super::client::{HttpRefusal, encoded};
use super::page::{OrDefault, Page, Screen, Top, answer};
use super::text::Text;

pub(super) use change::{change, change_list};
pub(crate) use days::clock;
pub(crate) use forms::MADE;
pub(crate) use history::act;
pub(super) use screen::read;

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [CouponView],
    has_api: bool,
    /// The last coupon shown, if there are more.
    next_after: Option<CouponId>,
}

/// Number of coupons per page.
const COUPONS: usize = 50;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CouponsQuery {
    /// The last coupon of the previous page.
    after: i64,
}

pub(super) async fn list(page: Page, OrDefault(query): OrDefault<CouponsQuery>) -> Screen {
    let after = query.after.max(0);
    let mut found: Vec<CouponView> = Vec::new();
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
