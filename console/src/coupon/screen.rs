//! The screen of one coupon, with its drops, what operators did, and the forms of its changes.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use chrono::Utc;
use firstcome_shared::http::views::{AlertPage, CouponDrops, ListedAlert, ListedDrop};
use firstcome_shared::report::wording::capital;
use firstcome_shared::schedule::Tz;
use serde::Deserialize;
use serde_json::json;

use super::change::{ACTIONS, CouponAction};
use super::fields::{CouponFact, FilledInput, facts};
use super::history::act;
use super::state::{coupon_state, is_cancelled, is_open, listed_state};
use super::zone;
use crate::client::{HttpRefusal, encoded};
use crate::page::{ConsolePage, FormFields, Screen, Top, answer};
use crate::text::{Text, window};

#[derive(Template)]
#[template(path = "coupon.html")]
struct CouponScreen<'a> {
    top: Top<'a>,
    found: &'a CouponDrops,
    state: String,
    facts: Vec<CouponFact>,
    /// Its firing alerts.
    alerts: Vec<ListedAlert>,
    zone: Option<Tz>,
    /// The buttons that do something now.
    actions: Vec<&'static CouponAction>,
    inputs: Vec<FilledInput>,
    /// The users that were typed into a form that was refused.
    people: &'a str,
}

impl CouponScreen<'_> {
    fn day(&self, drop: &ListedDrop) -> String {
        let zone = self.zone.unwrap_or_else(Tz::utc);
        zone.local(drop.opens_at).format("%Y-%m-%d").to_string()
    }

    fn window(&self, drop: &ListedDrop) -> String {
        window(drop.opens_at, drop.closes_at, self.zone)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct CouponQuery {
    /// The page of drops, counted from 1.
    page: u32,
    /// Not empty after a change.
    done: String,
}

pub(crate) async fn read(
    page: ConsolePage,
    Path(id): Path<String>,
    Query(query): Query<CouponQuery>,
) -> Screen {
    show_coupon(&page, &id, &query, &FormFields::default(), None).await
}

/// Shows a coupon, with what was typed into a form if that was refused.
pub(super) async fn show_coupon(
    page: &ConsolePage,
    id: &str,
    query: &CouponQuery,
    typed: &FormFields,
    refusal: Option<HttpRefusal>,
) -> Screen {
    let number = query.page.clamp(1, 100_000);
    let path = format!("/v1/coupons/{}/drops?page={number}", encoded(id));
    let mut found: CouponDrops = page.get(&path).await?;
    // The open one first: further days of a daily coupon are newer.
    found.drops.sort_by_key(|drop| !is_open(drop.state));
    let coupon = &found.coupon;
    let firing = "/v1/alerts?status=firing&limit=500";
    let mut alerts = page.get::<AlertPage>(firing).await?.alerts;
    alerts.retain(|listed| listed.alert.coupon_id == Some(coupon.id));
    let settings = json!(coupon.settings);
    let zone = zone(coupon);
    // What was just done is the newest act of this operator.
    let newest = found.history.first();
    let own = newest.filter(|act| act.by.as_ref() == Some(&page.session.name));
    let done = own
        .filter(|_| !query.done.is_empty())
        .map_or_else(String::new, |own| format!("Done: {}.", act(own, zone)));
    let now = Utc::now();
    let name = coupon.name.text();
    let wrong = refusal.as_ref().map(HttpRefusal::sentence);
    let screen = CouponScreen {
        top: Top {
            done: &done,
            wrong: wrong.as_deref().unwrap_or_default(),
            ..page.top(&name, "coupons")
        },
        state: coupon_state(&found, zone),
        facts: facts(&settings, zone),
        alerts,
        zone,
        actions: ACTIONS
            .iter()
            .filter(|action| (action.is_possible)(&found, now))
            .collect(),
        inputs: FilledInput::of_a_change(typed, &settings, zone.unwrap_or_else(Tz::utc)),
        people: typed.get("people"),
        found: &found,
    };
    let status = refusal.map_or(StatusCode::OK, |refusal| refusal.status);
    Ok(answer(status, &screen))
}
