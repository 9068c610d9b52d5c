//! Allow lists of coupons, compared with Redis by revision and size. A deep pass compares them user
//! by user.

use std::collections::HashSet;

use firstcome_shared::coupon::{Allow, Coupon, Drop};
use firstcome_shared::domain::CouponId;

use super::error::CollectError;
use super::snapshot::PassContext;
use crate::stores::Stores;

/// Grace period for an API process that has changed a list in MySQL and is about to update Redis.
const UNDER_WAY_MS: i64 = 2_000;

/// Whether Redis must have the coupon's list, even if the list is not in effect yet.
pub(crate) fn has_list(coupon: &Coupon) -> bool {
    coupon.allow == Some(Allow::List) || coupon.allow_list.revision > 0
}

/// Returns the coupons of these drops whose allow list in Redis differs from MySQL. Rereads these
/// coupons from MySQL before comparing, because a list may have changed since the pass read them.
pub(super) async fn differing(
    stores: &Stores,
    drops: &[(Coupon, Drop)],
    context: &PassContext,
) -> Result<HashSet<CouponId>, CollectError> {
    let mut listed: Vec<&Coupon> = drops
        .iter()
        .map(|(coupon, _)| coupon)
        .filter(|coupon| has_list(coupon))
        .collect();
    listed.sort_unstable_by_key(|coupon| coupon.id);
    listed.dedup_by_key(|coupon| coupon.id);
    if listed.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<CouponId> = listed.iter().map(|coupon| coupon.id).collect();
    let seen = stores.redis.allow_lists(&ids).await?;
    let doubtful = listed
        .iter()
        .zip(&seen)
        .filter(|(coupon, seen)| !seen.is(coupon.allow_list));
    let doubtful: Vec<_> = doubtful.map(|(coupon, seen)| (coupon.id, *seen)).collect();
    if doubtful.is_empty() {
        return Ok(HashSet::new());
    }
    let now = stores
        .db
        .allow_lists(doubtful.iter().map(|(id, _)| *id).collect())
        .await?;
    let mut differing = HashSet::new();
    for (id, list, age_ms) in now {
        let seen = doubtful
            .iter()
            .find(|(doubtful, _)| *doubtful == id)
            .map(|(_, seen)| *seen)
            .unwrap_or_default();
        let is_settled =
            age_ms.is_none_or(|age_ms| age_ms >= UNDER_WAY_MS) || context.unverified.contains(&id);
        if is_settled && !seen.is(list) {
            differing.insert(id);
        }
    }
    Ok(differing)
}
