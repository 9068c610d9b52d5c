//! Changes of a coupon: the form of its settings and the buttons become requests to the API, after a
//! question. A form that is refused is shown again with what was typed.

use axum::extract::Path;
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect};
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::views::{CouponDetails, CouponDrops};
use firstcome_shared::report::wording::count;
use firstcome_shared::schedule::{Schedule, Tz};
use serde_json::{Map, Value, json};

use super::fields::changeable;
use super::screen::{CouponQuery, show_coupon};
use super::state::is_open;
use super::zone;
use crate::client::{HttpRefusal, encoded};
use crate::page::{ConsolePage, FormFields, Screen};
use crate::requests::{SentBody, SentHeader};
use crate::text::Text as _;

/// What a button does to a coupon.
pub(super) struct CouponAction {
    /// The value of its button.
    pub(super) how: &'static str,
    pub(super) button: &'static str,
    /// What it means, for the question before it. Empty if there is no question.
    question: &'static str,
    pub(super) is_possible: fn(&CouponDrops, DateTime<Utc>) -> bool,
    /// The body of the request to the API.
    body: fn(&CouponDetails) -> Value,
}

pub(super) static ACTIONS: [CouponAction; 4] = [
    CouponAction {
        how: "pause",
        button: "Pause: nobody can claim",
        question: "Nobody can claim until it is resumed. Those who hold one keep it.",
        is_possible: |found, _| {
            let mut drops = found.drops.iter();
            let is_live = drops.any(|drop| is_open(drop.state) || is_to_come(drop.state));
            is_live && !found.coupon.paused
        },
        body: |_| json!({"paused": true}),
    },
    CouponAction {
        how: "resume",
        button: "Resume: people can claim again",
        question: "",
        is_possible: |found, _| found.coupon.paused,
        body: |_| json!({"paused": false}),
    },
    CouponAction {
        how: "close",
        button: "Close the open drop early",
        question: "The open drop closes now. Nobody who waits gets one any more, except users with \
            a broken promise. It can't be undone.",
        is_possible: |found, _| found.drops.iter().any(|drop| is_open(drop.state)),
        body: |_| json!({"close_now": true}),
    },
    CouponAction {
        how: "cancel",
        button: "Cancel: it never opens",
        question: "It never opens. Nobody has claimed it. It can't be undone.",
        // If it opened before the API gets the request, that would close the open drop for good.
        is_possible: |found, now| {
            let soon = now + TimeDelta::seconds(30);
            let mut drops = found.drops.iter();
            let has_drops = !found.drops.is_empty();
            has_drops && drops.all(|drop| is_to_come(drop.state) && drop.opens_at > soon)
        },
        body: |coupon| match coupon.schedule {
            Some(Schedule::Daily { first_day, .. }) => {
                json!({"close_now": true, "last_day": first_day})
            }
            Some(Schedule::Once { .. }) | None => json!({"close_now": true}),
        },
    },
];

fn is_to_come(state: DropState) -> bool {
    state == DropState::Scheduled
}

/// A change that a form asks for.
#[derive(Debug)]
struct CouponChange {
    /// The body of the request to the API.
    body: Value,
    /// What it means. Empty if it is made without a question.
    question: String,
    button: &'static str,
}

/// Reads a form, or says why it is refused. The API checks the rest.
fn read(
    form: &FormFields,
    found: &CouponDrops,
    now: DateTime<Utc>,
) -> Result<CouponChange, String> {
    let how = form.get("how");
    if how == "settings" {
        return read_settings(form, &found.coupon);
    }
    let mut actions = ACTIONS.iter();
    let possible = actions.find(|action| action.how == how && (action.is_possible)(found, now));
    let action = possible.ok_or("This is not possible now")?;
    Ok(CouponChange {
        body: (action.body)(&found.coupon),
        question: action.question.to_owned(),
        button: action.button,
    })
}

