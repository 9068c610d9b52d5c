//! The routes, one file a resource.

pub(super) mod change;
pub(super) mod claims;
pub(super) mod coupons;
pub(super) mod create;
pub(super) mod me;

use firstcome_shared::http::Problem;
use firstcome_shared::mysql::DbError;

use super::catalogue::Missing;
use super::extract::no_such_coupon;

impl From<Missing> for Problem {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Unknown => no_such_coupon(),
            Missing::Away => Self::unavailable("whether there is such a coupon is not known right now; try again"),
        }
    }
}

/// 503 for a call of MySQL that an operator waits for. `doubt` says what may have happened all the same.
fn mysql_away(error: &DbError, doubt: &str) -> Problem {
    tracing::warn!(%error, "an operator's request could not be worked");
    Problem::unavailable(format!("MySQL could not be asked; {doubt}"))
}
