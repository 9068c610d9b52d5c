//! Changes of a coupon: each form becomes a request to the API, most of them after a question. A form
//! that is refused is shown again with what was typed.

use axum::extract::Path;
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Allow, MAX_QUANTITY, MAX_VALID_DAYS, MAX_WAITING};
use firstcome_shared::http::views::{CouponDrops, CouponSettings, DropDetails};
use firstcome_shared::report::wording::count;
use firstcome_shared::schedule::{Schedule, Tz};
use serde_json::{Value, json};

use super::{CouponQuery, RefusedForm, codes_end, is_open, is_to_come, shown};
use crate::client::{HttpRefusal, encoded};
use crate::page::{Fields, Page, Screen, whole_number};
use crate::text::{Text as _, short};

/// What a form changes: the request to the API, and the question before it, if the change takes
/// something from users.
struct Change {
    body: Value,
    question: Option<(String, &'static str)>,
    /// By how much the quantity of each drop grows.
    more_slots: u64,
    done: &'static str,
}

/// Changes a coupon.
pub(crate) async fn change(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let path = format!("/v1/coupons/{}/drops", encoded(&id));
    let found: CouponDrops = page.get(&path).await?;
    match changed(&page, &found, &form).await {
        Ok(answer) => Ok(answer),
        // The form keeps what was typed.
        Err(refusal) => {
            let refused = RefusedForm {
                typed: &form,
                refusal: &refusal,
            };
            shown(&page, &id, &CouponQuery::default(), Some(refused)).await
        }
    }
}

async fn changed(page: &Page, found: &CouponDrops, form: &Fields) -> Screen {
    let coupon = &found.coupon;
    let mut change = planned(form, found)?;
    if let Some((question, button)) = change.question.take().filter(|_| !form.is_sure()) {
        let raised = form.get("how") == "quantity";
        let waiting = if raised {
            waiting(page, found).await
        } else {
            0
        };
        let more = change.more_slots.min(waiting);
        let who = match (waiting, more) {
            (0, _) => String::new(),
            (_, 0) => format!(
                " {} wait and get none of it.",
                count(waiting, "person", "people")
            ),
            (waiting, more) if more == waiting => {
                format!(" That is enough for all who wait ({}).", waiting.text())
            }
            (waiting, more) => {
                let of = count(waiting, "person", "people");
                format!(" Of {of} who wait, the first {} get one.", more.text())
            }
        };
        return Ok(page.confirm(form, &format!("{question}{who}"), button));
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

/// Returns how many people wait for the open drop.
async fn waiting(page: &Page, found: &CouponDrops) -> u64 {
    let Some(open) = found.drops.iter().find(|drop| is_open(drop.state)) else {
        return 0;
    };
    let path = format!("/v1/coupons/{}/drops/{}", found.coupon.id, open.id);
    // The question is asked without the number if Redis does not answer.
    let details = page.get::<DropDetails>(&path).await.ok();
    let drops = details.map(|it| it.overview.drops).unwrap_or_default();
    let redis = drops.first().and_then(|drop| drop.redis);
    redis.map_or(0, |keys| keys.waiting)
}

/// Reads a whole number within the limits that the API has.
fn whole(
    form: &Fields,
    field: &str,
    what: &str,
    least: u32,
    most: u32,
) -> Result<u32, HttpRefusal> {
    let number = whole_number(form.get(field)).filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| {
        let least = least.text();
        let most = most.text();
        HttpRefusal::typed(&format!(
            "{what} must be a whole number from {least} to {most}."
        ))
    })
}

fn quantity_question(coupon: &CouponSettings, quantity: u32) -> Result<String, HttpRefusal> {
    let now = coupon.quantity;
    let name = coupon.name.text();
    let [from, to] = [now, quantity].map(|n| n.text());
    if quantity == now {
        return Err(HttpRefusal::typed(&format!(
            "The quantity is {to} already."
        )));
    }
    let more = match quantity / now.max(1) {
        0 => " Those who hold one keep it.".to_owned(),
        1..10 => String::new(),
        times => format!(" That is {} times as many!", times.text()),
    };
    let which = "for all its drops that are not closed and for later ones.";
    Ok(format!("{name}: {from} → {to}, {which}{more}"))
}

/// Returns who may claim, for the API and in words.
fn allowed(form: &Fields, coupon: &CouponSettings) -> Result<(Value, String), HttpRefusal> {
    Ok(match (form.get("allow"), form.get("group")) {
        ("list", _) => {
            let users = count(coupon.allow_list_users, "person", "people");
            (json!("list"), format!("only the {users} on its allow list"))
        }
        ("group", group) => {
            let wrong = "Name the group: letters, digits, - and _, without spaces.";
            let allow =
                Allow::try_from(format!("group:{group}")).map_err(|_| HttpRefusal::typed(wrong))?;
            (
                json!(allow),
                format!("only people of the group {}", group.text()),
            )
        }
        _ => (Value::Null, "everybody".to_owned()),
    })
}

fn planned(form: &Fields, found: &CouponDrops) -> Result<Change, HttpRefusal> {
    let coupon = &found.coupon;
    let name = coupon.name.text();
    let mut question = None;
    let mut done = "changed";
    let mut more_slots = 0;
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
            let quantity = whole(form, "quantity", "The quantity", 1, MAX_QUANTITY)?;
            more_slots = u64::from(quantity.saturating_sub(coupon.quantity));
            question = Some((quantity_question(coupon, quantity)?, "Change the quantity"));
            json!({"quantity": quantity})
        }
        "name" => {
            let new = form.get("name");
            question = Some((
                format!("People see “{}” instead of “{name}”.", new.text()),
                "Rename it",
            ));
            json!({"name": new})
        }
        "waiting_list" => {
            let places = whole(form, "waiting_list", "The waiting list", 0, MAX_WAITING)?;
            json!({"waiting_list": places})
        }
        "validity" => {
            let (body, end) = validity(form, coupon)?;
            let what =
                format!("Codes of {name} can be used {end}. That concerns codes that exist, too.");
            question = Some((what, "Change the end of codes"));
            body
        }
        "allow" => {
            let (allow, who) = allowed(form, coupon)?;
            let what =
                format!("From now on, {who} may claim {name}. Those who hold one or wait keep it.");
            question = Some((what, "Change who may claim"));
            json!({"allow": allow})
        }
        "dates" => {
            let mut body = json!({"last_day": null});
            for field in ["opens", "closes", "last_day"] {
                if !form.get(field).is_empty() {
                    body[field] = form.get(field).into();
                }
            }
            body
        }
        "opens_at" => {
            let wrong = || HttpRefusal::typed("Give the time at which it opens.");
            let opens = typed_time(form, coupon, "opens_at", "Opens at")?.ok_or_else(wrong)?;
            let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
            let what = format!("{name} opens at {}.", short(opens, zone));
            question = Some((what, "Change the opening"));
            json!({"opens_at": opens})
        }
        "closes_at" => {
            let closes = typed_time(form, coupon, "closes_at", "Closes at")?;
            if closes.is_none() {
                let what = format!("{name} then never closes by itself.");
                question = Some((what, "Remove the end"));
            }
            json!({"closes_at": closes})
        }
        "close" => {
            if !found.drops.iter().any(|drop| is_open(drop.state)) {
                return Err(HttpRefusal::typed("No drop of it is open."));
            }
            done = "closed";
            let what = format!(
                "The open drop of {name} closes now. Its waiting list gets nothing more. It \
                can't be undone."
            );
            question = Some((what, "Close it now"));
            json!({"close_now": true})
        }
        "cancel" => {
            let what = cancelling(found)?;
            (question, done) = (Some((what, "Cancel it")), "cancelled");
            json!({"close_now": true})
        }
        _ => return Err(HttpRefusal::typed("The form is not of this page.")),
    };
    Ok(Change {
        body,
        question,
        more_slots,
        done,
    })
}

