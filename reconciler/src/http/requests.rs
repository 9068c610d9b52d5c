//! Helpers that the routes share: checks of what a client sent, and the record of what it saw.

use std::ops::RangeInclusive;

use axum::Json;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, UserId, canonical_number};
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::invalid;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::{Db, DbError};
use serde_json::Value;

/// The response of a route.
pub(crate) type RouteResult<T> = Result<Json<T>, Problem>;

/// Records that an operator saw the ids of users, before anything is shown.
pub(super) async fn reveal(db: &Db, operator: Operator, detail: Value) -> Result<(), DbError> {
    let act = OperatorAct::new("reveal", None, None, detail);
    db.run("record an act", async move |conn| {
        operator.did(conn, act).await
    })
    .await
}

/// Returns a number of a query, such as the limit of a page, or `usual` if it is missing. Refuses a
/// number that is not `allowed`.
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

pub(crate) fn no_such(what: &str, id: &str) -> Problem {
    Problem::not_found(format!("there is no {what} {id:?}"))
}

pub(super) fn user_id(text: &str) -> Result<UserId, Problem> {
    text.parse()
        .map_err(|error| invalid(format!("user_id: {error}")))
}

/// Reads the coupon of a path, with its drops in order of opening.
pub(super) async fn read_coupon(db: &Db, id: &str) -> Result<(Coupon, Vec<Drop>), Problem> {
    let found = db.coupon(CouponId(number("coupon", id)?)).await?;
    found.ok_or_else(|| no_such("coupon", id))
}
