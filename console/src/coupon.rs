//! Coupons: the list of all, as the API has it, and one coupon with its drops, what operators did,
//! and the changes that they can make.

use askama::Template;
use axum::extract::Path;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use firstcome_notifier::wording::{capital, count, grouped};
use firstcome_shared::coupon::{Allow, DropState};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot};
use firstcome_shared::http::views::{CouponDrops, CouponSettings, ListedDrop};
use firstcome_shared::mysql::alerts::AlertPage;
use firstcome_shared::schedule::{Schedule, Tz};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded};
use super::page::{Fields, OrDefault, Page, Screen, Top, answer};
use super::text::{Text, window};

#[derive(Template)]
#[template(path = "coupons.html")]
struct CouponsScreen<'a> {
    top: Top<'a>,
    coupons: &'a [ApiCoupon],
    has_api: bool,
    is_first: bool,
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
    /// The coupon's properties, by label.
    facts: Vec<(&'static str, String)>,
    has_api: bool,
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

impl ApiCoupon {
    fn is_over(&self) -> bool {
        let current = self.current_drop.as_ref();
        let is_sealed = |drop: &ApiDrop| drop.state == DropState::Sealed;
        self.next_drop.is_none() && current.is_none_or(is_sealed)
    }

    fn state(&self) -> &'static str {
        coupon_state(self.is_over(), self.paused)
    }

    fn drops(&self) -> impl Iterator<Item = &ApiDrop> {
        [&self.next_drop, &self.current_drop].into_iter().flatten()
    }

    fn opens(&self, drop: &ApiDrop) -> String {
        let zone = self.schedule.as_ref().and_then(Schedule::time_zone);
        window(drop.opens_at, None, zone)
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
        is_first: after == 0,
        next_after: found.last().filter(|_| has_more).map(|last| last.id),
    };
    Ok(answer(StatusCode::OK, &screen))
}

impl ApiDrop {
    fn state(&self) -> &'static str {
        drop_state(self.state)
    }
}

#[allow(clippy::unused_self, reason = "a template calls methods")]
impl CouponScreen<'_> {
    fn when(&self, drop: &ListedDrop) -> String {
        window(drop.opens_at, drop.closes_at, zone_of(&self.found.coupon))
    }

    fn state(&self, drop: &ListedDrop) -> &'static str {
        drop_state(drop.state)
    }
}

/// Describes the state of a coupon.
fn coupon_state(is_over: bool, is_paused: bool) -> &'static str {
    match (is_over, is_paused) {
        (true, _) => "over",
        (false, true) => "live, paused",
        (false, false) => "live",
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
    let number = query.page.clamp(1, 100_000);
    let path = format!("/v1/coupons/{}/drops?page={number}", encoded(&id));
    let found: CouponDrops = page.get(&path).await?;
    let firing = "/v1/alerts?status=firing&limit=500";
    let mut alerts = page.get::<AlertPage>(firing).await?.alerts;
    alerts.retain(|it| it.alert.coupon_id == Some(found.coupon.id));
    let name = found.coupon.name.text();
    let done = match (query.done.as_str(), found.coupon.paused) {
        ("made", _) => "Made.",
        ("paused", true) => "Paused. Nobody can claim until it is resumed.",
        ("resumed", false) => "Resumed. People can claim again.",
        ("changed", _) => "Changed.",
        _ => "",
    };
    let alert = |id, summary: &str| (id, capital(&summary.text()));
    let screen = CouponScreen {
        top: Top {
            done,
            ..page.top(&name, "coupons")
        },
        alerts: alerts
            .iter()
            .map(|it| alert(it.id, &it.alert.summary))
            .collect(),
        facts: facts(&found.coupon),
        found: &found,
        has_api: page.has_api(),
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Returns the time zone in which times of this coupon are shown.
fn zone_of(coupon: &CouponSettings) -> Option<Tz> {
    coupon.schedule.as_ref().and_then(Schedule::time_zone)
}

fn facts(coupon: &CouponSettings) -> Vec<(&'static str, String)> {
    let is_daily = zone_of(coupon).is_some();
    let waiting = match coupon.waiting_list {
        0 => "none".to_owned(),
        n => count(n, "place", "places"),
    };
    let quantity = if is_daily {
        "Quantity a day"
    } else {
        "Quantity"
    };
    let mut facts = vec![
        ("State", coupon_state(coupon.over, coupon.paused).to_owned()),
        (quantity, coupon.quantity.text()),
        ("Opens", schedule(coupon)),
    ];
    if is_daily {
        let each = match coupon.once_per {
            OncePer::Drop => "one each day",
            OncePer::Coupon => "one of all days together",
        };
        facts.push(("Each person gets", each.to_owned()));
    }
    facts.push(("For", only_for(coupon)));
    facts.push(("Waiting list", waiting));
    facts
}

/// Describes who may claim a coupon.
pub(super) fn only_for(coupon: &CouponSettings) -> String {
    let people = grouped(coupon.allow_list_users.into());
    match &coupon.allow {
        None if coupon.allow_list_users == 0 => "everybody".to_owned(),
        None => format!("everybody; its allow list of {people} does not count"),
        Some(Allow::List) => format!("people on its allow list, which has {people}"),
        Some(Allow::Group(group)) => format!("people of the group {}", group.as_str()),
    }
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
            let [opens, closes] = [opens, closes].map(|at| at.format("%H:%M"));
            let until = last_day.map(|last| format!("to {last}"));
            let until = until.unwrap_or_else(|| "on, without an end".to_owned());
            let zone = time_zone.name();
            format!("daily from {opens} to {closes}, time of {zone}, from {first_day} {until}")
        }
    }
}

