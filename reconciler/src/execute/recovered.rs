//! What MySQL has lost, put back into it.

use firstcome_shared::domain::CouponId;
use firstcome_shared::drops::{self, MakeError};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::numbers::NumbersInDoubt;
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
    match drops::skip_given_numbers(&stores.db, &stores.redis).await {
        Ok(highest) => Ok(stores.redis.note_numbers_everywhere(highest).await?),
        Err(MakeError::Db(error)) => Err(error.into()),
        Err(MakeError::Redis(error)) => Err(error.into()),
    }
}

/// Only these of the numbers in doubt are of coupons that MySQL has lost.
pub(crate) async fn settle_numbers(
    stores: &Stores,
    seen: NumbersInDoubt,
    lost: &[CouponId],
) -> Result<(), DbError> {
    stores.db.settle_numbers(seen, lost).await
}
