//! Whether Redis has the claimants of a coupon that allows one claim per user in total: the users
//! who hold a slot of any drop. The keys of sealed drops expire, so only numbers are compared.

use diesel::prelude::*;
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::schema::drops;

use crate::context::{PassContext, Step, Stores};
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
    let db = &ctx.stores.db;
    let mut sealed = sealed_with_rows(db, seen.coupon.id).await?;
    sealed.retain(|drop| seen.drops.iter().all(|own| own.drop.id != *drop));
    let rows = queries::drops::count(db, DropCount::Rows, &sealed).await?;
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
    let Stores { db, redis, .. } = &ctx.stores;
    let id = seen.coupon.id;
    let drops: Vec<DropKeys> = seen.drops.iter().map(|own| own.keys.clone()).collect();
    let sealed = if seen.has_sealed {
        count_rows_of_other_sealed_drops(db, id, &drops).await?
    } else {
        0
    };
    let (claimants, users) = redis.claimants_and_users(id, &drops).await?;
    Ok(ClaimantCount {
        claimants,
        users,
        sealed,
    })
}

/// Reads how many rows a coupon's sealed drops have, without those of `drops`.
async fn count_rows_of_other_sealed_drops(
    db: &Db,
    coupon: CouponId,
    drops: &[DropKeys],
) -> Result<u64, DbError> {
    let own: Vec<DropId> = drops.iter().map(|own| own.drop).collect();
    let rows = drops::table
        .filter(drops::coupon_id.eq(coupon))
        .filter(drops::sealed_at.is_not_null())
        .filter(drops::id.ne_all(own))
        .select(drops::sealed_rows);
    let rows: Vec<Option<u32>> = db.rows("rows of sealed drops", rows).await?;
    Ok(rows.into_iter().flatten().map(u64::from).sum())
}

/// Reads a coupon's sealed drops that have rows.
async fn sealed_with_rows(db: &Db, coupon: CouponId) -> Result<Vec<DropId>, DbError> {
    let sealed = drops::table
        .filter(drops::coupon_id.eq(coupon))
        .filter(drops::sealed_at.is_not_null())
        .filter(drops::sealed_rows.gt(Some(0)))
        .select(drops::id);
    db.rows("sealed drops with rows", sealed).await
}
