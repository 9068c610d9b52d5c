//! The screens of dead letters, where operators correct or discard them. IDs are masked and
//! messages hidden until an operator reveals them, which is recorded.

use std::collections::HashSet;

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use firstcome_shared::http::views::{FailedClaimDetails, FailedClaimPage};
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::report::wording::{detail, line};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{encoded, query as query_string};
use super::page::{ConsolePage, FormFields, Screen, Top, answer};
use super::text::{Text, whom};

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct DeadLettersScreen<'a> {
    top: Top<'a>,
    letters: &'a [DeadLetterRow],
    /// The address of the next page.
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
struct DeadLetterScreen<'a> {
    top: Top<'a>,
    found: &'a FailedClaimDetails,
    letter: &'a DeadLetterRow,
    revealed: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct DeadLettersQuery {
    /// Empty, or `true` for resolved ones.
    resolved: String,
    /// Only those that name this drop, or have this reason. Mails and alerts link to them.
    drop: String,
    reason: String,
    page: String,
}

impl DeadLettersQuery {
    /// Returns the query string for a page of the same dead letters. `drop` is the drop's parameter.
    fn filters(&self, drop: &str, page: &str) -> String {
        query_string(&[
            ("resolved", &self.resolved),
            (drop, &self.drop),
            ("reason", &self.reason),
            ("page", page),
        ])
    }
}

pub(super) async fn list(page: ConsolePage, Query(query): Query<DeadLettersQuery>) -> Screen {
    let path = format!("/v1/failed-claims{}", query.filters("drop_id", &query.page));
    let found: FailedClaimPage = page.get(&path).await?;
    let next = found.next_page.map(|next| {
        let filters = query.filters("drop", &next.to_string());
        format!("/dead-letters{filters}")
    });
    let screen = DeadLettersScreen {
        top: page.top("Dead letters", "dead-letters"),
        letters: &found.failed_claims,
        next,
    };
    Ok(answer(StatusCode::OK, &screen))
}

fn place(letter: &DeadLetterRow) -> String {
    let coupon = letter.coupon_id.text();
    let drop = letter.drop_id.text();
    format!("coupon {coupon}, drop {drop}")
}

/// How it was resolved, or the error.
fn what(letter: &DeadLetterRow, revealed: bool) -> String {
    let how = letter.resolution.as_ref().map(|how| {
        let detail = letter.resolution_detail.as_ref();
        detail.map_or_else(|| how.clone(), |detail| format!("{how}: {detail}"))
    });
    let what = how.or_else(|| letter.error.clone()).unwrap_or_default();
    masked(letter, &what, revealed)
}

fn masked(letter: &DeadLetterRow, text: &str, revealed: bool) -> String {
    if revealed {
        return text.text();
    }
    let people: HashSet<&str> = letter.user_id.as_deref().into_iter().collect();
    detail(text, &people)
}

pub(super) async fn read(page: ConsolePage, Path(id): Path<String>) -> Screen {
    show_dead_letter(&page, &id, false).await
}

pub(super) async fn reveal(page: ConsolePage, Path(id): Path<String>) -> Screen {
    show_dead_letter(&page, &id, true).await
}

/// Shows one dead letter. Revealing it is recorded first.
async fn show_dead_letter(page: &ConsolePage, id: &str, revealed: bool) -> Screen {
    let reveal = if revealed { "?reveal=true" } else { "" };
    let path = format!("/v1/failed-claims/{}{reveal}", encoded(id));
    let found: FailedClaimDetails = page.get(&path).await?;
    let screen = DeadLetterScreen {
        top: page.top("One dead letter", "dead-letters"),
        letter: &found.claim,
        found: &found,
        revealed,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Asks the operator, then corrects the claim of a dead letter. The next pass over its drop judges
/// the claim again: it becomes a row, its user is owed a slot, it ends without either, or it stays
/// open.
pub(super) async fn correct(page: ConsolePage, Path(id): Path<String>, form: FormFields) -> Screen {
    let coupon = form.get("coupon");
    let drop = form.get("drop");
    let slot = form.get("slot");
    let person = form.get("person");
    if !form.is_sure() {
        let what = format!(
            "Dead letter {id} stands for slot {slot} of drop {drop} of coupon {coupon}, for {person}."
        );
        return Ok(page.confirm(&form, &what, "Correct it"));
    }
    let body = json!({
        "coupon_id": form.number::<i64>("coupon"), "drop_id": form.number::<i64>("drop"),
        "slot": form.number::<u32>("slot"), "user_id": person,
    });
    resolve(&page, &id, "correct", &body).await
}

/// Resolves a dead letter, and shows it.
async fn resolve(page: &ConsolePage, id: &str, how: &str, body: &Value) -> Screen {
    let id = encoded(id);
    page.post::<Value>(&format!("/v1/failed-claims/{id}/{how}"), body)
        .await?;
    Ok(Redirect::to(&format!("/dead-letters/{id}")).into_response())
}

/// Asks the operator, then discards a dead letter, so that no pass examines it again.
pub(super) async fn discard(page: ConsolePage, Path(id): Path<String>, form: FormFields) -> Screen {
    if !form.is_sure() {
        let what = format!(
            "No pass looks at dead letter {id} again. If it is the only trace of a promise, the \
            promise is forgotten."
        );
        return Ok(page.confirm(&form, &what, "Discard it"));
    }
    resolve(&page, &id, "discard", &json!({"why": form.get("why")})).await
}
