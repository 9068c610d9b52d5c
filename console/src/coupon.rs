//! Coupons: the list of all, as the API has it, and one coupon with its drops, what operators did,
//! and the changes that they can make.

mod change;
mod form;
mod history;

use std::time::Duration;

use askama::Template;
use axum::extract::Path;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Allow, DropState};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot};
use firstcome_shared::http::views::{CouponDrops, CouponSettings, ListedDrop};
use firstcome_shared::mysql::alerts::AlertPage;
use firstcome_shared::report::wording::{capital, count};
use firstcome_shared::schedule::{Schedule, Tz};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::client::{HttpRefusal, encoded};
use super::page::{Fields, OrDefault, Page, Screen, Top, answer};
use super::text::{Text, short, window};

pub(super) use change::{change, change_list};
pub(crate) use history::act;

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [ApiCoupon],
    has_api: bool,
    /// The last coupon shown, if there are more.
    next_after: Option<CouponId>,
}

#[derive(Template)]
#[template(path = "coupon.html")]
struct CouponScreen<'a> {
    top: Top<'a>,
    found: &'a CouponDrops,
    /// What is wrong with it, by alert.
    alerts: Vec<(i64, String)>,
    zone: Option<Tz>,
    is_daily: bool,
    /// Whether its first drop opens later, so that it can be cancelled.
    is_to_come: bool,
    /// How users get to the coupon page, if it is on.
    share: Option<Share>,
    has_api: bool,
    /// What was typed into a form that was refused, and why.
    typed: &'a Fields,
    wrong: &'a str,
    /// What people can do now.
    state: String,
    is_cancelled: bool,
    /// Whether a drop is open, so that it can be closed.
    is_open: bool,
}

impl CouponScreen<'_> {
    /// What was typed, or the present value.
    fn value(&self, field: &str, now: &impl ToString) -> String {
        let typed = self.typed.0.iter().find(|(name, _)| name == field);
        typed.map_or_else(|| now.to_string(), |(_, text)| text.clone())
    }

    /// A time as a form has it, in the coupon's zone.
    fn typed_form(&self, at: DateTime<Utc>) -> String {
        let zone = self.zone.unwrap_or_else(Tz::utc);
        zone.local(at).format("%Y-%m-%dT%H:%M").to_string()
    }

    /// The days for which codes can be used, as typed or at present.
    fn valid_days(&self) -> String {
        let days = self.found.coupon.valid_days;
        self.value(
            "valid_days",
            &days.map_or_else(String::new, |days| days.to_string()),
        )
    }

    /// The end of codes in the coupon's zone, as typed or at present.
    fn valid_until(&self) -> String {
        let zone = self.zone.unwrap_or_else(Tz::utc);
        let until = self.found.coupon.valid_until;
        let text = until.map_or_else(String::new, |until| {
            zone.local(until).format("%Y-%m-%dT%H:%M").to_string()
        });
        self.value("valid_until", &text)
    }

    fn day(&self, drop: &ListedDrop) -> String {
        let zone = self.zone.unwrap_or_else(Tz::utc);
        zone.local(drop.opens_at).format("%Y-%m-%d").to_string()
    }
}

