//! Changes of a coupon and of what people hold, asked for at the page and made by the API. Each is
//! confirmed by typing the coupon's name.

use std::sync::Arc;

use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::mysql::ops_actions::OperatorAct;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::drops::find;
use super::html::{not_understood, notice, unavailable, unless_named};
use super::people;
use super::session::Session;
use super::state::ScreenState;
use crate::execute::{self, EraseError};
use crate::notify::wording::{capital, count};

/// How often a change is asked for at most, when passes take revisions in between.
const ATTEMPTS: usize = 3;

/// A change as the API takes it.
struct Change {
    what: &'static str,
    method: Method,
    path: String,
    body: Value,
    coupon: CouponId,
    drop: Option<DropId>,
    /// The coupon as it was when the change was judged, where that matters.
    judged: Option<Coupon>,
}

/// Asks the API, and notes once who asked from where: the API sees this process only. Gives the
/// answer where it is a refusal.
async fn ask(page: &ScreenState, session: &Session, change: Change) -> Option<Response> {
    let Some(api) = &page.api else {
        let why = "This reconciler does not know the API's address: set API_URL, or use firstcome-api coupon.";
        return Some(notice(StatusCode::NOT_FOUND, "Not here", why));
    };
    let detail = json!({"asked_for": change.what, "body": change.body});
    let act = OperatorAct { action: "ask_api", coupon: Some(change.coupon), drop: change.drop, detail };
    let db = &page.app.stores.db;
    if let Err(error) = db.record_act(session.operator.clone(), act).await {
        return Some(unavailable(error));
    }
    let mut revision = change.judged.as_ref().map(|coupon| coupon.revision);
    for left in (0..ATTEMPTS).rev() {
        let tag = revision.map(|revision| ("if-match", format!("\"{revision}\"")));
        let (method, body) = (change.method.clone(), change.body.clone());
        let refused = api.ask(method, &change.path, body, session.name(), tag).await.err()?;
        // A pass has a revision of its own for what it writes. What a person changed stops this.
        if let Some(judged) = &change.judged
            && refused.status == StatusCode::PRECONDITION_FAILED
            && left > 0
            && let Ok(Some((now, _))) = db.coupon(change.coupon).await
            && now.quantity == judged.quantity
        {
            revision = Some(now.revision);
        } else {
            return Some(notice(refused.status, "Not done", &refused.why));
        }
    }
    None
}

#[derive(Deserialize)]
pub(super) struct OfCoupon {
    /// `pause`, `resume` or `raise`.
    how: String,
    #[serde(default)]
    quantity: String,
    /// The quantity once more: a slip of the finger promises ten times as many.
    #[serde(default)]
    again: String,
    #[serde(default)]
    name: String,
}

