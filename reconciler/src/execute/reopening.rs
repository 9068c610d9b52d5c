//! Restores what a coupon needs before it opens after a loss of Redis data, in addition to its
//! unsealed drops.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::TimeDelta;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::sealed::CouponHistory;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::keys::DropMeta;
use futures_util::future::try_join_all;

use super::revocations::restore_revocations_after;
use super::{ExecuteError, allow_lists};
use crate::stores::Stores;

/// Whether to wait for a coupon that an operator is changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    Waits,
}

/// Rewrites the settings of coupons' drops, with a new revision for each coupon. Redis may have
/// restarted with an older revision, so that a delayed write from before the loss could overwrite
/// later settings. First restores the coupons' history, as it was when the pass began, and their
/// allow lists, because the coupons open next. Returns the coupons that may open.
pub(crate) async fn renew_settings(
    stores: &Stores,
    coupons: &[CouponId],
    patience: Patience,
    histories: &HashMap<CouponId, CouponHistory>,
    keys_ttl: Duration,
) -> Result<HashSet<CouponId>, ExecuteError> {
    let seen = try_join_all(coupons.iter().map(|coupon| stores.redis.revision(*coupon))).await?;
    let seen = coupons.iter().copied().zip(seen);
    let mut taken = Vec::new();
    match patience {
        Patience::None => taken = stores.db.take_revisions(seen.collect()).await?,
        Patience::Waits => {
            for (coupon, seen) in seen {
                match stores.db.take_revision(coupon, seen).await {
                    Err(error) if error.is_lock_wait() => {
                        tracing::warn!(
                            coupon_id = coupon.0,
                            "the coupon is being changed for long: it opens later"
                        );
                    }
                    revision => taken.extend(revision?),
                }
            }
        }
    }
    let mut closed = HashSet::new();
    for (coupon, drops) in &taken {
        let history = histories.get(&coupon.id).copied().unwrap_or_default();
        // This is a bulkhead: bad data of one coupon does not keep others closed.
        if let Err(error) = restore_history(stores, coupon, drops, history, keys_ttl).await {
            if !error.is_of_one_coupon() {
                return Err(error);
            }
            tracing::error!(coupon_id = coupon.id.0, %error, "what Redis must know of earlier drops cannot be restored");
            closed.insert(coupon.id);
        }
    }
    let of_lists = taken.iter().map(|(coupon, _)| coupon);
    closed.extend(
        allow_lists::restore(&stores.db, &stores.redis, of_lists)
            .await?
            .into_keys(),
    );
    let mut settings = Vec::new();
    for (coupon, drops) in &taken {
        let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
        settings.extend(unsealed.map(|drop| {
            (
                stores.redis.keys(coupon.id, drop.id),
                coupon.revision,
                DropMeta::of(coupon, drop),
            )
        }));
    }
    try_join_all(
        settings
            .iter()
            .map(|(keys, revision, meta)| stores.redis.write_meta(keys, *revision, meta)),
    )
    .await?;
    Ok(taken
        .iter()
        .map(|(coupon, _)| coupon.id)
        .filter(|coupon| !closed.contains(coupon))
        .collect())
}

/// Maximum difference, by two clocks, between the time at which MySQL recorded that a drop was
/// sealed and the time at which Redis set the expiry of its keys. Must be shorter than the time
/// before a drop can be sealed again.
const SEALING_TAKES: TimeDelta = TimeDelta::seconds(1);

/// Restores the facts about drops that were sealed after the current data of Redis was saved,
/// because no pass compares sealed drops. Otherwise, a user with a coupon of such a drop could win
/// again in the next drop, and the sealed drop could be open again.
async fn restore_history(
    stores: &Stores,
    coupon: &Coupon,
    drops: &[Drop],
    history: CouponHistory,
    keys_ttl: Duration,
) -> Result<(), ExecuteError> {
    let Stores { db, redis, .. } = stores;
    // If Redis has the last sealing, its data is current. A drop may have been sealed twice, so the
    // sealing is identified by the time at which the expiry of the keys was set.
    let saw_sealing = match history.last_sealing() {
        Some((drop, at)) => {
            let expire_since = redis
                .expire_since(&redis.keys(coupon.id, drop), keys_ttl)
                .await?;
            expire_since.is_some_and(|since| (since - at).abs() <= SEALING_TAKES)
        }
        None => false,
    };
    for sealed in drops
        .iter()
        .filter(|drop| drop.sealed_at.is_some() && !saw_sealing)
    {
        // Once the keys have expired, reads of the drop use MySQL.
        redis
            .expire_drop(&redis.keys(coupon.id, sealed.id), Duration::ZERO)
            .await?;
    }
    // A revocation unseals its drop, so if Redis has the last sealing, there are no claimants to
    // remove or to add. A user who claimed again after a revocation is a valid claimant of that
    // drop. One sealed drop is enough, because the next drop may open hours later.
    let has_earlier = history.opened > 1 || history.last_sealing().is_some();
    let is_older = coupon.once_per == OncePer::Coupon && has_earlier && !saw_sealing;
    if history.revocations > 0 {
        let compared: HashSet<i64> = drops
            .iter()
            .filter(|drop| drop.sealed_at.is_none())
            .map(|drop| drop.id.0)
            .collect();
        let mut after = 0;
        while let Some(page) = restore_revocations_after(db, redis, coupon, &mut after).await? {
            if is_older {
                let earlier = page.iter().filter(|one| !compared.contains(&one.drop_id));
                let of_drops: Vec<_> = earlier
                    .map(|one| (one.user_id.as_str(), DropId(one.drop_id)))
                    .collect();
                redis.forget_claimants(coupon.id, &of_drops).await?;
            }
        }
    }
    // Do this even if no drop is sealed, because a revocation may have just unsealed one.
    if is_older {
        restore_claimants(db, redis, coupon, Restored::All).await?;
    }
    Ok(())
}

/// Number of rows read per statement.
const ROWS_AT_ONCE: i64 = 5_000;

/// The claimants of a coupon to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    /// Only missing claimants, because the coupon may be open.
    Missing,
    /// Missing claimants, and those with another slot than their row.
    Different,
    /// All claimants. The coupon is closed, and existing ones may be outdated.
    All,
}

/// Adds every user with a row of the coupon to its claimants. This includes users of drops whose
/// keys have expired in Redis, who could otherwise win a second time in the next drop. Returns the
/// number of new claimants.
///
/// # Errors
/// [`ExecuteError`] if a store fails. Some claimants may have been added.
pub(crate) async fn restore_claimants(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    which: Restored,
) -> Result<u64, ExecuteError> {
    if coupon.once_per != OncePer::Coupon {
        return Ok(0);
    }
    let mut added = 0;
    let mut after = String::new();
    loop {
        let people = db
            .holders_after(coupon.id, after.clone(), ROWS_AT_ONCE)
            .await?;
        let Some((last, ..)) = people.last() else {
            return Ok(added);
        };
        after.clone_from(last);
        let people = match which {
            Restored::Different => redis.different_claimants(coupon.id, people).await?,
            _ => people,
        };
        added += redis
            .set_claimants(coupon.id, &people, which == Restored::Missing)
            .await?;
    }
}
