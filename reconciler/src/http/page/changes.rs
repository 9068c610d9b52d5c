//! Changes of a coupon and of what people hold, asked for at the page and made by the API. Each is
//! confirmed by typing the coupon's name.

use std::sync::Arc;

use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::mysql::ops_actions::Act;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Page;
use super::drops::find;
use super::html::{notice, unavailable};
use super::session::Session;
use crate::execute::{self, EraseError};
use crate::notify::wording::{LONGEST, capital, count, line};

/// A change as the API takes it.
struct Change {
    what: &'static str,
    method: Method,
    path: String,
    body: Value,
    coupon: CouponId,
    drop: Option<DropId>,
}

fn not_understood() -> Response {
    notice(StatusCode::BAD_REQUEST, "Not understood", "The form is not of this page. Nothing was done.")
}

fn not_confirmed() -> Response {
    let why = "What you typed is not the coupon's name. Nothing was done: go back and try again.";
    notice(StatusCode::BAD_REQUEST, "Not confirmed", why)
}

/// Asks the API, and notes who asked from where: the API sees this process only.
async fn ask(page: &Page, session: &Session, change: Change, then: &str) -> Response {
    let Some(api) = &page.api else {
        let why = "This reconciler does not know the API's address: set API_URL, or use firstcome-api coupon.";
        return notice(StatusCode::NOT_FOUND, "Not here", why);
    };
    let detail = json!({"asked_for": change.what, "body": change.body});
    let act = Act { action: "ask_api", coupon: Some(change.coupon), drop: change.drop, detail };
    if let Err(error) = page.app.stores.db.record_act(session.operator.clone(), act).await {
        return unavailable(error);
    }
    match api.ask(change.method, &change.path, change.body, session.name(), None).await {
        Ok(_) => Redirect::to(then).into_response(),
        Err(refused) => notice(refused.status, "Not done", &refused.why),
    }
}

#[derive(Deserialize)]
pub(super) struct OfCoupon {
    /// `pause`, `resume` or `raise`.
    how: String,
    #[serde(default)]
    quantity: String,
    #[serde(default)]
    name: String,
}

/// Pauses, resumes, or raises the quantity.
pub(super) async fn coupon(
    State(page): State<Page>,
    Extension(session): Extension<Arc<Session>>,
    place: Result<Path<(i64, i64)>, PathRejection>,
    form: Result<Form<OfCoupon>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else { return not_understood() };
    let (coupon, drop) = match find(&page, place).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let (what, body) = match asked.how.as_str() {
        "pause" => ("pause", json!({"paused": true})),
        "resume" => ("resume", json!({"paused": false})),
        "raise" => match asked.quantity.trim().parse::<u32>() {
            Ok(quantity) if quantity > drop.quantity => ("raise", json!({"quantity": quantity})),
            _ => {
                let why = "The new quantity must be a number above what is promised now. Nothing was done.";
                return notice(StatusCode::BAD_REQUEST, "Not raised", why);
            }
        },
        _ => return not_understood(),
    };
    // Un-pausing gives nobody anything that was not promised.
    if what != "resume" && line(&asked.name, LONGEST) != line(&coupon.name, LONGEST) {
        return not_confirmed();
    }
    let path = format!("/v1/coupons/{}", coupon.id);
    let then = format!("/coupons/{}/drops/{}", coupon.id, drop.id);
    let change = Change { what, method: Method::PATCH, path, body, coupon: coupon.id, drop: Some(drop.id) };
    ask(&page, &session, change, &then).await
}

#[derive(Deserialize)]
pub(super) struct OfPerson {
    coupon: i64,
    person: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    may_claim_again: Option<String>,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
pub(super) struct WhomToErase {
    person: String,
    #[serde(default)]
    typed: String,
}

/// Erases a person.
pub(super) async fn erase(
    State(page): State<Page>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<WhomToErase>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else { return not_understood() };
    let Ok(person) = asked.person.parse::<UserId>() else { return not_understood() };
    if asked.typed.trim() != person.as_str() {
        let why = "What you typed is not the person's id. Nothing was done: go back and try again.";
        return notice(StatusCode::BAD_REQUEST, "Not confirmed", why);
    }
    match execute::erase(&page.app.stores, &person, session.operator.clone()).await {
        Ok(erased) => {
            let rows: usize = erased.rows.iter().map(|(_, rows)| rows).sum();
            let why = format!("{} name {} from now on.", count(rows, "row", "rows"), erased.pseudonym);
            notice(StatusCode::OK, "Erased", &why)
        }
        Err(EraseError::Database(error)) => unavailable(error),
        Err(refused @ EraseError::StillNeeded(_)) => {
            notice(StatusCode::CONFLICT, "Not erased", &format!("{}.", capital(&refused.to_string())))
        }
        Err(EraseError::Redis(error)) => {
            tracing::warn!(%error, "a person could not be erased");
            notice(StatusCode::SERVICE_UNAVAILABLE, "Not erased", "Redis does not answer right now.")
        }
    }
}

/// Revokes what a person holds.
pub(super) async fn revoke(
    State(page): State<Page>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<OfPerson>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else { return not_understood() };
    let Ok(person) = asked.person.parse::<UserId>() else { return not_understood() };
    let coupon = match page.app.stores.db.coupon(CouponId(asked.coupon)).await {
        Ok(Some((coupon, _))) => coupon,
        Ok(None) => return notice(StatusCode::NOT_FOUND, "No such coupon", "There is no such coupon."),
        Err(error) => return unavailable(error),
    };
    if line(&asked.name, LONGEST) != line(&coupon.name, LONGEST) {
        return not_confirmed();
    }
    let again = asked.may_claim_again.is_some();
    let body = json!({"reason": asked.reason.trim(), "by": session.name(), "may_claim_again": again});
    let encoded = utf8_percent_encode(person.as_str(), NON_ALPHANUMERIC);
    let path = format!("/v1/coupons/{}/people/{encoded}/revoke", coupon.id);
    let then = format!("/people?coupon={}&person={encoded}", coupon.id);
    let change = Change { what: "revoke", method: Method::POST, path, body, coupon: coupon.id, drop: None };
    ask(&page, &session, change, &then).await
}
