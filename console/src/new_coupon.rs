//! The form for a new coupon. It first shows a preview of the next openings in local time and in
//! UTC. Then the API creates the coupon. An idempotency key in the form prevents a double click
//! from creating two coupons.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use firstcome_notifier::wording::grouped;
use firstcome_shared::coupon::Allow;
use firstcome_shared::schedule::{AT_ONCE, Opening, Schedule, Tz, time_zone, wall_clock};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::page::{OrDefault, Page, Screen, Top, answer, not_understood};
use super::text::Text;

#[derive(Template)]
#[template(path = "new_coupon.html")]
struct NewCouponScreen<'a> {
    top: Top<'a>,
    typed: &'a Typed,
    /// Why the input is invalid.
    wrong: &'a str,
    preview: Option<&'a Preview>,
    at_once: &'static str,
    has_api: bool,
    /// Names of time zones to choose from.
    zones: Vec<&'static str>,
    /// Whether the form is empty, so that the browser may fill in its time zone.
    is_blank: bool,
}

/// The input of the form.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(super) struct Typed {
    name: String,
    quantity: String,
    /// `drop` if each user may have one per day of a daily coupon; otherwise one in total.
    once_per: String,
    waiting_list: String,
    /// The restriction of users. If empty, all users may claim.
    allow: String,
    /// `daily`, or any other value for a single drop.
    repeats: String,
    time_zone: String,
    first_day: String,
    last_day: String,
    opens: String,
    closes: String,
    key: String,
}

/// The coupon that the form would create.
struct Preview {
    openings: Vec<Opening>,
    quantity: String,
    is_daily: bool,
    key: String,
}

/// Builds the request to the API, and the openings that it would create.
fn plan(typed: &Typed) -> Result<(Value, Vec<Opening>), String> {
    let number = |what: &str, text: &str| {
        let number = text.trim().parse::<u32>();
        number.map_err(|_| format!("{what} must be a whole number, not {:?}", text.text()))
    };
    let quantity = number("The quantity", &typed.quantity)?;
    let waiting = number("The waiting list", &typed.waiting_list)?;
    let is_daily = typed.repeats == "daily";
    let zone: Tz = typed.time_zone.text().parse()?;
    let schedule = schedule(typed, is_daily, zone)?;
    let openings = schedule.preview(Utc::now(), zone);
    let openings = openings.map_err(labelled)?;
    let once_per = match (is_daily, typed.once_per.as_str()) {
        (false, _) => "coupon",
        (true, per @ ("drop" | "coupon")) => per,
        (true, _) => {
            let why = "Say whether each person gets one each day, or one of all days together";
            return Err(why.to_owned());
        }
    };
    let mut body = json!({
        "name": typed.name.trim(), "quantity": quantity, "once_per": once_per, "waiting_list": waiting,
        "schedule": schedule,
    });
    if !typed.allow.trim().is_empty() {
        let allow = typed.allow.trim().parse::<Allow>();
        let wrong = |_| "“Only for” is empty, list, or group:NAME".to_owned();
        body["allow"] = json!(allow.map_err(wrong)?);
    }
    Ok((body, openings))
}

/// Names the fields of a message as the form labels them.
fn labelled(why: &str) -> String {
    let mut why = why.to_owned();
    for (field, label) in [
        ("opens_at", "“Opens at”"),
        ("closes_at", "“Closes at”"),
        ("first_day", "“First day”"),
        ("last_day", "“Last day”"),
    ] {
        why = why.replace(field, label);
    }
    why
}

