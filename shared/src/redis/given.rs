//! The highest numbers assigned to coupons and drops. MySQL assigns them; but a MySQL that lost its
//! last transactions (a replica that lagged took over, a backup was restored) would assign some
//! again, and Redis and the topic still hold claims of the coupon that had them.
//!
//! Each server of a cluster records the numbers of its coupons, so that numbers and keys are only
//! lost together. A pass records MySQL's highest on all servers.

use std::sync::Arc;

use futures_util::future::try_join_all;
use redis::RedisError;

use super::reads::slot_of;
use super::router::Shard;
use super::wrong_key::is_about_data;
use super::{Redis, keys};
use crate::domain::{CouponId, DropId};

/// 0 if none is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenNumbers {
    pub coupon: i64,
    pub drop: i64,
}

impl Redis {
    /// The highest numbers that any server knows.
    pub async fn given_numbers(&self) -> Result<GivenNumbers, RedisError> {
        let shards = self.conn.shards().await?;
        let known = try_join_all(shards.iter().map(|shard| self.given_numbers_on(shard))).await?;
        let coupon = known.iter().map(|given| given.coupon).max().unwrap_or(0);
        Ok(GivenNumbers {
            coupon,
            drop: known.iter().map(|given| given.drop).max().unwrap_or(0),
        })
    }

    /// Must precede all other writes of a coupon or a drop here.
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

    /// On every server, because one that was emptied has none.
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

    /// Values that Firstcome did not write count as missing.
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
            // Garbage in this key does not prevent loading a drop.
            Err(error) if is_about_data(&error) => Ok(()),
            noted => noted,
        }
    }
}
