//! Restores data that MySQL has lost.

use firstcome_shared::StoreError;
use firstcome_shared::domain::{CouponId, DropId, NamedDrop};
use firstcome_shared::drops;
use firstcome_shared::mysql::numbers::NumbersInDoubt;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::recover::{self, LostSettings};

use super::ExecuteError;
use crate::stores::Stores;

impl From<StoreError> for ExecuteError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Db(error) => Self::Mysql(error),
            StoreError::Redis(error) => Self::Redis(error),
        }
    }
}

/// Returns the settings of a coupon that MySQL has lost.
pub(crate) async fn lost_settings(
    stores: &Stores,
    coupon: CouponId,
) -> Result<Option<LostSettings>, ExecuteError> {
    Ok(recover::lost_settings(&stores.db, &stores.redis, coupon).await?)
}

/// Writes the settings of a coupon that MySQL has lost back to MySQL, and returns them.
pub(crate) async fn recover_settings(
    stores: &Stores,
    coupon: CouponId,
) -> Result<Option<LostSettings>, ExecuteError> {
    Ok(recover::recover(&stores.db, &stores.redis, coupon).await?)
}

/// Prevents MySQL from reusing the IDs of coupons and drops that it has lost. Also records the
/// highest existing IDs in Redis, in case Redis has lost them.
pub(crate) async fn skip_given_numbers(stores: &Stores) -> Result<(), ExecuteError> {
    let highest = drops::skip_given_numbers(&stores.db, &stores.redis).await?;
    Ok(stores.redis.note_numbers_everywhere(highest).await?)
}

/// The outcome for a drop that MySQL has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostDropEnd {
    /// The row of the drop is restored. In a dry run, it could be restored.
    Restored,
    /// MySQL has also lost the coupon.
    NoCoupon,
    /// Redis does not have the settings of the drop.
    NoSettings,
    /// MySQL has a row on a slot above the quantity that Redis has for the drop.
    RowAboveQuantity,
    /// The coupon already has another drop for the same day.
    DayTaken,
}

/// Restores the row of a drop that MySQL has lost, with the settings from Redis.
pub(crate) async fn restore_drop(
    stores: &Stores,
    NamedDrop { coupon, drop }: NamedDrop,
    dry_run: bool,
) -> Result<LostDropEnd, ExecuteError> {
    let db = &stores.db;
    let redis = &stores.redis;
    let Some((coupon, own)) = db.coupon(coupon).await? else {
        return Ok(LostDropEnd::NoCoupon);
    };
    let numbers = redis.drop_numbers(&[redis.keys(coupon.id, drop)]).await;
    let meta = match numbers.into_iter().next() {
        Some(numbers) => numbers?.meta,
        None => None,
    };
    let Some(mut lost) = meta.and_then(|meta| recover::drop_by_redis(&coupon, drop, &meta)) else {
        return Ok(LostDropEnd::NoSettings);
    };
    // Redis has the lower quantity of a change that MySQL refused because it had lost the drop.
    lost.quantity = lost.quantity.max(db.highest_limit(drop).await?);
    let highest = db.highest_slots(vec![drop]).await?;
    if highest.get(&drop) > Some(&lost.quantity) {
        return Ok(LostDropEnd::RowAboveQuantity);
    }
    let is_taken = own.iter().any(|own| own.local_date == lost.local_date);
    if is_taken || !dry_run && !db.restore_drop(lost).await? {
        return Ok(LostDropEnd::DayTaken);
    }
    Ok(LostDropEnd::Restored)
}

/// Restores the slot limits of a drop. Without them, no row of the drop can be inserted.
pub(crate) async fn restore_limits(db: &Db, drop: DropId) -> Result<(), DbError> {
    db.restore_limits(drop).await
}

/// Resolves which of the coupon IDs in doubt belong to coupons that MySQL has lost: exactly those
/// in `lost`.
pub(crate) async fn settle_numbers(
    stores: &Stores,
    seen: NumbersInDoubt,
    lost: &[CouponId],
) -> Result<(), DbError> {
    stores.db.settle_numbers(seen, lost).await
}
