//! Dead letters by the reasons that there are, and the discarding of all that a filter finds.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Extension, Form};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::dead_letters::{
    COUNTED, DISCARDED_AT_ONCE, DeadLetterQuery, Matching,
};
use firstcome_shared::mysql::{Db, DbError};
use serde::Deserialize;

use super::{DeadLettersScreenQuery, WHY, listed};
use crate::execute;
use crate::http::page::html::{FormRefusal, not_understood, notice};
use crate::http::page::session::Session;
use crate::http::page::state::ScreenState;
use crate::notify::wording::{LONGEST, count, grouped, line};

/// A reason that one can choose.
pub(super) struct ReasonChoice {
    /// As the table has it.
    pub(super) reason: String,
    pub(super) label: String,
    pub(super) is_chosen: bool,
}

/// The reasons of dead letters like those that are wanted, with how many have each.
pub(super) async fn choices(db: &Db, wanted: &DeadLetterQuery) -> Vec<ReasonChoice> {
    // Without them one sees the dead letters all the same.
    let found = db
        .dead_letter_reasons(wanted.clone())
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "dead letters could not be counted by reason");
            Vec::new()
        });
    let looked_at: i64 = found.iter().map(|one| one.letters).sum();
    let at_least = if looked_at >= i64::from(COUNTED) {
        "at least "
    } else {
        ""
    };
    let is_chosen = |reason: &str| wanted.reason.as_deref() == Some(reason);
    let choice = |reason: &str, label| ReasonChoice {
        reason: reason.to_owned(),
        label,
        is_chosen: is_chosen(reason),
    };
    let mut choices: Vec<ReasonChoice> = found
        .iter()
        .map(|one| {
            let letters = grouped(u64::try_from(one.letters).unwrap_or(0));
            choice(
                &one.reason,
                format!("{} ({at_least}{letters})", line(&one.reason, LONGEST)),
            )
        })
        .collect();
    // One that no dead letter has any more.
    let missing = wanted
        .reason
        .as_deref()
        .filter(|reason| found.iter().all(|one| one.reason != *reason));
    choices.extend(missing.map(|reason| choice(reason, line(reason, LONGEST))));
    choices
}

/// What can be done with all that the filter finds: it is bound to what is shown.
pub(super) struct ForAll {
    pub(super) letters: i64,
    /// The number, as a button has it.
    pub(super) number: String,
    /// The number with its noun.
    pub(super) what: String,
    pub(super) highest: i64,
    /// There are more than are discarded at once.
    pub(super) has_more: bool,
}

/// `None` where nothing is filtered, or nothing is found.
pub(super) async fn for_all(db: &Db, wanted: &DeadLetterQuery) -> Result<Option<ForAll>, DbError> {
    if wanted.resolved || wanted.reason.is_none() && wanted.drop.is_none() {
        return Ok(None);
    }
    let found = db.matching_dead_letters(wanted.clone()).await?;
    let letters = usize::try_from(found.letters).unwrap_or(0);
    Ok((letters > 0).then(|| ForAll {
        letters: found.letters,
        number: grouped(letters as u64),
        what: count(letters, "dead letter", "dead letters"),
        highest: found.highest,
        has_more: found.letters >= i64::from(DISCARDED_AT_ONCE),
    }))
}

#[derive(Deserialize)]
pub(in crate::http::page) struct DiscardAll {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    drop: String,
    /// What the button said.
    letters: i64,
    highest: i64,
    #[serde(default)]
    why: String,
    /// The number, typed.
    #[serde(default)]
    number: String,
}

/// Discards all open ones that the filter found when the person looked.
pub(in crate::http::page) async fn discard_all(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    form: Result<Form<DiscardAll>, FormRejection>,
) -> Response {
    let Ok(Form(asked)) = form else {
        return not_understood();
    };
    if asked.reason.is_empty() && asked.drop.is_empty() {
        let why = "Choose a reason or a drop first. Nothing was done.";
        return notice(StatusCode::BAD_REQUEST, "Not discarded", why);
    }
    match discarded(&page, &session, &asked).await {
        Ok(()) => Redirect::to("/dead-letters?status=resolved&done=discarded").into_response(),
        Err(why) if why.status == StatusCode::CONFLICT => {
            notice(why.status, "Not discarded", &why.why)
        }
        Err(why) => {
            let form = why.into_form(
                "discard-all",
                &[("why", &asked.why), ("number", &asked.number)],
            );
            let (drop, reason) = (asked.drop.parse().ok(), Some(asked.reason));
            let query = DeadLettersScreenQuery {
                drop,
                reason,
                ..DeadLettersScreenQuery::default()
            };
            page.slowly(&session, listed(&page, &session, query, &form))
                .await
        }
    }
}

async fn discarded(
    page: &ScreenState,
    session: &Session,
    asked: &DiscardAll,
) -> Result<(), FormRefusal> {
    let (reason, drop) = (
        Some(&asked.reason).filter(|reason| !reason.is_empty()),
        asked.drop.parse::<i64>().ok(),
    );
    if reason.is_none() && drop.is_none() {
        return Err(FormRefusal::new(
            StatusCode::CONFLICT,
            "There is no such drop. Nothing was done.",
        ));
    }
    let why = line(&asked.why, WHY);
    if why.is_empty() {
        return Err(FormRefusal::typed(
            "Say why they are discarded. Nothing was done.",
        ));
    }
    if asked.number.trim().replace(',', "").parse() != Ok(asked.letters) {
        return Err(FormRefusal::typed(
            "What you typed is not the number on the button. Nothing was done.",
        ));
    }
    let wanted = DeadLetterQuery {
        resolved: false,
        drop: drop.map(DropId),
        reason: reason.cloned(),
    };
    let seen = Matching {
        letters: asked.letters,
        highest: asked.highest,
    };
    let why = format!("{why} ({})", session.name());
    match execute::discard_all(
        &page.app.stores,
        wanted,
        seen,
        why,
        session.operator.clone(),
    )
    .await?
    {
        0 => Err(FormRefusal::new(
            StatusCode::CONFLICT,
            "They have been dealt with already.",
        )),
        _ => Ok(()),
    }
}