/// Maximum wait for the coupon page, which is only looked for.
const PATIENCE: Duration = Duration::from_secs(1);

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
        let mut drops = self.drops();
        let is_open = drops.any(|drop| is_open(drop.state));
        coupon_state(self.is_over(), self.paused, is_open, opens.as_deref())
    }

    fn zone(&self) -> Option<Tz> {
        self.schedule.as_ref().and_then(Schedule::time_zone)
    }

    fn opens(&self, drop: &ApiDrop) -> String {
        window(drop.opens_at, None, self.zone())
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
        found = page.api(Method::GET, &path, &Value::Null, None).await?;
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

/// Describes what people can do with a coupon now.
fn coupon_state(is_over: bool, is_paused: bool, is_open: bool, opens: Option<&str>) -> String {
    match (is_over, is_paused, is_open, opens) {
        (true, ..) => "over".to_owned(),
        (false, true, true, _) => "paused while it is open".to_owned(),
        (false, true, false, Some(opens)) => format!("paused, would open {opens}"),
        (false, true, false, None) => "paused".to_owned(),
        (false, false, true, _) => "open".to_owned(),
        (false, false, false, Some(opens)) => format!("opens {opens}"),
        (false, false, false, None) => "closed".to_owned(),
    }
}

/// Describes until when codes can be used.
fn codes_end(until: Option<DateTime<Utc>>, days: Option<u32>, zone: Option<Tz>) -> String {
    match (until, days) {
        (Some(until), _) => format!("until {}", short(until, zone)),
        (None, Some(days)) => format!("for {} from the claim", count(days, "day", "days")),
        (None, None) => "without an end".to_owned(),
    }
}

/// Whether the window of a drop is open.
fn is_open(state: DropState) -> bool {
    matches!(
        state,
        DropState::Open | DropState::SoldOut | DropState::Paused
    )
}

/// Whether the drop was ended before it opened.
fn is_cancelled(drop: &ListedDrop) -> bool {
    // Its window is then the shortest that there is.
    let shortest = TimeDelta::milliseconds(1);
    let window = drop.closes_at.map(|closes| closes - drop.opens_at);
    window.is_some_and(|window| window <= shortest)
}

/// Describes the state of a listed drop.
fn listed_state(drop: &ListedDrop) -> &'static str {
    if is_cancelled(drop) {
        "cancelled"
    } else {
        drop_state(drop.state)
    }
}

/// Describes the state of a drop, as derived from its window.
fn drop_state(state: DropState) -> &'static str {
    match state {
        DropState::Scheduled => "to come",
        DropState::Open | DropState::SoldOut | DropState::Paused => "open",
        DropState::Closed => "ended",
        DropState::Sealed => "ended, sealed",
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CouponQuery {
    /// The page of drops, counted from 1.
    page: u32,
    done: String,
}

pub(super) async fn read(
    page: Page,
    Path(id): Path<String>,
    OrDefault(query): OrDefault<CouponQuery>,
) -> Screen {
    show_coupon(&page, &id, &query, None).await
}

/// A form that was refused.
struct RefusedForm<'a> {
    typed: &'a Fields,
    refusal: &'a HttpRefusal,
}

/// Shows a coupon, with a form that was refused if there is one.
async fn show_coupon(
    page: &Page,
    id: &str,
    query: &CouponQuery,
    refused: Option<RefusedForm<'_>>,
) -> Screen {
    let number = query.page.clamp(1, 100_000);
    let path = format!("/v1/coupons/{}/drops?page={number}", encoded(id));
    let mut found: CouponDrops = page.get(&path).await?;
    // The open one first: further days of a daily coupon are newer.
    found.drops.sort_by_key(|drop| !is_open(drop.state));
    let coupon = &found.coupon;
    let firing = "/v1/alerts?status=firing&limit=500";
    let mut alerts = page.get::<AlertPage>(firing).await?.alerts;
    alerts.retain(|it| it.alert.coupon_id == Some(coupon.id));
    let alerts = alerts
        .iter()
        .map(|it| (it.id, capital(&it.alert.summary.text())));
    let name = coupon.name.text();
    let done = match (query.done.as_str(), coupon.paused) {
        ("made", _) => "Made.",
        ("paused", true) => "Paused. Nobody can claim until it is resumed.",
        ("resumed", false) => "Resumed. People can claim again.",
        ("changed", _) => "Changed.",
        ("closed", _) => "Closed. Its waiting list gets nothing more.",
        ("cancelled", _) => "Cancelled. It never opens.",
        ("listed", _) => "The allow list was changed.",
        _ => "",
    };
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    let is_open = found.drops.iter().any(|drop| is_open(drop.state));
    let to_come = found
        .drops
        .iter()
        .filter(|drop| drop.state == DropState::Scheduled);
    let opens = to_come
        .map(|drop| drop.opens_at)
        .min()
        .map(|at| short(at, zone));
    let is_cancelled = !found.drops.is_empty() && found.drops.iter().all(is_cancelled);
    let state = if is_cancelled {
        "cancelled: it never opens".to_owned()
    } else {
        coupon_state(coupon.over, coupon.paused, is_open, opens.as_deref())
    };
    let nothing = Fields::default();
    let sentence = refused.as_ref().map(|it| it.refusal.sentence());
    let status = refused
        .as_ref()
        .map_or(StatusCode::OK, |it| it.refusal.status);
    let is_daily = matches!(coupon.schedule, Some(Schedule::Daily { .. }));
    let screen = CouponScreen {
        top: Top {
            done,
            ..page.top(&name, "coupons")
        },
        alerts: alerts.collect(),
        zone,
        is_daily,
        is_to_come: is_to_come(coupon.schedule.as_ref(), &found.drops),
        share: share(page, coupon).await,
        found: &found,
        has_api: page.has_api(),
        typed: refused.as_ref().map_or(&nothing, |it| it.typed),
        wrong: sentence.as_deref().unwrap_or_default(),
        state,
        is_cancelled,
        is_open,
    };
    Ok(answer(status, &screen))
}

