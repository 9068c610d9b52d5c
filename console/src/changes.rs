//! Handles forms that change coupons or users' coupons. The services make the changes. Operators
//! confirm each change by typing the coupon's name or the user's ID.

use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_notifier::wording::count;
use firstcome_shared::domain::UserId;
use firstcome_shared::http::views::{CouponDrops, DropDetails, ErasedPerson, GivenUp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{HttpRefusal, NO_API, encoded};
use super::drops::{DropPath, find, refused};
use super::html::{not_understood, notice, unless_named};
use super::people::{self, Search};
use super::state::{OwnForm, Page};

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
    page: Page,
    Path(place): Path<DropPath>,
    OwnForm(asked): OwnForm<OfCoupon>,
) -> Result<Response, HttpRefusal> {
    let (what, done) = match asked.how.as_str() {
        "pause" => ("pause", "paused"),
        "resume" => ("resume", "resumed"),
        "raise" => ("raise", "raised"),
        _ => return Ok(not_understood()),
    };
    let found = find(&page, &place).await?;
    if !page.has_api() {
        let why = format!("{NO_API}.");
        return Ok(notice("Not here", StatusCode::NOT_FOUND, &why));
    }
    let changed = async {
        unless_named(&asked.name, &found.coupon.name)?;
        match what {
            "raise" => raise(&page, &place, &asked, found).await,
            _ => pause(&page, &found, what == "pause").await,
        }
    };
    match changed.await {
        Ok(()) => {
            let coupon = encoded(&place.coupon);
            let drop = encoded(&place.drop);
            let to = format!("/coupons/{coupon}/drops/{drop}?done={done}");
            Ok(Redirect::to(&to).into_response())
        }
        Err(why) => {
            let typed = [
                ("quantity", asked.quantity.as_str()),
                ("again", &asked.again),
                ("name", &asked.name),
            ];
            refused(&page, &place, why.form(what, &typed)).await
        }
    }
}

async fn pause(page: &Page, found: &DropDetails, paused: bool) -> Result<(), HttpRefusal> {
    let path = coupon_path(found);
    let body = json!({"paused": paused});
    let done = page.api::<Value>(Method::PATCH, &path, &body, None);
    done.await.map(|_| ())
}

/// Raises the quantity. Fails if another operator has changed the quantity since the screen was
/// shown. Other revisions do not matter, because passes also take revisions.
async fn raise(
    page: &Page,
    place: &DropPath,
    asked: &OfCoupon,
    found: DropDetails,
) -> Result<(), HttpRefusal> {
    let body = json!({"quantity": raised(asked, &found)?});
    let mut seen = found;
    for left in (0..ATTEMPTS).rev() {
        let tag = ("if-match", format!("\"{}\"", seen.coupon.revision));
        let path = coupon_path(&seen);
        let done = page.api::<Value>(Method::PATCH, &path, &body, Some(tag));
        let Err(refusal) = done.await else {
            return Ok(());
        };
        if refusal.status != StatusCode::PRECONDITION_FAILED || left == 0 {
            return Err(refusal);
        }
        let now = find(page, place).await?;
        if now.coupon.quantity != seen.coupon.quantity {
            return Err(refusal);
        }
        seen = now;
    }
    Ok(())
}

fn coupon_path(found: &DropDetails) -> String {
    format!("/v1/coupons/{}", found.coupon.id)
}

/// Checks the new quantity. The API applies it to the coupon and to every drop that is not closed,
/// so it must not lower any of them. If this drop alone has a lower quantity, the largest one is
/// enough.
fn raised(asked: &OfCoupon, found: &DropDetails) -> Result<u32, HttpRefusal> {
    let own = found.overview.drops.first();
    let own = own.map_or(found.largest_quantity, |drop| drop.quantity);
    let least = found.largest_quantity.max(own.saturating_add(1));
    let quantity = asked.quantity.trim().parse::<u32>().ok();
    quantity
        .filter(|quantity| *quantity >= least && asked.quantity.trim() == asked.again.trim())
        .ok_or_else(|| {
            let why = format!("Type the same number twice, {least} at least. Nothing was done.");
            HttpRefusal::typed(why)
        })
}

