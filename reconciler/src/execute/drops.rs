//! Drops as a whole: made ahead of their opening, sealed, unsealed.

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, UserId};
use firstcome_shared::drops;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::meta::DropMeta;

use super::ExecuteError;
use crate::stores::Stores;

/// Makes the drops that schedules ask for, and brings the catalogue up to date.
pub(crate) async fn make_ahead(stores: &Stores, catalogue: &mut [(Coupon, Vec<Drop>)]) -> Result<(), DbError> {
    for (coupon, own) in catalogue {
        match drops::make_ahead(&stores.db, &stores.redis, coupon, own, Utc::now()).await {
            Ok(0) => {}
            Ok(made) => {
                tracing::info!(coupon_id = coupon.id.0, made, "drops made ahead");
                if let Some((_, fresh)) = stores.db.coupon(coupon.id).await? {
                    *own = fresh;
                }
            }
            Err(error) => tracing::warn!(coupon_id = coupon.id.0, %error, "drops could not be made ahead"),
        }
    }
    Ok(())
}

/// Marks a drop as verified exact, unless anything of it was revoked meanwhile. Passes skip it from now
/// on, and its keys leave Redis after a while.
pub(crate) async fn seal(
    stores: &Stores,
    (coupon, drop): (CouponId, DropId),
    (rows, revocations): (u64, u64),
    keys_ttl: std::time::Duration,
) -> Result<bool, ExecuteError> {
    let sealed = stores.db.seal_drop(drop, u32::try_from(rows).unwrap_or(u32::MAX), revocations).await?;
    if sealed {
        stores.redis.expire_drop(&stores.redis.keys(coupon, drop), keys_ttl).await?;
    }
    Ok(sealed)
}

/// Before a coupon opens after a loss: its revocations, and the settings of its drops anew, in a revision of its own. A lost Redis may have come
/// back with an older revision: a write that was held up through the loss would undo a later one.
pub(crate) async fn renew_settings(stores: &Stores, coupon: CouponId) -> Result<(), ExecuteError> {
    let seen = stores.redis.revision(coupon).await?;
    let Some((coupon, drops)) = stores.db.take_revision(coupon, seen).await? else { return Ok(()) };
    super::restore_revocations(&stores.db, &stores.redis, &coupon).await?;
    for drop in drops.iter().filter(|drop| drop.sealed_at.is_none()) {
        let (keys, meta) = (stores.redis.keys(coupon.id, drop.id), DropMeta::of(&coupon, drop));
        stores.redis.write_meta(&keys, coupon.revision, &meta).await?;
    }
    Ok(())
}

/// Unseals drops that a dead letter names, or that have a broken promise: one is open there after
/// all.
pub(crate) async fn unseal_where_named(db: &Db) -> Result<(), DbError> {
    let unsealed = db.unseal_drops_of_dead_letters().await? + db.unseal_drops_of_broken_promises().await?;
    if unsealed > 0 {
        tracing::warn!(unsealed, "sealed drops are compared again: a dead letter or a broken promise is of them");
    }
    Ok(())
}

/// Deletes dead letters that were resolved long ago.
pub(crate) async fn delete_resolved_dead_letters(db: &Db, kept: std::time::Duration) -> Result<(), DbError> {
    let deleted = db.delete_resolved_dead_letters(kept).await?;
    if deleted > 0 {
        tracing::info!(deleted, "dead letters that were resolved long ago are deleted");
    }
    Ok(())
}

/// Notes that broken promises are mended: their people have rows by now, in whatever way they came.
pub(crate) async fn mend(db: &Db, drop: DropId, people: &[UserId]) -> Result<(), DbError> {
    if !people.is_empty() {
        tracing::info!(drop_id = drop.0, people = people.len(), "broken promises are mended");
    }
    db.mend_broken_promises(drop, people).await
}

/// Rows read at a time.
const ROWS_AT_ONCE: i64 = 5_000;

/// Adds every person with a row of the coupon to its claimants, drops whose keys have left Redis
/// included: else they could get a second one in the next drop.
///
/// # Errors
/// [`ExecuteError`]; some may have been added.
pub(crate) async fn restore_claimants(db: &Db, redis: &Redis, coupon: &Coupon) -> Result<(), ExecuteError> {
    if coupon.once_per != OncePer::Coupon {
        return Ok(());
    }
    let mut after = String::new();
    loop {
        let people = db.holders_after(coupon.id, after.clone(), ROWS_AT_ONCE).await?;
        let Some((last, ..)) = people.last() else { return Ok(()) };
        after.clone_from(last);
        redis.add_claimants(coupon.id, &people).await?;
    }
}
