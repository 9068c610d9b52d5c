//! Dead letters: why each is there, what its message was, and the correcting or discarding of one
//! by hand. Ids are masked, and messages kept back, until somebody reveals them, which is recorded.

mod many;

use std::collections::HashSet;
use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::dead_letters::{Correction, DeadLetterQuery, DeadLetterRow, Payload};
use firstcome_shared::mysql::ops_actions::OperatorAct;
use serde::Deserialize;
use serde_json::json;

pub(super) use self::many::discard_all;
use self::many::{ForAll, ReasonChoice, choices, for_all};
use super::board::instant;
use super::html::{Top, answer, notice, unavailable, unless_named};
use super::people::Search;
use super::session::Session;
use super::state::ScreenState;
use crate::execute;
use crate::notify::wording::{LONGEST, count, detail, line, person};

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct DeadLettersScreen<'a> {
    top: Top<'a>,
    letters: &'a [LetterLine],
    /// Those that are dealt with, instead of those that are open.
    resolved: bool,
    /// What is filtered by.
    drop: Option<i64>,
    reason: Option<&'a str>,
    reasons: &'a [ReasonChoice],
    /// What can be done with all that the filter finds.
    for_all: Option<&'a ForAll>,
    page: u32,
    has_more: bool,
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct DeadLetterScreen<'a> {
    top: Top<'a>,
    letter: &'a LetterView,
    revealed: bool,
}

/// Dead letters on a page, and most pages.
const PAGE: u32 = 50;
const PAGES: u32 = 200;

/// Longest part of a message that is shown, in characters.
const MESSAGE: usize = 2_000;

/// Longest reason for discarding one, in characters.
const WHY: usize = 200;

/// One in the list.
pub(super) struct LetterLine {
    pub(super) id: i64,
    pub(super) at: String,
    pub(super) reason: String,
    pub(super) drop: Option<i64>,
    pub(super) place: String,
    pub(super) slot: String,
    pub(super) person: String,
    /// What became of it, or the error.
    pub(super) what: String,
}

/// One alone.
pub(super) struct LetterView {
    pub(super) line: LetterLine,
    pub(super) claimed: String,
    pub(super) source: String,
    pub(super) resolved: Option<String>,
    /// Its message, once it is revealed.
    pub(super) message: Option<String>,
    pub(super) length: String,
    /// The coupon's name, which is typed to discard the dead letter.
    pub(super) coupon: Option<String>,
    /// Where a pass over its drop is asked for.
    pub(super) drop_page: Option<String>,
    /// What leads to the person's story, once they are revealed.
    pub(super) story: Option<Search>,
    /// What may be corrected, once it is revealed.
    pub(super) claim: ClaimFields,
}

/// A claim as the form for correcting it shows it; empty: not known.
#[derive(Default)]
pub(super) struct ClaimFields {
    pub(super) coupon: String,
    pub(super) drop: String,
    pub(super) slot: String,
    pub(super) person: String,
}

impl ClaimFields {
    fn of(letter: &DeadLetterRow) -> Self {
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        Self {
            coupon: number(letter.coupon_id),
            drop: number(letter.drop_id),
            slot: number(letter.slot),
            person: letter.user_id.clone().unwrap_or_default(),
        }
    }
}

#[derive(Deserialize, Default)]
pub(super) struct DeadLettersScreenQuery {
    #[serde(default)]
    status: String,
    drop: Option<i64>,
    reason: Option<String>,
    #[serde(default)]
    page: u32,
}

pub(super) async fn list(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<DeadLettersScreenQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    page.slowly(listed(&page, &session, query)).await
}

async fn listed(page: &ScreenState, session: &Session, query: DeadLettersScreenQuery) -> Response {
    let (resolved, number) = (query.status == "resolved", query.page.clamp(1, PAGES));
    let reason = query.reason.filter(|reason| !reason.is_empty());
    let wanted = DeadLetterQuery { resolved, drop: query.drop.map(DropId), reason: reason.clone() };
    let db = &page.app.stores.db;
    let reasons = choices(db, &wanted).await;
    let for_all = match for_all(db, &wanted).await {
        Ok(found) => found,
        Err(error) => return unavailable(error),
    };
    let found = match db.list_dead_letters(wanted, (number - 1) * PAGE, PAGE + 1).await {
        Ok(found) => found,
        Err(error) => return unavailable(error),
    };
    let has_more = found.len() > PAGE as usize && number < PAGES;
    let letters: Vec<LetterLine> = found.iter().take(PAGE as usize).map(|letter| letter_line(letter, false)).collect();
    let top = Top::new("Dead letters", "dead-letters", Some(session));
    let (reason, drop) = (reason.as_deref(), query.drop);
    answer(
        StatusCode::OK,
        &DeadLettersScreen {
            top,
            letters: &letters,
            resolved,
            drop,
            reason,
            reasons: &reasons,
            for_all: for_all.as_ref(),
            page: number,
            has_more,
        },
    )
}