#[derive(Deserialize)]
pub(super) struct OfPerson {
    coupon: i64,
    person: UserId,
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
            person: self.person.to_string(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WhomToErase {
    person: UserId,
    #[serde(default)]
    typed: String,
    /// The coupon of the history that contains the form.
    #[serde(default)]
    coupon: String,
}

/// Erases a user.
pub(super) async fn erase(page: Page, OwnForm(asked): OwnForm<WhomToErase>) -> Response {
    match erased(&page, &asked.person, &asked.typed).await {
        Ok(why) => notice("Erased", StatusCode::OK, &why),
        Err(why) => {
            let form = why.form("erase", &[("typed", &asked.typed)]);
            let search = Search {
                coupon: asked.coupon,
                drop: String::new(),
                person: asked.person.into(),
            };
            people::refused(&page, search, form).await
        }
    }
}

/// Describes the result of an erasure.
async fn erased(page: &Page, person: &UserId, typed: &str) -> Result<String, HttpRefusal> {
    if typed.trim() != person.as_str() {
        return Err(HttpRefusal::typed(
            "What you typed is not the person's id. Nothing was done.",
        ));
    }
    let path = format!("/v1/people/{}/erase", encoded(person.as_str()));
    let erased: ErasedPerson = page.post(&path, &Value::Null).await?;
    Ok(format!(
        "{} name {} from now on.",
        count(erased.rows, "row", "rows"),
        erased.pseudonym
    ))
}

/// Checks that the coupon's name was typed as confirmation.
async fn confirmed(page: &Page, coupon: i64, typed: &str) -> Result<(), HttpRefusal> {
    let path = format!("/v1/coupons/{coupon}/drops");
    let found: CouponDrops = page.get(&path).await?;
    unless_named(typed, &found.coupon.name)
}

/// Gives up a promise that cannot be kept, after the user was informed.
pub(super) async fn give_up(page: Page, OwnForm(asked): OwnForm<OfPerson>) -> Response {
    let Ok(drop) = asked.drop.parse::<i64>() else {
        return not_understood();
    };
    match given_up(&page, &asked, drop).await {
        Ok(()) => Redirect::to(people::GIVEN_UP).into_response(),
        Err(why) => {
            let form = why.form("give-up", &[("name", &asked.name)]);
            people::refused(&page, asked.search(), form).await
        }
    }
}

async fn given_up(page: &Page, asked: &OfPerson, drop: i64) -> Result<(), HttpRefusal> {
    confirmed(page, asked.coupon, &asked.name).await?;
    let coupon = asked.coupon;
    let person = encoded(asked.person.as_str());
    let path = format!("/v1/coupons/{coupon}/people/{person}/give-up");
    let body = json!({"drop_id": drop});
    let done = page.post::<GivenUp>(&path, &body);
    done.await.map(|_| ())
}

/// Revokes a user's coupon.
pub(super) async fn revoke(page: Page, OwnForm(asked): OwnForm<OfPerson>) -> Response {
    match revoked(&page, &asked).await {
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
            people::refused(&page, asked.search(), why.form("revoke", &typed)).await
        }
    }
}

async fn revoked(page: &Page, asked: &OfPerson) -> Result<(), HttpRefusal> {
    confirmed(page, asked.coupon, &asked.name).await?;
    let again = asked.may_claim_again.is_some();
    let mut body =
        json!({"reason": asked.reason.trim(), "by": page.session.name(), "may_claim_again": again});
    if let Ok(drop) = asked.drop.trim().parse::<i64>() {
        body["drop_id"] = drop.into();
    }
    let coupon = asked.coupon;
    let person = encoded(asked.person.as_str());
    let path = format!("/v1/coupons/{coupon}/people/{person}/revoke");
    let done = page.api::<Value>(Method::POST, &path, &body, None);
    done.await.map(|_| ())
}
