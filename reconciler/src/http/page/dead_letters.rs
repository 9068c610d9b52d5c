//! Dead letters: why each is there, what its message was, and the correcting or discarding of one
//! by hand. Ids are masked, and messages kept back, until somebody reveals them, which is recorded.

mod many;
mod one;

use std::collections::HashSet;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::dead_letters::{DeadLetterQuery, DeadLetterRow, Payload};
use firstcome_shared::mysql::ops_actions::OperatorAct;
use serde::Deserialize;
use serde_json::json;

pub(super) use self::many::discard_all;
use self::many::{ForAll, ReasonChoice, choices, for_all};
pub(super) use self::one::{correct, discard};
use super::html::{JustDone, RefusedForm, Top, answer, notice, unavailable};
use super::people::Search;
use super::session::Session;
use super::state::ScreenState;
use super::times::instant;
use crate::notify::wording::{LONGEST, capital, count, detail, line, person};

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
    refused: &'a RefusedForm,
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct DeadLetterScreen<'a> {
    top: Top<'a>,
    letter: &'a LetterView,
    revealed: bool,
    refused: &'a RefusedForm,
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
    /// What a pass said of it when it left it, and when.
    pub(super) left: Option<(String, String)>,
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
        let number =
            |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
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
    #[serde(default)]
    done: String,
}

pub(super) async fn list(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<DeadLettersScreenQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    page.slowly(
        &session,
        listed(&page, &session, query, &RefusedForm::default()),
    )
    .await
}

async fn listed(
    page: &ScreenState,
    session: &Session,
    query: DeadLettersScreenQuery,
    refused: &RefusedForm,
) -> Response {
    let (resolved, number) = (query.status == "resolved", query.page.clamp(1, PAGES));
    let reason = query.reason.filter(|reason| !reason.is_empty());
    let wanted = DeadLetterQuery {
        resolved,
        drop: query.drop.map(DropId),
        reason: reason.clone(),
    };
    let db = &page.app.stores.db;
    let reasons = choices(db, &wanted).await;
    let for_all = match for_all(db, &wanted).await {
        Ok(found) => found,
        Err(error) => return unavailable(error),
    };
    let found = match db
        .list_dead_letters(wanted, (number - 1) * PAGE, PAGE + 1)
        .await
    {
        Ok(found) => found,
        Err(error) => return unavailable(error),
    };
    let has_more = found.len() > PAGE as usize && number < PAGES;
    let letters: Vec<LetterLine> = found
        .iter()
        .take(PAGE as usize)
        .map(|letter| letter_line(letter, false))
        .collect();
    let done = if query.done == "discarded" {
        "Discarded. They are among those dealt with."
    } else {
        ""
    };
    let top = Top {
        done,
        ..Top::new("Dead letters", "dead-letters", Some(session))
    };
    let (reason, drop) = (reason.as_deref(), query.drop);
    answer(
        refused.status(),
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
            refused,
        },
    )
}

fn letter_line(letter: &DeadLetterRow, revealed: bool) -> LetterLine {
    let dash = || "–".to_owned();
    let number = |number: Option<i64>| number.map_or_else(dash, |number| number.to_string());
    let people: HashSet<&str> = letter.user_id.as_deref().into_iter().collect();
    let what = letter.resolution.as_deref().map(|how| {
        letter
            .resolution_detail
            .as_deref()
            .map_or_else(|| how.to_owned(), |detail| format!("{how}: {detail}"))
    });
    let what = what.or_else(|| letter.error.clone()).unwrap_or_default();
    let shown = |id: &String| {
        if revealed {
            line(id, LONGEST)
        } else {
            person(id)
        }
    };
    LetterLine {
        id: letter.id,
        at: instant(letter.failed_at.and_utc()),
        reason: line(&letter.reason, LONGEST),
        drop: letter.drop_id,
        place: format!(
            "coupon {}, drop {}",
            number(letter.coupon_id),
            number(letter.drop_id)
        ),
        slot: number(letter.slot),
        person: letter
            .user_id
            .as_ref()
            .map_or_else(|| "nobody".to_owned(), shown),
        what: if revealed {
            line(&what, LONGEST)
        } else {
            detail(&what, &people)
        },
    }
}

type Id = Result<Path<i64>, PathRejection>;

pub(super) async fn read(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
    just: Result<Query<JustDone>, QueryRejection>,
) -> Response {
    let just = just.map(|Query(just)| just).unwrap_or_default();
    shown(
        &page,
        &session,
        id,
        false,
        (just.done.as_str(), &RefusedForm::default()),
    )
    .await
}

pub(super) async fn reveal(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    id: Id,
) -> Response {
    shown(&page, &session, id, true, ("", &RefusedForm::default())).await
}

