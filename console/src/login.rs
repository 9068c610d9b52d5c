//! Log-in with a token, and log-out.

use askama::Template;
use axum::extract::{FromRequest as _, Query, Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use chrono::Utc;
use firstcome_shared::http::ops::{self, operator_name};
use serde::Deserialize;

use super::guard::own_path;
use super::page::{ConsolePage, FormFields, ScreenState, Top, answer};
use super::session::{ENDED_FOR, begin, cookie, is_https};

#[derive(Template)]
#[template(path = "login.html")]
struct LogInScreen<'a> {
    top: Top<'a>,
    next: &'a str,
    name: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct LogInQuery {
    next: String,
    /// Not empty if a form was sent after the end of the session.
    ended: String,
}

const ENDED: &str = "Your session has ended. Nothing was done. Log in, and fill in the form again.";

fn show_form(status: StatusCode, next: &str, name: &str, wrong: &str) -> Response {
    let screen = LogInScreen {
        // Why the log-in failed, or that the session has ended. Empty at first.
        top: Top {
            wrong,
            ..Top::new("Log in", None, "")
        },
        next: own_path(next),
        name,
    };
    answer(status, &screen)
}

pub(super) async fn form(
    State(page): State<ScreenState>,
    Query(LogInQuery { next, ended }): Query<LogInQuery>,
    headers: HeaderMap,
) -> Response {
    if page.session(&headers).await.is_some() {
        return Redirect::to(own_path(&next)).into_response();
    }
    let wrong = if ended.is_empty() { "" } else { ENDED };
    show_form(StatusCode::OK, &next, "", wrong)
}

pub(super) async fn log_in(State(page): State<ScreenState>, request: Request) -> Response {
    let from = ops::peer(&request);
    let is_https = is_https(request.headers());
    let form = match FormFields::from_request(request, &page).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let refused = |status, why| show_form(status, form.get("next"), form.get("name"), why);
    let Some(name) = operator_name(form.get("name")) else {
        let why = "Say who you are, in 1 to 100 letters: what you do is recorded under this name.";
        return refused(StatusCode::BAD_REQUEST, why);
    };
    let Some(signer) = page.token.log_in(form.get("token"), from) else {
        let why = "This token is not right. It is the OPS_TOKEN, or the OPS_VIEW_TOKEN.";
        return refused(StatusCode::UNAUTHORIZED, why);
    };
    let session = begin(&signer, &name, Utc::now());
    let cookie = AppendHeaders([(SET_COOKIE, cookie(&session, is_https))]);
    (cookie, Redirect::to(own_path(form.get("next")))).into_response()
}

pub(super) async fn log_out(page: ConsolePage) -> Response {
    if let Some(redis) = &page.state.redis
        && let Err(error) = redis.end_session(&page.session.id, ENDED_FOR).await
    {
        tracing::warn!(%error, "a session was ended in its browser only");
    }
    let over = AppendHeaders([false, true].map(|is_https| (SET_COOKIE, cookie("", is_https))));
    (over, Redirect::to("/login")).into_response()
}