fn letter_line(letter: &DeadLetterRow, revealed: bool) -> LetterLine {
    let dash = || "–".to_owned();
    let number = |number: Option<i64>| number.map_or_else(dash, |number| number.to_string());
    let people: HashSet<&str> = letter.user_id.as_deref().into_iter().collect();
    let what = letter.resolution.as_deref().map(|how| {
        letter.resolution_detail.as_deref().map_or_else(|| how.to_owned(), |detail| format!("{how}: {detail}"))
    });
    let what = what.or_else(|| letter.error.clone()).unwrap_or_default();
    let shown = |id: &String| if revealed { line(id, LONGEST) } else { person(id) };
    LetterLine {
        id: letter.id,
        at: instant(letter.failed_at.and_utc()),
        reason: line(&letter.reason, LONGEST),
        drop: letter.drop_id,
        place: format!("coupon {}, drop {}", number(letter.coupon_id), number(letter.drop_id)),
        slot: number(letter.slot),
        person: letter.user_id.as_ref().map_or_else(|| "nobody".to_owned(), shown),
        what: if revealed { line(&what, LONGEST) } else { detail(&what, &people) },
    }
}

type Id = Result<Path<i64>, PathRejection>;

pub(super) async fn read(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
) -> Response {
    shown(&page, &session, id, false).await
}

pub(super) async fn reveal(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
) -> Response {
    shown(&page, &session, id, true).await
}

fn no_such() -> Response {
    notice(StatusCode::NOT_FOUND, "No such dead letter", "There is no such dead letter, or it was deleted with age.")
}

/// The coupon that a dead letter names, by its name, and its drop's page where there is such a
/// drop.
async fn named(page: &ScreenState, letter: &DeadLetterRow) -> Result<(Option<String>, Option<String>), DbError> {
    let Some(coupon) = letter.coupon_id.map(CouponId) else { return Ok((None, None)) };
    let Some((coupon, drops)) = page.app.stores.db.coupon(coupon).await? else { return Ok((None, None)) };
    let drop = drops.iter().find(|drop| Some(drop.id.0) == letter.drop_id);
    let drop_page = drop.map(|drop| format!("/coupons/{}/drops/{}", coupon.id, drop.id));
    Ok((Some(line(&coupon.name, LONGEST)), drop_page))
}

async fn shown(page: &ScreenState, session: &Session, id: Id, reveal: bool) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let (letter, payload) = match page.app.stores.db.dead_letter(id).await {
        Ok(Some(found)) => found,
        Ok(None) => return no_such(),
        Err(error) => return unavailable(error),
    };
    if reveal {
        let act = OperatorAct { action: "reveal", detail: json!({"dead_letter": id}), ..OperatorAct::default() };
        // Before anything is shown.
        if let Err(error) = page.app.stores.db.record_act(session.operator.clone(), act).await {
            return unavailable(error);
        }
    }
    let (coupon, drop_page) = match named(page, &letter).await {
        Ok(named) => named,
        Err(error) => return unavailable(error),
    };
    let is_known = reveal && coupon.is_some();
    let story = letter.coupon_id.zip(letter.user_id.as_ref()).filter(|_| is_known).map(|(coupon, person)| Search {
        coupon: coupon.to_string(),
        drop: letter.drop_id.filter(|_| drop_page.is_some()).map(|drop| drop.to_string()).unwrap_or_default(),
        person: person.clone(),
    });
    let view = LetterView { coupon, drop_page, story, ..view(&letter, &payload, reveal) };
    let top = Top::new("One dead letter", "dead-letters", Some(session));
    answer(StatusCode::OK, &DeadLetterScreen { top, letter: &view, revealed: reveal })
}

