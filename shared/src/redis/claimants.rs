//! The claimants of a coupon: all users who hold a slot in any of its drops. Also the sizes of the
//! coupon's hashes.

use std::collections::HashMap;
use std::fmt::Write as _;

use futures_util::future::join_all;
use redis::RedisError;

use super::Redis;
use super::gate::Fence;
use super::keys;
use super::reads::DROPS_AT_ONCE;
use super::wrong_key::is_about_data;
use crate::domain::{CouponId, DropId, Slot, UserId};

/// The number of fields of a hash, and the number that it must have, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashSize {
    pub fields: u64,
    pub expected: Option<u64>,
}

impl HashSize {
    /// The number of missing fields. It is negative if there are too many, and `None` if the
    /// expected number is unknown.
    pub fn lacks(self) -> Option<i64> {
        self.expected?.checked_signed_diff(self.fields)
    }
}

/// The sizes of a coupon's claimants and revocations. While one of them lacks fields, admission is
/// closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CouponSizes {
    pub claimants: HashSize,
    pub revoked: HashSize,
}

impl CouponSizes {
    /// Whether claimants were lost. A program of an older release records neither the claimant that
    /// it removes nor the revocation that it adds.
    pub fn lacks_claimants(&self) -> bool {
        let removed = self.revoked.lacks().map_or(0, |lacks| (-lacks).max(0));
        self.claimants.lacks().is_some_and(|lacks| lacks > removed)
    }

    pub fn lacks_revocations(&self) -> bool {
        self.revoked.lacks().is_some_and(|lacks| lacks > 0)
    }

    pub fn are_settled(&self) -> bool {
        [self.claimants, self.revoked]
            .iter()
            .all(|size| size.lacks() == Some(0))
    }
}

