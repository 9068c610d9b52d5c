//! Handles forms that change coupons or users' coupons. The services make the changes. Operators
//! confirm each change by typing the coupon's name or the user's ID.

use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_notifier::wording::count;
use firstcome_shared::domain::UserId;
use firstcome_shared::http::views::{CouponDrops, DropDetails, ErasedPerson, GivenUp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{NO_API, encoded};
use super::drops::{DropPath, find, refused};
use super::html::{FormRefusal, not_shown, not_understood, notice, unless_named};
use super::people::{self, Search};
use super::session::Session;
use super::state::ScreenState;

/// Maximum number of attempts per change. An attempt fails if a pass takes a revision between two
/// requests.
const ATTEMPTS: usize = 3;

#[derive(Deserialize)]
pub(super) struct OfCoupon {
    /// `pause`, `resume` or `raise`.
    how: String,
    #[serde(default)]
    quantity: String,
    /// The quantity, typed a second time. A typing error could promise ten times as many coupons.
    #[serde(default)]
    again: String,
    #[serde(default)]
    name: String,
}

/// Pauses or resumes a coupon, or raises its quantity.
pub(super) async fn coupon(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    Path(place): Path<DropPath>,
    form: Result<Form<OfCoupon>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    let (what, done) = match asked.how.as_str() {
        "pause" => ("pause", "paused"),
        "resume" => ("resume", "resumed"),
        "raise" => ("raise", "raised"),
        _ => return not_understood(),
    };
    let found = match find(&page, &session, &place).await {
        Ok(found) => found,
        Err(refusal) => return not_shown(refusal),
    };
    if !page.services.has_api() {
        return notice("Not here", StatusCode::NOT_FOUND, &format!("{NO_API}."));
    }
    let changed = async {
        unless_named(&asked.name, &found.coupon.name)?;
        match what {
            "raise" => raise(&page, &session, &place, &asked, found).await,
            _ => pause(&page, &session, &found, what == "pause").await,
        }
    };
    match changed.await {
        Ok(()) => {
            let coupon = encoded(&place.coupon);
            let drop = encoded(&place.drop);
            Redirect::to(&format!("/coupons/{coupon}/drops/{drop}?done={done}")).into_response()
        }
        Err(why) => {
            let typed = [
                ("quantity", asked.quantity.as_str()),
                ("again", &asked.again),
                ("name", &asked.name),
            ];
            refused(&page, &session, &place, why.into_form(what, &typed)).await
        }
    }
}

async fn pause(
    page: &ScreenState,
    session: &Session,
    found: &DropDetails,
    paused: bool,
) -> Result<(), FormRefusal> {
    let path = coupon_path(found);
    let body = json!({"paused": paused});
    let services = &page.services;
    let done = services.ask_api::<Value>(&session.caller, Method::PATCH, &path, &body, None);
    Ok(done.await.map(|_| ())?)
}

/// Raises the quantity. Fails if another operator has changed the quantity since the screen was
/// shown. Other revisions do not matter, because passes also take revisions.
async fn raise(
    page: &ScreenState,
    session: &Session,
    place: &DropPath,
    asked: &OfCoupon,
    found: DropDetails,
) -> Result<(), FormRefusal> {
    let body = json!({"quantity": raised(asked, &found)?});
    let mut seen = found;
    for left in (0..ATTEMPTS).rev() {
        let tag = ("if-match", format!("\"{}\"", seen.coupon.revision));
        let services = &page.services;
        let path = coupon_path(&seen);
        let done =
            services.ask_api::<Value>(&session.caller, Method::PATCH, &path, &body, Some(tag));
        let Err(refusal) = done.await else {
            return Ok(());
        };
        if refusal.status != StatusCode::PRECONDITION_FAILED || left == 0 {
            return Err(refusal.into());
        }
        let now = find(page, session, place).await?;
        if now.coupon.quantity != seen.coupon.quantity {
            return Err(refusal.into());
        }
        seen = now;
    }
    Ok(())
}

fn coupon_path(found: &DropDetails) -> String {
    format!("/v1/coupons/{}", found.coupon.id)
}

/// Checks the new quantity. The API applies it to the coupon and to every drop that is not closed,
/// so it must not lower any of them.
fn raised(asked: &OfCoupon, found: &DropDetails) -> Result<u32, FormRefusal> {
    let most = found.largest_quantity;
    let quantity = asked.quantity.trim().parse::<u32>().ok();
    quantity
        .filter(|quantity| *quantity > most && asked.quantity.trim() == asked.again.trim())
        .ok_or_else(|| {
            let why = format!(
                "Type the same number twice, above the quantity of now ({most}). Nothing was done."
            );
            FormRefusal::typed(why)
        })
}

#[derive(Deserialize)]
pub(super) struct OfPerson {
    coupon: i64,
    person: String,
    /// The drop shown in the user's history.
    drop: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    may_claim_again: Option<String>,
    #[serde(default)]
    name: String,
}

impl OfPerson {
    fn search(&self) -> Search {
        Search {
            coupon: self.coupon.to_string(),
            drop: self.drop.clone(),
            person: self.person.clone(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WhomToErase {
    person: String,
    #[serde(default)]
    typed: String,
    /// The coupon of the history that contains the form.
    #[serde(default)]
    coupon: String,
}

/// Erases a user.
pub(super) async fn erase(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<WhomToErase>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    let Ok(person) = asked.person.parse::<UserId>() else {
        return not_understood();
    };
    match erased(&page, &session, &person, &asked.typed).await {
        Ok(why) => notice("Erased", StatusCode::OK, &why),
        Err(why) => {
            let form = why.into_form("erase", &[("typed", &asked.typed)]);
            let search = Search {
                coupon: asked.coupon,
                drop: String::new(),
                person: asked.person,
            };
            people::refused(&page, &session, search, form).await
        }
    }
}

/// Describes the result of an erasure.
async fn erased(
    page: &ScreenState,
    session: &Session,
    person: &UserId,
    typed: &str,
) -> Result<String, FormRefusal> {
    if typed.trim() != person.as_str() {
        return Err(FormRefusal::typed(
            "What you typed is not the person's id. Nothing was done.",
        ));
    }
    let path = format!("/v1/people/{}/erase", encoded(person.as_str()));
    let erased: ErasedPerson = page.post(session, &path, &Value::Null).await?;
    let rows = usize::try_from(erased.rows).unwrap_or(usize::MAX);
    Ok(format!(
        "{} name {} from now on.",
        count(rows, "row", "rows"),
        erased.pseudonym
    ))
}

/// Checks that the coupon's name was typed as confirmation.
async fn confirmed(
    page: &ScreenState,
    session: &Session,
    coupon: i64,
    typed: &str,
) -> Result<(), FormRefusal> {
    let path = format!("/v1/coupons/{coupon}/drops");
    let found: CouponDrops = page.get(session, &path).await?;
    unless_named(typed, &found.coupon.name)
}

/// Gives up a promise that cannot be kept, after the user was informed.
pub(super) async fn give_up(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<OfPerson>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    let Ok(person) = asked.person.parse::<UserId>() else {
        return not_understood();
    };
    let Ok(drop) = asked.drop.parse::<i64>() else {
        return not_understood();
    };
    match given_up(&page, &session, &asked, drop, &person).await {
        Ok(()) => Redirect::to(people::GIVEN_UP).into_response(),
        Err(why) => {
            let form = why.into_form("give-up", &[("name", &asked.name)]);
            people::refused(&page, &session, asked.search(), form).await
        }
    }
}

async fn given_up(
    page: &ScreenState,
    session: &Session,
    asked: &OfPerson,
    drop: i64,
    person: &UserId,
) -> Result<(), FormRefusal> {
    confirmed(page, session, asked.coupon, &asked.name).await?;
    let coupon = asked.coupon;
    let person = encoded(person.as_str());
    let path = format!("/v1/coupons/{coupon}/people/{person}/give-up");
    let body = json!({"drop_id": drop});
    let done = page.post::<GivenUp>(session, &path, &body);
    Ok(done.await.map(|_| ())?)
}

/// Revokes a user's coupon.
pub(super) async fn revoke(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<OfPerson>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    let Ok(person) = asked.person.parse::<UserId>() else {
        return not_understood();
    };
    match revoked(&page, &session, &asked, &person).await {
        Ok(()) => Redirect::to(people::REVOKED).into_response(),
        Err(why) => {
            let again = if asked.may_claim_again.is_some() {
                "1"
            } else {
                ""
            };
            let typed = [
                ("reason", asked.reason.as_str()),
                ("may_claim_again", again),
                ("name", &asked.name),
            ];
            people::refused(
                &page,
                &session,
                asked.search(),
                why.into_form("revoke", &typed),
            )
            .await
        }
    }
}

async fn revoked(
    page: &ScreenState,
    session: &Session,
    asked: &OfPerson,
    person: &UserId,
) -> Result<(), FormRefusal> {
    confirmed(page, session, asked.coupon, &asked.name).await?;
    let again = asked.may_claim_again.is_some();
    let mut body =
        json!({"reason": asked.reason.trim(), "by": session.name(), "may_claim_again": again});
    if let Ok(drop) = asked.drop.trim().parse::<i64>() {
        body["drop_id"] = drop.into();
    }
    let coupon = asked.coupon;
    let person = encoded(person.as_str());
    let path = format!("/v1/coupons/{coupon}/people/{person}/revoke");
    let services = &page.services;
    let done = services.ask_api::<Value>(&session.caller, Method::POST, &path, &body, None);
    Ok(done.await.map(|_| ())?)
}
