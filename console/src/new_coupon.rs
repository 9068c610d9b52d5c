//! The form for a new coupon. It first shows a preview of the next openings in local time and in
//! UTC. Then the API creates the coupon. An idempotency key in the form prevents a double click
//! from creating two coupons.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveTime, Utc};
use firstcome_shared::coupon::{MAX_QUANTITY, MAX_VALID_DAYS, MAX_WAITING};
use firstcome_shared::report::wording::grouped;
use firstcome_shared::schedule::{PlannedDrop, Schedule, Tz, time_zone, wall_clock};
use serde_json::{Value, json};
use uuid::Uuid;

use super::coupon::MADE;
use super::page::{Fields, OrDefault, Page, Screen, Top, answer};
use super::text::{Text, labelled, short};

#[derive(Template)]
#[template(path = "new_coupon.html")]
struct NewCouponScreen<'a> {
    top: Top<'a>,
    typed: &'a Fields,
    /// Why the input is invalid or was refused.
    wrong: &'a str,
    preview: Option<&'a Preview>,
    has_api: bool,
    /// Names of time zones to choose from.
    zones: Vec<&'static str>,
    /// Whether the form is still empty, so that the script may fill in the browser's time zone.
    is_blank: bool,
}

/// The coupon that the form would create.
struct Preview {
    /// The request to the API.
    body: Value,
    openings: Vec<PlannedDrop>,
    zone: Tz,
    now: DateTime<Utc>,
    key: String,
}

impl Preview {
    fn local(&self, at: &DateTime<Utc>) -> DateTime<FixedOffset> {
        self.zone.local(*at)
    }

    fn is_daily(&self) -> bool {
        self.body["schedule"]["type"] == "daily"
    }

    /// The end of codes as typed, in the coupon's zone.
    fn valid_until(&self) -> String {
        let typed = self.body["valid_until"].as_str().unwrap_or_default();
        match typed.parse::<DateTime<Utc>>() {
            Ok(until) => short(until, Some(self.zone)),
            Err(_) => String::new(),
        }
    }

    fn quantity(&self) -> String {
        grouped(self.body["quantity"].as_u64().unwrap_or_default())
    }
}

/// Builds the request to the API, and a preview of the first openings.
fn plan(typed: &Fields) -> Result<Preview, String> {
    let quantity = typed.whole("quantity", "The quantity", 1..=MAX_QUANTITY)?;
    let waiting = typed.whole("waiting_list", "The waiting list", 0..=MAX_WAITING)?;
    let is_daily = typed.get("repeats") == "daily";
    let zone: Tz = typed.get("time_zone").text().parse()?;
    let schedule = schedule(typed, is_daily, zone)?;
    let now = Utc::now();
    let openings = schedule.preview(now).map_err(labelled)?;
    let once_per = match (is_daily, typed.get("once_per")) {
        (false, _) => "coupon",
        (true, per @ ("drop" | "coupon")) => per,
        (true, _) => {
            let why = "Say whether each person gets one each day, or one of all days together";
            return Err(why.to_owned());
        }
    };
    let mut body = json!({
        "name": typed.get("name"), "quantity": quantity, "once_per": once_per, "waiting_list": waiting,
        "schedule": schedule,
    });
    if !typed.get("valid_days").is_empty() {
        let days = typed.whole("valid_days", "“Days to use a code”", 1..=MAX_VALID_DAYS)?;
        body["valid_days"] = days.into();
    }
    if let Some(until) = typed.time("valid_until", "Use codes until", zone)? {
        body["valid_until"] = json!(until);
    }
    if let Some(allow) = typed.allow()? {
        body["allow"] = json!(allow);
    }
    Ok(Preview {
        body,
        openings,
        zone,
        now,
        key: typed.get("key").to_owned(),
    })
}

