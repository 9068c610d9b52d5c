//! The form for a new coupon. The question before it shows the settings and the next openings. A
//! form keeps the idempotency key with which it was first shown, so that sending it again, as after
//! a request without an answer, creates no second coupon.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::CouponSettings;
use firstcome_shared::schedule::{Tz, time_zone};
use serde_json::{Value, json};
use uuid::Uuid;

use super::fields::{FIELDS, FilledInput, facts, labelled};
use crate::client::HttpRefusal;
use crate::page::{ConsolePage, FormFields, Screen, Top, answer};
use crate::requests::{SentBody, SentHeader};
use crate::text::window;

#[derive(Template)]
#[template(path = "new_coupon.html")]
struct NewCouponScreen<'a> {
    top: Top<'a>,
    inputs: Vec<FilledInput>,
    /// Names of time zones to choose from.
    zones: Vec<&'static str>,
    key: &'a str,
}

/// The coupon that the form would create.
#[derive(Debug)]
struct PlannedCoupon {
    /// The request to the API.
    body: Value,
    question: String,
}

/// Builds the request to the API, and the question with the first openings.
fn plan(form: &FormFields, now: DateTime<Utc>) -> Result<PlannedCoupon, String> {
    let zone: Tz = form.get("time_zone").parse()?;
    let schedule = form.get("type");
    let mut body = json!({"schedule": {}});
    for field in FIELDS.iter().filter(|field| field.is_of(schedule)) {
        let typed = field.typed_in(form).unwrap_or_default();
        let value = field.read(&typed, zone)?;
        let part = if field.is_of_schedule() {
            &mut body["schedule"]
        } else {
            &mut body
        };
        part[field.name] = value;
    }
    let settings = serde_json::from_value::<CouponSettings>(body.clone())
        .map_err(|error| error.to_string())
        .and_then(|settings| settings.checked_new(now))
        .map_err(|why| labelled(&why))?;
    let schedule = settings.schedule.as_ref().ok_or("It never opens")?;
    let zone = schedule.time_zone();
    let facts = facts(&body, zone);
    let mut lines: Vec<String> = facts
        .iter()
        .map(|fact| format!("{}: {}", fact.label, fact.text))
        .collect();
    lines.push("It opens:".to_owned());
    for opening in schedule.preview(now)? {
        let local = window(opening.opens_at, opening.closes_at, zone);
        let day = opening.local_date.format("%a");
        let at_once = if opening.opens_at < now {
            ", at once"
        } else {
            ""
        };
        lines.push(format!("{day} {local}{at_once}"));
    }
    Ok(PlannedCoupon {
        body,
        question: lines.join("\n"),
    })
}

pub(crate) async fn form(page: ConsolePage) -> Response {
    let blank = ("waiting_list".to_owned(), "0".to_owned());
    let key = ("key".to_owned(), Uuid::now_v7().to_string());
    show_form(&page, &FormFields(vec![blank, key]), None)
}

/// Shows the form, with what was typed if it was refused.
fn show_form(page: &ConsolePage, typed: &FormFields, refusal: Option<HttpRefusal>) -> Response {
    let wrong = refusal.as_ref().map(HttpRefusal::sentence);
    let screen = NewCouponScreen {
        top: Top {
            wrong: wrong.as_deref().unwrap_or_default(),
            ..page.top("New coupon", "new")
        },
        inputs: FilledInput::of_a_new_coupon(typed),
        zones: time_zone::names().collect(),
        key: typed.get("key"),
    };
    let status = refusal.map_or(StatusCode::OK, |refusal| refusal.status);
    answer(status, &screen)
}

/// Asks the operator, then creates the coupon through the API.
pub(crate) async fn make(page: ConsolePage, form: FormFields) -> Response {
    let made = ask_and_make(&page, &form).await;
    made.unwrap_or_else(|refusal| show_form(&page, &form, Some(refusal)))
}

