//! Restores settings that MySQL has lost.

use firstcome_shared::StoreError;
use firstcome_shared::domain::CouponId;
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
