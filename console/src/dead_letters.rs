//! The screens of dead letters, where operators correct or discard them. IDs are masked and
//! messages hidden until an operator reveals them, which is recorded.

mod one;

use std::collections::HashSet;

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use firstcome_notifier::wording::{LONGEST, capital, count, detail, line, person};
use firstcome_shared::http::views::{FailedClaimDetails, FailedClaimPage, ListedFailedClaim};
use serde::Deserialize;

pub(super) use self::one::{correct, discard};
use super::client::{HttpRefusal, encoded, query as query_string};
use super::html::{JustDone, RefusedForm, Top, answer};
use super::people::Search;
use super::state::{OrDefault, Page};
use super::times::instant;

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct DeadLettersScreen<'a> {
    top: Top<'a>,
    letters: &'a [LetterLine],
    /// Show resolved dead letters instead of open ones.
    resolved: bool,
    /// The drop of the filter.
    drop: Option<i64>,
    reason: Option<&'a str>,
    next_page: Option<u32>,
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct DeadLetterScreen<'a> {
    top: Top<'a>,
    letter: &'a LetterView,
    revealed: bool,
    refused: &'a RefusedForm,
}

/// Maximum number of pages.
const PAGES: u32 = 200;

/// Maximum length of a displayed message, in characters.
const MESSAGE: usize = 2_000;

/// A line of the list.
pub(super) struct LetterLine {
    pub(super) id: i64,
    pub(super) at: String,
    pub(super) reason: String,
    pub(super) drop: Option<i64>,
    pub(super) place: String,
    pub(super) slot: String,
    pub(super) person: String,
    /// How it was resolved, or the error.
    pub(super) what: String,
}

/// One dead letter.
pub(super) struct LetterView {
    pub(super) line: LetterLine,
    pub(super) claimed: String,
    pub(super) source: String,
    pub(super) resolved: Option<String>,
    /// Why the last pass could not resolve it, and when that was.
    pub(super) left: Option<(String, String)>,
    /// Its message, once revealed.
    pub(super) message: Option<String>,
    pub(super) length: String,
    /// The coupon's name, which the operator types to discard the dead letter.
    pub(super) coupon: Option<String>,
    /// The path of the page where a pass over its drop can be started.
    pub(super) drop_page: Option<String>,
    /// The search for the user's history, once revealed.
    pub(super) story: Option<Search>,
    /// The editable fields, once revealed.
    pub(super) claim: ClaimFields,
}

/// The fields of the form that corrects a claim. Unknown values are empty.
#[derive(Default)]
pub(super) struct ClaimFields {
    pub(super) coupon: String,
    pub(super) drop: String,
    pub(super) slot: String,
    pub(super) person: String,
}