async fn ask_and_make(page: &ConsolePage, form: &FormFields) -> Screen {
    let planned = plan(form, Utc::now()).map_err(|why| HttpRefusal::typed(&why))?;
    if !form.is_sure() {
        return Ok(page.confirm(form, &planned.question, "Create it"));
    }
    let key = SentHeader {
        name: "idempotency-key",
        value: form.get("key").to_owned(),
    };
    let body = SentBody::Json(&planned.body);
    let made = page.api::<Value>(Method::POST, "/v1/coupons", body, Some(key));
    let id = &made.await?["id"];
    Ok(Redirect::to(&format!("/coupons/{id}?done=1")).into_response())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::to_bytes;
    use firstcome_shared::domain::OncePer;
    use firstcome_shared::schedule::Schedule;

    use super::*;
    use crate::client::Backends;
    use crate::page::tests::logged_in;

    /// Returns the input of a valid form with some fields changed.
    fn typed(changed: &[(&str, &str)]) -> FormFields {
        let form = "name=Winter|quantity=500|once_per=drop|waiting_list=10|allow=group|group=vip|\
            type=daily|time_zone=Asia/Seoul|first_day=2130-12-01|last_day=|opens=15:00|\
            closes=18:00|opens_at=2130-12-01T15:00|closes_at=2130-12-24T18:00|valid_days=|\
            valid_until=";
        let form = form.split('|').filter_map(|field| field.split_once('='));
        // If a name occurs twice, its first field counts.
        let all = changed.iter().copied().chain(form);
        FormFields(
            all.map(|(name, text)| (name.to_owned(), text.to_owned()))
                .collect(),
        )
    }

    fn planned(changed: &[(&str, &str)]) -> Result<PlannedCoupon, String> {
        plan(&typed(changed), Utc::now())
    }

    /// The status of a screen, and the key in its form.
    async fn status_and_key(screen: Response) -> (StatusCode, String) {
        let status = screen.status();
        let body = to_bytes(screen.into_body(), 1_000_000).await.unwrap();
        let html = String::from_utf8_lossy(&body).into_owned();
        let after = html.split_once("name=\"key\" value=\"");
        let key = after.and_then(|(_, rest)| rest.split_once('"'));
        let key = key.unwrap_or_else(|| panic!("no key in {html}")).0;
        (status, key.to_owned())
    }

    #[tokio::test]
    async fn form_keeps_its_key_until_the_coupon_exists() {
        let page = async || {
            let nowhere = Some(("http://127.0.0.1:1".to_owned(), None));
            logged_in(Backends::new(Router::new(), nowhere).unwrap()).await
        };
        let (_, key) = status_and_key(form(page().await).await).await;
        assert!(!key.is_empty());
        for (changed, status) in [
            (("quantity", "0"), StatusCode::BAD_REQUEST),
            (("sure", ""), StatusCode::OK),
            (("sure", "1"), StatusCode::BAD_GATEWAY),
        ] {
            let sent = typed(&[changed, ("key", &key)]);
            let shown = status_and_key(make(page().await, sent).await).await;
            assert_eq!(shown, (status, key.clone()), "{changed:?}");
        }
    }

    #[test]
    fn question_before_a_daily_coupon_shows_its_settings_and_ten_openings() {
        let question = planned(&[("valid_until", "2131-01-31T23:59")])
            .unwrap()
            .question;
        for line in [
            "Name: Winter",
            "Quantity: 500",
            "Each person gets: one each day",
            "Who may claim: group:vip",
            "Last day: no end",
            "Use codes until: 2131-01-31 23:59 +09:00",
            "Fri 2130-12-01 15:00 to 18:00 Asia/Seoul",
        ] {
            assert!(
                question.lines().any(|shown| shown == line),
                "{line}: {question}"
            );
        }
        assert_eq!(question.matches(" 15:00 to ").count(), 10, "{question}");
        let open = planned(&[("type", "once"), ("opens_at", "2020-01-01T00:00")]).unwrap();
        assert!(open.question.ends_with(", at once"), "{}", open.question);
    }

    #[test]
    fn coupon_that_opens_once_may_stay_open_and_its_times_are_those_of_its_zone() {
        let once = |closes| {
            planned(&[("type", "once"), ("closes_at", closes)])
                .unwrap()
                .body
        };
        let schedule = json!({
            "type": "once", "time_zone": "Asia/Seoul", "opens_at": "2130-12-01T06:00:00Z",
            "closes_at": "2130-12-24T09:00:00Z",
        });
        assert_eq!(once("2130-12-24T18:00")["schedule"], schedule);
        assert_eq!(once("")["schedule"]["closes_at"], Value::Null);
    }

    #[test]
    fn form_has_every_setting_of_a_new_coupon() {
        let filled = |field| planned(&[field]).unwrap().body;
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
            schedule: Some(Schedule::Daily { .. }),
            allow: Some(_),
        } = settings(until.clone())
        else {
            panic!("the form does not send a setting: {until}");
        };
        assert_eq!(name, "Winter");
        assert_eq!(settings(filled(("valid_days", "30"))).valid_days, Some(30));
        assert_eq!(settings(filled(("allow", ""))).allow, None, "everybody");
    }

    #[test]
    fn invalid_input_of_a_new_coupon_is_refused_with_the_reason() {
        for (changed, word) in [
            (&[("name", "")][..], "“Name”"),
            (&[("quantity", "many")], "“Quantity”"),
            (&[("quantity", "0")], "from 1 to 10,000,000, not “0”"),
            (&[("waiting_list", "99,999,999")], "from 0 to 1,000,000"),
            (&[("group", "v i p")], "the name of a group"),
            (&[("time_zone", "Mars")], "Mars"),
            (&[("closes", "")], "“Closes each day at”"),
            (&[("opens", "3 pm")], "time of day"),
            (
                &[("last_day", "2130-11-01")],
                "“Last day” must not be before “First day”",
            ),
            (
                &[("type", "once"), ("closes_at", "2130-11-01T00:00")],
                "“Closes at” must be later than “Opens at”",
            ),
            (
                &[
                    ("type", "once"),
                    ("time_zone", "Europe/Berlin"),
                    ("opens_at", "2027-03-28T02:30"),
                ],
                "“Opens at” must be a time that exists in Europe/Berlin",
            ),
            (
                &[("first_day", "2020-01-01"), ("last_day", "2020-01-02")],
                "never open",
            ),
            (&[("valid_until", "tomorrow")], "“Use codes until”"),
        ] {
            let said = planned(changed).unwrap_err();
            assert!(said.contains(word), "{said}");
        }
    }
}
