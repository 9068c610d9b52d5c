//! What a coupon that a loss of Redis has closed needs besides its unsealed drops, before it opens.

use std::collections::HashSet;

use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::{CouponId, OncePer};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::sealed::CouponHistory;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::gate::Generation;
use firstcome_shared::redis::keys::DropMeta;
use futures_util::future::try_join_all;

use super::revocations::restore_revocations;
use super::{ExecuteError, Restored, allow_lists};
use crate::stores::Stores;

/// Whether a coupon that an operator is changing right now is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    Waits,
}

/// Writes the settings of coupons' drops anew, in a revision of each coupon's own. A lost Redis may
/// have come back with an older revision: a write that was held up through the loss would undo a
/// later one. Before them their history and allow lists: they open next. Gives the coupons that
/// were not left out.
pub(crate) async fn renew_settings(
    stores: &Stores,
    coupons: &[(CouponId, Generation)],
    patience: Patience,
    restored: &Restored,
) -> Result<HashSet<CouponId>, ExecuteError> {
    let seen = try_join_all(coupons.iter().map(|(coupon, _)| stores.redis.revision(*coupon))).await?;
    let seen = coupons.iter().map(|(coupon, _)| *coupon).zip(seen);
    let mut taken = Vec::new();
    match patience {
        Patience::None => taken = stores.db.take_revisions(seen.collect()).await?,
        Patience::Waits => {
            for (coupon, seen) in seen {
                match stores.db.take_revision(coupon, seen).await {
                    Err(error) if error.is_lock_wait() => {
                        tracing::warn!(coupon_id = coupon.0, "the coupon is being changed for long: it opens later");
                    }
                    revision => taken.extend(revision?),
                }
            }
        }
    }
    let histories = stores.db.histories(taken.iter().map(|(coupon, _)| coupon.id).collect()).await?;
    let mut closed = HashSet::new();
    for (coupon, _) in &taken {
        let Some(history) = histories.get(&coupon.id) else { continue };
        let life = coupons.iter().find(|(id, _)| *id == coupon.id);
        let is_known = life.is_some_and(|life| restored.lock().contains(life));
        // A bulkhead: what one coupon has keeps no other closed.
        if let Err(error) = restore_history(stores, coupon, history, is_known).await {
            let why = error.about_data().ok_or(error)?;
            tracing::error!(coupon_id = coupon.id.0, why, "what Redis must know of sealed drops cannot be restored");
            closed.insert(coupon.id);
        }
    }
    let of_lists = taken.iter().map(|(coupon, _)| coupon);
    closed.extend(allow_lists::restore(&stores.db, &stores.redis, of_lists).await?.into_keys());
    let mut settings = Vec::new();
    for (coupon, drops) in &taken {
        let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
        settings.extend(
            unsealed.map(|drop| (stores.redis.keys(coupon.id, drop.id), coupon.revision, DropMeta::of(coupon, drop))),
        );
    }
    try_join_all(settings.iter().map(|(keys, revision, meta)| stores.redis.write_meta(keys, *revision, meta))).await?;
    Ok(taken.iter().map(|(coupon, _)| coupon.id).filter(|coupon| !closed.contains(coupon)).collect())
}

/// A Redis that came back older may have forgotten who won in a drop that has been sealed since: no
/// pass compares that one, and they could win again in the next.
async fn restore_history(
    stores: &Stores,
    coupon: &Coupon,
    history: &CouponHistory,
    claimants_are_known: bool,
) -> Result<(), ExecuteError> {
    if history.revocations > 0 {
        restore_revocations(&stores.db, &stores.redis, coupon).await?;
    }
    if history.people > 0 && !claimants_are_known {
        restore_claimants(&stores.db, &stores.redis, coupon).await?;
    }
    Ok(())
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
