//! The page as HTML. Names, ids and details are texts of others: askama escapes every one.

use askama::Template;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{StatusCode, header::HeaderName};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;

use super::alerts::AlertLine;
use super::assets::{ICON, SCRIPT, STYLE};
use super::board::Board;
use super::runs::{RunLine, RunView};
use super::session::Session;

/// What stands around every screen.
pub(super) struct Top<'a> {
    title: &'a str,
    /// The screen in the menu.
    here: &'static str,
    session: Option<&'a Session>,
    script: &'static str,
    style: &'static str,
    icon: &'static str,
}

impl<'a> Top<'a> {
    pub(super) fn new(title: &'a str, here: &'static str, session: Option<&'a Session>) -> Self {
        Self { title, here, session, script: &SCRIPT.name, style: &STYLE.name, icon: &ICON.name }
    }

    fn csrf(&self) -> &str {
        self.session.map_or("", |session| &session.csrf)
    }

    fn may_change(&self) -> bool {
        self.session.is_some_and(Session::may_change)
    }
}

#[derive(Template)]
#[template(path = "login.html")]
pub(super) struct LogIn<'a> {
    pub(super) top: Top<'a>,
    pub(super) next: &'a str,
    pub(super) name: &'a str,
    /// Why it was refused; empty at first.
    pub(super) wrong: &'a str,
}

#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct Overview<'a> {
    pub(super) top: Top<'a>,
    pub(super) board: &'a Board,
}

/// The part of the first screen that is live.
#[derive(Template)]
#[template(path = "board.html")]
pub(super) struct Fragment<'a> {
    pub(super) board: &'a Board,
}

#[derive(Template)]
#[template(path = "alerts.html")]
pub(super) struct Alerts<'a> {
    pub(super) top: Top<'a>,
    pub(super) alerts: &'a [AlertLine],
    /// `firing`, `resolved` or `told`.
    pub(super) status: &'a str,
    pub(super) next_before: Option<i64>,
}

#[derive(Template)]
#[template(path = "runs.html")]
pub(super) struct Runs<'a> {
    pub(super) top: Top<'a>,
    pub(super) runs: &'a [RunLine],
    /// The oldest shown, where there may be older ones.
    pub(super) next_before: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "run.html")]
pub(super) struct RunPage<'a> {
    pub(super) top: Top<'a>,
    pub(super) run: &'a RunView,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct Notice<'a> {
    top: Top<'a>,
    why: &'a str,
}

/// A screen as an answer. Nobody keeps it.
pub(super) fn answer(status: StatusCode, screen: &impl Template) -> Response {
    let headers: [(HeaderName, &str); 2] = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    match screen.render() {
        Ok(html) => (status, headers, html).into_response(),
        Err(error) => {
            tracing::error!(%error, "the operations page cannot be written");
            Problem::internal().into_response()
        }
    }
}

/// A screen that only says something.
pub(super) fn notice(status: StatusCode, title: &str, why: &str) -> Response {
    answer(status, &Notice { top: Top::new(title, "", None), why })
}

/// MySQL did not answer.
#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
pub(super) fn unavailable(error: firstcome_shared::mysql::DbError) -> Response {
    tracing::warn!(%error, "a screen of the operations page could not be shown");
    let why = "MySQL does not answer right now. Reload in a few seconds. The first screen shows what is known.";
    notice(StatusCode::SERVICE_UNAVAILABLE, "Not available", why)
}
