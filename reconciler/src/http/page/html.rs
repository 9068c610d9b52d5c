//! The page as HTML. Names, ids and details are texts of others: askama escapes every one.

use askama::Template;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{StatusCode, header::HeaderName};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;

use super::assets::{ICON, SCRIPT, STYLE};
use super::session::Session;
use crate::notify::wording::{LONGEST, line};

/// What stands around every screen.
pub(super) struct Top<'a> {
    pub(super) title: &'a str,
    /// The screen in the menu.
    pub(super) here: &'static str,
    pub(super) session: Option<&'a Session>,
    pub(super) script: &'static str,
    pub(super) style: &'static str,
    pub(super) icon: &'static str,
}

impl<'a> Top<'a> {
    pub(super) fn new(title: &'a str, here: &'static str, session: Option<&'a Session>) -> Self {
        Self { title, here, session, script: &SCRIPT.name, style: &STYLE.name, icon: &ICON.name }
    }

    pub(super) fn csrf(&self) -> &str {
        self.session.map_or("", |session| &session.csrf)
    }

    pub(super) fn may_change(&self) -> bool {
        self.session.is_some_and(Session::may_change)
    }
}

#[derive(Template)]
#[template(path = "notice.html")]
struct NoticeScreen<'a> {
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
    answer(status, &NoticeScreen { top: Top::new(title, "", None), why })
}

/// A form that this page does not have.
pub(super) fn not_understood() -> Response {
    notice(StatusCode::BAD_REQUEST, "Not understood", "The form is not of this page. Nothing was done.")
}

/// The refusal where what was typed is not the coupon's name.
pub(super) fn unless_named(typed: &str, coupon: &str) -> Option<Response> {
    let why = "What you typed is not the coupon's name. Nothing was done: go back and try again.";
    let is_its_name = line(typed, LONGEST) == line(coupon, LONGEST);
    (!is_its_name).then(|| notice(StatusCode::BAD_REQUEST, "Not confirmed", why))
}

/// MySQL did not answer.
#[allow(clippy::needless_pass_by_value)] // as map_err hands it over
pub(super) fn unavailable(error: firstcome_shared::mysql::DbError) -> Response {
    tracing::warn!(%error, "a screen of the operations page could not be shown");
    let why = "MySQL does not answer right now. Reload in a few seconds. The first screen shows what is known.";
    notice(StatusCode::SERVICE_UNAVAILABLE, "Not available", why)
}
