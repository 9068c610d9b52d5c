//! Seals drops that are over, and lets their keys in Redis expire.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::{Redis, RedisError};
use firstcome_shared::schedule::Schedule;

use super::ExecuteError;
use crate::stores::Stores;

/// A verified drop with the counts of the pass.
pub(crate) struct VerifiedDrop {
    pub(crate) rows: u64,
    pub(crate) revocations: u64,
}

/// Marks a drop as verified exact. Passes then skip it, and its keys in Redis expire later. Returns
/// `false` if an operator has changed its closing time in the meantime or one of its claims was
/// revoked.
pub(crate) async fn seal(
    stores: &Stores,
    drop: &Drop,
    VerifiedDrop { rows, revocations }: VerifiedDrop,
    keys_ttl: Duration,
) -> Result<bool, ExecuteError> {
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let sealed = stores
        .db
        .seal_drop(drop.id, drop.closes_at, drop.quantity, rows, revocations)
        .await?;
    if sealed {
        let keys = stores.redis.keys(drop.coupon_id, drop.id);
        stores.redis.expire_drop(&keys, keys_ttl).await?;
        if is_over(&stores.db, drop.coupon_id).await? {
            stores.redis.expire_coupon(&keys, Some(keys_ttl)).await?;
            keep_if_live(stores, drop.coupon_id, &keys).await?;
        }
    }
    Ok(sealed)
}

/// Removes the expiry that sealing has set from the keys of drops that were unsealed since.
pub(crate) async fn keep_unsealed(
    redis: &Redis,
    drops: &[(Coupon, Drop)],
) -> Result<(), RedisError> {
    let now = Utc::now();
    let is_ended =
        |drop: &Drop| drop.sealed_at.is_none() && drop.closes_at.is_some_and(|at| at < now);
    let ended = drops.iter().filter(|(_, drop)| is_ended(drop));
    let keys: Vec<_> = ended
        .map(|(coupon, drop)| redis.keys(coupon.id, drop.id))
        .collect();
    redis.keep_drops(&keys).await
}

/// Sets the expiry of keys of sealed drops and finished coupons where it is missing. A process may
/// have died after sealing a drop, and an operator's change can end a coupon after its last drop
/// was sealed. `live` contains coupons that are certainly not over.
pub(crate) async fn let_expire(
    stores: &Stores,
    sealed: &[(CouponId, DropId)],
    live: &HashSet<CouponId>,
    keys_ttl: Duration,
) -> Result<(), ExecuteError> {
    let keys: Vec<_> = sealed
        .iter()
        .map(|(coupon, drop)| stores.redis.keys(*coupon, *drop))
        .collect();
    let loaded = stores.redis.are_loaded(&keys).await?;
    let lasting: Vec<_> = keys
        .iter()
        .zip(loaded)
        .filter(|(_, loaded)| *loaded)
        .map(|(keys, _)| keys.clone())
        .collect();
    let mut coupons: Vec<_> = sealed
        .iter()
        .copied()
        .filter(|(coupon, _)| !live.contains(coupon))
        .collect();
    coupons.sort_unstable();
    coupons.dedup_by_key(|(coupon, _)| *coupon);
    let of_coupons: Vec<_> = coupons
        .iter()
        .map(|(coupon, drop)| stores.redis.keys(*coupon, *drop))
        .collect();
    let remembered = stores.redis.are_remembered(&of_coupons).await?;
    let mut over = Vec::new();
    for (((coupon, _), keys), remembered) in coupons.iter().zip(of_coupons).zip(remembered) {
        if remembered && is_over(&stores.db, *coupon).await? {
            over.push((*coupon, keys));
        }
    }
    let keys: Vec<_> = over.iter().map(|(_, keys)| keys.clone()).collect();
    stores
        .redis
        .expire_what_lasts(&lasting, &keys, keys_ttl)
        .await?;
    for (coupon, keys) in &over {
        keep_if_live(stores, *coupon, keys).await?;
    }
    Ok(())
}

/// Removes the expiry again if an operator has added days to the coupon in the meantime. Later
/// changes are safe, since loading new drops removes the expiry.
async fn keep_if_live(
    stores: &Stores,
    coupon: CouponId,
    keys: &DropKeys,
) -> Result<(), ExecuteError> {
    if !is_over(&stores.db, coupon).await? {
        stores.redis.expire_coupon(keys, None).await?;
    }
    Ok(())
}

/// Whether all drops of a coupon are sealed and its schedule has no more of them.
pub(super) async fn is_over(db: &Db, coupon: CouponId) -> Result<bool, DbError> {
    let Some((coupon, drops)) = db.coupon(coupon).await? else {
        return Ok(false);
    };
    let goes_on = match &coupon.schedule {
        Some(schedule @ Schedule::Daily { .. }) => !schedule.drops_from(Utc::now()).is_empty(),
        _ => false,
    };
    Ok(!goes_on && drops.iter().all(|drop| drop.sealed_at.is_some()))
}

/// Drops read per statement.
const DROPS_AT_ONCE: i64 = 500;

/// Maximum number of drops that one pass processes, and of users that it erases. The next deep pass
/// continues.
const DROPS_AT_MOST: usize = 10_000;
const PEOPLE_AT_MOST: usize = 1_000_000;

/// Enforces the retention of user IDs: replaces all users of drops sealed more than `kept` ago by
/// pseudonyms, once neither admission nor Redis needs the IDs. If a coupon allows one per user in
/// total, its rows keep their users until the coupon is over, because they show who already has
/// one.
pub(crate) async fn erase_old_people(stores: &Stores, kept: Duration) -> Result<(), ExecuteError> {
    let mut over = HashMap::new();
    let mut after = DropId(0);
    let mut drops = 0;
    let mut people = 0;
    while drops < DROPS_AT_MOST && people < PEOPLE_AT_MOST {
        let page = stores
            .db
            .old_drops_with_people(kept, after, DROPS_AT_ONCE)
            .await?;
        let Some(last) = page.last() else { break };
        after = last.id();
        for drop in page {
            let is_over = match over.get(&drop.coupon()) {
                Some(known) => *known,
                None => is_over(&stores.db, drop.coupon()).await?,
            };
            over.insert(drop.coupon(), is_over);
            let keys = stores.redis.keys(drop.coupon(), drop.id());
            let needed = if is_over {
                stores.redis.any_people(&[keys]).await?
            } else {
                !drop.once_per_drop || stores.redis.has_people(&keys).await?
            };
            if !needed {
                drops += 1;
                people += stores.db.erase_holders(drop.id()).await?
                    + stores.db.erase_others(drop.id(), is_over).await?;
            }
        }
    }
    if people > 0 {
        tracing::info!(
            drops,
            people,
            "people of drops that are long over are erased"
        );
    }
    Ok(())
}
