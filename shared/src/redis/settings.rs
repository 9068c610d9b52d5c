//! Settings of drops in Redis. Every write carries the coupon's revision: Redis keeps the highest
//! one, also of writes that found no drop, and refuses lower ones.

use std::sync::LazyLock;

use redis::RedisError;

use super::Redis;
use super::client::Script;
use super::gate::Fence;
use super::keys::{DropKeys, DropMeta};
use crate::domain::Slot;

static SETTINGS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/settings.lua")));

/// The outcome of [`Redis::load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    Yes,
    /// The gate is open and the drop has a key: it is not new.
    Present,
    /// Redis has a newer revision of the coupon; nothing was changed.
    Outdated,
    /// The coupon is in another era, or on another server; nothing was changed.
    Stale,
}

/// The outcome of writing a drop's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Yes,
    /// Redis has a newer revision of the coupon; nothing was changed.
    Outdated,
    /// The drop is not loaded; Redis keeps only the revision.
    Unloaded,
}

/// The outcome of [`Redis::lower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowered {
    /// The quantity is now no larger than requested.
    Yes,
    /// This many slots are already given; nothing was changed.
    GivenOut(Slot),
    /// Redis has a newer revision of the coupon; nothing was changed.
    Outdated,
    Unloaded,
    /// Redis may have forgotten given slots, and the coupon has not been verified since.
    Unverified,
}

/// The outcome of [`Redis::withhold`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The drop cannot open until its settings are written again.
    Yes,
    /// The drop has opened, or a user holds a slot or is waiting; nothing was changed.
    InUse,
    /// Redis has a newer revision of the coupon; nothing was changed.
    Outdated,
    Unloaded,
}

/// A coupon's era and revision as read by the caller. If Redis has different ones, changes are
/// refused.
#[derive(Debug, Clone, Copy)]
pub struct CouponRead {
    pub era: u64,
    pub revision: u64,
}

impl Redis {
    /// Writes all settings of a drop that was rebuilt or compared under the closed gate, or of a new
    /// one, without any key, at an open gate. The caller must have read the fence before it read
    /// that the drop has no rows: if Redis has lost data since, the drop may have users.
    pub async fn load(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<Loaded, RedisError> {
        let word = self.write("load", keys, fence, revision, meta).await?;
        Ok(match word.as_str() {
            "loaded" => Loaded::Yes,
            "present" => Loaded::Present,
            "outdated" => Loaded::Outdated,
            _ => Loaded::Stale,
        })
    }

    /// Overwrites a loaded drop's `meta` with the settings of one revision of its coupon.
    pub async fn write_settings(
        &self,
        keys: &DropKeys,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<Written, RedisError> {
        let word = self
            .write("write", keys, &Fence::default(), revision, meta)
            .await?;
        Ok(match word.as_str() {
            "ok" => Written::Yes,
            "outdated" => Written::Outdated,
            _ => Written::Unloaded,
        })
    }

    async fn write(
        &self,
        how: &str,
        keys: &DropKeys,
        fence: &Fence,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<String, RedisError> {
        let mut args = vec![revision.to_string(), fence.to_string()];
        args.extend(meta.fields());
        Ok(self.run_settings(how, keys, args).await?.0)
    }

    async fn run_settings(
        &self,
        how: &str,
        keys: &DropKeys,
        mut args: Vec<String>,
    ) -> Result<(String, Slot), RedisError> {
        args.insert(0, how.to_owned());
        let (word, count): (String, i64) = SETTINGS
            .run(&mut self.connection(), &keys.of_scripts(), &args)
            .await?;
        Ok((word, Slot::try_from(count).unwrap_or_default()))
    }

    /// Lowers the quantity of a loaded and verified drop in Redis before MySQL, so that no slot
    /// above it is given from then on.
    pub async fn lower(
        &self,
        keys: &DropKeys,
        read: CouponRead,
        quantity: Slot,
    ) -> Result<Lowered, RedisError> {
        let args = vec![
            read.revision.to_string(),
            read.era.to_string(),
            "quantity".to_owned(),
            quantity.to_string(),
        ];
        let (word, count) = self.run_settings("lower", keys, args).await?;
        Ok(match word.as_str() {
            "lowered" => Lowered::Yes,
            "below_given_out" => Lowered::GivenOut(count),
            "outdated" => Lowered::Outdated,
            "unverified" => Lowered::Unverified,
            _ => Lowered::Unloaded,
        })
    }

    /// Prevents a drop without users from opening, before MySQL changes the drop.
    pub async fn withhold(&self, keys: &DropKeys, revision: u64) -> Result<Withheld, RedisError> {
        let args = vec![revision.to_string(), String::new()];
        let (word, _) = self.run_settings("withhold", keys, args).await?;
        Ok(match word.as_str() {
            "withheld" => Withheld::Yes,
            "in_use" => Withheld::InUse,
            "outdated" => Withheld::Outdated,
            _ => Withheld::Unloaded,
        })
    }
}
