//! The screen of one coupon, with its drops, what operators did, and the forms of its changes.

use std::time::Duration;

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Allow, DropState};
use firstcome_shared::domain::OncePer;
use firstcome_shared::http::views::{CouponDetails, CouponDrops, CouponView, ListedDrop};
use firstcome_shared::mysql::alerts::AlertPage;
use firstcome_shared::report::wording::capital;
use firstcome_shared::schedule::{Schedule, Tz};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;
use tokio::time::timeout;

use super::days::DailyTimes;
use super::forms::{Present, sentence};
use super::history::would_have_opened;
use super::state::{
    CANCELLED, CouponOpenness, can_be_paused, coupon_state, is_cancelled, is_open, is_to_come,
    open_state,
};
use crate::client::{HttpRefusal, encoded};
use crate::page::{Fields, OrDefault, Page, Screen, Top, answer};
use crate::text::{Text, short};

#[derive(Template)]
#[template(path = "coupon.html")]
struct CouponScreen<'a> {
    top: Top<'a>,
    found: &'a CouponDrops,
    /// The summaries of its firing alerts, with their ids.
    alerts: Vec<(i64, String)>,
    zone: Option<Tz>,
    is_daily: bool,
    /// Whether its first drop opens later, so that it can be cancelled.
    is_to_come: bool,
    /// How users get to the coupon page, if it is on.
    share: Option<Share>,
    has_api: bool,
    /// What was typed into a form that was refused.
    typed: &'a Fields,
    /// Why the form was refused.
    wrong: &'a str,
    /// What people can do now.
    state: String,
    /// Says that it was cancelled, and when it would have opened.
    cancelled: Option<String>,
    /// Whether a drop is open, so that it can be closed.
    is_open: bool,
    /// Whether anybody can claim now or later, so that it can be paused.
    can_be_paused: bool,
    /// The times of its days, if it is daily and this is the first page of its drops.
    daily: Option<DailyTimes>,
}

impl CouponScreen<'_> {
    /// What was typed, or the present value.
    fn value(&self, field: &str, now: &impl ToString) -> String {
        let typed = self.typed.0.iter().find(|(name, _)| name == field);
        typed.map_or_else(|| now.to_string(), |(_, text)| text.clone())
    }

    /// Who may claim, as typed or at present.
    fn allow(&self) -> String {
        let now = match &self.found.coupon.allow {
            None => "",
            Some(Allow::List) => "list",
            Some(Allow::Group(_)) => "group",
        };
        self.value("allow", &now)
    }

    /// The group of users who may claim, as typed or at present.
    fn group(&self) -> String {
        let now = match &self.found.coupon.allow {
            Some(Allow::Group(group)) => group.as_str(),
            Some(Allow::List) | None => "",
        };
        self.value("group", &now)
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
        let until = self.found.coupon.valid_until;
        let text = until.map_or_else(String::new, |until| self.typed_form(until));
        self.value("valid_until", &text)
    }

    fn day(&self, drop: &ListedDrop) -> String {
        let zone = self.zone.unwrap_or_else(Tz::utc);
        zone.local(drop.opens_at).format("%Y-%m-%d").to_string()
    }
}

/// Maximum wait for each answer of the API that the screen can do without.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct CouponQuery {
    /// The page of drops, counted from 1.
    page: u32,
    done: String,
}

pub(crate) async fn read(
    page: Page,
    Path(id): Path<String>,
    OrDefault(query): OrDefault<CouponQuery>,
) -> Screen {
    show_coupon(&page, &id, &query, None).await
}

/// A form that was refused.
pub(super) struct RefusedForm<'a> {
    pub(super) typed: &'a Fields,
    pub(super) refusal: &'a HttpRefusal,
}

/// Shows a coupon, with a form that was refused if there is one.
pub(super) async fn show_coupon(
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
    let now = CouponOpenness {
        open: open_state(found.drops.iter().map(|drop| drop.state)),
        opens: opens.as_deref(),
    };
    let cancelled = cancelled(&found, zone);
    let state = match cancelled {
        Some(_) => CANCELLED.to_owned(),
        None => coupon_state(coupon.over, coupon.paused, now),
    };
    let daily = DailyTimes::new(coupon.schedule.as_ref(), &found.drops).filter(|_| number == 1);
    let present = Present {
        coupon,
        now,
        daily: daily.as_ref(),
    };
    let done = sentence(&query.done, &present);
    let nothing = Fields::default();
    let wrong = refused.as_ref().map(|it| it.refusal.sentence());
    let status = refused
        .as_ref()
        .map_or(StatusCode::OK, |it| it.refusal.status);
    let is_daily = matches!(coupon.schedule, Some(Schedule::Daily { .. }));
    let screen = CouponScreen {
        top: Top {
            done: &done,
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
        wrong: wrong.as_deref().unwrap_or_default(),
        state,
        cancelled,
        is_open: now.open.is_some(),
        can_be_paused: can_be_paused(&found, now),
        daily,
    };
    Ok(answer(status, &screen))
}

/// Marks the open drop as sold out if the API says so or, without its answer, if the number of rows
/// does. The list of drops does not contain that.
async fn mark_sold_out(page: &Page, found: &mut CouponDrops) {
    let path = format!("/v1/coupons/{}", found.coupon.id);
    let mut drops = found.drops.iter_mut();
    let Some(open) = drops.find(|drop| drop.state == DropState::Open) else {
        return;
    };
    let asked = timeout(PATIENCE, page.get_from_api::<CouponView>(&path)).await;
    let current = asked.ok().and_then(|answer| answer.ok()?.current_drop);
    let is_sold_out = match current.filter(|drop| drop.id == open.id) {
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

/// How users get to the coupon page.
enum Share {
    /// By its address. This is its QR code, as SVG.
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
    let asked = page.get_from_api::<PageState>(&path);
    // No address is shown if the API does not answer or does not serve the page.
    let state = timeout(PATIENCE, asked).await.ok()?.ok()?;
    if state.wants_token {
        return Some(Share::OwnLinks);
    }
    let code = QrCode::new(&coupon.page).ok()?;
    let drawn = code.render::<svg::Color<'_>>().build();
    let (_, drawing) = drawn.split_once("?>")?;
    Some(Share::Address(drawing.to_owned()))
}
