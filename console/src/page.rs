//! What all screens share: their frame, their state, what their handlers read from a request, and
//! the question before a change.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::ExtensionRejection;
use axum::extract::{Form, FromRequest, FromRequestParts, Query, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Allow, Group};
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::schedule::Tz;
use firstcome_shared::subject::Subject;
use serde::de::DeserializeOwned;

use super::assets::{ICON, SCRIPT, STYLE};
use super::client::{Backends, HttpRefusal};
use super::log_outs::LogOuts;
use super::session::Session;
use super::text::{Text, local_time};

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ScreenState {
    pub(crate) services: Arc<Backends>,
    pub(crate) token: OpsToken,
    pub(crate) log_outs: Arc<LogOuts>,
    /// What the passes compare.
    pub(crate) subject: Subject,
    /// The origin of `PUBLIC_URL`, as browsers send it.
    pub(crate) public_origin: Option<String>,
}

impl ScreenState {
    /// Returns the session of a request. While the list of log-outs is unavailable, ended sessions
    /// are still accepted.
    pub(crate) async fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let mut session = Session::from_headers(headers, &self.token, Utc::now())?;
        session.subject = self.subject;
        (!self.log_outs.has(&session.id).await).then_some(session)
    }
}

/// The frame of every screen.
pub(crate) struct Top<'a> {
    pub(crate) title: &'a str,
    /// The current screen in the menu.
    pub(crate) here: &'static str,
    pub(crate) session: Option<&'a Session>,
    /// A sentence about what was just done; may be empty.
    pub(crate) done: &'a str,
    pub(crate) script: &'static str,
    pub(crate) style: &'static str,
    pub(crate) icon: &'static str,
}

impl<'a> Top<'a> {
    pub(crate) fn new(title: &'a str, session: Option<&'a Session>, here: &'static str) -> Self {
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

    pub(crate) fn csrf(&self) -> &str {
        self.session.map_or("", |session| &session.csrf)
    }

    pub(crate) fn subject(&self) -> Subject {
        self.session
            .map_or(Subject::default(), |session| session.subject)
    }

    /// Whether the page has the screens of coupons.
    pub(crate) fn has_coupons(&self) -> bool {
        self.session.is_none_or(Session::has_coupons)
    }

    /// What a pass without further limits compares.
    pub(crate) fn everything(&self) -> &'static str {
        match self.subject() {
            Subject::Drop => "all live drops",
            Subject::Campaign => "all campaigns",
        }
    }

    pub(crate) fn may_change(&self) -> bool {
        self.session.is_some_and(Session::may_change)
    }
}

/// Returns a screen as a response that is never cached.
pub(crate) fn answer(status: StatusCode, screen: &impl Template) -> Response {
    let html = [(CONTENT_TYPE, "text/html; charset=utf-8")];
    match screen.render() {
        Ok(text) => (status, html, [(CACHE_CONTROL, "no-store")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the operations page cannot be written");
            Problem::internal().into_response()
        }
    }
}

/// A screen with only a sentence. [`with_menu`] writes it.
#[derive(Debug, Clone)]
struct SentenceScreen {
    title: String,
    why: String,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct SentenceTemplate<'a> {
    top: Top<'a>,
    why: &'a str,
}

/// Returns a screen with only a sentence.
pub(crate) fn notice(title: &str, status: StatusCode, why: &str) -> Response {
    let mut response = status.into_response();
    response.extensions_mut().insert(SentenceScreen {
        title: title.to_owned(),
        why: why.to_owned(),
    });
    response
}

/// Middleware that writes notices, with the menu if the request has a session.
pub(crate) async fn with_menu(request: Request, next: Next) -> Response {
    let session = request.extensions().get::<Arc<Session>>().cloned();
    let mut response = next.run(request).await;
    let Some(SentenceScreen { title, why }) = response.extensions_mut().remove::<SentenceScreen>()
    else {
        return response;
    };
    let top = Top::new(&title, session.as_deref(), "");
    let written = answer(response.status(), &SentenceTemplate { top, why: &why });
    let (mut parts, _) = response.into_parts();
    let (head, body) = written.into_parts();
    parts.headers.extend(head.headers);
    Response::from_parts(parts, body)
}

/// Returns the response to a form that cannot be read.
pub(crate) fn not_understood() -> Response {
    let why = "The form is not of this page. Nothing was done.";
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

/// The result of a handler.
pub(crate) type Screen = Result<Response, HttpRefusal>;

/// The shared state, for a logged-in operator.
pub(crate) struct Page {
    pub(crate) state: ScreenState,
    pub(crate) session: Arc<Session>,
}

impl FromRequestParts<ScreenState> for Page {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ScreenState,
    ) -> Result<Self, ExtensionRejection> {
        let session = Extension::<Arc<Session>>::from_request_parts(parts, state).await?;
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

impl Page {
    pub(crate) fn top<'a>(&'a self, title: &'a str, here: &'static str) -> Top<'a> {
        Top::new(title, Some(&self.session), here)
    }

    /// Asks on a separate screen whether to make a change. Its button sends the same form again,
    /// with the field `sure`.
    pub(crate) fn confirm(&self, form: &Fields, what: &str, button: &str) -> Response {
        let screen = ConfirmScreen {
            top: self.top("Are you sure?", ""),
            what,
            button,
            fields: &form.0,
        };
        answer(StatusCode::OK, &screen)
    }
}

/// The query of a request, or the default if the query is invalid.
pub(crate) struct OrDefault<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequestParts<ScreenState> for OrDefault<T> {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ScreenState,
    ) -> Result<Self, Infallible> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        Ok(Self(query.map(|Query(query)| query).unwrap_or_default()))
    }
}

