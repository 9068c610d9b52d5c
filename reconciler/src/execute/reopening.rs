//! The steps that a coupon closed by a loss of Redis needs before it opens, in addition to its
//! unsealed drops.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::TimeDelta;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::sealed::CouponHistory;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use futures_util::future::try_join_all;

use super::revocations::restore_revocations_after;
use super::{ExecuteError, allow_lists};
use crate::stores::Stores;

/// Whether to wait for a coupon that an operator is changing right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    Waits,
}

/// Rewrites the settings of coupons' drops, with a new revision for each coupon. A lost Redis may
/// have come back with an older revision: a write that was delayed through the loss would undo a
/// later one. Before the settings it restores the coupons' history, as it was when the pass began,
/// and their allow lists, because the coupons open next. Returns the coupons that were not skipped.
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
        // A bulkhead: bad data of one coupon does not keep others closed.
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

/// Maximum time between the sealing of a drop in MySQL and the expiry of its keys in Redis, by two
/// clocks: less than a drop waits before it is sealed once more.
const SEALING_TAKES: TimeDelta = TimeDelta::seconds(1);

/// A Redis that came back with older data lacks or contradicts facts about drops that were sealed
/// since, and no pass compares these: a winner in one could win again in the next, and one could be
/// open again.
async fn restore_history(
    stores: &Stores,
    coupon: &Coupon,
    drops: &[Drop],
    history: CouponHistory,
    keys_ttl: Duration,
) -> Result<(), ExecuteError> {
    let Stores { db, redis, .. } = stores;
    // A Redis that knows of the last sealing has current data. One drop may have been sealed twice,
    // so the sealing is identified by the time from which its keys expire.
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
        // From here on MySQL answers for it.
        redis
            .expire_drop(&redis.keys(coupon.id, sealed.id), Duration::ZERO)
            .await?;
    }
    // A revocation unseals its drop, so if Redis knows of the last sealing, there is nothing to
    // forget or to add. A user who claimed again after a revocation is rightly a claimant of that
    // drop. The next drop may open hours after this, so one sealed drop is enough.
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
    // Not only if a drop is sealed: a revocation may have unsealed it a moment ago.
    if is_older {
        restore_claimants(db, redis, coupon, Restored::All).await?;
    }
    Ok(())
}

/// Rows read per statement.
const ROWS_AT_ONCE: i64 = 5_000;

/// The claimants of a coupon to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    /// Only missing ones: the coupon may be open.
    Missing,
    /// All: the coupon is closed, and existing ones may be old.
    All,
}

/// Adds every user with a row of the coupon to its claimants, including users of drops whose keys
/// have left Redis: otherwise they could win a second time in the next drop.
///
/// # Errors
/// [`ExecuteError`]; some may have been added.
pub(crate) async fn restore_claimants(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    which: Restored,
) -> Result<(), ExecuteError> {
    if coupon.once_per != OncePer::Coupon {
        return Ok(());
    }
    let mut after = String::new();
    loop {
        let people = db
            .holders_after(coupon.id, after.clone(), ROWS_AT_ONCE)
            .await?;
        let Some((last, ..)) = people.last() else {
            return Ok(());
        };
        after.clone_from(last);
        redis
            .set_claimants(coupon.id, &people, which == Restored::Missing)
            .await?;
    }
}

/// A drop, and whether users hold a coupon of an earlier one.
pub(crate) struct LaterDrop {
    pub(crate) keys: DropKeys,
    pub(crate) revision: u64,
    pub(crate) has_earlier_holders: bool,
}

/// Records in these drops whether users hold a coupon of an earlier one, unless already recorded.
pub(crate) async fn note_earlier_holders(
    redis: &Redis,
    drops: Vec<LaterDrop>,
) -> Result<(), ExecuteError> {
    let keys: Vec<DropKeys> = drops.iter().map(|drop| drop.keys.clone()).collect();
    let noted = redis.earlier_holders(&keys).await?;
    for (drop, noted) in drops.iter().zip(noted) {
        if noted.is_some_and(|noted| noted != drop.has_earlier_holders) {
            redis
                .note_earlier_holders(&drop.keys, drop.revision, drop.has_earlier_holders)
                .await?;
        }
    }
    Ok(())
}
