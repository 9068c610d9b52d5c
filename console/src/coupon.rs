//! Coupons: the list of all, as the API has it, and one coupon with its drops, what operators did,
//! and the changes that they can make.

use std::time::Duration;

use askama::Template;
use axum::extract::Path;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use firstcome_notifier::wording::capital;
use firstcome_shared::coupon::{Allow, DropState};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot};
use firstcome_shared::http::views::{CouponDrops, CouponSettings, ListedDrop, RecordedAct};
use firstcome_shared::mysql::alerts::AlertPage;
use firstcome_shared::schedule::{Schedule, Tz};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::client::{HttpRefusal, encoded};
use super::page::{Fields, OrDefault, Page, Screen, Top, answer};
use super::text::{Text, window};

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
    /// Whether its only drop opens later, so that it can be cancelled.
    is_to_come: bool,
    /// A QR code of the coupon page's address as SVG, if that page is on.
    qr: Option<String>,
    has_api: bool,
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
        let is_sealed = |drop: &ApiDrop| drop.state == DropState::Sealed;
        self.next_drop.is_none() && current.is_none_or(is_sealed)
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
        next_after: found.last().filter(|_| has_more).map(|last| last.id),
    };
    Ok(answer(StatusCode::OK, &screen))
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
    let coupon = &found.coupon;
    let firing = "/v1/alerts?status=firing&limit=500";
    let mut alerts = page.get::<AlertPage>(firing).await?.alerts;
    alerts.retain(|it| it.alert.coupon_id == Some(coupon.id));
    let alerts = alerts.iter();
    let alerts = alerts.map(|it| (it.id, capital(&it.alert.summary.text())));
    let name = coupon.name.text();
    let done = match (query.done.as_str(), coupon.paused) {
        ("made", _) => "Made.",
        ("paused", true) => "Paused. Nobody can claim until it is resumed.",
        ("resumed", false) => "Resumed. People can claim again.",
        ("changed", _) => "Changed.",
        _ => "",
    };
    let is_daily = matches!(coupon.schedule, Some(Schedule::Daily { .. }));
    let screen = CouponScreen {
        top: Top {
            done,
            ..page.top(&name, "coupons")
        },
        alerts: alerts.collect(),
        zone: coupon.schedule.as_ref().and_then(Schedule::time_zone),
        is_daily,
        is_to_come: !is_daily && is_to_come(&found.drops),
        qr: share_code(&page, coupon).await,
        found: &found,
        has_api: page.has_api(),
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Whether a coupon with these drops opens later. The newest drops are on the first page.
fn is_to_come(drops: &[ListedDrop]) -> bool {
    !drops.is_empty() && drops.iter().all(|drop| drop.state == DropState::Scheduled)
}

/// Draws the address of the coupon page, if the API serves that page.
async fn share_code(page: &Page, coupon: &CouponSettings) -> Option<String> {
    let (services, caller) = (&page.state.services, &page.session.caller);
    let path = format!("/c/{}", coupon.id);
    let asked = services.send_to_api(caller, Method::GET, &path, &Value::Null, None);
    // Without the API, or without the page, no address is shown.
    let asked = timeout(PATIENCE, asked).await;
    let is_on = matches!(asked, Ok(Ok(answer)) if answer.status().is_success());
    let code = QrCode::new(&coupon.page).ok().filter(|_| is_on)?;
    let drawn = code.render::<svg::Color<'_>>().build();
    let (_, drawing) = drawn.split_once("?>")?;
    Some(drawing.to_owned())
}

/// Describes what an operator did: the fields of the change, without JSON's punctuation.
fn act(recorded: &RecordedAct) -> String {
    let detail: Value = serde_json::from_str(&recorded.detail).unwrap_or_default();
    let all = detail.as_object().into_iter().flatten();
    let all = all.filter(|(_, value)| !value.is_null());
    // A change of its drops repeats what the coupon says.
    let (of_drops, own): (Vec<_>, Vec<_>) = all.partition(|(name, _)| name.starts_with("drop "));
    let fields = if own.is_empty() { of_drops } else { own };
    let fields = fields.into_iter().map(|(name, value)| field(name, value));
    let fields = fields.collect::<Vec<_>>().join(", ");
    format!("{}: {fields}", recorded.action.replace('_', " ")).text()
}

/// Such as "quantity 100 → 200".
fn field(name: &str, value: &Value) -> String {
    match (value.get("from"), value.get("to"), value) {
        (Some(from), Some(Value::Object(to)), _) => {
            let changed = to.iter().filter(|(name, now)| from[*name] != **now);
            let changed =
                changed.map(|(name, now)| field(name, &json!({"from": from[name], "to": now})));
            changed.collect::<Vec<_>>().join(", ")
        }
        (Some(from), Some(to), _) => format!("{} → {}", field(name, from), plain(to)),
        (_, _, Value::Object(own)) => {
            let own = own.iter().map(|(name, value)| field(name, value));
            own.collect::<Vec<_>>().join(", ")
        }
        _ => format!("{} {}", name.replace('_', " "), plain(value)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text
            .parse()
            .map_or(text.clone(), |at: DateTime<Utc>| at.text()),
        other => other.to_string(),
    }
}

/// What a form changes: the request to the API, and the question before it, if the change takes
/// something from users.
struct Change {
    body: Value,
    question: Option<(String, &'static str)>,
    done: &'static str,
}

/// Changes a coupon.
pub(super) async fn change(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let path = format!("/v1/coupons/{}/drops", encoded(&id));
    let found: CouponDrops = page.get(&path).await?;
    let coupon = &found.coupon;
    let change = planned(&form, &found)?;
    if let Some((question, button)) = change.question.filter(|_| !form.is_sure()) {
        return Ok(page.confirm(&form, &question, button));
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

fn planned(form: &Fields, found: &CouponDrops) -> Result<Change, HttpRefusal> {
    let coupon = &found.coupon;
    let name = coupon.name.text();
    let number = |field: &str, what: &str| {
        let wrong = || HttpRefusal::typed(&format!("{what} must be a whole number."));
        form.number::<u32>(field).ok_or_else(wrong)
    };
    let (mut question, mut done) = (None, "changed");
    let body = match form.get("how") {
        "pause" => {
            let what =
                format!("Nobody can claim {name} until it is resumed. Those who hold one keep it.");
            (question, done) = (Some((what, "Pause it")), "paused");
            json!({"paused": true})
        }
        "resume" => {
            done = "resumed";
            json!({"paused": false})
        }
        "quantity" => {
            let quantity = number("quantity", "The quantity")?;
            let [from, to] = [coupon.quantity, quantity].map(|n| n.text());
            let what = format!(
                "{name}: {from} → {to}, for all its drops that are not closed and for later ones."
            );
            question = Some((what, "Change the quantity"));
            json!({"quantity": quantity})
        }
        "name" => json!({"name": form.get("name")}),
        "waiting_list" => json!({"waiting_list": number("waiting_list", "The waiting list")?}),
        "dates" => {
            let mut body = json!({"last_day": null});
            for field in ["opens", "closes", "last_day"] {
                if !form.get(field).is_empty() {
                    body[field] = form.get(field).into();
                }
            }
            body
        }
        "closes_at" => json!({"closes_at": closing(form, coupon)?}),
        "close" => {
            let what = format!(
                "The open drop of {name} closes now. Its waiting list gets nothing more. It can't be undone."
            );
            question = Some((what, "Close it now"));
            json!({"close_now": true})
        }
        "cancel" => {
            // It may have opened since the page, or the question, was shown. It must not open before
            // the API gets the request either: that would close it for good.
            let soon = Utc::now() + TimeDelta::seconds(30);
            let is_late = found.drops.iter().any(|drop| drop.opens_at <= soon);
            if is_late || !is_to_come(&found.drops) {
                let why = "It has opened or opens at once, or was cancelled: pause it instead.";
                return Err(HttpRefusal::typed(why));
            }
            let what = format!("{name} never opens. Nobody has claimed it. It can't be undone.");
            question = Some((what, "Cancel it"));
            json!({"close_now": true})
        }
        _ => return Err(HttpRefusal::typed("The form is not of this page.")),
    };
    Ok(Change {
        body,
        question,
        done,
    })
}

/// Returns when a coupon that opens once closes, as typed in its own zone.
fn closing(form: &Fields, coupon: &CouponSettings) -> Result<Option<DateTime<Utc>>, HttpRefusal> {
    let text = form.get("closes_at");
    if text.is_empty() {
        return Ok(None);
    }
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").ok();
    let at = at.and_then(|at| zone.unwrap_or_else(Tz::utc).instant(at));
    let wrong = || HttpRefusal::typed("“Closes at” is no time there.");
    at.map(Some).ok_or_else(wrong)
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
