//! Sets expiries on the keys of ended drops and coupons.

use std::time::Duration;

use redis::RedisResult;

use super::Redis;
use super::keys::{self, DropKeys};
use crate::domain::CouponId;
use crate::tuning::Tuning;

/// How long the keys of a sealed drop stay. Until then, claims on the drop and retries of its
/// holders are answered without MySQL.
pub fn sealed_for() -> Duration {
    Duration::from_secs(Tuning::SealedKeysTtlSeconds.or(60 * 60))
}

impl Redis {
    /// Sets an expiry on the keys of these drops, not on those of their coupons. An expiry of zero
    /// deletes them.
    pub async fn expire_drops(&self, drops: &[DropKeys], after: Duration) -> RedisResult<()> {
        let keys = drops.iter().flat_map(DropKeys::own).map(str::to_owned);
        self.expire(keys.collect(), after).await
    }

    /// Sets an expiry on the keys of a coupon whose drops are all sealed. The gate's key expires
    /// first, because a coupon without a gate counts as lost even if other keys remain. Loading a
    /// drop later removes the expiry.
    pub async fn expire_coupon(&self, coupon: CouponId) -> RedisResult<()> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        self.expire(keys.to_vec(), sealed_for()).await
    }

    /// An expiry of zero deletes the keys, in the background: a drop may be large.
    async fn expire(&self, keys: Vec<String>, after: Duration) -> RedisResult<()> {
        let told = self.pipe_each::<_, i64>(&keys, |pipe, key| {
            if after.is_zero() {
                pipe.cmd("UNLINK").arg(key);
            } else {
                pipe.cmd("EXPIRE").arg(key).arg(after.as_secs());
            }
        });
        told.await?.into_iter().try_for_each(|one| one.map(drop))
    }
}
