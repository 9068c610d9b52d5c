//! The screens of dead letters, where operators correct or discard them. IDs are masked and
//! messages hidden until an operator reveals them, which is recorded.

use std::collections::HashSet;

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use firstcome_shared::http::views::{FailedClaimDetails, FailedClaimPage};
use firstcome_shared::mysql::dead_letters::{DeadLetterRow, KEPT_OF_MESSAGE};
use firstcome_shared::report::wording::{capital, count, detail, line, person};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{HttpRefusal, encoded, query as query_string};
use super::page::{Fields, JustDone, OrDefault, Page, Screen, Top, answer};
use super::text::Text;

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct DeadLettersScreen<'a> {
    top: Top<'a>,
    letters: &'a [DeadLetterRow],
    /// Whether resolved dead letters are listed instead of open ones.
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
    letter: &'a DeadLetterRow,
    found: &'a FailedClaimDetails,
    revealed: bool,
}

/// Maximum number of pages.
const PAGES: u32 = 200;

/// Maximum length of a displayed message, in characters.
const MESSAGE: usize = 2_000;

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct DeadLettersQuery {
    status: String,
    drop: Option<i64>,
    reason: Option<String>,
    page: u32,
    done: String,
    /// How many were discarded.
    n: u32,
}

pub(super) async fn list(page: Page, OrDefault(query): OrDefault<DeadLettersQuery>) -> Screen {
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
    let done = match query.done.as_str() {
        "discarded" => {
            let discarded = count(query.n, "dead letter is", "dead letters are");
            format!("{discarded} discarded. No pass looks at them again.")
        }
        _ => String::new(),
    };
    let screen = DeadLettersScreen {
        top: Top {
            done: &done,
            ..page.top("Dead letters", "dead-letters")
        },
        letters: &found.failed_claims,
        resolved,
        drop: query.drop,
        reason: reason.as_deref(),
        next_page: found.next_page,
    };
    Ok(answer(StatusCode::OK, &screen))
}

fn place(letter: &DeadLetterRow) -> String {
    let coupon = letter.coupon_id.text();
    let drop = letter.drop_id.text();
    format!("coupon {coupon}, drop {drop}")
}

fn whom(letter: &DeadLetterRow, revealed: bool) -> String {
    match &letter.user_id {
        None => "nobody".to_owned(),
        Some(id) if revealed => id.text(),
        Some(id) => person(id),
    }
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

impl DeadLetterScreen<'_> {
    /// Why the last pass could not resolve it, and when that was.
    fn left(&self) -> Option<(String, String)> {
        let left = self.found.left.as_ref()?;
        let why = masked(self.letter, &left.why, self.revealed);
        Some((capital(&why), left.at.text()))
    }

    fn message(&self) -> Option<ShownMessage> {
        let message = self.found.message.as_ref().filter(|_| self.revealed)?;
        let text = line(message, MESSAGE);
        let is_cut_here = text != line(message, usize::MAX);
        let stored = self.found.message_bytes;
        Some(ShownMessage {
            text,
            is_cut: is_cut_here || stored > u64::from(KEPT_OF_MESSAGE),
            // A dead letter of forged messages has the first one, and the offset of the last one.
            may_go_on: !self.letter.is_forged()
                && self.letter.offset.is_some()
                && stored == u64::from(KEPT_OF_MESSAGE),
        })
    }
}

struct ShownMessage {
    text: String,
    /// More of it is stored than is shown.
    is_cut: bool,
    /// The message may be longer than what the consumer has stored.
    may_go_on: bool,
}

pub(super) async fn read(
    page: Page,
    Path(id): Path<String>,
    OrDefault(just): OrDefault<JustDone>,
) -> Screen {
    show_dead_letter(&page, &id, false, &just.done).await
}

pub(super) async fn reveal(page: Page, Path(id): Path<String>) -> Screen {
    show_dead_letter(&page, &id, true, "").await
}