/// Builds the schedule. Without a closing time, a single drop stays open. With a closing time but
/// without a last day it closes within a day.
fn schedule(typed: &Typed, is_daily: bool, zone: Tz) -> Result<Schedule, String> {
    let day = |text: &str| {
        let day = text.trim().parse::<NaiveDate>();
        day.map_err(|_| format!("{:?} is not a day such as 2026-12-01", text.text()))
    };
    let first = day(&typed.first_day)?;
    let last = match typed.last_day.trim() {
        "" => None,
        last => Some(day(last)?),
    };
    let opens = wall_clock::read(typed.opens.trim())?;
    let closes = match typed.closes.trim() {
        "" => None,
        closes => Some(wall_clock::read(closes)?),
    };
    if is_daily {
        let closes = closes.ok_or("What repeats needs a time at which it closes")?;
        return Ok(Schedule::Daily {
            time_zone: zone,
            opens,
            closes,
            first_day: first,
            last_day: last,
        });
    }
    let at = |day: NaiveDate, time: NaiveTime| -> Result<DateTime<Utc>, String> {
        let at = zone.instant(day.and_time(time));
        at.ok_or_else(|| format!("{day} {time} is no time there"))
    };
    let closes_at = match (last, closes) {
        (None, None) => None,
        (Some(_), None) => return Err("On its last day it needs a time at which it closes".into()),
        (last, Some(closes)) => {
            let next = if closes > opens {
                Some(first)
            } else {
                first.succ_opt()
            };
            let last = last.or(next).ok_or("The first day is too late")?;
            Some(at(last, closes)?)
        }
    };
    Ok(Schedule::Once {
        opens_at: at(first, opens)?,
        closes_at,
    })
}

/// Shows the form, with a preview if there is input.
pub(super) async fn form(page: Page, OrDefault(mut typed): OrDefault<Typed>) -> Response {
    if typed.name.is_empty() && typed.quantity.is_empty() {
        "0".clone_into(&mut typed.waiting_list);
        "UTC".clone_into(&mut typed.time_zone);
        return shown(&page, StatusCode::OK, &typed, "", None);
    }
    match plan(&typed) {
        Ok((body, openings)) => {
            let preview = preview(&body, openings, Uuid::now_v7().to_string());
            shown(&page, StatusCode::OK, &typed, "", Some(&preview))
        }
        Err(wrong) => shown(&page, StatusCode::BAD_REQUEST, &typed, &wrong, None),
    }
}

fn preview(body: &Value, openings: Vec<Opening>, key: String) -> Preview {
    Preview {
        openings,
        quantity: grouped(body["quantity"].as_u64().unwrap_or_default()),
        is_daily: body["schedule"]["type"] == "daily",
        key,
    }
}

fn shown(
    page: &Page,
    status: StatusCode,
    typed: &Typed,
    wrong: &str,
    preview: Option<&Preview>,
) -> Response {
    let screen = NewCouponScreen {
        top: page.top("New coupon", "new"),
        typed,
        wrong,
        preview,
        at_once: AT_ONCE,
        has_api: page.has_api(),
        zones: time_zone::names().collect(),
        is_blank: typed.name.is_empty() && typed.quantity.is_empty(),
    };
    answer(status, &screen)
}

