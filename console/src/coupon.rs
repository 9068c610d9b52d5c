//! The screen of a coupon: its offer and openings in its time zone, its drops, and its public page.

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::NaiveTime;
use firstcome_notifier::wording::{LONGEST, count, grouped, line};
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::http::views::{CouponDrops, CouponSettings, ListedDrop};
use firstcome_shared::schedule::{Schedule, Tz};
use serde::Deserialize;

use super::client::{HttpRefusal, encoded};
use super::coupons::{coupon_state, drop_state};
use super::drops::only_for;
use super::html::{Top, answer};
use super::state::{OrDefault, Page};
use super::times::window;

#[derive(Template)]
#[template(path = "coupon.html")]
struct CouponScreen<'a> {
    top: Top<'a>,
    id: CouponId,
    name: &'a str,
    /// The coupon's properties, by label.
    facts: Vec<(&'static str, String)>,
    /// The address of the coupon's public page.
    page: &'a str,
    drops: &'a [OneDropLine],
    /// The next page of drops, if there are more.
    next: Option<u32>,
}

struct OneDropLine {
    id: DropId,
    when: String,
    quantity: String,
    rows: String,
    state: &'static str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CouponScreenQuery {
    /// The page, counted from 1.
    page: u32,
    done: String,
}

pub(super) async fn read(
    page: Page,
    Path(id): Path<String>,
    OrDefault(query): OrDefault<CouponScreenQuery>,
) -> Response {
    page.slowly(shown(&page, &id, query)).await
}

async fn shown(page: &Page, id: &str, query: CouponScreenQuery) -> Result<Response, HttpRefusal> {
    let number = query.page.clamp(1, 100_000);
    let path = format!("/v1/coupons/{}/drops?page={number}", encoded(id));
    let found: CouponDrops = page.get(&path).await?;
    let coupon = &found.coupon;
    let zone = zone_of(coupon);
    let lines: Vec<OneDropLine> = found.drops.iter().map(|one| drop_line(one, zone)).collect();
    let name = line(&coupon.name, LONGEST);
    let done = if query.done == "made" {
        "Made. People get it at the address below."
    } else {
        ""
    };
    let screen = CouponScreen {
        top: Top {
            done,
            ..Top::new(&name, Some(&page.session), "coupons")
        },
        id: coupon.id,
        name: &name,
        facts: facts(coupon),
        page: &coupon.page,
        drops: &lines,
        next: found.next_page,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Returns the time zone in which times of this coupon are shown.
fn zone_of(coupon: &CouponSettings) -> Option<Tz> {
    coupon.schedule.as_ref().and_then(Schedule::time_zone)
}

fn drop_line(drop: &ListedDrop, zone: Option<Tz>) -> OneDropLine {
    OneDropLine {
        id: drop.id,
        when: window(drop.opens_at, drop.closes_at, zone),
        quantity: grouped(drop.quantity.into()),
        rows: drop.rows.map_or_else(|| "–".to_owned(), grouped),
        state: drop_state(drop.state),
    }
}

fn facts(coupon: &CouponSettings) -> Vec<(&'static str, String)> {
    let is_daily = zone_of(coupon).is_some();
    let waiting = match coupon.waiting_list {
        0 => "none".to_owned(),
        n => count(n, "place", "places"),
    };
    let each = match coupon.once_per {
        OncePer::Drop => "one each day",
        OncePer::Coupon => "one of all days together",
    };
    let mut facts = vec![
        ("State", coupon_state(coupon.over, coupon.paused).to_owned()),
        (
            if is_daily {
                "Quantity a day"
            } else {
                "Quantity"
            },
            grouped(coupon.quantity.into()),
        ),
        ("Opens", schedule(coupon)),
        ("For", only_for(coupon)),
        ("Waiting list", waiting),
    ];
    if is_daily {
        facts.insert(3, ("Each person gets", each.to_owned()));
    }
    facts
}

fn schedule(coupon: &CouponSettings) -> String {
    match &coupon.schedule {
        None => "no schedule: its drops were created manually".to_owned(),
        Some(Schedule::Once {
            opens_at,
            closes_at,
        }) => format!("once, {}", window(*opens_at, *closes_at, None)),
        Some(Schedule::Daily {
            time_zone,
            opens,
            closes,
            first_day,
            last_day,
        }) => {
            let [opens, closes] =
                [opens, closes].map(|at: &NaiveTime| at.format("%H:%M").to_string());
            let until = last_day.map_or_else(
                || "on, without an end".to_owned(),
                |last| format!("to {last}"),
            );
            format!(
                "daily from {opens} to {closes}, time of {}, from {first_day} {until}",
                time_zone.name()
            )
        }
    }
}
