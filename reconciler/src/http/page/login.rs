//! Logging in by a token, and out.

use std::time::Instant;

use askama::Template;
use axum::Form;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest as _, Query, Request, State};
use axum::http::header::{RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use firstcome_shared::http::ops::operator_name;
use serde::Deserialize;

use super::guard::{is_https, own_path};
use super::html::{Top, answer};
use super::session::cookie;
use super::state::ScreenState;

#[derive(Template)]
#[template(path = "login.html")]
struct LogInScreen<'a> {
    top: Top<'a>,
    next: &'a str,
    name: &'a str,
    /// Why it was refused; empty at first.
    wrong: &'a str,
}

#[derive(Deserialize)]
pub(super) struct LogInQuery {
    #[serde(default)]
    next: String,
}

/// What the form sends.
#[derive(Deserialize)]
struct LogInForm {
    token: String,
    name: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn form(
    State(page): State<ScreenState>,
    wanted: Result<Query<LogInQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let next = wanted.map(|Query(wanted)| wanted.next).unwrap_or_default();
    if page.session(&headers).is_some() {
        return Redirect::to(own_path(&next)).into_response();
    }
    shown(StatusCode::OK, &next, "", "")
}

pub(super) async fn log_in(State(page): State<ScreenState>, request: Request) -> Response {
    let (from, is_https, now) = (page.token.address(&request), is_https(request.headers()), Instant::now());
    let Ok(Form(form)) = Form::<LogInForm>::from_request(request, &()).await else {
        return shown(StatusCode::BAD_REQUEST, "", "", "Fill in both fields.");
    };
    let refused = |status, why: &str| shown(status, &form.next, &form.name, why);
    let Some(name) = operator_name(&form.name) else {
        return refused(
            StatusCode::BAD_REQUEST,
            "Say who you are, in 1 to 100 letters: what you do is recorded under this name.",
        );
    };
    // The right token always lets in: behind a proxy that is not set as trusted, all come from one
    // address.
    let Some((operator, allowed)) = page.token.log_in(form.token.trim(), name, from) else {
        if let Some(wait) = from.and_then(|from| page.tries.wait(from, now)) {
            let mut response = refused(StatusCode::TOO_MANY_REQUESTS, "Too many wrong tokens. Try again in a minute.");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            return response;
        }
        if let Some(from) = from {
            page.tries.wrong(from, now);
            tracing::warn!(%from, "a wrong token at the operations page");
        }
        return refused(
            StatusCode::UNAUTHORIZED,
            "This token is not right. It is the OPS_TOKEN, or the OPS_VIEW_TOKEN.",
        );
    };
    let id = page.sessions.begin(operator, allowed, now);
    (AppendHeaders([(SET_COOKIE, cookie(&id, is_https))]), Redirect::to(own_path(&form.next))).into_response()
}

pub(super) async fn log_out(State(page): State<ScreenState>, headers: HeaderMap) -> Response {
    page.sessions.end(&headers);
    let over = [false, true].map(|is_https| (SET_COOKIE, cookie("", is_https)));
    (AppendHeaders(over), Redirect::to("/login")).into_response()
}

fn shown(status: StatusCode, next: &str, name: &str, wrong: &str) -> Response {
    answer(status, &LogInScreen { top: Top::new("Log in", "", None), next: own_path(next), name, wrong })
}
