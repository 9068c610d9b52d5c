//! Sets expiries on the keys of ended drops and coupons.

use std::time::Duration;

use redis::{Pipeline, RedisResult};

use super::Redis;
use super::keys::{self, DropKeys};
use crate::domain::CouponId;
use crate::tuning::Tuning;

/// Until then, claims on a sealed drop and retries of its holders are answered without MySQL.
fn sealed_for() -> Duration {
    Duration::from_secs(Tuning::SealedKeysTtlSeconds.or(60 * 60))
}

impl Redis {
    /// Lets the keys of sealed drops expire.
    pub async fn expire_sealed(&self, drops: &[DropKeys]) -> RedisResult<()> {
        self.expire(drops.iter().flat_map(DropKeys::own), sealed_for())
            .await
    }

    /// Lets the keys of coupons expire whose drops are all sealed. The gate's key expires first,
    /// because a coupon without a gate counts as lost even if other keys remain. Loading a drop
    /// later removes the expiry.
    pub async fn expire_coupons(&self, coupons: &[CouponId]) -> RedisResult<()> {
        let keys = |coupon: &CouponId| keys::coupon_keys(&self.prefix, *coupon);
        self.expire(coupons.iter().flat_map(keys), sealed_for())
            .await
    }

    /// Deletes the keys of sealed drops that an older Redis brought back.
    pub async fn unlink_drops(&self, drops: &[DropKeys]) -> RedisResult<()> {
        self.expire(drops.iter().flat_map(DropKeys::own), Duration::ZERO)
            .await
    }

    /// Sets the expiry of a drop's own keys.
    pub async fn expire_drop(&self, keys: &DropKeys, after: Duration) -> RedisResult<()> {
        self.expire(keys.own(), after).await
    }

    /// An expiry of zero deletes the keys, in the background: a drop may be large.
    async fn expire(
        &self,
        keys: impl IntoIterator<Item = impl ToString>,
        after: Duration,
    ) -> RedisResult<()> {
        let keys: Vec<String> = keys.into_iter().map(|key| key.to_string()).collect();
        let add = |pipe: &mut Pipeline, key: &String| {
            if after.is_zero() {
                pipe.cmd("UNLINK").arg(key);
            } else {
                pipe.cmd("EXPIRE").arg(key).arg(after.as_secs());
            }
        };
        self.pipe_each::<_, i64>(&keys, add).await.map(drop)
    }
}
