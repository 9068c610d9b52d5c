//! Keys of what is over expire.

use std::time::Duration;

use redis::RedisError;

use super::Redis;
use super::keys::DropKeys;

impl Redis {
    /// Lets a drop's own keys expire.
    pub async fn expire_drop(&self, keys: &DropKeys, after: Duration) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        for key in keys.own() {
            pipe.cmd("EXPIRE").arg(key).arg(after.as_secs()).ignore();
        }
        pipe.query_async(&mut self.conn.clone()).await
    }

    /// Lets what a coupon has besides its drops expire, or with `None` stay after all. Its
    /// gate goes first: a coupon without one counts as lost, whatever else is left. A drop
    /// that is loaded later keeps all of it.
    pub async fn expire_coupon(
        &self,
        keys: &DropKeys,
        after: Option<Duration>,
    ) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        for key in keys.of_coupon() {
            match after {
                Some(after) => pipe.cmd("EXPIRE").arg(key).arg(after.as_secs()).ignore(),
                None => pipe.cmd("PERSIST").arg(key).ignore(),
            };
        }
        pipe.query_async(&mut self.conn.clone()).await
    }

    /// Lets the keys of drops and of coupons that are over expire, where they would last: those
    /// that expire already keep their time.
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
        for some in keys.chunks(1_000) {
            let mut pipe = redis::pipe();
            for key in some {
                pipe.cmd("EXPIRE")
                    .arg(key)
                    .arg(after.as_secs())
                    .arg("NX")
                    .ignore();
            }
            pipe.query_async::<()>(&mut self.conn.clone()).await?;
        }
        Ok(())
    }
}