/// Builds the schedule. A coupon that opens once stays open without a closing time. With a closing
/// time but without a last day, it closes within a day.
fn schedule(typed: &Fields, is_daily: bool, zone: Tz) -> Result<Schedule, String> {
    let day = |text: &str| {
        let day = text.trim().parse::<NaiveDate>();
        day.map_err(|_| format!("{:?} is not a day such as 2026-12-01", text.text()))
    };
    let first = day(typed.get("first_day"))?;
    let last = match typed.get("last_day") {
        "" => None,
        last => Some(day(last)?),
    };
    if last.is_some_and(|last| last < first) {
        return Err("“Last day” must not be before “First day”".to_owned());
    }
    let opens = wall_clock::read(typed.get("opens"))?;
    let closes = match typed.get("closes") {
        "" => None,
        closes => Some(wall_clock::read(closes)?),
    };
    if is_daily {
        let closes = closes.ok_or("A daily coupon needs a closing time")?;
        return Ok(Schedule::Daily {
            time_zone: zone,
            opens,
            closes,
            first_day: first,
            last_day: last,
        });
    }
    let at = |day: NaiveDate, time: NaiveTime| -> Result<DateTime<Utc>, String> {
        let local = day.and_time(time);
        let at = zone
            .instant(local)
            .filter(|at| zone.local(*at).naive_local() == local);
        at.ok_or_else(|| {
            let time = time.format("%H:%M");
            let zone = zone.name();
            format!("{time} does not exist on {day} in {zone}: clocks are set forward then")
        })
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
        time_zone: Some(zone).filter(|zone| *zone != Tz::utc()),
        opens_at: at(first, opens)?,
        closes_at,
    })
}

/// Shows the form, with a preview if its input is valid.
pub(super) async fn form(
    page: Page,
    OrDefault(typed): OrDefault<Vec<(String, String)>>,
) -> Response {
    let mut typed = Fields(typed);
    if typed.get("name").is_empty() && typed.get("quantity").is_empty() {
        let blank = [("waiting_list", "0"), ("time_zone", "UTC")]
            .map(|(field, text)| (field.to_owned(), text.to_owned()));
        typed = Fields(blank.into());
        return show_form(&page, StatusCode::OK, &typed, "", None);
    }
    typed.0.retain(|(field, _)| field != "key");
    typed.0.push(("key".to_owned(), Uuid::now_v7().to_string()));
    match plan(&typed) {
        Ok(preview) => show_form(&page, StatusCode::OK, &typed, "", Some(&preview)),
        Err(wrong) => show_form(&page, StatusCode::BAD_REQUEST, &typed, &wrong, None),
    }
}

fn show_form(
    page: &Page,
    status: StatusCode,
    typed: &Fields,
    wrong: &str,
    preview: Option<&Preview>,
) -> Response {
    let screen = NewCouponScreen {
        top: page.top("New coupon", "new"),
        typed,
        wrong,
        preview,
        has_api: page.has_api(),
        zones: time_zone::names().collect(),
        is_blank: typed.get("name").is_empty() && typed.get("quantity").is_empty(),
    };
    answer(status, &screen)
}

