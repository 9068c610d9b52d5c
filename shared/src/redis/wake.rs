//! A hint from the API to the reconciler to compare a coupon at once. Losing it only costs time,
//! because the next scheduled pass compares everything.

use redis::{AsyncCommands as _, RedisResult, Value, from_redis_value};

use super::Redis;
use super::keys::{self, DropKeys};
use crate::domain::CouponId;

/// Coupons taken per call.
const AT_ONCE: usize = 100;

impl Redis {
    /// Requests a pass over a coupon if any user waits in one of the given drops.
    pub async fn wake_if_anyone_waits(
        &self,
        coupon: CouponId,
        drops: &[DropKeys],
    ) -> RedisResult<()> {
        let waiting: Vec<u64> = self
            .pipe_each(drops, |pipe, keys| {
                pipe.cmd("ZCARD").arg(&keys.waiting);
            })
            .await?;
        if waiting.iter().all(|people| *people == 0) {
            return Ok(());
        }
        let key = keys::wake(&self.prefix);
        self.connection().sadd(key, coupon.0).await
    }

    /// Takes coupons for which a pass was requested.
    pub async fn take_woken(&self) -> RedisResult<Vec<CouponId>> {
        let mut cmd = redis::cmd("SPOP");
        let members: Vec<Value> = cmd
            .arg(keys::wake(&self.prefix))
            .arg(AT_ONCE)
            .query_async(&mut self.connection())
            .await?;
        // The members are no longer in Redis, so an invalid one must not hide the others.
        let ids = members
            .into_iter()
            .filter_map(|id| from_redis_value(id).ok());
        Ok(ids.map(CouponId).collect())
    }
}
