//! Log-in with a token, and log-out.

use askama::Template;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use chrono::Utc;
use firstcome_shared::http::ops::{self, operator_name};
use serde::Deserialize;

use super::guard::own_path;
use super::page::{Fields, OrDefault, Page, ScreenState, Top, answer, notice};
use super::session::{begin, cookie, is_https};

#[derive(Template)]
#[template(path = "login.html")]
struct LogInScreen<'a> {
    top: Top<'a>,
    next: &'a str,
    name: &'a str,
    /// Why the log-in failed, or that the session has ended. Empty at first.
    wrong: &'a str,
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
        top: Top::new("Log in", None, ""),
        next: own_path(next),
        name,
        wrong,
    };
    answer(status, &screen)
}

pub(super) async fn form(
    State(page): State<ScreenState>,
    OrDefault(LogInQuery { next, ended }): OrDefault<LogInQuery>,
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
    let form = match Fields::from_request(request, &page).await {
        Ok(form) => form,
        Err(refused) => return refused,
    };
    let refused = |status, why: &str| show_form(status, form.get("next"), form.get("name"), why);
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

pub(super) async fn log_out(page: Page) -> Response {
    let over = AppendHeaders([false, true].map(|is_https| (SET_COOKIE, cookie("", is_https))));
    let ended = page.state.log_outs.end(&page.session.id).await;
    if let Err(error) = ended {
        tracing::warn!(%error, "a session was ended in its browser only");
        let why = "You are logged out in this browser. Redis did not answer, so a copy of its \
            cookie would count until the session's twelve hours are over: if somebody may have \
            one, replace the token.";
        let said = notice("Logged out here only", StatusCode::SERVICE_UNAVAILABLE, why);
        return (over, said).into_response();
    }
    (over, Redirect::to("/login")).into_response()
}