/// Creates the coupon through the API.
pub(super) async fn make(
    page: Page,
    form: Result<axum::Form<Typed>, axum::extract::rejection::FormRejection>,
) -> Screen {
    let Ok(axum::Form(typed)) = form else {
        return Ok(not_understood());
    };
    let (body, openings) = match plan(&typed) {
        Ok(planned) => planned,
        Err(wrong) => return Ok(shown(&page, StatusCode::BAD_REQUEST, &typed, &wrong, None)),
    };
    let key = ("idempotency-key", typed.key.clone());
    let made = page.api::<Value>(Method::POST, "/v1/coupons", &body, Some(key));
    match made.await {
        Ok(made) => {
            let to = format!("/coupons/{}?done=made", made["id"]);
            Ok(Redirect::to(&to).into_response())
        }
        // The form keeps what was typed.
        Err(refusal) => {
            let again = preview(&body, openings, typed.key.clone());
            let why = refusal.sentence();
            Ok(shown(&page, refusal.status, &typed, &why, Some(&again)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the input of a valid form with some fields changed.
    fn typed(changed: &[(&str, &str)]) -> Typed {
        let mut form = json!({
            "name": " Winter ", "quantity": "500", "once_per": "drop", "waiting_list": "10", "allow": " group:vip ",
            "repeats": "daily", "time_zone": "Asia/Seoul", "first_day": "2130-12-01", "opens": "15:00", "closes": "18:00",
        });
        for (field, text) in changed {
            form[field] = (*text).into();
        }
        serde_json::from_value(form).unwrap()
    }

    #[test]
    fn daily_coupon_is_shown_in_local_time_and_utc() {
        let (body, openings) = plan(&typed(&[])).unwrap();
        assert_eq!(openings.len(), 10);
        assert_eq!(openings[0].local, "Fri 2130-12-01 15:00 +09:00");
        assert_eq!(
            (openings[0].utc.as_str(), openings[0].closes.as_str()),
            ("2130-12-01 06:00", "12-01 18:00 +09:00")
        );
        assert_eq!(
            (body["schedule"]["type"].as_str(), body["allow"].as_str()),
            (Some("daily"), Some("group:vip"))
        );
        assert_eq!(
            (body["name"].as_str(), body["quantity"].as_u64()),
            (Some("Winter"), Some(500))
        );
    }

    #[test]
    fn one_off_coupon_has_one_window_in_utc() {
        let (body, openings) = plan(&typed(&[("repeats", "once")])).unwrap();
        assert_eq!(openings.len(), 1);
        let schedule = json!({"type": "once", "opens_at": "2130-12-01T06:00:00Z", "closes_at": "2130-12-01T09:00:00Z"});
        assert_eq!(body["schedule"], schedule);
        let (body, _) = plan(&typed(&[("allow", "")])).unwrap();
        assert!(body.get("allow").is_none(), "everybody");
    }

    #[test]
    fn one_off_coupon_may_last_days_or_stay_open() {
        let once = |closes, last| {
            plan(&typed(&[
                ("repeats", "once"),
                ("closes", closes),
                ("last_day", last),
            ]))
        };
        let (body, openings) = once("", "").unwrap();
        assert_eq!(
            body["schedule"],
            json!({"type": "once", "opens_at": "2130-12-01T06:00:00Z"})
        );
        assert_eq!(
            (openings.len(), openings[0].closes.as_str()),
            (1, "stays open")
        );
        for (closes, last, instant) in [
            ("18:00", "2130-12-24", "2130-12-24T09:00:00Z"),
            ("14:00", "", "2130-12-02T05:00:00Z"),
            ("18:00", "2130-12-01", "2130-12-01T09:00:00Z"),
        ] {
            assert_eq!(
                once(closes, last).unwrap().0["schedule"]["closes_at"],
                instant
            );
        }
        for (closes, last, word) in [
            ("", "2130-12-24", "needs a time"),
            ("14:00", "2130-12-01", "later than “Opens at”"),
            ("18:00", "tomorrow", "not a day"),
        ] {
            let said = once(closes, last).err().unwrap();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn invalid_input_is_reported() {
        for (changed, word) in [
            (&[("quantity", "many")][..], "quantity"),
            (&[("allow", "vip")], "Only for"),
            (&[("time_zone", "Mars")], "Mars"),
            (&[("time_zone", "Asia/Seul")], "did you mean Asia/Seoul?"),
            (&[("once_per", "")], "each person"),
            (&[("closes", "")], "at which it closes"),
            (&[("opens", "3 pm")], "time of day"),
            (&[("last_day", "2130-11-01")], "Last day"),
            (
                &[("first_day", "2020-01-01"), ("last_day", "2020-01-02")],
                "never open",
            ),
        ] {
            let said = plan(&typed(changed)).err().unwrap();
            assert!(said.contains(word), "{said}");
        }
    }
}