/// Parses a number of `sizes` exactly as the scripts do.
fn number_of_fields(text: Option<&str>) -> Option<u64> {
    let number: u64 = text?.parse().ok()?;
    let is_same = text == Some(number.to_string().as_str());
    Some(number).filter(|number| is_same && *number < 1_000_000_000_000_000)
}

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

    /// Returns those of these users, each with drop and slot, who are missing from the coupon's
    /// claimants or are listed there with another drop or slot.
    pub async fn different_claimants(
        &self,
        coupon: CouponId,
        mut people: Vec<(String, i64, Slot)>,
    ) -> Result<Vec<(String, i64, Slot)>, RedisError> {
        if people.is_empty() {
            return Ok(people);
        }
        let names: Vec<&str> = people.iter().map(|(user, ..)| user.as_str()).collect();
        let listed: Vec<Option<String>> = redis::cmd("HMGET")
            .arg(keys::claimants(&self.prefix, coupon))
            .arg(names)
            .query_async(&mut self.connection())
            .await?;
        let mut listed = listed.into_iter();
        people.retain(|(_, drop, slot)| {
            listed.next().flatten().as_deref() != Some(&format!("{drop}:{slot}"))
        });
        Ok(people)
    }

    /// The sizes of each of these coupons' hashes, or `None` if one of them has another type.
    pub async fn coupon_sizes(
        &self,
        coupons: &[CouponId],
    ) -> Result<Vec<Option<CouponSizes>>, RedisError> {
        let mut all = Vec::with_capacity(coupons.len());
        for some in coupons.chunks(DROPS_AT_ONCE) {
            let answers = some.iter().map(|coupon| self.sizes_of(*coupon));
            for answer in join_all(answers).await {
                all.push(match answer {
                    Err(error) if is_about_data(&error) => None,
                    answer => Some(answer?),
                });
            }
        }
        Ok(all)
    }

    async fn sizes_of(&self, coupon: CouponId) -> Result<CouponSizes, RedisError> {
        type Replies = (u64, u64, [Option<String>; 2]);
        let hashes = [
            keys::claimants(&self.prefix, coupon),
            keys::revoked(&self.prefix, coupon),
        ];
        let mut lengths = redis::pipe();
        // The numbers change together.
        lengths.atomic();
        for hash in &hashes {
            lengths.cmd("HLEN").arg(hash);
        }
        let mut pipe = lengths.clone();
        pipe.cmd("HMGET")
            .arg(keys::sizes(&self.prefix, coupon))
            .arg("claimants")
            .arg("revoked");
        let (claimants, revoked, expected): Replies =
            match pipe.query_async(&mut self.connection()).await {
                // If `sizes` has another type, its numbers are unknown.
                Err(error) if is_about_data(&error) => {
                    let (claimants, revoked) = lengths.query_async(&mut self.connection()).await?;
                    (claimants, revoked, [None, None])
                }
                replies => replies?,
            };
        let [of_claimants, of_revoked] = expected.map(|text| number_of_fields(text.as_deref()));
        Ok(CouponSizes {
            claimants: HashSize {
                fields: claimants,
                expected: of_claimants,
            },
            revoked: HashSize {
                fields: revoked,
                expected: of_revoked,
            },
        })
    }

    /// Records that these hashes of an open coupon had all their fields when `sizes` was read.
    /// Changes nothing if the era has ended, or if a hash has lost further fields since then.
    pub async fn settle_sizes(
        &self,
        coupon: CouponId,
        fence: &Fence,
        sizes: &CouponSizes,
    ) -> Result<(), RedisError> {
        let fence = fence.to_string();
        let lacked = [sizes.claimants, sizes.revoked]
            .map(|size| size.lacks().map(|lacks| lacks.to_string()))
            .map(Option::unwrap_or_default);
        let args: [&[u8]; 4] = [
            b"settle",
            fence.as_bytes(),
            lacked[0].as_bytes(),
            lacked[1].as_bytes(),
        ];
        self.change_gate(coupon, &args).await?;
        Ok(())
    }

    /// Returns the coupon's claimants in this drop whose slots `is_wanted` selects. Reads the whole
    /// hash.
    pub async fn claimants_of(
        &self,
        coupon: CouponId,
        drop: DropId,
        is_wanted: impl Fn(i64) -> bool,
    ) -> Result<Vec<(i64, UserId)>, RedisError> {
        let here = format!("{drop}:");
        let found = self.scan_claimants(coupon, |listed| {
            let slot = listed.strip_prefix(&here)?.parse().ok();
            slot.filter(|slot| is_wanted(*slot))
        });
        let found = found.await?.into_iter();
        Ok(found.map(|(user, slot)| (slot, user)).collect())
    }

    /// Returns the coupon's claimants whose drop `is_known` does not know, with that drop, or
    /// `None` if the entry names no drop. Reads the whole hash.
    pub async fn claimants_without_drop(
        &self,
        coupon: CouponId,
        is_known: impl Fn(DropId) -> bool,
    ) -> Result<HashMap<UserId, Option<DropId>>, RedisError> {
        self.scan_claimants(coupon, |listed| {
            // As in `set_slots.lua`.
            let is_number = |text: &str, digits: usize| {
                (1..=digits).contains(&text.len())
                    && !text.starts_with('0')
                    && text.bytes().all(|byte| byte.is_ascii_digit())
            };
            let drop = listed
                .split_once(':')
                .filter(|(drop, slot)| is_number(drop, 16) && is_number(slot, 15))
                .and_then(|(drop, _)| drop.parse().ok())
                .map(DropId);
            drop.is_none_or(|drop| !is_known(drop)).then_some(drop)
        })
        .await
    }

    /// Returns what `wanted` makes of each claimant's entry.
    async fn scan_claimants<T>(
        &self,
        coupon: CouponId,
        wanted: impl Fn(&str) -> Option<T>,
    ) -> Result<HashMap<UserId, T>, RedisError> {
        let key = keys::claimants(&self.prefix, coupon);
        let mut cursor = 0_u64;
        let mut found = HashMap::new();
        loop {
            let mut cmd = redis::cmd("HSCAN");
            cmd.arg(&key).arg(cursor).arg("COUNT").arg(1_000);
            let (next, entries): (u64, Vec<(String, String)>) =
                cmd.query_async(&mut self.connection()).await?;
            for (user, listed) in entries {
                if let Some(wanted) = wanted(&listed) {
                    found.insert(UserId::from_store(user), wanted);
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }
}