impl ClaimFields {
    fn of(letter: &ListedFailedClaim) -> Self {
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
#[serde(default)]
pub(super) struct DeadLettersScreenQuery {
    status: String,
    drop: Option<i64>,
    reason: Option<String>,
    page: u32,
}

pub(super) async fn list(
    page: Page,
    OrDefault(query): OrDefault<DeadLettersScreenQuery>,
) -> Response {
    page.slowly(listed(&page, query)).await
}

async fn listed(page: &Page, query: DeadLettersScreenQuery) -> Result<Response, HttpRefusal> {
    let resolved = query.status == "resolved";
    let reason = query.reason.filter(|reason| !reason.is_empty());
    let drop = query.drop.map(|drop| drop.to_string()).unwrap_or_default();
    let parameters = [
        ("resolved", if resolved { "true" } else { "" }),
        ("drop_id", drop.as_str()),
        ("reason", reason.as_deref().unwrap_or_default()),
        ("page", &query.page.clamp(1, PAGES).to_string()),
    ];
    let path = format!("/v1/failed-claims{}", query_string(&parameters));
    let found: FailedClaimPage = page.get(&path).await?;
    let letters: Vec<LetterLine> = found
        .failed_claims
        .iter()
        .map(|letter| letter_line(letter, false))
        .collect();
    let screen = DeadLettersScreen {
        top: Top::new("Dead letters", Some(&page.session), "dead-letters"),
        letters: &letters,
        resolved,
        drop: query.drop,
        reason: reason.as_deref(),
        next_page: found.next_page,
    };
    Ok(answer(StatusCode::OK, &screen))
}

fn letter_line(letter: &ListedFailedClaim, revealed: bool) -> LetterLine {
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
        at: instant(letter.failed_at),
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

pub(super) async fn read(
    page: Page,
    Path(id): Path<String>,
    OrDefault(just): OrDefault<JustDone>,
) -> Result<Response, HttpRefusal> {
    let form = RefusedForm::default();
    shown(&page, &id, false, &just.done, &form).await
}

pub(super) async fn reveal(page: Page, Path(id): Path<String>) -> Result<Response, HttpRefusal> {
    shown(&page, &id, true, "", &RefusedForm::default()).await
}

/// Reads a dead letter. Revealing it is recorded first.
async fn found(page: &Page, id: &str, reveal: bool) -> Result<FailedClaimDetails, HttpRefusal> {
    let reveal = if reveal { "?reveal=true" } else { "" };
    let path = format!("/v1/failed-claims/{}{reveal}", encoded(id));
    page.get(&path).await
}

/// Returns the screen of one dead letter, with a rejected form if there is one.
async fn shown(
    page: &Page,
    id: &str,
    revealed: bool,
    done: &str,
    refused: &RefusedForm,
) -> Result<Response, HttpRefusal> {
    let found = found(page, id, revealed).await?;
    let done = match (done, found.claim.resolved_at.is_some()) {
        ("corrected", false) => "Corrected. The next pass over its drop issues it.",
        ("discarded", true) => "Discarded. No pass looks at it again.",
        _ => "",
    };
    let view = view(&found, revealed);
    let top = Top {
        done,
        ..Top::new("One dead letter", Some(&page.session), "dead-letters")
    };
    Ok(answer(
        refused.status(),
        &DeadLetterScreen {
            top,
            letter: &view,
            revealed,
            refused,
        },
    ))
}

fn view(found: &FailedClaimDetails, revealed: bool) -> LetterView {
    let letter = &found.claim;
    let message = found.message.as_deref().filter(|_| revealed);
    let from = letter.partition.zip(letter.offset);
    let people: HashSet<&str> = letter
        .user_id
        .as_deref()
        .into_iter()
        .filter(|_| !revealed)
        .collect();
    let left = found.left.as_ref();
    let left = left.map(|left| (capital(&detail(&left.why, &people)), instant(left.at)));
    let place = letter
        .coupon_id
        .zip(letter.drop_id)
        .filter(|_| found.drop_exists);
    LetterView {
        line: letter_line(letter, revealed),
        claimed: letter
            .claimed_at
            .map_or_else(|| "not known".to_owned(), instant),
        source: from.map_or_else(
            || "not from the topic".to_owned(),
            |(partition, offset)| format!("partition {partition}, offset {offset}"),
        ),
        resolved: letter.resolved_at.map(instant),
        left,
        message: message.map(|text| line(text, MESSAGE)),
        length: count(found.message_bytes, "byte", "bytes"),
        coupon: found.coupon_name.as_deref().map(|name| line(name, LONGEST)),
        drop_page: place.map(|(coupon, drop)| format!("/coupons/{coupon}/drops/{drop}")),
        story: story(found).filter(|_| revealed),
        claim: if revealed {
            ClaimFields::of(letter)
        } else {
            ClaimFields::default()
        },
    }
}

/// Returns the search for the user's history, if the coupon is known.
fn story(found: &FailedClaimDetails) -> Option<Search> {
    found.coupon_name.as_ref()?;
    let letter = &found.claim;
    let drop = letter.drop_id.filter(|_| found.drop_exists);
    Some(Search {
        coupon: letter.coupon_id?.to_string(),
        drop: drop.map(|drop| drop.to_string()).unwrap_or_default(),
        person: letter.user_id.clone()?,
    })
}
