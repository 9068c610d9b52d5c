//! The form for a new coupon. It first shows a preview of the next openings in local time and in
//! UTC. Then the API creates the coupon. An idempotency key in the form prevents a double click
//! from creating two coupons.

use askama::Template;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::{NaiveDate, NaiveTime, Utc};
use firstcome_shared::coupon::Allow;
use firstcome_shared::schedule::{AT_ONCE, Opening, Schedule, Tz, time_zone, wall_clock};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::html::{Top, answer};
use super::state::{OrDefault, Page};
use firstcome_notifier::wording::{LONGEST, grouped, line};

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
    pub(super) name: String,
    pub(super) quantity: String,
    /// `drop` if each user may have one per day of a daily coupon; otherwise one in total.
    pub(super) once_per: String,
    pub(super) waiting_list: String,
    /// The restriction of users. If empty, all users may claim.
    pub(super) allow: String,
    /// `daily`, or any other value for a single drop.
    pub(super) repeats: String,
    pub(super) time_zone: String,
    pub(super) first_day: String,
    pub(super) last_day: String,
    pub(super) opens: String,
    pub(super) closes: String,
    key: String,
}

/// The coupon that the form would create.
pub(super) struct Preview {
    pub(super) openings: Vec<Opening>,
    pub(super) quantity: String,
    pub(super) is_daily: bool,
    pub(super) key: String,
}

/// Builds the request to the API, and the openings that it would create.
fn plan(typed: &Typed) -> Result<(Value, Vec<Opening>), String> {
    let number = |what: &str, text: &str| {
        text.trim().parse::<u32>().map_err(|_| {
            format!(
                "{what} must be a whole number, not {:?}",
                line(text, LONGEST)
            )
        })
    };
    let quantity = number("The quantity", &typed.quantity)?;
    let waiting = number("The waiting list", &typed.waiting_list)?;
    let wrong = |why: String| format!("The schedule can't be read: {why}");
    let (schedule, zone) = if typed.repeats == "daily" {
        daily(typed)
    } else {
        once(typed)
    }
    .map_err(wrong)?;
    let openings = schedule
        .preview(Utc::now(), &zone)
        .map_err(|error| wrong(error.to_string()))?;
    let once_per = match (typed.repeats.as_str(), typed.once_per.as_str()) {
        ("daily", per @ ("drop" | "coupon")) => per,
        ("daily", _) => {
            return Err(
                "Say whether each person gets one each day, or one of all days together".to_owned(),
            );
        }
        _ => "coupon",
    };
    let allow = Some(typed.allow.trim()).filter(|allow| !allow.is_empty());
    let allow: Option<Allow> = allow
        .map(str::parse)
        .transpose()
        .map_err(|why: String| format!("The restriction can't be read: {why}"))?;
    let mut body = json!({
        "name": typed.name.trim(), "quantity": quantity, "once_per": once_per, "waiting_list": waiting,
        "schedule": schedule,
    });
    if let Some(allow) = allow {
        body["allow"] = json!(allow);
    }
    Ok((body, openings))
}

fn daily(typed: &Typed) -> Result<(Schedule, Tz), String> {
    let mut daily = json!({
        "type": "daily", "time_zone": typed.time_zone.trim(), "opens": typed.opens.trim(), "closes": typed.closes.trim(),
        "first_day": typed.first_day.trim(),
    });
    if typed.closes.trim().is_empty() {
        return Err("what repeats needs a time at which it closes".to_owned());
    }
    if !typed.last_day.trim().is_empty() {
        daily["last_day"] = typed.last_day.trim().into();
    }
    Ok((
        serde_json::from_value(daily).map_err(|error| error.to_string())?,
        zone(typed)?,
    ))
}

/// Builds the schedule of a single drop. Without a closing time it stays open. With a closing time
/// but without a last day it closes within a day.
fn once(typed: &Typed) -> Result<(Schedule, Tz), String> {
    let zone = zone(typed)?;
    let day = |text: &str| {
        text.trim()
            .parse::<NaiveDate>()
            .map_err(|_| format!("{:?} is not a day such as 2026-12-01", line(text, LONGEST)))
    };
    let at = |day: NaiveDate, time: NaiveTime| {
        zone.instant(day.and_time(time))
            .ok_or_else(|| format!("{day} {time} is no time there"))
    };
    let first = day(&typed.first_day)?;
    let opens = wall_clock::read(typed.opens.trim())?;
    let closes_at = match (typed.last_day.trim(), typed.closes.trim()) {
        ("", "") => None,
        (_, "") => return Err("on its last day it needs a time at which it closes".to_owned()),
        (last, closes) => {
            let closes = wall_clock::read(closes)?;
            let next = if closes > opens {
                Some(first)
            } else {
                first.succ_opt()
            };
            let last = if last.is_empty() {
                next.ok_or("its first day is too late")?
            } else {
                day(last)?
            };
            Some(at(last, closes)?)
        }
    };
    Ok((
        Schedule::Once {
            opens_at: at(first, opens)?,
            closes_at,
        },
        zone,
    ))
}

fn zone(typed: &Typed) -> Result<Tz, String> {
    line(&typed.time_zone, LONGEST).parse()
}

/// Shows the form, with a preview if there is input.
pub(super) async fn form(page: Page, OrDefault(typed): OrDefault<Typed>) -> Response {
    if typed.name.is_empty() && typed.quantity.is_empty() {
        let typed = Typed {
            waiting_list: "0".to_owned(),
            time_zone: "UTC".to_owned(),
            ..typed
        };
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
    let quantity = grouped(body["quantity"].as_u64().unwrap_or_default());
    Preview {
        openings,
        quantity,
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
    answer(
        status,
        &NewCouponScreen {
            top: Top::new("New coupon", Some(&page.session), "new"),
            typed,
            wrong,
            preview,
            at_once: AT_ONCE,
            has_api: page.has_api(),
            zones: time_zone::names().collect(),
            is_blank: typed.name.is_empty() && typed.quantity.is_empty(),
        },
    )
}

/// Creates the coupon through the API.
pub(super) async fn make(page: Page, form: Result<Form<Typed>, FormRejection>) -> Response {
    let Ok(Form(typed)) = form else {
        let wrong = "The form is not of this page. Nothing was made.";
        return shown(
            &page,
            StatusCode::BAD_REQUEST,
            &Typed::default(),
            wrong,
            None,
        );
    };
    if !page.has_api() {
        return shown(&page, StatusCode::NOT_FOUND, &typed, "", None);
    }
    let (body, openings) = match plan(&typed) {
        Ok(planned) => planned,
        Err(wrong) => return shown(&page, StatusCode::BAD_REQUEST, &typed, &wrong, None),
    };
    let key = ("idempotency-key", typed.key.clone());
    let made = page.api::<Value>(Method::POST, "/v1/coupons", &body, Some(key));
    match made.await {
        Ok(made) => Redirect::to(&format!("/coupons/{}?done=made", made["id"])).into_response(),
        Err(refusal) => {
            let again = preview(&body, openings, typed.key.clone());
            let status = refusal.status;
            let why = refusal.sentence();
            shown(&page, status, &typed, &why, Some(&again))
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
            ("14:00", "2130-12-01", "later than opens_at"),
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
            (&[("allow", "vip")], "The restriction"),
            (&[("time_zone", "Mars")], "schedule"),
            (&[("time_zone", "Asia/Seul")], "did you mean Asia/Seoul?"),
            (&[("once_per", "")], "each person"),
            (&[("closes", "")], "at which it closes"),
            (&[("opens", "3 pm")], "schedule"),
            (&[("last_day", "2130-11-01")], "last_day"),
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