fn read_settings(form: &FormFields, coupon: &CouponDetails) -> Result<CouponChange, String> {
    let settings = json!(coupon.settings);
    let zone = zone(coupon);
    let clock = zone.unwrap_or_else(Tz::utc);
    let mut body = Map::new();
    let mut lines = Vec::new();
    for field in changeable(&settings) {
        let before = field.value(&settings);
        let present = field.input_text(before, clock);
        let typed = field.typed_in(form).filter(|typed| *typed != present);
        let Some(typed) = typed else { continue };
        let after = field.read(&typed, clock)?;
        let from = field.show(before, zone);
        let to = field.show(&after, zone);
        lines.push(format!("{}: {from} → {to}. {}", field.label, field.hint));
        body.insert(field.name.to_owned(), after);
    }
    if body.is_empty() {
        return Err("The form has the present settings".to_owned());
    }
    Ok(CouponChange {
        body: body.into(),
        question: lines.join("\n"),
        button: "Change it",
    })
}

/// Handles a form of the coupon's screen. A form that is refused is shown again.
pub(crate) async fn change(page: ConsolePage, Path(id): Path<String>, form: FormFields) -> Screen {
    let path = format!("/v1/coupons/{}/drops", encoded(&id));
    let found: CouponDrops = page
        .get(&path)
        .await
        .map_err(|refusal| HttpRefusal::typed(&refusal.sentence()))?;
    match make(&page, &found, &form).await {
        Ok(answer) => Ok(answer),
        Err(refusal) => show_refused(&page, &id, &form, refusal).await,
    }
}

async fn show_refused(
    page: &ConsolePage,
    id: &str,
    form: &FormFields,
    refusal: HttpRefusal,
) -> Screen {
    show_coupon(page, id, &CouponQuery::default(), form, Some(refusal)).await
}

/// Asks the operator, then changes the coupon through the API.
async fn make(page: &ConsolePage, found: &CouponDrops, form: &FormFields) -> Screen {
    let coupon = &found.coupon;
    let change = read(form, found, Utc::now()).map_err(|why| HttpRefusal::typed(&why))?;
    if !form.is_sure() && !change.question.is_empty() {
        let what = format!("{}\n{}", coupon.name.text(), change.question);
        return Ok(page.confirm(form, &what, change.button));
    }
    // With a revision, the API refuses the change if somebody has changed the coupon since. The
    // buttons send none.
    let revision = form.find("revision");
    let tag = revision.map(|revision| SentHeader {
        name: "if-match",
        value: format!("\"{revision}\""),
    });
    let path = format!("/v1/coupons/{}", coupon.id);
    page.api::<Value>(Method::PATCH, &path, SentBody::Json(&change.body), tag)
        .await?;
    Ok(Redirect::to(&format!("/coupons/{}?done=1", coupon.id)).into_response())
}

/// Adds users to the allow list or, after a question, removes them.
pub(crate) async fn change_list(
    page: ConsolePage,
    Path(id): Path<String>,
    form: FormFields,
) -> Screen {
    match make_list(&page, &id, &form).await {
        Ok(answer) => Ok(answer),
        Err(refusal) => show_refused(&page, &id, &form, refusal).await,
    }
}

async fn make_list(page: &ConsolePage, id: &str, form: &FormFields) -> Screen {
    let how = if form.get("how") == "remove" {
        "remove"
    } else {
        "add"
    };
    let people = form.get("people");
    if how == "remove" && !form.is_sure() {
        let lines = people.lines().filter(|line| !line.trim().is_empty());
        let what = format!(
            "The users of {} leave the allow list of coupon {id}. Those who hold one or wait keep \
            it.",
            count(lines.count() as u64, "line", "lines")
        );
        return Ok(page.confirm(form, &what, "Remove them"));
    }
    let path = format!("/v1/coupons/{}/allow-list/{how}", encoded(id));
    let listed: Value = page
        .api(Method::POST, &path, SentBody::Text(people), None)
        .await?;
    if listed["changed"] == 0 {
        let why = "The list was like that already: nobody was added or removed";
        return Err(HttpRefusal::typed(why));
    }
    Ok(Redirect::to(&format!("/coupons/{}?done=1", encoded(id))).into_response())
}

#[cfg(test)]
mod tests;
