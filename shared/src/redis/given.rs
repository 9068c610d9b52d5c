//! The highest ids assigned to coupons and drops. MySQL assigns them, but if MySQL loses its last
//! transactions (a lagging replica took over, a backup was restored), it would reuse some, while
//! Redis and the topic still hold claims of the coupons that had these ids.
//!
//! Each server of a cluster records the ids of its coupons, so that ids and keys can only be lost
//! together. A pass records MySQL's highest ids on all servers.

use std::sync::Arc;

use futures_util::future::try_join_all;
use redis::RedisError;

use super::reads::slot_of;
use super::router::Shard;
use super::wrong_key::is_about_data;
use super::{Redis, keys};
use crate::domain::{CouponId, DropId};

/// The highest ids, or 0 if none is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenNumbers {
    pub coupon: i64,
    pub drop: i64,
}

impl Redis {
    /// Reads the highest ids that any server has.
    pub async fn given_numbers(&self) -> Result<GivenNumbers, RedisError> {
        let shards = self.conn.shards().await?;
        let known = try_join_all(shards.iter().map(|shard| self.given_numbers_on(shard))).await?;
        let coupon = known.iter().map(|given| given.coupon).max().unwrap_or(0);
        Ok(GivenNumbers {
            coupon,
            drop: known.iter().map(|given| given.drop).max().unwrap_or(0),
        })
    }

    /// Records the ids of a coupon and a drop. Must be called before anything else is written about
    /// them.
    pub async fn note_numbers(&self, coupon: CouponId, drop: DropId) -> Result<(), RedisError> {
        let shard = self
            .conn
            .shard_of(&keys::gate(&self.prefix, coupon))
            .await?;
        self.note_numbers_on(
            &shard,
            GivenNumbers {
                coupon: coupon.0,
                drop: drop.0,
            },
        )
        .await
    }

    /// Records ids on every server, because a server that was emptied has lost them.
    pub async fn note_numbers_everywhere(&self, given: GivenNumbers) -> Result<(), RedisError> {
        let shards = self.conn.shards().await?;
        try_join_all(
            shards
                .iter()
                .map(|shard| self.note_numbers_on(shard, given)),
        )
        .await
        .map(drop)
    }

    /// Reads a server's ids. Values that Firstcome did not write count as missing.
    async fn given_numbers_on(&self, shard: &Arc<Shard>) -> Result<GivenNumbers, RedisError> {
        let mut asked = redis::cmd("ZMSCORE");
        asked
            .arg(self.server_key(keys::given(&self.prefix), shard))
            .arg("coupon")
            .arg("drop");
        let scores: Vec<Option<f64>> = match asked.query_async(&mut self.conn.to(shard)).await {
            Err(error) if is_about_data(&error) => Vec::new(),
            scores => scores?,
        };
        let number = |at: usize| scores.get(at).copied().flatten().map_or(0, slot_of).max(0);
        Ok(GivenNumbers {
            coupon: number(0),
            drop: number(1),
        })
    }

    async fn note_numbers_on(
        &self,
        shard: &Arc<Shard>,
        given: GivenNumbers,
    ) -> Result<(), RedisError> {
        let mut raise = redis::cmd("ZADD");
        raise
            .arg(self.server_key(keys::given(&self.prefix), shard))
            .arg("GT");
        raise
            .arg(given.coupon)
            .arg("coupon")
            .arg(given.drop)
            .arg("drop");
        match raise.query_async(&mut self.conn.to(shard)).await {
            // An invalid value in this key must not prevent loading a drop.
            Err(error) if is_about_data(&error) => Ok(()),
            noted => noted,
        }
    }
}
