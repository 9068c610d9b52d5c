//! Creates daily drops days ahead, each with a new ID. Every API process and the reconciler do
//! this, so that one stopped process never prevents a drop from opening. The schema allows one drop
//! per local date, so concurrent attempts create no duplicates.

use chrono::{DateTime, Utc};

use crate::StoreError;
use crate::coupon::{Coupon, Drop};
use crate::domain::NamedDrop;
use crate::mysql::{Db, DbError};
use crate::recover::lost_drops;
use crate::redis::given::GivenNumbers;
use crate::redis::keys::DropMeta;
use crate::redis::{Redis, RedisError};
use crate::schedule::Schedule;

/// Why drops could not be created or loaded. Drops that were already created remain, and the next
/// round creates the rest.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(transparent)]
    Db(#[from] DbError),
    /// No drop was created, or new drops could not be loaded into Redis. In the second case, the
    /// reconciler loads them.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// MySQL has lost a drop of the coupon. A replacement would give out the same day twice.
    #[error("MySQL has lost drop {} of the coupon: no drop is created until it is restored", .0.drop)]
    Lost(NamedDrop),
}

impl From<StoreError> for MakeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Db(error) => Self::Db(error),
            StoreError::Redis(error) => Self::Redis(error),
        }
    }
}

/// Advances MySQL's counters past the IDs that Redis has recorded, and returns the highest ones.
/// Call this before creating a coupon or drop: if MySQL has lost its last rows, it would otherwise
/// reuse their IDs, and new coupons would inherit the claims of the lost ones.
pub async fn skip_given_numbers(db: &Db, redis: &Redis) -> Result<GivenNumbers, StoreError> {
    Ok(db.skip_numbers(Some(redis.given_numbers().await?)).await?)
}

/// Creates the drops that a daily coupon's schedule requires and that are missing from `drops`,
/// loads them into Redis, and returns how many it created. `drops` must contain every drop whose
/// window has not ended at `now`.
/// If Redis has lost the coupon's era, its holders are unknown: the reconciler restores them and
/// then loads the new drops.
pub async fn make_ahead(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    drops: &[Drop],
    now: DateTime<Utc>,
) -> Result<usize, MakeError> {
    let Some(schedule @ Schedule::Daily { .. }) = &coupon.schedule else {
        return Ok(0);
    };
    // Earlier sealed drops may not be among `drops`.
    let opened = drops.iter().map(|drop| drop.opens_at);
    let last_opened = opened.filter(|at| *at <= now).max();
    let mut missing = schedule.drops_from(now);
    missing.retain(|planned| {
        last_opened.is_none_or(|last| last < planned.opens_at)
            && drops
                .iter()
                .all(|drop| drop.local_date != Some(planned.local_date))
    });
    if missing.is_empty() {
        return Ok(0);
    }
    // Read the fence first. If Redis loses data afterwards, loading finds another era and does
    // nothing.
    let fence = redis.fence(coupon.id).await?;
    // Drops are created days ahead. If one is missing although its window has begun, MySQL may have
    // lost it, and perhaps only its users in Redis show this.
    let is_late = missing.iter().any(|planned| planned.opens_at <= now);
    let lost = lost_drops(db, redis, is_late).await?;
    if let Some(lost) = lost.iter().find(|lost| lost.coupon == coupon.id) {
        return Err(MakeError::Lost(*lost));
    }
    skip_given_numbers(db, redis).await?;
    let Some((coupon, made)) = db.make_drops(coupon.id, missing).await? else {
        return Ok(0);
    };
    if let Some(fence) = fence {
        for drop in &made {
            // Redis refuses this if the coupon has changed since; the reconciler then loads the
            // drop.
            let keys = redis.keys(coupon.id, drop.id);
            let meta = DropMeta::of(&coupon, drop);
            redis
                .load_drop(&keys, &fence, coupon.revision, &meta)
                .await?;
        }
    }
    Ok(made.len())
}
