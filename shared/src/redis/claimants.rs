//! The claimants of a coupon: all users who hold a slot in any of its drops.

use std::collections::HashMap;
use std::fmt::Write as _;

use futures_util::future::join_all;
use redis::{FromRedisValue, RedisError};

use super::Redis;
use super::keys::{self, DropKeys};
use super::reads::DROPS_AT_ONCE;
use super::wrong_key::is_about_data;
use crate::domain::{CouponId, DropId, UserId};

/// Field of `meta` that is set if users hold coupons of an earlier drop, so that a missing
/// `claimants` key is detected.
pub(super) const EARLIER_HOLDERS: &str = "claimants";

impl Redis {
    /// Returns the users who are missing from the coupon's claimants or are listed there with
    /// another slot.
    pub async fn missing_claimants(
        &self,
        coupon: CouponId,
        drop: DropId,
        users: &[(i64, UserId)],
    ) -> Result<Vec<UserId>, RedisError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let key = keys::claimants(&self.prefix, coupon);
        let names: Vec<&str> = users.iter().map(|(_, user)| user.as_str()).collect();
        let listed: Vec<Option<String>> = redis::cmd("HMGET")
            .arg(key)
            .arg(names)
            .query_async(&mut self.connection())
            .await?;
        let mut expected = String::new();
        let missing = users.iter().zip(listed).filter(|((slot, _), listed)| {
            expected.clear();
            // Writing to a `String` does not fail.
            let _ = write!(expected, "{drop}:{slot}");
            listed.as_ref() != Some(&expected)
        });
        Ok(missing.map(|((_, user), _)| user.clone()).collect())
    }

    /// The number of claimants of each of these coupons, or `None` if the key has another type.
    pub async fn claimants_numbers(
        &self,
        coupons: &[CouponId],
    ) -> Result<Vec<Option<u64>>, RedisError> {
        let key = |coupon: &CouponId| keys::claimants(&self.prefix, *coupon);
        self.sizes(coupons.iter().map(key)).await
    }

    /// The number of banned users of each of these coupons, or `None` if the key has another type.
    pub async fn banned_numbers(
        &self,
        coupons: &[CouponId],
    ) -> Result<Vec<Option<u64>>, RedisError> {
        let key = |coupon: &CouponId| keys::revoked(&self.prefix, *coupon);
        self.sizes(coupons.iter().map(key)).await
    }

    async fn sizes(
        &self,
        hashes: impl Iterator<Item = String>,
    ) -> Result<Vec<Option<u64>>, RedisError> {
        self.each(hashes.map(|key| redis::cmd("HLEN").arg(key).to_owned()))
            .await
    }

    /// Whether each drop's `meta` records that users hold coupons of an earlier drop, or `None` for
    /// a drop that is not loaded.
    pub async fn earlier_holders(
        &self,
        drops: &[DropKeys],
    ) -> Result<Vec<Option<bool>>, RedisError> {
        type Fields = (Option<String>, Option<String>);
        let asked = drops.iter().map(|keys| {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(&keys.meta).arg("quantity").arg(EARLIER_HOLDERS);
            cmd
        });
        let found: Vec<Option<Fields>> = self.each(asked).await?;
        let of = |(quantity, earlier): Fields| quantity.map(|_| earlier.as_deref() == Some("1"));
        Ok(found
            .into_iter()
            .map(|fields| fields.and_then(of))
            .collect())
    }

    /// Sends the commands concurrently and returns the replies. Returns `None` for a key of another
    /// type.
    async fn each<T: FromRedisValue>(
        &self,
        commands: impl Iterator<Item = redis::Cmd>,
    ) -> Result<Vec<Option<T>>, RedisError> {
        let commands: Vec<redis::Cmd> = commands.collect();
        let mut all = Vec::with_capacity(commands.len());
        for some in commands.chunks(DROPS_AT_ONCE) {
            let answers = some
                .iter()
                .map(async |cmd| cmd.query_async::<T>(&mut self.connection()).await);
            for answer in join_all(answers).await {
                all.push(match answer {
                    Err(error) if is_about_data(&error) => None,
                    answer => Some(answer?),
                });
            }
        }
        Ok(all)
    }

    /// Returns the coupon's claimants in this drop whose slots `is_wanted` selects. Reads the whole
    /// hash.
    pub async fn claimants_of(
        &self,
        coupon: CouponId,
        drop: DropId,
        is_wanted: impl Fn(i64) -> bool,
    ) -> Result<Vec<(i64, UserId)>, RedisError> {
        let key = keys::claimants(&self.prefix, coupon);
        let here = format!("{drop}:");
        let mut cursor = 0_u64;
        let mut found = HashMap::new();
        loop {
            let mut cmd = redis::cmd("HSCAN");
            cmd.arg(&key).arg(cursor).arg("COUNT").arg(1_000);
            let (next, entries): (u64, Vec<(String, String)>) =
                cmd.query_async(&mut self.connection()).await?;
            for (user, listed) in entries {
                let slot = listed
                    .strip_prefix(&here)
                    .and_then(|slot| slot.parse().ok());
                if let Some(slot) = slot.filter(|slot| is_wanted(*slot)) {
                    found.insert(UserId::from_store(user), slot);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(found.into_iter().map(|(user, slot)| (slot, user)).collect());
            }
        }
    }
}
