//! What all screens share: their frame, their state, what their handlers read from a request, and
//! the question before a change.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::ExtensionRejection;
use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::redis::Redis;
use firstcome_shared::subject::Subject;
use tokio::time::timeout;

use super::client::{Backends, HttpRefusal};
use super::session::LoginSession;

/// Maximum wait for the list of ended sessions. It is short, because the page matters most while a
/// store is unavailable.
const PATIENCE: Duration = Duration::from_secs(1);

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ScreenState {
    pub(crate) services: Arc<Backends>,
    pub(crate) token: OpsToken,
    /// Holds the sessions that were ended early. `None` if the Redis is not ours: there, a log-out
    /// deletes only the browser's cookie.
    pub(crate) redis: Option<Redis>,
    /// What the passes compare.
    pub(crate) subject: Subject,
    /// The origin of `PUBLIC_URL`, as browsers send it.
    pub(crate) public_origin: Option<String>,
}

impl ScreenState {
    /// Returns the session of a request. While Redis does not answer, sessions that were ended
    /// early are still accepted.
    pub(crate) async fn session(&self, headers: &HeaderMap) -> Option<LoginSession> {
        let mut session = LoginSession::from_headers(headers, &self.token, Utc::now())?;
        session.subject = self.subject;
        if let Some(redis) = &self.redis {
            let ended = timeout(PATIENCE, redis.session_was_ended(&session.id)).await;
            if matches!(ended, Ok(Ok(true))) {
                return None;
            }
        }
        Some(session)
    }
}

/// The frame of every screen.
pub(crate) struct Top<'a> {
    pub(crate) title: &'a str,
    /// The current screen in the menu.
    pub(crate) here: &'static str,
    pub(crate) session: Option<&'a LoginSession>,
    /// A sentence about what was just done; may be empty.
    pub(crate) done: &'a str,
    /// Why a form was refused; may be empty.
    pub(crate) wrong: &'a str,
}

impl<'a> Top<'a> {
    pub(crate) fn new(
        title: &'a str,
        session: Option<&'a LoginSession>,
        here: &'static str,
    ) -> Self {
        Self {
            title,
            here,
            session,
            done: "",
            wrong: "",
        }
    }

    pub(crate) fn subject(&self) -> Subject {
        self.session
            .map_or(Subject::default(), |session| session.subject)
    }

    /// Whether the page has the screens of coupons.
    pub(crate) fn has_coupons(&self) -> bool {
        self.session.is_none_or(LoginSession::has_coupons)
    }

    /// What a pass without further limits compares.
    pub(crate) fn everything(&self) -> &'static str {
        match self.subject() {
            Subject::Drop => "all live drops",
            Subject::Campaign => "all campaigns",
        }
    }

    pub(crate) fn may_change(&self) -> bool {
        self.session.is_some_and(LoginSession::may_change)
    }
}

/// Returns a screen as a response.
pub(crate) fn answer(status: StatusCode, screen: &impl Template) -> Response {
    let html = [(CONTENT_TYPE, "text/html; charset=utf-8")];
    match screen.render() {
        Ok(text) => (status, html, text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the operations page cannot be written");
            Problem::internal().into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "notice.html")]
struct NoticeScreen<'a> {
    top: Top<'a>,
    why: &'a str,
}

/// Returns a screen with only a sentence.
pub(crate) fn notice(title: &str, status: StatusCode, why: &str) -> Response {
    let top = Top::new(title, None, "");
    answer(status, &NoticeScreen { top, why })
}

/// Returns the response to a form that cannot be read.
pub(crate) fn not_understood() -> Response {
    let why = "The form is too large, or not of this page. Nothing was done.";
    notice("Not understood", StatusCode::BAD_REQUEST, why)
}

/// The screen of a request that was refused or got no answer.
impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        let title = match self.status {
            StatusCode::NOT_FOUND => "Not found",
            status if status.is_client_error() => "Not done",
            _ => "Not available",
        };
        notice(title, self.status, &self.sentence())
    }
}

/// A page, or why it cannot be shown.
pub(crate) type Screen = Result<Response, HttpRefusal>;

/// The shared state, for a logged-in operator.
pub(crate) struct ConsolePage {
    pub(crate) state: ScreenState,
    pub(crate) session: Arc<LoginSession>,
}

impl FromRequestParts<ScreenState> for ConsolePage {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ScreenState,
    ) -> Result<Self, ExtensionRejection> {
        let session = Extension::<Arc<LoginSession>>::from_request_parts(parts, state).await?;
        Ok(Self {
            state: state.clone(),
            session: session.0,
        })
    }
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct ConfirmScreen<'a> {
    top: Top<'a>,
    what: &'a str,
    button: &'a str,
    fields: &'a [(String, String)],
}

impl ConsolePage {
    pub(crate) fn top<'a>(&'a self, title: &'a str, here: &'static str) -> Top<'a> {
        Top::new(title, Some(&self.session), here)
    }

    /// Asks on a separate screen whether to make a change. Its button sends the same form again,
    /// with the field `sure`.
    pub(crate) fn confirm(&self, form: &FormFields, what: &str, button: &str) -> Response {
        let screen = ConfirmScreen {
            top: self.top("Are you sure?", ""),
            what,
            button,
            fields: &form.0,
        };
        answer(StatusCode::OK, &screen)
    }
}

/// The fields of a form.
#[derive(Default)]
pub(crate) struct FormFields(pub(crate) Vec<(String, String)>);

impl FromRequest<ScreenState> for FormFields {
    type Rejection = Response;

    async fn from_request(request: Request, state: &ScreenState) -> Result<Self, Response> {
        let form = Form::<Vec<(String, String)>>::from_request(request, state).await;
        form.map(|Form(fields)| Self(fields))
            .map_err(|_| not_understood())
    }
}

impl FormFields {
    /// Returns what was typed into a field, without spaces around it.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.trim())
    }

    /// Like [`Self::find`]. Empty if there is no such field.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// Parses a field, such as a slot or the ID of a user. Returns `None` if it is invalid.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).parse().ok()
    }

    /// Whether the operator has answered [`ConsolePage::confirm`].
    pub(crate) fn is_sure(&self) -> bool {
        !self.get("sure").is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::header::COOKIE;

    use super::*;
    use crate::session::{begin, cookie};

    /// The page of a logged-in operator, in front of these services.
    pub(crate) async fn logged_in(services: Backends) -> ConsolePage {
        let secret = "0123456789abcdef0123456789abcdef";
        let token = OpsToken::new(&secret.into(), None).unwrap();
        let signer = token.log_in(secret, None).unwrap();
        let session = cookie(&begin(&signer, "Kim", Utc::now()), false);
        let headers = HeaderMap::from_iter([(COOKIE, session.parse().unwrap())]);
        let state = ScreenState {
            services: services.into(),
            token,
            redis: None,
            subject: Subject::Drop,
            public_origin: None,
        };
        let session = state.session(&headers).await.unwrap();
        ConsolePage {
            state,
            session: session.into(),
        }
    }
}