/// Creates the coupon through the API.
pub(super) async fn make(page: Page, typed: Fields) -> Screen {
    let preview = match plan(&typed) {
        Ok(planned) => planned,
        Err(wrong) => {
            return Ok(show_form(
                &page,
                StatusCode::BAD_REQUEST,
                &typed,
                &wrong,
                None,
            ));
        }
    };
    let key = ("idempotency-key", preview.key.clone());
    let made = page.api::<Value>(Method::POST, "/v1/coupons", &preview.body, Some(key));
    match made.await {
        Ok(made) => {
            let to = format!("/coupons/{}?done={MADE}", made["id"]);
            Ok(Redirect::to(&to).into_response())
        }
        // The form keeps what was typed.
        Err(refusal) => {
            let why = refusal.sentence();
            Ok(show_form(
                &page,
                refusal.status,
                &typed,
                &why,
                Some(&preview),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::coupon::CouponSettings;
    use firstcome_shared::domain::OncePer;

    use super::*;

    /// Returns the input of a valid form with some fields changed.
    fn typed(changed: &[(&str, &str)]) -> Fields {
        let form = "name= Winter |quantity=500|once_per=drop|waiting_list=10|allow=group|group= \
            vip |repeats=daily|time_zone=Asia/Seoul|first_day=2130-12-01|opens=15:00|closes=18:00";
        let form = form.split('|').filter_map(|field| field.split_once('='));
        // If a name occurs twice, its first field counts.
        let all = changed.iter().copied().chain(form);
        Fields(
            all.map(|(name, text)| (name.to_owned(), text.to_owned()))
                .collect(),
        )
    }

    #[test]
    fn plan_of_a_daily_coupon_has_its_request_and_ten_openings_in_local_time() {
        let Preview {
            body,
            openings,
            zone,
            ..
        } = plan(&typed(&[])).unwrap();
        assert_eq!(openings.len(), 10);
        let first = &openings[0];
        let shown = [Some(first.opens_at), first.closes_at];
        let shown = shown.map(|at| zone.local(at.unwrap()).to_rfc3339());
        let expected = ["2130-12-01T15:00:00+09:00", "2130-12-01T18:00:00+09:00"];
        assert_eq!(shown, expected);
        let fields = json!([
            body["schedule"]["type"],
            body["allow"],
            body["name"],
            body["quantity"]
        ]);
        assert_eq!(fields, json!(["daily", "group:vip", "Winter", 500]));
    }

    #[test]
    fn codes_may_end_at_a_time_in_the_zone_of_the_coupon() {
        let ends = |until| plan(&typed(&[("valid_until", until)]));
        let preview = ends("2131-01-31T23:59").unwrap();
        assert_eq!(preview.body["valid_until"], "2131-01-31T14:59:00Z");
        let screen = NewCouponScreen {
            top: Top::new("New coupon", None, "new"),
            typed: &typed(&[("valid_until", "2131-01-31T23:59")]),
            wrong: "",
            preview: Some(&preview),
            has_api: true,
            zones: Vec::new(),
            is_blank: false,
        };
        let shown = screen.render().unwrap();
        let end = "codes can be used until 2131-01-31 23:59 +09:00;";
        assert!(shown.contains(end), "{shown}");
        assert!(ends("").unwrap().body.get("valid_until").is_none());
        let why = ends("tomorrow").err().unwrap();
        assert_eq!(why, "“Use codes until” is no time there");
    }

    #[test]
    fn one_off_coupon_has_one_window_in_utc_and_no_allow_means_everybody() {
        let preview = plan(&typed(&[("repeats", "once")])).unwrap();
        assert_eq!(preview.openings.len(), 1);
        let schedule = &preview.body["schedule"];
        assert_eq!(schedule["opens_at"], "2130-12-01T06:00:00Z");
        assert_eq!(schedule["closes_at"], "2130-12-01T09:00:00Z");
        let preview = plan(&typed(&[("allow", ""), ("waiting_list", "0")])).unwrap();
        assert!(preview.body.get("allow").is_none(), "everybody");
    }

    #[test]
    fn one_off_coupon_may_last_days_or_stay_open_and_an_invalid_end_is_refused() {
        let once = |closes, last| {
            plan(&typed(&[
                ("repeats", "once"),
                ("closes", closes),
                ("last_day", last),
            ]))
        };
        let Preview { body, openings, .. } = once("", "").unwrap();
        assert_eq!(body["schedule"]["closes_at"], Value::Null);
        assert_eq!((openings.len(), openings[0].closes_at), (1, None));
        for (closes, last, instant) in [
            ("18:00", "2130-12-24", "2130-12-24T09:00:00Z"),
            ("14:00", "", "2130-12-02T05:00:00Z"),
            ("18:00", "2130-12-01", "2130-12-01T09:00:00Z"),
        ] {
            assert_eq!(
                once(closes, last).unwrap().body["schedule"]["closes_at"],
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
    fn form_has_every_setting_of_a_new_coupon() {
        let filled = |field| plan(&typed(&[field])).unwrap().body;
        let until = filled(("valid_until", "2131-01-31T23:59"));
        let settings = |body| serde_json::from_value::<CouponSettings>(body).unwrap();
        let CouponSettings {
            name,
            quantity: 500,
            once_per: OncePer::Drop,
            waiting_list: 10,
            paused: false, // the form has no pause
            valid_until: Some(_),
            valid_days: None,
            schedule: Some(_),
            allow: Some(_),
        } = settings(until.clone())
        else {
            panic!("the form does not send a setting: {until}");
        };
        assert_eq!(name, "Winter");
        assert_eq!(settings(filled(("valid_days", "30"))).valid_days, Some(30));
    }

    #[test]
    fn invalid_input_of_a_new_coupon_is_refused_with_the_reason() {
        for (changed, word) in [
            (&[("quantity", "many")][..], "quantity"),
            (&[("group", "v i p")], "Name the group"),
            (&[("time_zone", "Mars")], "Mars"),
            (&[("once_per", "")], "each person"),
            (&[("closes", "")], "needs a closing time"),
            (&[("opens", "3 pm")], "time of day"),
            (&[("quantity", "0")], "from 1 to 10,000,000, not “0”"),
            (&[("waiting_list", "99,999,999")], "from 0 to 1,000,000"),
            (&[("last_day", "2130-11-01")], "before “First day”"),
            (
                &[("repeats", "once"), ("last_day", "2130-11-01")],
                "before “First day”",
            ),
            (
                &[
                    ("repeats", "once"),
                    ("time_zone", "Europe/Berlin"),
                    ("first_day", "2027-03-28"),
                    ("opens", "02:30"),
                ],
                "02:30 does not exist on 2027-03-28",
            ),
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
