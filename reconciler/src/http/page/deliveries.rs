//! Mails and webhooks: what waits, what was given up and why, and another try.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_shared::mysql::deliveries::{Delivery, OutboxKind};

use super::html::{JustDone, Top, answer, notice, unavailable};
use super::session::Session;
use super::state::ScreenState;
use super::times::instant;
use crate::execute;
use crate::notify::wording::{LONGEST, line};

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesScreen<'a> {
    top: Top<'a>,
    open: &'a [DeliveryLine],
    sent: &'a [DeliveryLine],
}

/// One delivery as it is shown.
pub(super) struct DeliveryLine {
    pub(super) kind: &'static str,
    pub(super) id: i64,
    pub(super) at: String,
    pub(super) what: String,
    pub(super) target: String,
    pub(super) state: String,
    /// A class of the style.
    pub(super) tone: &'static str,
    pub(super) error: String,
    pub(super) is_open: bool,
}

pub(super) async fn list(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    just: Result<Query<JustDone>, QueryRejection>,
) -> Response {
    let db = &page.app.stores.db;
    let mut lines = Vec::new();
    for kind in [OutboxKind::Mail, OutboxKind::Webhook] {
        match db.deliveries(kind).await {
            Ok(found) => lines.extend(found.iter().map(|one| delivery_line(kind, one))),
            Err(error) => return unavailable(error),
        }
    }
    let (open, sent): (Vec<DeliveryLine>, Vec<DeliveryLine>) =
        lines.into_iter().partition(|line| line.is_open);
    let is_again = just.is_ok_and(|Query(just)| just.done == "again");
    let done = if is_again {
        "It is sent again now. Reload to see what becomes of it."
    } else {
        ""
    };
    let top = Top {
        done,
        ..Top::new("Deliveries", "deliveries", Some(&session))
    };
    let screen = DeliveriesScreen {
        top,
        open: &open,
        sent: &sent,
    };
    answer(StatusCode::OK, &screen)
}

fn delivery_line(kind: OutboxKind, one: &Delivery) -> DeliveryLine {
    let at = |at: chrono::NaiveDateTime| instant(at.and_utc());
    let (state, tone) = match (one.sent_at, one.given_up_at) {
        (Some(sent), _) => (format!("sent {}", at(sent)), "quiet"),
        (None, Some(given_up)) => (format!("given up {}", at(given_up)), "bad"),
        (None, None) if one.attempts == 0 => ("waits for its first attempt".to_owned(), "plain"),
        (None, None) => (
            format!(
                "attempt {} at {}",
                one.attempts + 1,
                at(one.next_attempt_at)
            ),
            "plain",
        ),
    };
    DeliveryLine {
        kind: kind.word(),
        id: one.id,
        at: at(one.created_at),
        what: line(&one.what, LONGEST),
        target: line(&one.target, LONGEST),
        state,
        tone,
        error: one
            .last_error
            .as_deref()
            .map(|error| line(error, LONGEST))
            .unwrap_or_default(),
        is_open: one.sent_at.is_none(),
    }
}

/// Tries one again now.
pub(super) async fn again(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    path: Result<Path<(String, i64)>, PathRejection>,
) -> Response {
    let no_such = || {
        notice(
            StatusCode::NOT_FOUND,
            "No such delivery",
            "There is none, or it has arrived meanwhile.",
        )
    };
    let Ok(Path((kind, id))) = path else {
        return no_such();
    };
    let Some(kind) = OutboxKind::of_word(&kind) else {
        return no_such();
    };
    match execute::deliver_again(&page.app.stores, kind, id, session.operator.clone()).await {
        Ok(true) => Redirect::to("/deliveries?done=again").into_response(),
        Ok(false) => no_such(),
        Err(error) => unavailable(error),
    }
}
