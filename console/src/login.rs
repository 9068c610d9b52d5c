//! Log-in with a token, and log-out.

use askama::Template;
use axum::Form;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::header::{RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use chrono::Utc;
use firstcome_shared::http::ops::{WrongToken, operator_name};
use serde::Deserialize;

use super::guard::{is_https, own_path};
use super::html::{Top, answer, notice};
use super::session::{ENDED_FOR, begin, cookie};
use super::state::{OrDefault, Page, ScreenState};

#[derive(Template)]
#[template(path = "login.html")]
struct LogInScreen<'a> {
    top: Top<'a>,
    next: &'a str,
    name: &'a str,
    /// Why the log-in failed. Empty at first.
    wrong: &'a str,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct LogInQuery {
    next: String,
}

/// The fields of the form.
#[derive(Default, Deserialize)]
struct LogInForm {
    token: String,
    name: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn form(
    State(page): State<ScreenState>,
    OrDefault(LogInQuery { next }): OrDefault<LogInQuery>,
    headers: HeaderMap,
) -> Response {
    if page.session(&headers).await.is_some() {
        return Redirect::to(own_path(&next)).into_response();
    }
    let form = LogInForm {
        next,
        ..LogInForm::default()
    };
    shown(StatusCode::OK, &form, "")
}

pub(super) async fn log_in(State(page): State<ScreenState>, request: Request) -> Response {
    let from = page.token.address(&request);
    let is_https = is_https(request.headers());
    let Ok(Form(form)) = Form::<LogInForm>::from_request(request, &()).await else {
        return shown(
            StatusCode::BAD_REQUEST,
            &LogInForm::default(),
            "Fill in both fields.",
        );
    };
    let refused = |status, why: &str| shown(status, &form, why);
    let Some(name) = operator_name(&form.name) else {
        return refused(
            StatusCode::BAD_REQUEST,
            "Say who you are, in 1 to 100 letters: what you do is recorded under this name.",
        );
    };
    let signer = match page.token.log_in(form.token.trim(), from) {
        Ok(signer) => signer,
        Err(WrongToken {
            retry_after: Some(wait),
        }) => {
            let why =
                "Too many wrong tokens come from your address. The right one is still accepted.";
            let mut response = refused(StatusCode::TOO_MANY_REQUESTS, why);
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            return response;
        }
        Err(WrongToken { retry_after: None }) => {
            return refused(
                StatusCode::UNAUTHORIZED,
                "This token is not right. It is the OPS_TOKEN, or the OPS_VIEW_TOKEN.",
            );
        }
    };
    let session = begin(&signer, &name, Utc::now());
    (
        AppendHeaders([(SET_COOKIE, cookie(&session, is_https))]),
        Redirect::to(own_path(&form.next)),
    )
        .into_response()
}

pub(super) async fn log_out(page: Page) -> Response {
    let over = AppendHeaders([false, true].map(|is_https| (SET_COOKIE, cookie("", is_https))));
    if let Err(error) = page.state.log_outs.end(&page.session.id, ENDED_FOR).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "a session was ended in its browser only"
        );
        let why = "You are logged out in this browser. Redis did not answer, so a copy of its cookie would count until \
                   the session's twelve hours are over: if somebody may have one, replace the token.";
        return (
            over,
            notice("Logged out here only", StatusCode::SERVICE_UNAVAILABLE, why),
        )
            .into_response();
    }
    (over, Redirect::to("/login")).into_response()
}

fn shown(status: StatusCode, form: &LogInForm, wrong: &str) -> Response {
    answer(
        status,
        &LogInScreen {
            top: Top::new("Log in", None, ""),
            next: own_path(&form.next),
            name: &form.name,
            wrong,
        },
    )
}