fn no_such() -> Response {
    notice(
        StatusCode::NOT_FOUND,
        "No such dead letter",
        "There is no such dead letter, or it was deleted with age.",
    )
}

/// The coupon that a dead letter names, by its name, and its drop's page where there is such a
/// drop.
async fn named(
    page: &ScreenState,
    letter: &DeadLetterRow,
) -> Result<(Option<String>, Option<String>), DbError> {
    let Some(coupon) = letter.coupon_id.map(CouponId) else {
        return Ok((None, None));
    };
    let Some((coupon, drops)) = page.app.stores.db.coupon(coupon).await? else {
        return Ok((None, None));
    };
    let drop = drops.iter().find(|drop| Some(drop.id.0) == letter.drop_id);
    let drop_page = drop.map(|drop| format!("/coupons/{}/drops/{}", coupon.id, drop.id));
    Ok((Some(line(&coupon.name, LONGEST)), drop_page))
}

async fn shown(
    page: &ScreenState,
    session: &Session,
    id: Id,
    reveal: bool,
    (done, refused): (&str, &RefusedForm),
) -> Response {
    let Ok(Path(id)) = id else { return no_such() };
    let (letter, payload) = match page.app.stores.db.dead_letter(id).await {
        Ok(Some(found)) => found,
        Ok(None) => return no_such(),
        Err(error) => return unavailable(error),
    };
    if reveal {
        let act = OperatorAct {
            action: "reveal",
            detail: json!({"dead_letter": id}),
            ..OperatorAct::default()
        };
        // Before anything is shown.
        if let Err(error) = page
            .app
            .stores
            .db
            .record_act(session.operator.clone(), act)
            .await
        {
            return unavailable(error);
        }
    }
    let read = async {
        Ok::<_, DbError>((
            named(page, &letter).await?,
            left(page, &letter, reveal).await?,
        ))
    };
    let ((coupon, drop_page), left) = match read.await {
        Ok(read) => read,
        Err(error) => return unavailable(error),
    };
    let is_known = reveal && coupon.is_some();
    let story = letter
        .coupon_id
        .zip(letter.user_id.as_ref())
        .filter(|_| is_known)
        .map(|(coupon, person)| Search {
            coupon: coupon.to_string(),
            drop: letter
                .drop_id
                .filter(|_| drop_page.is_some())
                .map(|drop| drop.to_string())
                .unwrap_or_default(),
            person: person.clone(),
        });
    let done = match (done, letter.resolved_at.is_some()) {
        ("corrected", false) => "Corrected. The next pass over its drop issues it.",
        ("discarded", true) => "Discarded. No pass looks at it again.",
        _ => "",
    };
    let view = LetterView {
        left,
        coupon,
        drop_page,
        story,
        ..view(&letter, &payload, reveal)
    };
    let top = Top {
        done,
        ..Top::new("One dead letter", "dead-letters", Some(session))
    };
    answer(
        refused.status(),
        &DeadLetterScreen {
            top,
            letter: &view,
            revealed: reveal,
            refused,
        },
    )
}

/// What a pass said of an open one when it left it.
async fn left(
    page: &ScreenState,
    letter: &DeadLetterRow,
    revealed: bool,
) -> Result<Option<(String, String)>, DbError> {
    if letter.resolved_at.is_some() {
        return Ok(None);
    }
    let said = page
        .app
        .stores
        .db
        .why_left(letter.id, letter.drop_id)
        .await?;
    let people: HashSet<&str> = letter
        .user_id
        .as_deref()
        .into_iter()
        .filter(|_| !revealed)
        .collect();
    Ok(said.map(|(said, at)| (capital(&detail(&said, &people)), instant(at.and_utc()))))
}

fn view(letter: &DeadLetterRow, payload: &Payload, revealed: bool) -> LetterView {
    let message = payload.beginning.as_deref().filter(|_| revealed);
    let from = letter.source_partition.zip(letter.source_offset);
    LetterView {
        line: letter_line(letter, revealed),
        claimed: letter
            .claimed_at
            .map_or_else(|| "not known".to_owned(), |at| instant(at.and_utc())),
        source: from.map_or_else(
            || "not from the topic".to_owned(),
            |(partition, offset)| format!("partition {partition}, offset {offset}"),
        ),
        resolved: letter.resolved_at.map(|at| instant(at.and_utc())),
        message: message.map(|bytes| line(&String::from_utf8_lossy(bytes), MESSAGE)),
        length: count(usize::try_from(payload.bytes).unwrap_or(0), "byte", "bytes"),
        left: None,
        coupon: None,
        drop_page: None,
        story: None,
        claim: if revealed {
            ClaimFields::of(letter)
        } else {
            ClaimFields::default()
        },
    }
}