fn view(letter: &DeadLetterRow, payload: &Payload, revealed: bool) -> LetterView {
    let message = payload.beginning.as_deref().filter(|_| revealed);
    let from = letter.source_partition.zip(letter.source_offset);
    LetterView {
        line: letter_line(letter, revealed),
        claimed: letter.claimed_at.map_or_else(|| "not known".to_owned(), |at| instant(at.and_utc())),
        source: from.map_or_else(
            || "not from the topic".to_owned(),
            |(partition, offset)| format!("partition {partition}, offset {offset}"),
        ),
        resolved: letter.resolved_at.map(|at| instant(at.and_utc())),
        message: message.map(|bytes| line(&String::from_utf8_lossy(bytes), MESSAGE)),
        length: count(usize::try_from(payload.bytes).unwrap_or(0), "byte", "bytes"),
        coupon: None,
        drop_page: None,
        story: None,
        claim: if revealed { ClaimFields::of(letter) } else { ClaimFields::default() },
    }
}

#[derive(Deserialize, Default)]
pub(super) struct Correct {
    #[serde(default)]
    coupon: String,
    #[serde(default)]
    drop: String,
    #[serde(default)]
    slot: String,
    #[serde(default)]
    person: String,
    /// The coupon's name.
    #[serde(default)]
    name: String,
}

/// Corrects which claim a dead letter is of. The next pass over its drop issues it.
pub(super) async fn correct(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
    form: Result<Form<Correct>, FormRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let typed = form.map(|Form(typed)| typed).unwrap_or_default();
    let wrong = |why: &str| notice(StatusCode::BAD_REQUEST, "Not corrected", &format!("{why} Nothing was done."));
    let (Ok(coupon), Ok(drop)) = (typed.coupon.trim().parse::<i64>(), typed.drop.trim().parse::<i64>()) else {
        return wrong("Give the coupon and the drop by their numbers.");
    };
    let found = match page.app.stores.db.coupon(CouponId(coupon)).await {
        Ok(found) => found.and_then(|(coupon, drops)| Some((drops.into_iter().find(|of| of.id.0 == drop)?, coupon))),
        Err(error) => return unavailable(error),
    };
    let Some((drop, coupon)) = found else { return wrong("There is no such coupon, or it has no such drop.") };
    let slot = typed.slot.trim().parse::<Slot>().ok().filter(|slot| (1..=drop.quantity).contains(slot));
    let Some(slot) = slot else { return wrong(&format!("The drop has the slots 1 to {}.", drop.quantity)) };
    let Ok(user) = typed.person.trim().parse::<UserId>() else { return wrong("That is no person's id.") };
    if let Some(refused) = unless_named(&typed.name, &coupon.name) {
        return refused;
    }
    let to = Correction { coupon: coupon.id, drop: drop.id, slot, user };
    match execute::correct(&page.app.stores, id, to, session.operator.clone()).await {
        Ok(true) => Redirect::to(&format!("/dead-letters/{id}")).into_response(),
        Ok(false) => notice(StatusCode::CONFLICT, "Not corrected", "It has been dealt with already."),
        Err(error) => unavailable(error),
    }
}

#[derive(Deserialize)]
pub(super) struct Discard {
    #[serde(default)]
    why: String,
    /// The coupon's name, where the dead letter names one.
    #[serde(default)]
    name: String,
}

/// Discards a dead letter: no pass looks at it again.
pub(super) async fn discard(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
    form: Result<Form<Discard>, FormRejection>,
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let Ok(Form(Discard { why, name })) = form else {
        return refused("The form is not of this page. Nothing was done.");
    };
    let why = line(&why, WHY);
    if why.is_empty() {
        return refused("Say why it is discarded. Nothing was done: go back and try again.");
    }
    let named = match page.app.stores.db.dead_letter(id).await {
        Ok(Some((letter, _))) => named(&page, &letter).await,
        Ok(None) => return no_such(),
        Err(error) => Err(error),
    };
    match named {
        Ok((Some(coupon), _)) if line(&name, LONGEST) != coupon => {
            return refused("What you typed is not the coupon's name. Nothing was done: go back and try again.");
        }
        Ok(_) => {}
        Err(error) => return unavailable(error),
    }
    let why = format!("{why} ({})", session.name());
    match execute::discard(&page.app.stores, id, why, session.operator.clone()).await {
        Ok(true) => Redirect::to(&format!("/dead-letters/{id}")).into_response(),
        Ok(false) => notice(StatusCode::CONFLICT, "Not discarded", "It has been dealt with already."),
        Err(error) => unavailable(error),
    }
}

fn refused(why: &str) -> Response {
    notice(StatusCode::BAD_REQUEST, "Not discarded", why)
}
