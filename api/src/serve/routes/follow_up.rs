//! Steps that several changes of a coupon share: checks before MySQL is written, and updates of
//! Redis afterwards.

use std::sync::Arc;

use firstcome_shared::allow_list::{Followed, follow};
use firstcome_shared::coupon::{Allow, Coupon, Drop};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::Problem;
use firstcome_shared::recover::{LostSettings, recover};

use super::extract::invalid;
use crate::serve::auth::UserIdentity;
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::Services;

/// Refuses groups if a gateway identifies users, because the gateway names no groups, so no user
/// would be admitted.
pub(super) fn check_audience(
    identity: &UserIdentity,
    allow: Option<&Allow>,
) -> Result<(), Problem> {
    if matches!(allow, Some(Allow::Group(_))) && !identity.wants_token() {
        return Err(invalid(
            "allow: a coupon of a group needs USER_AUTH=jwt; with USER_AUTH=trusted-header \
            nobody's groups are known",
        ));
    }
    Ok(())
}

/// Recovers from Redis the settings that MySQL has lost (docs/decisions/0026-mysql-gone-back.md).
/// Call it before a change, which must neither reuse a revision that MySQL has lost nor undo lost
/// settings. Returns the highest revision in Redis, or 0 if it does not answer.
pub(super) async fn recover_lost(services: &Services, id: CouponId) -> Result<u64, Problem> {
    let db = &services.mysql.operators;
    let redis = &services.redis;
    let highest = match redis.highest_revision(id).await {
        Ok(highest) => highest,
        // Changing a name must succeed without Redis.
        Err(error) => {
            tracing::warn!(
                %error, coupon_id = id.0,
                "could not check in Redis whether MySQL has lost settings"
            );
            return Ok(0);
        }
    };
    if let Some(LostSettings { changes, .. }) = recover(db, redis, id, false).await? {
        let what = "MySQL had lost settings, which Redis has";
        tracing::warn!(coupon_id = id.0, changes, "{what}");
    }
    Ok(highest)
}

/// Writes the list to Redis if Redis has another revision. Returns `false` if the reconciler has to
/// write it.
pub(super) async fn write_allow_list(services: &Services, id: CouponId) -> bool {
    let why = match follow(&services.mysql.operators, &services.redis, id).await {
        Ok(Followed::Same | Followed::Written(_)) => return true,
        Ok(Followed::Kept(why)) => why,
        Err(error) => error.to_string(),
    };
    let what = "could not write an allow list to Redis; the reconciler will";
    tracing::warn!(why, coupon_id = id.0, "{what}");
    false
}

/// Reads a coupon that this process has just written. If that fails, returns what was written.
pub(super) async fn reread(
    services: &Services,
    coupon: Coupon,
    drops: Vec<Drop>,
) -> Arc<CouponWithDrops> {
    match services.catalogue.reread(coupon.id).await {
        Ok(seen) => seen,
        Err(_) => CouponWithDrops::new(&services.redis, coupon, drops).into(),
    }
}

/// The response if Redis does not have a change yet.
pub(super) fn follows_later() -> Problem {
    Problem::unavailable(
        "MySQL has the change; admission follows within a minute, or when you repeat the request",
    )
}
