//! Sets expiries on the keys of ended drops and coupons.

use std::time::Duration;

use redis::RedisError;

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
    pub async fn expire_sealed(&self, drops: &[DropKeys]) -> Result<(), RedisError> {
        let keys: Vec<&str> = drops.iter().flat_map(DropKeys::own).collect();
        self.for_each("EXPIRE", &keys, &[seconds(sealed_for())])
            .await
    }

    /// Lets the keys of coupons expire whose drops are all sealed. The gate's
    /// key expires first, because a coupon without a gate counts as lost even if other keys remain.
    /// Loading a drop later removes the expiry.
    pub async fn expire_coupons(&self, coupons: &[CouponId]) -> Result<(), RedisError> {
        let keys: Vec<String> = coupons
            .iter()
            .flat_map(|coupon| keys::coupon_keys(&self.prefix, *coupon))
            .collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.for_each("EXPIRE", &keys, &[seconds(sealed_for())])
            .await
    }

    /// Deletes the keys of sealed drops that an older Redis brought back.
    pub async fn unlink_drops(&self, drops: &[DropKeys]) -> Result<(), RedisError> {
        let keys: Vec<&str> = drops.iter().flat_map(DropKeys::own).collect();
        self.for_each("UNLINK", &keys, &[]).await
    }

    /// Sets the expiry of a drop's own keys.
    pub async fn expire_drop(&self, keys: &DropKeys, after: Duration) -> Result<(), RedisError> {
        self.for_each("EXPIRE", &keys.own(), &[seconds(after)])
            .await
    }

    async fn for_each(&self, verb: &str, keys: &[&str], args: &[String]) -> Result<(), RedisError> {
        for some in keys.chunks(1_000) {
            let mut pipe = redis::pipe();
            for key in some {
                pipe.cmd(verb).arg(*key).arg(args).ignore();
            }
            pipe.query_async::<()>(&mut self.connection()).await?;
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    time.as_secs().to_string()
}