/// A word for the action just completed. It is in the address, so that a reload does not repeat the
/// action.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
pub(crate) struct JustDone {
    pub(crate) done: String,
}

/// Reads a whole number, which may have separators: 1,000 and 1.000 and 1 000.
fn whole_number(text: &str) -> Option<u32> {
    let mut groups = text.split([',', '.', ' ', '\u{a0}', '\u{202f}']);
    let first = groups.next()?;
    let rest: Vec<&str> = groups.collect();
    let is_digits = |group: &str| !group.is_empty() && group.bytes().all(|it| it.is_ascii_digit());
    let is_grouped = rest
        .iter()
        .all(|group| group.len() == 3 && is_digits(group));
    let fits = rest.is_empty() || first.len() <= 3;
    (is_digits(first) && is_grouped && fits)
        .then(|| format!("{first}{}", rest.concat()).parse().ok())
        .flatten()
}

/// The fields of a form.
#[derive(Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl FromRequest<ScreenState> for Fields {
    type Rejection = Response;

    async fn from_request(request: Request, state: &ScreenState) -> Result<Self, Response> {
        let form = Form::<Vec<(String, String)>>::from_request(request, state).await;
        form.map(|Form(fields)| Self(fields))
            .map_err(|_| not_understood())
    }
}

impl Fields {
    /// Returns what was typed into a field, without spaces around it. Empty if there is no such
    /// field.
    pub(crate) fn get(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(field, _)| field == name);
        field.map_or("", |(_, value)| value.trim())
    }

    /// Parses a field, such as a slot or the ID of a user. Returns `None` if it is invalid.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).parse().ok()
    }

    /// Reads a whole number within `range`.
    pub(crate) fn whole(
        &self,
        field: &str,
        what: &str,
        range: RangeInclusive<u32>,
    ) -> Result<u32, String> {
        let typed = self.get(field);
        let number = whole_number(typed).filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let [least, most] = [range.start(), range.end()].map(Text::text);
            let typed = typed.text();
            format!("{what} must be a whole number from {least} to {most}, not “{typed}”")
        })
    }

    /// Reads a time, as typed in this zone, if one was typed.
    pub(crate) fn time(
        &self,
        field: &str,
        label: &str,
        zone: Tz,
    ) -> Result<Option<DateTime<Utc>>, String> {
        match self.get(field) {
            "" => Ok(None),
            typed => local_time(typed, zone)
                .map(Some)
                .ok_or_else(|| format!("“{label}” is no time there")),
        }
    }

    /// Reads who may claim a coupon. `None` is everybody.
    pub(crate) fn allow(&self) -> Result<Option<Allow>, String> {
        match self.get("allow") {
            "" => Ok(None),
            "list" => Ok(Some(Allow::List)),
            "group" => self
                .get("group")
                .parse::<Group>()
                .map(|group| Some(Allow::Group(group)))
                .map_err(|_| "Name the group: letters, digits, - and _, without spaces".to_owned()),
            _ => Err("The form is not of this page".to_owned()),
        }
    }

    /// Whether the operator has answered [`Page::confirm`].
    pub(crate) fn is_sure(&self) -> bool {
        !self.get("sure").is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::header::COOKIE;
    use tokio::sync::Mutex;

    use super::*;
    use crate::session::{begin, cookie};

    /// The page of a logged-in operator, in front of these services.
    pub(crate) async fn logged_in(services: Backends) -> Page {
        let secret = "0123456789abcdef0123456789abcdef";
        let token = OpsToken::new(&secret.into(), None).unwrap();
        let signer = token.log_in(secret, None).unwrap();
        let session = cookie(&begin(&signer, "Kim", Utc::now()), false);
        let headers = HeaderMap::from_iter([(COOKIE, session.parse().unwrap())]);
        let state = ScreenState {
            services: services.into(),
            token,
            log_outs: LogOuts::Process(Mutex::default()).into(),
            subject: Subject::Drop,
            public_origin: None,
        };
        let session = state.session(&headers).await.unwrap();
        Page {
            state,
            session: session.into(),
        }
    }

    #[test]
    fn whole_numbers_may_have_separators_but_no_fraction() {
        for (text, number) in [
            ("1000", Some(1_000)),
            ("1,000", Some(1_000)),
            ("1.000.000", Some(1_000_000)),
            ("10 000", Some(10_000)),
            ("1.5", None),
            ("1,00", None),
            ("1000,000", None),
            (",000", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("99999999999", None),
        ] {
            assert_eq!(whole_number(text), number, "{text:?}");
        }
    }
}
