//! What MySQL has lost, put back into it.

use firstcome_shared::domain::{CouponId, DropId, NamedDrop};
use firstcome_shared::drops;
use firstcome_shared::mysql::numbers::NumbersInDoubt;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::recover::{self, LostSettings, RecoverError};

use super::ExecuteError;
use crate::stores::Stores;

impl From<RecoverError> for ExecuteError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Db(error) => Self::Mysql(error),
            RecoverError::Redis(error) => Self::Redis(error),
        }
    }
}

/// Settings of a coupon that MySQL has lost.
pub(crate) async fn lost_settings(
    stores: &Stores,
    coupon: CouponId,
) -> Result<Option<LostSettings>, ExecuteError> {
    Ok(recover::lost_settings(&stores.db, &stores.redis, coupon).await?)
}

/// The same, and MySQL has them again.
pub(crate) async fn recover_settings(
    stores: &Stores,
    coupon: CouponId,
) -> Result<Option<LostSettings>, ExecuteError> {
    Ok(recover::recover(&stores.db, &stores.redis, coupon).await?)
}

/// Numbers of coupons and drops that MySQL has lost go to no other, and those that it has are noted
/// in Redis, which may have lost them.
pub(crate) async fn skip_given_numbers(stores: &Stores) -> Result<(), ExecuteError> {
    let highest = drops::skip_given_numbers(&stores.db, &stores.redis).await?;
    Ok(stores.redis.note_numbers_everywhere(highest).await?)
}

/// What became of a drop that MySQL has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostDropEnd {
    /// Its row is back, or would be after a dry run.
    Restored,
    /// MySQL has lost its coupon too.
    NoCoupon,
    /// Redis does not know its settings.
    NoSettings,
    /// It has a row on a higher slot than the quantity that Redis knows.
    RowAboveQuantity,
    /// Another drop of the coupon has its day by now.
    DayTaken,
}

/// Puts the row of a drop that MySQL has lost back, with the settings that Redis has.
pub(crate) async fn restore_drop(
    stores: &Stores,
    NamedDrop { coupon, drop }: NamedDrop,
    dry_run: bool,
) -> Result<LostDropEnd, ExecuteError> {
    let (db, redis) = (&stores.db, &stores.redis);
    let Some((coupon, own)) = db.coupon(coupon).await? else {
        return Ok(LostDropEnd::NoCoupon);
    };
    let numbers = redis.drop_numbers(&[redis.keys(coupon.id, drop)]).await;
    let meta = match numbers.into_iter().next() {
        Some(numbers) => numbers?.meta,
        None => None,
    };
    let Some(lost) = meta.and_then(|meta| recover::drop_by_redis(&coupon, drop, &meta)) else {
        return Ok(LostDropEnd::NoSettings);
    };
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

/// Writes the limits of a drop that has lost them: without them no row of it can be written.
pub(crate) async fn restore_limits(db: &Db, drop: DropId) -> Result<(), DbError> {
    db.restore_limits(drop).await
}

/// Only these of the numbers in doubt are of coupons that MySQL has lost.
pub(crate) async fn settle_numbers(
    stores: &Stores,
    seen: NumbersInDoubt,
    lost: &[CouponId],
) -> Result<(), DbError> {
    stores.db.settle_numbers(seen, lost).await
}