/// Pauses, resumes, or raises the quantity.
pub(super) async fn coupon(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    place: Result<Path<(i64, i64)>, PathRejection>,
    form: Result<Form<OfCoupon>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else { return not_understood() };
    let (coupon, drop, drops) = match find(&page, place).await {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let (what, body) = match asked.how.as_str() {
        "pause" => ("pause", json!({"paused": true})),
        "resume" => ("resume", json!({"paused": false})),
        "raise" => {
            let quantity = asked.quantity.trim().parse::<u32>().ok();
            // The API takes it for the coupon and every drop of it that is not closed: it must
            // raise one of them, and lower none.
            let now = drops.iter().filter(|drop| drop.sealed_at.is_none()).map(|drop| drop.quantity);
            let now: Vec<u32> = now.chain([coupon.quantity]).collect();
            let most = now.iter().copied().max().unwrap_or(u32::MAX);
            let raises = |quantity: &u32| *quantity >= most && now.iter().any(|now| now < quantity);
            let typed = quantity.filter(|quantity| raises(quantity) && asked.quantity.trim() == asked.again.trim());
            let Some(quantity) = typed else {
                let why = format!("Type the same number twice, above the quantity of now ({most}). Nothing was done.");
                return notice(StatusCode::BAD_REQUEST, "Not raised", &why);
            };
            ("raise", json!({"quantity": quantity}))
        }
        _ => return not_understood(),
    };
    if let Some(refused) = unless_named(&asked.name, &coupon.name) {
        return refused;
    }
    let path = format!("/v1/coupons/{}", coupon.id);
    let then = format!("/coupons/{}/drops/{}", coupon.id, drop.id);
    let (coupon_id, drop) = (coupon.id, Some(drop.id));
    let judged = (what == "raise").then_some(coupon);
    let change = Change { what, method: Method::PATCH, path, body, coupon: coupon_id, drop, judged };
    if let Some(refused) = ask(&page, &session, change).await {
        return refused;
    }
    Redirect::to(&then).into_response()
}

#[derive(Deserialize)]
pub(super) struct OfPerson {
    coupon: i64,
    person: String,
    /// The drop that the story told of.
    drop: String,
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
    State(page): State<ScreenState>,
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
        Err(EraseError::OnList(error)) => {
            tracing::warn!(%error, "a person may still be on an allow list");
            let why = "A store did not answer, and they may still be on an allow list. Erase them once more.";
            notice(StatusCode::SERVICE_UNAVAILABLE, "Not erased from everywhere", why)
        }
    }
}

/// The coupon, whose name was typed to confirm what is asked for.
async fn confirmed(page: &ScreenState, id: i64, typed: &str) -> Result<Coupon, Response> {
    let found = page.app.stores.db.coupon(CouponId(id)).await.map_err(unavailable)?;
    let no_such = || notice(StatusCode::NOT_FOUND, "No such coupon", "There is no such coupon.");
    let (coupon, _) = found.ok_or_else(no_such)?;
    unless_named(typed, &coupon.name).map_or(Ok(coupon), Err)
}

#[derive(Deserialize)]
pub(super) struct PromiseForm {
    coupon: i64,
    drop: i64,
    person: String,
    #[serde(default)]
    name: String,
}

/// Notes that a person was told that a promise to them can't be kept.
pub(super) async fn give_up(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<PromiseForm>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else { return not_understood() };
    let Ok(person) = asked.person.parse::<UserId>() else { return not_understood() };
    let coupon = match confirmed(&page, asked.coupon, &asked.name).await {
        Ok(coupon) => coupon,
        Err(refused) => return refused,
    };
    let place = (coupon.id, DropId(asked.drop));
    match execute::give_up(&page.app.stores, place, &person, session.operator.clone()).await {
        Ok(0) => notice(StatusCode::CONFLICT, "Nothing is open", "No broken promise to them is open in that drop."),
        Ok(_) => Redirect::to(people::GIVEN_UP).into_response(),
        Err(error) => unavailable(error),
    }
}

/// Revokes what a person holds.
pub(super) async fn revoke(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<OfPerson>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else { return not_understood() };
    let Ok(person) = asked.person.parse::<UserId>() else { return not_understood() };
    let coupon = match confirmed(&page, asked.coupon, &asked.name).await {
        Ok(coupon) => coupon,
        Err(refused) => return refused,
    };
    let again = asked.may_claim_again.is_some();
    let mut body = json!({"reason": asked.reason.trim(), "by": session.name(), "may_claim_again": again});
    let drop = asked.drop.trim().parse::<i64>().ok();
    if let Some(drop) = drop {
        body["drop_id"] = drop.into();
    }
    let encoded = utf8_percent_encode(person.as_str(), NON_ALPHANUMERIC);
    let path = format!("/v1/coupons/{}/people/{encoded}/revoke", coupon.id);
    let drop = drop.map(DropId);
    let change = Change { what: "revoke", method: Method::POST, path, body, coupon: coupon.id, drop, judged: None };
    if let Some(refused) = ask(&page, &session, change).await {
        return refused;
    }
    Redirect::to(people::REVOKED).into_response()
}
