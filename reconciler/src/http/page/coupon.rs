//! One coupon: what it offers and when, in its own time zone, its drops, and where people get it.

use std::collections::HashMap;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, NaiveTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::mysql::DbError;
use firstcome_shared::schedule::Schedule;
use serde::Deserialize;

use super::board::zone_of;
use super::coupons::{coupon_state, drop_state};
use super::drops::only_for;
use super::html::{Top, answer, notice, unavailable};
use super::session::Session;
use super::state::ScreenState;
use super::times::window;
use crate::notify::wording::{LONGEST, count, grouped, line};

#[derive(Template)]
#[template(path = "coupon.html")]
struct CouponScreen<'a> {
    top: Top<'a>,
    id: CouponId,
    name: &'a str,
    /// What it offers, by label.
    facts: Vec<(&'static str, String)>,
    /// Its page, as it is sent to people.
    page: String,
    drops: &'a [OneDropLine],
    /// The next page of drops, where there are more.
    next: Option<usize>,
}

/// Drops on a page.
const DROPS: usize = 50;

/// Rows are counted of drops with so many slots together.
const COUNTED: u64 = 200_000;

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
    /// From 1 on.
    page: usize,
    done: String,
}

pub(super) async fn read(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Result<Path<i64>, PathRejection>,
    query: Result<Query<CouponScreenQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    page.slowly(&session, shown(&page, &session, id, query))
        .await
}

async fn shown(
    page: &ScreenState,
    session: &Session,
    id: Result<Path<i64>, PathRejection>,
    query: CouponScreenQuery,
) -> Response {
    let no_such = || {
        notice(
            StatusCode::NOT_FOUND,
            "No such coupon",
            "There is no such coupon.",
        )
    };
    let Ok(Path(id)) = id else { return no_such() };
    let (coupon, mut drops) = match page.app.stores.db.coupon(CouponId(id)).await {
        Ok(Some(found)) => found,
        Ok(None) => return no_such(),
        Err(error) => return unavailable(error),
    };
    let now = Utc::now();
    let facts = facts(&coupon, &drops, now);
    // Newest first.
    drops.reverse();
    let number = query.page.max(1);
    let of_page: Vec<&Drop> = drops
        .iter()
        .skip((number - 1).saturating_mul(DROPS))
        .take(DROPS)
        .collect();
    let rows = match rows(page, &of_page).await {
        Ok(rows) => rows,
        Err(error) => return unavailable(error),
    };
    let drop_line = |drop: &&Drop| OneDropLine {
        id: drop.id,
        when: window(drop.opens_at, drop.closes_at, zone_of(&coupon)),
        quantity: grouped(drop.quantity.into()),
        rows: rows
            .get(&drop.id)
            .copied()
            .map_or_else(|| "–".to_owned(), grouped),
        state: drop_state(drop, now),
    };
    let lines: Vec<OneDropLine> = of_page.iter().map(drop_line).collect();
    let name = line(&coupon.name, LONGEST);
    let done = if query.done == "made" {
        "Made. People get it at the address below."
    } else {
        ""
    };
    let screen = CouponScreen {
        top: Top {
            done,
            ..Top::new(&name, "coupons", Some(session))
        },
        id: coupon.id,
        name: &name,
        facts,
        page: page.app.notifier.links().coupon_page(coupon.id),
        drops: &lines,
        next: (drops.len() > number.saturating_mul(DROPS)).then_some(number + 1),
    };
    answer(StatusCode::OK, &screen)
}

/// Rows of these drops, as far as they are counted in a moment.
async fn rows(page: &ScreenState, drops: &[&Drop]) -> Result<HashMap<DropId, u64>, DbError> {
    let mut slots = 0_u64;
    let counted = drops.iter().take_while(|drop| {
        slots += u64::from(drop.quantity);
        slots <= COUNTED
    });
    let counted: Vec<DropId> = counted.map(|drop| drop.id).collect();
    let found = page.app.stores.db.rows_by_drop(counted.clone()).await?;
    let rows = |drop: &DropId| {
        found
            .get(drop)
            .and_then(|rows| u64::try_from(*rows).ok())
            .unwrap_or(0)
    };
    Ok(counted.iter().map(|drop| (*drop, rows(drop))).collect())
}

fn facts(coupon: &Coupon, drops: &[Drop], now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let is_daily = zone_of(coupon).is_some();
    let waiting = match coupon.waiting_list {
        0 => "none".to_owned(),
        n => count(usize::try_from(n).unwrap_or(usize::MAX), "place", "places"),
    };
    let each = match coupon.once_per {
        OncePer::Drop => "one each day",
        OncePer::Coupon => "one of all days together",
    };
    let mut facts = vec![
        ("State", coupon_state(coupon, drops, now).0.to_owned()),
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

fn schedule(coupon: &Coupon) -> String {
    match &coupon.schedule {
        None => "no schedule: its drops were made by hand".to_owned(),
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
