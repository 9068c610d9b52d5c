//! Changes of a coupon and of what people hold, asked for at the page and made by the API. Each is
//! confirmed by typing the coupon's name.

use std::sync::Arc;

use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::mysql::ops_actions::OperatorAct;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::drops::{find, refused};
use super::html::{FormRefusal, not_understood, notice, unless_named};
use super::people::{self, Search};
use super::session::Session;
use super::state::ScreenState;
use crate::execute::{self, EraseError};
use crate::notify::wording::count;

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

/// Asks the API, and notes once who asked from where: the API sees this process only.
async fn ask(page: &ScreenState, session: &Session, change: Change) -> Result<(), FormRefusal> {
    let Some(api) = &page.api else {
        return Err(FormRefusal::new(StatusCode::NOT_FOUND, NO_API));
    };
    // A reason may name the person. The API records it beside their id, where erasing removes both.
    let mut asked = change.body.clone();
    if let Some(asked) = asked.as_object_mut() {
        asked.remove("reason");
    }
    let detail = json!({"asked_for": change.what, "body": asked});
    let act = OperatorAct {
        action: "ask_api",
        coupon: Some(change.coupon),
        drop: change.drop,
        detail,
    };
    let db = &page.app.stores.db;
    db.record_act(session.operator.clone(), act).await?;
    let mut revision = change.judged.as_ref().map(|coupon| coupon.revision);
    for left in (0..ATTEMPTS).rev() {
        let tag = revision.map(|revision| ("if-match", format!("\"{revision}\"")));
        let (method, body) = (change.method.clone(), change.body.clone());
        let Err(refused) = api
            .ask(method, &change.path, body, session.name(), tag)
            .await
        else {
            return Ok(());
        };
        // A pass has a revision of its own for what it writes. What a person changed stops this.
        if let Some(judged) = &change.judged
            && refused.status == StatusCode::PRECONDITION_FAILED
            && left > 0
            && let Ok(Some((now, _))) = db.coupon(change.coupon).await
            && now.quantity == judged.quantity
        {
            revision = Some(now.revision);
        } else {
            return Err(FormRefusal::new(refused.status, refused.why));
        }
    }
    Ok(())
}

/// Said where a form is sent that the page does not show.
const NO_API: &str =
    "This reconciler does not know the API's address: set API_URL, or use firstcome-api coupon.";

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
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    let (what, done) = match asked.how.as_str() {
        "pause" => ("pause", "paused"),
        "resume" => ("resume", "resumed"),
        "raise" => ("raise", "raised"),
        _ => return not_understood(),
    };
    let (coupon, drop, drops) = match find(&page, place).await {
        Ok(found) => found,
        Err(no_such) => return no_such,
    };
    if page.api.is_none() {
        return notice(StatusCode::NOT_FOUND, "Not here", NO_API);
    }
    let place = (coupon.id, drop.id);
    match change(&page, &session, (what, &asked), (coupon, place.1, &drops)).await {
        Ok(()) => Redirect::to(&format!(
            "/coupons/{}/drops/{}?done={done}",
            place.0, place.1
        ))
        .into_response(),
        Err(why) => {
            let typed = [
                ("quantity", asked.quantity.as_str()),
                ("again", &asked.again),
                ("name", &asked.name),
            ];
            refused(&page, &session, place, why.into_form(what, &typed)).await
        }
    }
}

