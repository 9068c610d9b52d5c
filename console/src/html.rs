//! Renders screens as HTML. askama escapes all names, IDs and details, since they come from other
//! sources.

use std::sync::Arc;

use askama::Template;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{StatusCode, header::HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use firstcome_shared::http::Problem;
use serde::Deserialize;

use super::assets::{ICON, SCRIPT, STYLE};
use super::client::HttpRefusal;
use super::session::Session;
use firstcome_notifier::wording::{LONGEST, line};

/// The frame of every screen.
pub(super) struct Top<'a> {
    pub(super) title: &'a str,
    /// The current screen in the menu.
    pub(super) here: &'static str,
    pub(super) session: Option<&'a Session>,
    /// The action just completed.
    pub(super) done: &'a str,
    pub(super) script: &'static str,
    pub(super) style: &'static str,
    pub(super) icon: &'static str,
}

impl<'a> Top<'a> {
    pub(super) fn new(title: &'a str, session: Option<&'a Session>, here: &'static str) -> Self {
        Self {
            title,
            here,
            session,
            done: "",
            script: &SCRIPT.name,
            style: &STYLE.name,
            icon: &ICON.name,
        }
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

/// Returns a screen as a response that is never cached.
pub(super) fn answer(status: StatusCode, screen: &impl Template) -> Response {
    let headers: [(HeaderName, &str); 2] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
    ];
    match screen.render() {
        Ok(html) => (status, headers, html).into_response(),
        Err(error) => {
            tracing::error!(%error, "the operations page cannot be written");
            Problem::internal().into_response()
        }
    }
}

/// The text of a notice, for [`with_menu`].
#[derive(Clone)]
struct NoticeText {
    title: String,
    why: String,
}

/// Returns a screen with only a notice.
pub(super) fn notice(title: &str, status: StatusCode, why: &str) -> Response {
    let mut response = answer(
        status,
        &NoticeScreen {
            top: Top::new(title, None, ""),
            why,
        },
    );
    response.extensions_mut().insert(NoticeText {
        title: title.to_owned(),
        why: why.to_owned(),
    });
    response
}

/// Middleware inside `guard::logged_in` that adds the menu to notices, as on every other screen.
pub(super) async fn with_menu(request: Request, next: Next) -> Response {
    let session = request.extensions().get::<Arc<Session>>().cloned();
    let mut response = next.run(request).await;
    let said = response.extensions_mut().remove::<NoticeText>();
    match session.zip(said) {
        Some((session, NoticeText { title, why })) => {
            let top = Top::new(&title, Some(&session), "");
            answer(response.status(), &NoticeScreen { top, why: &why })
        }
        None => response,
    }
}

/// Returns the response to a form that this page does not have.
pub(super) fn not_understood() -> Response {
    notice(
        "Not understood",
        StatusCode::BAD_REQUEST,
        "The form is not of this page. Nothing was done.",
    )
}

/// The redirect to a screen after an action. It contains a word for the action, so that a reload
/// does not repeat the action.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct JustDone {
    pub(super) done: String,
}

impl HttpRefusal {
    /// Rejects invalid input.
    pub(super) fn typed(why: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why)
    }

    /// Returns the form to show again with this reason.
    pub(super) fn form(&self, form: &'static str, typed: &[(&'static str, &str)]) -> RefusedForm {
        let typed = typed
            .iter()
            .map(|(field, text)| (*field, (*text).to_owned()))
            .collect();
        RefusedForm {
            status: self.status,
            form,
            why: self.sentence(),
            typed,
        }
    }
}

/// A rejected form to show again, with the reason and the input.
#[derive(Default)]
pub(super) struct RefusedForm {
    status: StatusCode,
    form: &'static str,
    why: String,
    typed: Vec<(&'static str, String)>,
}

impl RefusedForm {
    /// Returns the status of the screen that shows the form again, or 200 if no form was rejected.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the reason if the screen does not show the rejected form itself, so that the reason
    /// is not lost.
    pub(super) fn unless_shown(&self, shown: &[(&str, bool)]) -> &str {
        let is_shown = shown
            .iter()
            .any(|(form, is_shown)| *is_shown && *form == self.form);
        if is_shown { "" } else { &self.why }
    }

    pub(super) fn why(&self, form: &str) -> Option<&str> {
        (self.form == form && !self.why.is_empty()).then_some(&self.why)
    }

    pub(super) fn typed(&self, form: &str, field: &str) -> &str {
        let is_it = |(name, _): &&(&str, String)| self.form == form && *name == field;
        self.typed.iter().find(is_it).map_or("", |(_, text)| text)
    }
}

/// Rejects the form if the input is not the coupon's name.
pub(super) fn unless_named(typed: &str, coupon: &str) -> Result<(), HttpRefusal> {
    let is_its_name = line(typed, LONGEST) == line(coupon, LONGEST);
    let why = "What you typed is not the coupon's name. Nothing was done.";
    if is_its_name {
        Ok(())
    } else {
        Err(HttpRefusal::typed(why))
    }
}

/// The screen for data that a service did not return.
impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        let why = self.sentence();
        if self.status == StatusCode::NOT_FOUND {
            return notice("Not found", self.status, &why);
        }
        let why = format!("{why} Reload in a few seconds. The first screen shows what is known.");
        notice("Not available", self.status, &why)
    }
}
