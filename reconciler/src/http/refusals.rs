//! Error responses that several routes share.

use std::ops::RangeInclusive;

use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::invalid;

/// Checks the limit of a page.
pub(super) fn within(
    limit: Option<u32>,
    usual: u32,
    allowed: RangeInclusive<u32>,
) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(usual);
    if allowed.contains(&limit) {
        Ok(limit)
    } else {
        let (least, most) = allowed.into_inner();
        Err(invalid(format!("limit must be from {least} to {most}")))
    }
}

#[allow(clippy::needless_pass_by_value)] // map_err passes it by value
pub(super) fn unavailable(error: firstcome_shared::mysql::DbError) -> Problem {
    tracing::warn!(%error, "cannot answer a request");
    Problem::unavailable("MySQL cannot be asked right now")
}