async fn change(
    page: &ScreenState,
    session: &Session,
    (what, asked): (&'static str, &OfCoupon),
    (coupon, drop, drops): (Coupon, DropId, &[Drop]),
) -> Result<(), FormRefusal> {
    let body = match what {
        "raise" => json!({"quantity": raised(asked, &coupon, drops)?}),
        other => json!({"paused": other == "pause"}),
    };
    unless_named(&asked.name, &coupon.name)?;
    let path = format!("/v1/coupons/{}", coupon.id);
    let (coupon_id, drop) = (coupon.id, Some(drop));
    let judged = (what == "raise").then_some(coupon);
    ask(
        page,
        session,
        Change {
            what,
            method: Method::PATCH,
            path,
            body,
            coupon: coupon_id,
            drop,
            judged,
        },
    )
    .await
}

/// The API takes it for the coupon and every drop of it that is not closed: it must raise one of
/// them, and lower none.
fn raised(asked: &OfCoupon, coupon: &Coupon, drops: &[Drop]) -> Result<u32, FormRefusal> {
    let now = drops
        .iter()
        .filter(|drop| drop.sealed_at.is_none())
        .map(|drop| drop.quantity);
    let now: Vec<u32> = now.chain([coupon.quantity]).collect();
    let most = now.iter().copied().max().unwrap_or(u32::MAX);
    let raises = |quantity: &u32| *quantity >= most && now.iter().any(|now| now < quantity);
    let quantity = asked.quantity.trim().parse::<u32>().ok().filter(raises);
    quantity
        .filter(|_| asked.quantity.trim() == asked.again.trim())
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
    /// The drop that the story told of.
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
    /// Of the story that the form is on.
    #[serde(default)]
    coupon: String,
}

/// Erases a person.
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
        Ok(why) => notice(StatusCode::OK, "Erased", &why),
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

/// What was erased, in words.
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
    match execute::erase(&page.app.stores, person, session.operator.clone()).await {
        Ok(erased) => {
            let rows: usize = erased.rows.iter().map(|(_, rows)| rows).sum();
            Ok(format!(
                "{} name {} from now on.",
                count(rows, "row", "rows"),
                erased.pseudonym
            ))
        }
        Err(EraseError::Database(error)) => Err(error.into()),
        Err(refused @ EraseError::StillNeeded(_)) => Err(FormRefusal::new(
            StatusCode::CONFLICT,
            format!("Not erased: {refused}."),
        )),
        Err(EraseError::Redis(error)) => {
            tracing::warn!(%error, "a person could not be erased");
            Err(FormRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Not erased: Redis does not answer right now.",
            ))
        }
        Err(EraseError::OnList(error)) => {
            tracing::warn!(%error, "a person may still be on an allow list");
            let why = "A store did not answer, and they may still be on an allow list. Erase them once more.";
            Err(FormRefusal::new(StatusCode::SERVICE_UNAVAILABLE, why))
        }
    }
}

/// The coupon, whose name was typed to confirm what is asked for.
async fn confirmed(page: &ScreenState, id: i64, typed: &str) -> Result<Coupon, FormRefusal> {
    let found = page.app.stores.db.coupon(CouponId(id)).await?;
    let no_such = || FormRefusal::new(StatusCode::NOT_FOUND, "There is no such coupon.");
    let (coupon, _) = found.ok_or_else(no_such)?;
    unless_named(typed, &coupon.name)?;
    Ok(coupon)
}

/// Notes that a person was told that a promise to them can't be kept.
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
    match given_up(&page, &session, (&asked, DropId(drop)), &person).await {
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
    (asked, drop): (&OfPerson, DropId),
    person: &UserId,
) -> Result<(), FormRefusal> {
    let coupon = confirmed(page, asked.coupon, &asked.name).await?;
    match execute::give_up(
        &page.app.stores,
        (coupon.id, drop),
        person,
        session.operator.clone(),
    )
    .await?
    {
        0 => Err(FormRefusal::new(
            StatusCode::CONFLICT,
            "No broken promise to them is open in that drop.",
        )),
        _ => Ok(()),
    }
}

/// Revokes what a person holds.
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
    let coupon = confirmed(page, asked.coupon, &asked.name).await?;
    let again = asked.may_claim_again.is_some();
    let mut body =
        json!({"reason": asked.reason.trim(), "by": session.name(), "may_claim_again": again});
    let drop = asked.drop.trim().parse::<i64>().ok();
    if let Some(drop) = drop {
        body["drop_id"] = drop.into();
    }
    let encoded = utf8_percent_encode(person.as_str(), NON_ALPHANUMERIC);
    let path = format!("/v1/coupons/{}/people/{encoded}/revoke", coupon.id);
    let drop = drop.map(DropId);
    ask(
        page,
        session,
        Change {
            what: "revoke",
            method: Method::POST,
            path,
            body,
            coupon: coupon.id,
            drop,
            judged: None,
        },
    )
    .await
}
