//! Whether Redis has the claimants of a coupon that allows one claim per user in total: the users
//! who hold a slot of any drop. The keys of sealed drops expire, so only numbers are compared.

use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{DropId, OncePer};
use firstcome_shared::redis::keys::DropKeys;

use crate::context::{PassContext, Step};
use crate::queries;
use crate::queries::drops::DropCount;
use crate::read::CouponSeen;
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome};

struct ClaimantCount {
    claimants: u64,
    /// Users of the unsealed drops in Redis.
    users: u64,
    /// Rows of sealed drops.
    sealed: u64,
}

/// Whether Redis has every claimant of a closed coupon, and no other. False if a user may hold one
/// coupon in each drop. Call it only if no drop differs from its rows and [`knows_last_seal`] is
/// true: then Redis is no copy from before the last sealing and lacks no user of the sealed drops,
/// so an equal number means that it has nobody whose claim was given back since.
pub(crate) async fn has_all_claimants(ctx: &PassContext, seen: &CouponSeen) -> Step<bool> {
    if seen.coupon.once_per != OncePer::Coupon {
        return Ok(false);
    }
    let count = count(ctx, seen).await?;
    Ok(count.claimants == count.users + count.sealed)
}

/// Whether Redis knows of the last sealing of a drop of this coupon.
pub(crate) async fn knows_last_seal(ctx: &PassContext, seen: &CouponSeen) -> Step<bool> {
    if !seen.has_sealed {
        return Ok(seen.state.sealed.is_none());
    }
    let last = queries::drops::last_sealed(&ctx.stores.db, seen.coupon.id).await?;
    Ok(seen.state.sealed == last)
}

/// Whether Redis lacks claimants: it has fewer than the users who hold a slot at that moment plus
/// the rows of sealed drops. False if a user may hold one coupon in each drop.
pub(crate) async fn lacks_claimants(ctx: &PassContext, seen: &CouponSeen) -> Step<bool> {
    if seen.coupon.once_per != OncePer::Coupon {
        return Ok(false);
    }
    let count = count(ctx, seen).await?;
    if count.claimants >= count.users + count.sealed {
        return Ok(false);
    }
    let sealed = other_sealed_drops(ctx, seen).await?;
    let ids: Vec<DropId> = sealed.iter().map(|drop| drop.id).collect();
    let rows = queries::drops::count(&ctx.stores.db, DropCount::Rows, &ids).await?;
    Ok(count.claimants < count.users + rows.values().sum::<u64>())
}

/// Builds the finding about claimants that are missing.
pub(crate) fn lost_claimants(result: Outcome) -> Finding {
    let detail = "users who hold a slot are not among the claimants in Redis";
    Finding {
        cause: Cause::LostClaimants,
        ..Finding::new(Kind::SettingsMismatch, ActionKind::Project, result, detail)
    }
}

/// Counts the rows of sealed drops, whose number grows only if a dead letter of one becomes a row,
/// and then the claimants and users in Redis at one moment.
async fn count(ctx: &PassContext, seen: &CouponSeen) -> Step<ClaimantCount> {
    let drops: Vec<DropKeys> = seen.drops.iter().map(|own| own.keys.clone()).collect();
    let mut sealed = 0;
    if seen.has_sealed {
        let others = other_sealed_drops(ctx, seen).await?;
        sealed = others
            .iter()
            .filter_map(|drop| drop.sealed_rows)
            .map(u64::from)
            .sum();
    }
    let redis = &ctx.stores.redis;
    let (claimants, users) = redis.claimants_and_users(seen.coupon.id, &drops).await?;
    Ok(ClaimantCount {
        claimants,
        users,
        sealed,
    })
}

/// Reads a coupon's sealed drops, without one that was sealed since the pass has seen it.
async fn other_sealed_drops(ctx: &PassContext, seen: &CouponSeen) -> Step<Vec<Drop>> {
    let found = ctx.stores.db.coupon(seen.coupon.id).await?;
    let mut drops = found.map(|(_, drops)| drops).unwrap_or_default();
    drops.retain(|drop| {
        drop.sealed_at.is_some() && seen.drops.iter().all(|own| own.drop.id != drop.id)
    });
    Ok(drops)
}
