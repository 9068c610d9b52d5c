//! Sets expiries on the keys of ended drops and coupons.

use std::time::Duration;

use redis::RedisError;

use super::Redis;
use super::keys::DropKeys;

impl Redis {
    /// Sets the expiry of a drop's own keys.
    pub async fn expire_drop(&self, keys: &DropKeys, after: Duration) -> Result<(), RedisError> {
        self.for_each("EXPIRE", &keys.own(), &[seconds(after)])
            .await
    }

    /// Removes the expiry of the keys of drops that were unsealed.
    pub async fn keep_drops(&self, drops: &[DropKeys]) -> Result<(), RedisError> {
        let keys: Vec<&str> = drops.iter().flat_map(DropKeys::own).collect();
        self.for_each("PERSIST", &keys, &[]).await
    }

    /// Sets the expiry of a coupon's keys outside its drops, or removes it if `None`. The gate's
    /// key expires first, because a coupon without a gate counts as lost even if other keys remain.
    /// Loading a drop later removes the expiry.
    pub async fn expire_coupon(
        &self,
        keys: &DropKeys,
        after: Option<Duration>,
    ) -> Result<(), RedisError> {
        let keys = keys.of_coupon();
        match after {
            Some(after) => self.for_each("EXPIRE", &keys, &[seconds(after)]).await,
            None => self.for_each("PERSIST", &keys, &[]).await,
        }
    }

    /// Sets the expiry of the keys of ended drops and coupons. Keys that already have an expiry
    /// keep it.
    pub async fn expire_what_lasts(
        &self,
        drops: &[DropKeys],
        coupons: &[DropKeys],
        after: Duration,
    ) -> Result<(), RedisError> {
        let own = drops.iter().flat_map(DropKeys::own);
        let keys: Vec<&str> = own
            .chain(coupons.iter().flat_map(DropKeys::of_coupon))
            .collect();
        self.for_each("EXPIRE", &keys, &[seconds(after), "NX".to_owned()])
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