/// Whether the coupon's first drop opens later. The newest of these drops are on the first page.
fn is_to_come(schedule: Option<&Schedule>, drops: &[ListedDrop]) -> bool {
    let has_first = match schedule {
        Some(Schedule::Daily {
            time_zone,
            first_day,
            ..
        }) => drops
            .iter()
            .any(|drop| time_zone.local(drop.opens_at).date_naive() == *first_day),
        Some(Schedule::Once { .. }) | None => !drops.is_empty(),
    };
    has_first && drops.iter().all(|drop| drop.state == DropState::Scheduled)
}

/// How users get to the coupon page.
enum Share {
    /// By its address, which this QR code has as SVG.
    Address(String),
    /// Each by a personal link, with a token.
    OwnLinks,
}

/// The part of a coupon page's state that says how users get there.
#[derive(Deserialize)]
struct PageState {
    wants_token: bool,
}

/// Finds out how users get to the coupon page, if the API serves that page.
async fn share(page: &Page, coupon: &CouponSettings) -> Option<Share> {
    let path = format!("/c/{}/state", coupon.id);
    let asked = page.api::<PageState>(Method::GET, &path, &Value::Null, None);
    // Without the API, or without the page, no address is shown.
    let state = timeout(PATIENCE, asked).await.ok()?.ok()?;
    if state.wants_token {
        return Some(Share::OwnLinks);
    }
    let code = QrCode::new(&coupon.page).ok()?;
    let drawn = code.render::<svg::Color<'_>>().build();
    let (_, drawing) = drawn.split_once("?>")?;
    Some(Share::Address(drawing.to_owned()))
}

/// Passes the API's list of holders through, as a file.
pub(super) async fn winners(page: Page, Path(id): Path<String>) -> Screen {
    let services = &page.state.services;
    let caller = &page.session.caller;
    let path = format!("/v1/coupons/{}/issued", encoded(&id));
    let csv = Some(("accept", "text/csv".to_owned()));
    let mut answer = services
        .send_to_api(caller, Method::GET, &path, &Value::Null, csv)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_says_what_people_can_do_now() {
        let at = Some("2026-12-01 10:00 UTC");
        for (over, paused, open, opens, says) in [
            (true, false, false, None, "over"),
            (false, false, true, at, "open"),
            (false, false, false, at, "opens 2026-12-01 10:00 UTC"),
            (false, true, true, None, "paused while it is open"),
            (
                false,
                true,
                false,
                at,
                "paused, would open 2026-12-01 10:00 UTC",
            ),
            (false, false, false, None, "closed"),
        ] {
            assert_eq!(coupon_state(over, paused, open, opens), says);
        }
    }

    #[test]
    fn drop_that_was_ended_before_it_opened_is_cancelled() {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        let until = |milliseconds| ListedDrop {
            id: DropId(7),
            opens_at: at,
            closes_at: Some(at + TimeDelta::milliseconds(milliseconds)),
            quantity: 1,
            state: DropState::Closed,
            rows: None,
        };
        assert_eq!(listed_state(&until(1)), "cancelled");
        assert_eq!(listed_state(&until(2)), "ended");
    }
}