/// What a form changes: the request to the API, and how the operator is asked about it.
struct Change {
    body: Value,
    what: String,
    button: &'static str,
    done: &'static str,
}

/// Changes a coupon, after the operator has confirmed it.
pub(super) async fn change(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let found: CouponDrops = page
        .get(&format!("/v1/coupons/{}/drops", encoded(&id)))
        .await?;
    let coupon = &found.coupon;
    let change = planned(&form, coupon)?;
    if !form.is_sure() {
        return Ok(page.ask(&form, &change.what, change.button));
    }
    // The API refuses the change if somebody else was faster. An emergency stop is never refused.
    let revision = form.get("revision");
    let tag = (!revision.is_empty()).then(|| ("if-match", format!("\"{revision}\"")));
    let path = format!("/v1/coupons/{}", coupon.id);
    page.api::<Value>(Method::PATCH, &path, &change.body, tag)
        .await?;
    let to = format!("/coupons/{}?done={}", coupon.id, change.done);
    Ok(Redirect::to(&to).into_response())
}

fn planned(form: &Fields, coupon: &CouponSettings) -> Result<Change, HttpRefusal> {
    let name = coupon.name.text();
    let change = |body: Value, what: String, button| Change {
        body,
        what,
        button,
        done: "changed",
    };
    let date = |text: &str| text.parse::<NaiveDate>().ok();
    Ok(match form.get("how") {
        "pause" => Change {
            done: "paused",
            ..change(
                json!({"paused": true}),
                format!("Nobody can claim {name} until it is resumed. Those who hold one keep it."),
                "Pause it",
            )
        },
        "resume" => Change {
            done: "resumed",
            ..change(
                json!({"paused": false}),
                format!("People can claim {name} again."),
                "Resume it",
            )
        },
        "quantity" => {
            let wrong = || HttpRefusal::typed("The quantity must be a whole number.");
            let quantity: u32 = form.number("quantity").ok_or_else(wrong)?;
            let [from, to] = [coupon.quantity, quantity].map(|n| n.text());
            let what = format!(
                "{name}: {from} → {to}, for all its drops that are not closed and for later ones."
            );
            change(json!({"quantity": quantity}), what, "Change the quantity")
        }
        "name" => {
            let new = form.get("name");
            let what = format!("{name} is called {} from now on.", new.text());
            change(json!({"name": new}), what, "Rename it")
        }
        "waiting_list" => {
            let wrong = || HttpRefusal::typed("The waiting list must be a whole number.");
            let places: u32 = form.number("waiting_list").ok_or_else(wrong)?;
            let places_text = count(places, "person", "people");
            let what = format!("{places_text} may wait once {name} is sold out.");
            change(json!({"waiting_list": places}), what, "Change it")
        }
        "dates" => {
            let mut body = json!({});
            for field in ["opens", "closes"] {
                if !form.get(field).is_empty() {
                    body[field] = form.get(field).into();
                }
            }
            body["last_day"] = json!(date(form.get("last_day")));
            let last = date(form.get("last_day")).map(|last| format!("its last day is {last}"));
            let last = last.unwrap_or_else(|| "it has no last day".to_owned());
            let what = format!(
                "{name} opens at {} and closes at {} (its own time) on days that are not made yet, and {last}.",
                form.get("opens"),
                form.get("closes")
            );
            change(body, what, "Change the dates")
        }
        "closes_at" => {
            let at = NaiveDateTime::parse_from_str(form.get("closes_at"), "%Y-%m-%dT%H:%M");
            let at = at.ok().map(|at| at.and_utc());
            let when = at.map_or_else(|| "never".to_owned(), |at| format!("at {}", at.text()));
            let what = format!("{name} closes {when}.");
            change(json!({"closes_at": at}), what, "Change the end")
        }
        "close" => {
            let what = format!(
                "The open drop of {name} closes now. Its waiting list gets nothing more. It can't be undone."
            );
            change(json!({"close_now": true}), what, "Close it now")
        }
        _ => return Err(HttpRefusal::typed("The form is not of this page.")),
    })
}

/// Passes the API's list of holders through, as a file.
pub(super) async fn winners(page: Page, Path(id): Path<String>) -> Screen {
    let (services, caller) = (&page.state.services, &page.session.caller);
    let path = format!("/v1/coupons/{}/issued", encoded(&id));
    let csv = Some(("accept", "text/csv".to_owned()));
    let answer = services.send_to_api(caller, Method::GET, &path, &Value::Null, csv);
    let mut answer = answer.await?;
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
