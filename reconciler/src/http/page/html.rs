//! The page as HTML. Names, ids and details are texts of others: askama escapes every one.

use askama::Template;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{StatusCode, header::HeaderName};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::http::Problem;

use super::alerts::AlertLine;
use super::assets::{ICON, SCRIPT, STYLE};
use super::board::Board;
use super::coupons::CouponLine;
use super::dead_letters::{LetterLine, LetterView};
use super::deliveries::DeliveryLine;
use super::new_coupon::{Preview, Typed};
use super::pace::{Chart, DayLine};
use super::people::{Search, StoryView};
use super::runs::{RunLine, RunView};
use super::session::Session;
use super::time_line::TimeLine;
use crate::notify::wording::{LONGEST, line};

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
#[template(path = "coupons.html")]
pub(super) struct Coupons<'a> {
    pub(super) top: Top<'a>,
    pub(super) coupons: &'a [CouponLine],
    pub(super) is_first: bool,
    /// The last that is shown, where there are more.
    pub(super) next_after: Option<CouponId>,
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
    /// What a pass would compare.
    pub(super) over: &'a str,
    /// Where there are any.
    pub(super) time_line: Option<TimeLine>,
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
#[template(path = "drop.html")]
pub(super) struct DropPage<'a> {
    pub(super) top: Top<'a>,
    pub(super) name: &'a str,
    pub(super) coupon: CouponId,
    pub(super) drop: DropId,
    pub(super) paused: bool,
    pub(super) only_for: String,
    /// Whose quantity can be raised.
    pub(super) to_raise: String,
    /// Whether the API's address is known.
    pub(super) has_api: bool,
    pub(super) board: &'a Board,
    /// Repairs that wait for a person, while an alert says so.
    pub(super) held_back: Option<String>,
    /// Once there are rows.
    pub(super) chart: Option<Chart>,
}

#[derive(Template)]
#[template(path = "people.html")]
pub(super) struct People<'a> {
    pub(super) top: Top<'a>,
    /// What was searched for.
    pub(super) asked: &'a Search,
    /// Why nothing was found.
    pub(super) wrong: &'a str,
    /// Those on a slot on which several are known.
    pub(super) several: &'a [UserId],
    pub(super) story: Option<&'a StoryView>,
    /// Whether the API's address is known.
    pub(super) has_api: bool,
}

#[derive(Template)]
#[template(path = "dead_letters.html")]
pub(super) struct DeadLetters<'a> {
    pub(super) top: Top<'a>,
    pub(super) letters: &'a [LetterLine],
    /// Those that are dealt with, instead of those that are open.
    pub(super) resolved: bool,
    /// What is filtered by.
    pub(super) drop: Option<i64>,
    pub(super) reason: Option<&'a str>,
    pub(super) page: u32,
    pub(super) has_more: bool,
}

#[derive(Template)]
#[template(path = "dead_letter.html")]
pub(super) struct DeadLetter<'a> {
    pub(super) top: Top<'a>,
    pub(super) letter: &'a LetterView,
    pub(super) revealed: bool,
}

#[derive(Template)]
#[template(path = "days.html")]
pub(super) struct Days<'a> {
    pub(super) top: Top<'a>,
    pub(super) days: &'a [DayLine],
}

#[derive(Template)]
#[template(path = "new_coupon.html")]
pub(super) struct NewCoupon<'a> {
    pub(super) top: Top<'a>,
    pub(super) typed: &'a Typed,
    /// What can't be made of it.
    pub(super) wrong: &'a str,
    pub(super) preview: Option<&'a Preview>,
    pub(super) has_api: bool,
}

#[derive(Template)]
#[template(path = "deliveries.html")]
pub(super) struct Deliveries<'a> {
    pub(super) top: Top<'a>,
    pub(super) open: &'a [DeliveryLine],
    pub(super) sent: &'a [DeliveryLine],
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