/// Returns the question before a coupon is cancelled.
fn cancelling(found: &CouponDrops) -> Result<String, HttpRefusal> {
    // It may have opened since the page, or the question, was shown. It must not open before the
    // API gets the request either: that would close it for good.
    let soon = Utc::now() + TimeDelta::seconds(30);
    let is_late = found.drops.iter().any(|drop| drop.opens_at <= soon);
    if is_late || !is_to_come(&found.drops) {
        let why = "It has opened or opens at once, or was cancelled: pause it instead.";
        return Err(HttpRefusal::typed(why));
    }
    let name = found.coupon.name.text();
    Ok(format!(
        "{name} never opens. Nobody has claimed it. It can't be undone."
    ))
}

/// Returns until when codes can be used, for the API and in words.
fn validity(form: &Fields, coupon: &CouponSettings) -> Result<(Value, String), HttpRefusal> {
    let until = typed_time(form, coupon, "valid_until", "Until")?;
    let days = match form.get("valid_days") {
        "" => None,
        _ => Some(whole(
            form,
            "valid_days",
            "“Days from the claim”",
            1,
            MAX_VALID_DAYS,
        )?),
    };
    if until.is_some() && days.is_some() {
        return Err(HttpRefusal::typed(
            "Give a time or a number of days, not both.",
        ));
    }
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    let body = json!({"valid_until": until, "valid_days": days});
    Ok((body, codes_end(until, days, zone)))
}

/// Returns a time of a coupon that opens once, as typed in its own zone.
fn typed_time(
    form: &Fields,
    coupon: &CouponSettings,
    field: &str,
    label: &str,
) -> Result<Option<DateTime<Utc>>, HttpRefusal> {
    let text = form.get(field);
    if text.is_empty() {
        return Ok(None);
    }
    let zone = coupon.schedule.as_ref().and_then(Schedule::time_zone);
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M")
        .ok()
        .and_then(|at| zone.unwrap_or_else(Tz::utc).instant(at));
    at.map(Some)
        .ok_or_else(|| HttpRefusal::typed(&format!("“{label}” is no time there.")))
}

/// Adds people to the allow list, or removes them.
pub(crate) async fn change_list(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let how = if form.get("how") == "remove" {
        "remove"
    } else {
        "add"
    };
    let path = format!("/v1/coupons/{}/allow-list/{how}", encoded(&id));
    match page.api_text::<Value>(&path, form.get("people")).await {
        Ok(_) => {
            let to = format!("/coupons/{}?done=listed", encoded(&id));
            Ok(Redirect::to(&to).into_response())
        }
        Err(refusal) => {
            let refused = RefusedForm {
                typed: &form,
                refusal: &refusal,
            };
            shown(&page, &id, &CouponQuery::default(), Some(refused)).await
        }
    }
}
