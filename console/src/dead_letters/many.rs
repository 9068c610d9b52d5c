//! Filters dead letters by reason, and discards all that match the filter.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_notifier::wording::{LONGEST, count, grouped, line};
use firstcome_shared::http::views::{Discardable, Discarded, FailedClaimPage};
use serde::Deserialize;
use serde_json::json;

use super::{DeadLettersScreenQuery, listed};
use crate::client::HttpRefusal;
use crate::html::notice;
use crate::state::{OwnForm, Page};

/// Maximum number of dead letters for which the API counts reasons. Above it, counts are shown as
/// "at least".
const COUNTED: u64 = 100_000;

/// Maximum number of dead letters discarded at once.
const DISCARDED_AT_ONCE: u32 = 10_000;

/// A selectable reason.
pub(super) struct ReasonChoice {
    /// The reason as stored in the table.
    pub(super) reason: String,
    pub(super) label: String,
    pub(super) is_chosen: bool,
}

/// Returns the existing reasons, each with its number of dead letters.
pub(super) fn choices(found: &FailedClaimPage, chosen: Option<&str>) -> Vec<ReasonChoice> {
    let looked_at: u64 = found.reasons.iter().map(|one| one.failed_claims).sum();
    let at_least = if looked_at >= COUNTED {
        "at least "
    } else {
        ""
    };
    let choice = |reason: &str, label| ReasonChoice {
        reason: reason.to_owned(),
        label,
        is_chosen: chosen == Some(reason),
    };
    let mut choices: Vec<ReasonChoice> = found
        .reasons
        .iter()
        .map(|one| {
            let letters = grouped(one.failed_claims);
            let label = format!("{} ({at_least}{letters})", line(&one.reason, LONGEST));
            choice(&one.reason, label)
        })
        .collect();
    // Keep the chosen reason in the list even if no dead letter has it now.
    let missing = chosen.filter(|reason| found.reasons.iter().all(|one| one.reason != *reason));
    choices.extend(missing.map(|reason| choice(reason, line(reason, LONGEST))));
    choices
}

/// The action for all dead letters that match the filter, limited to those that were shown.
pub(super) struct ForAll {
    pub(super) letters: u32,
    /// The number of dead letters, as the button shows it.
    pub(super) number: String,
    /// The number of dead letters with its noun.
    pub(super) what: String,
    pub(super) highest: i64,
    /// Whether there are more than can be discarded at once.
    pub(super) has_more: bool,
}

/// Returns the action, or `None` if nothing matches.
pub(super) fn for_all(found: Discardable) -> Option<ForAll> {
    let letters = found.failed_claims;
    (letters > 0).then(|| ForAll {
        letters,
        number: grouped(letters.into()),
        what: count(letters, "dead letter", "dead letters"),
        highest: found.highest_id,
        has_more: letters >= DISCARDED_AT_ONCE,
    })
}

#[derive(Deserialize)]
pub(crate) struct DiscardAll {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    drop: String,
    /// The number and highest ID that were shown with the button.
    letters: u32,
    highest: i64,
    #[serde(default)]
    why: String,
    /// The number of dead letters, typed as confirmation.
    #[serde(default)]
    number: String,
}

/// Discards all unresolved dead letters that matched the filter when the screen was shown.
pub(crate) async fn discard_all(page: Page, OwnForm(asked): OwnForm<DiscardAll>) -> Response {
    if asked.reason.is_empty() && asked.drop.is_empty() {
        let why = "Choose a reason or a drop first. Nothing was done.";
        return notice("Not discarded", StatusCode::BAD_REQUEST, why);
    }
    match discarded(&page, &asked).await {
        Ok(()) => Redirect::to("/dead-letters?status=resolved&done=discarded").into_response(),
        Err(why) if why.status == StatusCode::CONFLICT => {
            notice("Not discarded", why.status, &why.sentence())
        }
        Err(why) => {
            let form = why.form(
                "discard-all",
                &[("why", &asked.why), ("number", &asked.number)],
            );
            let query = DeadLettersScreenQuery {
                drop: asked.drop.parse().ok(),
                reason: Some(asked.reason),
                ..DeadLettersScreenQuery::default()
            };
            page.slowly(listed(&page, query, &form)).await
        }
    }
}

async fn discarded(page: &Page, asked: &DiscardAll) -> Result<(), HttpRefusal> {
    if asked.why.trim().is_empty() {
        return Err(HttpRefusal::typed(
            "Say why they are discarded. Nothing was done.",
        ));
    }
    if asked.number.trim().replace(',', "").parse() != Ok(asked.letters) {
        return Err(HttpRefusal::typed(
            "What you typed is not the number on the button. Nothing was done.",
        ));
    }
    let mut body = json!({
        "failed_claims": asked.letters, "highest_id": asked.highest, "why": asked.why.trim(),
    });
    if !asked.reason.is_empty() {
        body["reason"] = asked.reason.as_str().into();
    }
    if !asked.drop.is_empty() {
        let drop: Result<i64, _> = asked.drop.parse();
        let no_such = |_| HttpRefusal::typed("There is no such drop. Nothing was done.");
        body["drop_id"] = drop.map_err(no_such)?.into();
    }
    let discarded: Discarded = page.post("/v1/failed-claims/discard", &body).await?;
    match discarded.failed_claims {
        0 => Err(HttpRefusal::new(
            StatusCode::CONFLICT,
            "They have been dealt with already.",
        )),
        _ => Ok(()),
    }
}
