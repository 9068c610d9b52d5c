//! One page of rows.

use firstcome_shared::http::Problem;
use firstcome_shared::mysql::holders::{HolderRange, HoldersPage};

use crate::serve::routes::refusals::mysql_unavailable;
use crate::serve::state::Services;

pub(super) async fn page(
    services: &Services,
    which: HolderRange,
    limit: usize,
) -> Result<HoldersPage, Problem> {
    let found = services.mysql.operators.holders(which, limit).await;
    let found = found.map_err(|error| mysql_unavailable(&error, "try again"))?;
    found.ok_or_else(|| Problem::not_found("this coupon has no such drop"))
}
