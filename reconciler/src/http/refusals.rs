//! Error responses that several routes share.

use std::ops::RangeInclusive;

use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::invalid;

/// Checks a number of a query, such as the limit of a page.
pub(super) fn within(
    name: &str,
    number: Option<u32>,
    usual: u32,
    allowed: RangeInclusive<u32>,
) -> Result<u32, Problem> {
    let number = number.unwrap_or(usual);
    if allowed.contains(&number) {
        Ok(number)
    } else {
        let (least, most) = allowed.into_inner();
        Err(invalid(format!("{name} must be from {least} to {most}")))
    }
}

#[allow(clippy::needless_pass_by_value)] // map_err passes it by value
pub(super) fn unavailable(error: firstcome_shared::mysql::DbError) -> Problem {
    tracing::warn!(%error, "cannot answer a request");
    Problem::unavailable("MySQL cannot be asked right now")
}
