//! Coupons: the list of all, as the API has it, and one coupon with its drops, what operators did,
//! and the changes that they can make.

mod change;
mod days;
mod done;
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
use firstcome_shared::http::views::{CouponDetails, CouponDrops, ListedDrop};
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

use self::days::DailyTimes;
use self::done::Openness;
use self::history::would_have_opened;

pub(super) use change::{change, change_list};
pub(crate) use days::clock;
pub(crate) use done::Done;
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
    /// Says that it was cancelled, and when it would have opened.
    cancelled: Option<String>,
    /// Whether a drop is open, so that it can be closed.
    is_open: bool,
    /// Whether anybody can claim now or later, so that it can be paused.
    can_be_paused: bool,
    /// Which of its days have which times, if it is daily.
    daily: Option<DailyTimes>,
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
    closes_at: Option<DateTime<Utc>>,
    state: DropState,
}

impl ApiDrop {
    fn is_cancelled(&self) -> bool {
        never_opens(self.opens_at, self.closes_at)
    }
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

/// Describes what people can do with a coupon now.
fn coupon_state(is_over: bool, is_paused: bool, now: Openness<'_>) -> String {
    match (is_over, is_paused, now.open, now.opens) {
        (true, ..) => "over".to_owned(),
        (false, true, Some(_), _) => "paused while it is open".to_owned(),
        (false, true, None, Some(opens)) => format!("paused, would open {opens}"),
        (false, true, None, None) => "paused".to_owned(),
        (false, false, Some(state), _) => drop_state(state).to_owned(),
        (false, false, None, Some(opens)) => format!("opens {opens}"),
        (false, false, None, None) => "closed".to_owned(),
    }
}

/// The state of the drop whose window is open.
fn open_state(mut states: impl Iterator<Item = DropState>) -> Option<DropState> {
    states.find(|state| is_open(*state))
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

/// The state of a coupon that was ended before it opened.
const CANCELLED: &str = "cancelled: it never opens";

/// Whether the drop was ended before it opened.
fn is_cancelled(drop: &ListedDrop) -> bool {
    never_opens(drop.opens_at, drop.closes_at)
}

/// Whether this is the window of a drop that was ended before it opened.
fn never_opens(opens_at: DateTime<Utc>, closes_at: Option<DateTime<Utc>>) -> bool {
    // It is then the shortest that there is.
    let shortest = TimeDelta::milliseconds(1);
    closes_at.is_some_and(|closes| closes - opens_at <= shortest)
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
        DropState::Open | DropState::Paused => "open",
        DropState::SoldOut => "open, sold out",
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
    mark_sold_out(page, &mut found).await;
    let coupon = &found.coupon;
    let firing = "/v1/alerts?status=firing&limit=500";
    let mut alerts = page.get::<AlertPage>(firing).await?.alerts;
    alerts.retain(|it| it.alert.coupon_id == Some(coupon.id));
    let alerts = alerts
        .iter()
        .map(|it| (it.id, capital(&it.alert.summary.text())));
    let name = coupon.name.text();
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    let to_come = found
        .drops
        .iter()
        .filter(|drop| drop.state == DropState::Scheduled);
    let opens = to_come
        .map(|drop| drop.opens_at)
        .min()
        .map(|at| short(at, zone));
    let now = Openness {
        open: open_state(found.drops.iter().map(|drop| drop.state)),
        opens: opens.as_deref(),
    };
    let cancelled = cancelled(&found, zone);
    let state = match cancelled {
        Some(_) => CANCELLED.to_owned(),
        None => coupon_state(coupon.over, coupon.paused, now),
    };
    let daily = DailyTimes::new(coupon.schedule.as_ref(), &found.drops).filter(|_| number == 1);
    let done = query.done.parse().ok();
    let done = done.map(|done| done::sentence(done, coupon, now, daily.as_ref()));
    let nothing = Fields::default();
    let sentence = refused.as_ref().map(|it| it.refusal.sentence());
    let status = refused
        .as_ref()
        .map_or(StatusCode::OK, |it| it.refusal.status);
    let is_daily = matches!(coupon.schedule, Some(Schedule::Daily { .. }));
    let screen = CouponScreen {
        top: Top {
            done: done.as_deref().unwrap_or_default(),
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
        cancelled,
        is_open: now.open.is_some(),
        can_be_paused: can_be_paused(&found, now),
        daily,
    };
    Ok(answer(status, &screen))
}

/// The part of a coupon of the API that says whether its open drop is sold out.
#[derive(Deserialize)]
struct ApiCurrent {
    current_drop: Option<ApiDrop>,
}

/// Finds out whether the open drop is sold out, which the list of drops does not say: from the API,
/// or from the rows.
async fn mark_sold_out(page: &Page, found: &mut CouponDrops) {
    let path = format!("/v1/coupons/{}", found.coupon.id);
    let mut drops = found.drops.iter_mut();
    let Some(open) = drops.find(|drop| drop.state == DropState::Open) else {
        return;
    };
    let asked = timeout(PATIENCE, page.get_from_api::<ApiCurrent>(&path)).await;
    let current = asked.ok().and_then(|answer| answer.ok()?.current_drop);
    let is_sold_out = match current.filter(|drop: &ApiDrop| drop.id == open.id) {
        Some(drop) => drop.state == DropState::SoldOut,
        None => open.rows.is_some_and(|rows| rows >= open.quantity.into()),
    };
    if is_sold_out {
        open.state = DropState::SoldOut;
    }
}

/// Says that a coupon was cancelled, and when it would have opened if that is still known.
fn cancelled(found: &CouponDrops, zone: Option<Tz>) -> Option<String> {
    let is_cancelled = !found.drops.is_empty() && found.drops.iter().all(is_cancelled);
    is_cancelled.then(|| match would_have_opened(&found.history) {
        Some(opens) => format!("cancelled; it would have opened {}", short(opens, zone)),
        None => "cancelled".to_owned(),
    })
}

/// Whether somebody can claim now or later.
fn can_be_paused(found: &CouponDrops, now: Openness<'_>) -> bool {
    let has_further_days = match &found.coupon.schedule {
        Some(Schedule::Daily {
            time_zone,
            last_day,
            ..
        }) => last_day.is_none_or(|last| time_zone.local(Utc::now()).date_naive() <= last),
        Some(Schedule::Once { .. }) | None => found.drops.is_empty(),
    };
    !found.coupon.over && (now.open.is_some() || now.opens.is_some() || has_further_days)
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
async fn share(page: &Page, coupon: &CouponDetails) -> Option<Share> {
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
        let open = Some(DropState::Open);
        for (over, paused, open, opens, says) in [
            (true, false, None, None, "over"),
            (false, false, open, at, "open"),
            (false, false, Some(DropState::SoldOut), at, "open, sold out"),
            (false, false, None, at, "opens 2026-12-01 10:00 UTC"),
            (false, true, open, None, "paused while it is open"),
            (
                false,
                true,
                None,
                at,
                "paused, would open 2026-12-01 10:00 UTC",
            ),
            (false, false, None, None, "closed"),
        ] {
            let now = Openness { open, opens };
            assert_eq!(coupon_state(over, paused, now), says);
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