/// Shows one dead letter. Revealing it is recorded first.
async fn show_dead_letter(page: &Page, id: &str, revealed: bool, done: &str) -> Screen {
    let reveal = if revealed { "?reveal=true" } else { "" };
    let path = format!("/v1/failed-claims/{}{reveal}", encoded(id));
    let found: FailedClaimDetails = page.get(&path).await?;
    let done = match (done, found.claim.resolved_at.is_some()) {
        ("corrected", false) => "Corrected. The next pass over its drop judges it again.",
        ("discarded", true) => "Discarded. No pass looks at it again.",
        _ => "",
    };
    let screen = DeadLetterScreen {
        top: Top {
            done,
            ..page.top("One dead letter", "dead-letters")
        },
        letter: &found.claim,
        found: &found,
        revealed,
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Asks the operator, then corrects the claim of a dead letter. The next pass over its drop judges
/// the claim again: it becomes a row, its user is owed a slot, it ends without either, or it stays
/// open.
pub(super) async fn correct(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    let wrong = || HttpRefusal::typed("Give coupon, drop and slot by their numbers.");
    let [coupon, drop] = ["coupon", "drop"].map(|field| form.number::<i64>(field));
    let (coupon, drop) = coupon.zip(drop).ok_or_else(wrong)?;
    let slot: u32 = form.number("slot").ok_or_else(wrong)?;
    let person = form.get("person");
    if !form.is_sure() {
        let what = format!(
            "Dead letter {id} stands for slot {slot} of drop {drop} of coupon {coupon}, for {person}."
        );
        return Ok(page.confirm(&form, &what, "Correct it"));
    }
    let body = json!({"coupon_id": coupon, "drop_id": drop, "slot": slot, "user_id": person});
    let path = format!("/v1/failed-claims/{}/correct", encoded(&id));
    page.post::<FailedClaimDetails>(&path, &body).await?;
    let to = format!("/dead-letters/{}?done=corrected", encoded(&id));
    Ok(Redirect::to(&to).into_response())
}

/// Maximum number of dead letters that one click discards.
const AT_ONCE: usize = 500;

/// Asks the operator, then discards the open dead letters with a reason, at most [`AT_ONCE`].
pub(super) async fn discard_all(page: Page, form: Fields) -> Screen {
    let reason = form.get("reason");
    let why = form.get("why");
    if reason.is_empty() || why.is_empty() {
        return Err(HttpRefusal::typed("Say why they are discarded."));
    }
    let parameters = [("reason", reason), ("limit", "200")];
    let path = format!("/v1/failed-claims{}", query_string(&parameters));
    if !form.is_sure() {
        let what = format!(
            "No pass looks again at the dead letters with the reason “{}”. If one is the only \
            trace of a promise, the promise is forgotten.",
            reason.text()
        );
        return Ok(page.confirm(&form, &what, "Discard them all"));
    }
    let mut discarded = 0;
    if let Err(refusal) = discard_listed(&page, &path, why, &mut discarded).await {
        let done = count(discarded, "was", "were");
        let why = format!("{} {done} discarded before", refusal.sentence());
        return Err(HttpRefusal::new(refusal.status, why));
    }
    let discarded = discarded.to_string();
    let query = [("reason", reason), ("done", "discarded"), ("n", &discarded)];
    let to = format!("/dead-letters{}", query_string(&query));
    Ok(Redirect::to(&to).into_response())
}

/// Discards the open dead letters that a path lists, at most [`AT_ONCE`], and counts them.
async fn discard_listed(
    page: &Page,
    listed: &str,
    why: &str,
    discarded: &mut u32,
) -> Result<(), HttpRefusal> {
    let mut left = AT_ONCE;
    while left > 0 {
        let mut found: FailedClaimPage = page.get(listed).await?;
        found.failed_claims.truncate(left);
        for letter in &found.failed_claims {
            let path = format!("/v1/failed-claims/{}/discard", letter.id);
            match page.post::<Value>(&path, &json!({"why": why})).await {
                Ok(_) => *discarded += 1,
                // A pass, or another operator, has resolved it since.
                Err(refusal) if refusal.status == StatusCode::CONFLICT => {}
                Err(refusal) => return Err(refusal),
            }
        }
        left -= found.failed_claims.len();
        if found.next_page.is_none() {
            break;
        }
    }
    Ok(())
}

/// Asks the operator, then discards a dead letter, so that no pass examines it again.
pub(super) async fn discard(page: Page, Path(id): Path<String>, form: Fields) -> Screen {
    if form.get("why").is_empty() {
        return Err(HttpRefusal::typed("Say why it is discarded."));
    }
    if !form.is_sure() {
        let what = format!(
            "No pass looks at dead letter {id} again. If it is the only trace of a promise, the \
            promise is forgotten."
        );
        return Ok(page.confirm(&form, &what, "Discard it"));
    }
    let path = format!("/v1/failed-claims/{}/discard", encoded(&id));
    page.post::<Value>(&path, &json!({"why": form.get("why")}))
        .await?;
    let to = format!("/dead-letters/{}?done=discarded", encoded(&id));
    Ok(Redirect::to(&to).into_response())
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::extract::Path;
    use axum::routing::{get, post};
    use axum::{Json, Router};

    use super::*;
    use crate::client::Backends;
    use crate::page::tests::logged_in;

    #[tokio::test]
    async fn discarding_goes_on_after_a_dead_letter_that_was_resolved_since() {
        let letter =
            |id: i64| json!({"id": id, "reason": "junk", "failed_at": "2026-12-01T06:00:00Z"});
        let letters = [1, 2, 3].map(letter);
        let listed = json!({"failed_claims": letters, "next_page": null});
        let discard = async |Path(id): Path<i64>| match id {
            1 => StatusCode::CONFLICT,
            _ => StatusCode::OK,
        };
        let reconciler = Router::new()
            .route("/v1/failed-claims", get(async || Json(listed)))
            .route("/v1/failed-claims/{id}/discard", post(discard));
        let page = logged_in(Backends::new(reconciler, None).unwrap()).await;
        let mut discarded = 0;
        let ended = discard_listed(&page, "/v1/failed-claims", "a script", &mut discarded).await;
        ended.unwrap();
        assert_eq!(discarded, 2);
    }

    #[tokio::test]
    async fn one_click_discards_at_most_500_dead_letters() {
        let letter =
            |id: i64| json!({"id": id, "reason": "junk", "failed_at": "2026-12-01T06:00:00Z"});
        let letters: Vec<Value> = (1..=200).map(letter).collect();
        let listed = json!({"failed_claims": letters, "next_page": 2});
        let reconciler = Router::new()
            .route("/v1/failed-claims", get(async || Json(listed)))
            .route(
                "/v1/failed-claims/{id}/discard",
                post(async || StatusCode::OK),
            );
        let page = logged_in(Backends::new(reconciler, None).unwrap()).await;
        let mut discarded = 0;
        let ended = discard_listed(&page, "/v1/failed-claims", "a script", &mut discarded).await;
        ended.unwrap();
        assert_eq!(discarded, 500);
    }

    /// The page of a revealed dead letter. The reconciler answers with this message, and with the
    /// length of the stored one.
    async fn revealed(message: &str, message_bytes: usize) -> String {
        let found = json!({
            "id": 3, "reason": "undecodable", "failed_at": "2026-12-01T06:00:00Z", "partition": 0,
            "offset": 9, "coupon_name": null, "drop_exists": false, "left": null,
            "message": message, "message_bytes": message_bytes,
        });
        let route = get(async || Json(found));
        let reconciler = Router::new().route("/v1/failed-claims/{id}", route);
        let page = logged_in(Backends::new(reconciler, None).unwrap()).await;
        let Ok(response) = show_dead_letter(&page, "3", true, "").await else {
            panic!("no page");
        };
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn screen_says_that_a_message_is_cut_and_shows_the_query_for_all_of_it() {
        let cut = "Only the beginning is shown";
        let goes_on = "longer message";
        let query = "SELECT payload FROM failed_claims WHERE id = 3;";
        for (shown, bytes, is_cut, may_go_on) in [
            ("x".repeat(2_000), 2_000, false, false),
            ("x".repeat(2_001), 2_001, true, false),
            ("x".repeat(4_096), 4_096, true, true),
            // Fewer characters than the page may show, but the reconciler has cut the message.
            ("\u{ac00}".repeat(1_365), 5_000, true, false),
        ] {
            let html = revealed(&shown, bytes).await;
            assert_eq!(html.contains(cut), is_cut, "{bytes}: {html}");
            assert_eq!(html.contains(query), is_cut, "{bytes}: {html}");
            assert_eq!(html.contains(goes_on), may_go_on, "{bytes}: {html}");
        }
        let html = revealed(&"x".repeat(3_512), 3_512).await;
        assert!(html.contains("All 3,512 bytes"), "{html}");
    }
}
