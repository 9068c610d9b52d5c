//! What all routes share: their error response, and the checks of what a client sent.

use std::ops::RangeInclusive;

use axum::Json;
use axum::response::{IntoResponse, Response};
use firstcome_shared::domain::{CouponId, DropId, UserId, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::invalid;
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use serde_json::Value;

use super::state::RouteState;

/// An error response. `?` creates it from whatever a route can fail with.
#[derive(Debug)]
pub(super) struct Refusal(Problem);

/// The response of a route.
pub(super) type Answer<T> = Result<Json<T>, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<DbError> for Refusal {
    fn from(error: DbError) -> Self {
        tracing::warn!(%error, "cannot answer a request");
        Self(Problem::unavailable("MySQL cannot be asked right now"))
    }
}

/// Records that an operator saw the ids of users, before anything is shown.
pub(super) async fn reveal(
    app: &RouteState,
    operator: Operator,
    (coupon, drop): (Option<CouponId>, Option<DropId>),
    detail: Value,
) -> Result<(), DbError> {
    let act = OperatorAct {
        action: "reveal",
        coupon,
        drop,
        detail,
    };
    app.stores.db.record_act(operator, act).await
}

/// Checks a number of a query, such as the limit of a page.
pub(super) fn within(
    name: &str,
    number: Option<u32>,
    usual: u32,
    allowed: RangeInclusive<u32>,
) -> Result<u32, Problem> {
    let number = number.unwrap_or(usual);
    if allowed.contains(&number) {
        return Ok(number);
    }
    let (least, most) = allowed.into_inner();
    Err(invalid(format!("{name} must be from {least} to {most}")))
}

/// Parses an id of a path, such as that of an `alert`.
pub(super) fn number(what: &str, id: &str) -> Result<i64, Problem> {
    canonical_number(id).ok_or_else(|| no_such(what, id))
}

pub(super) fn no_such(what: &str, id: &str) -> Problem {
    Problem::not_found(format!("there is no {what} {id:?}"))
}

pub(super) fn user_id(text: &str) -> Result<UserId, Problem> {
    text.parse()
        .map_err(|error| invalid(format!("user_id: {error}")))
}
