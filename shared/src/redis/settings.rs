//! Settings of drops in Redis. Every write carries the coupon's revision: Redis keeps the highest
//! one, also of writes that found no drop, and refuses lower ones.

use std::sync::LazyLock;

use redis::RedisResult;

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
    /// A drop is not loaded. Redis keeps only the revision, and the settings of the other drops.
    Unloaded,
}

/// The outcome of [`Redis::lower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowered {
    /// The drops have this quantity.
    Yes,
    /// This many slots are already given; nothing was changed.
    GivenOut(Slot),
    /// Redis has a newer revision of the coupon; nothing was changed.
    Outdated,
    Unloaded,
    /// Redis may have forgotten given slots, and the coupon has not been verified since.
    Unverified,
}

/// A coupon's era and revision as read by the caller. If Redis has different ones, changes are
/// refused.
#[derive(Debug, Clone, Copy)]
pub struct CouponRead {
    pub era: u64,
    pub revision: u64,
}

impl Redis {
    /// Writes all settings of a drop that was rebuilt or compared under the closed gate, or of a
    /// new one, without any key, at an open gate. The caller must have read the fence before it
    /// read that the drop has no rows: if Redis has lost data since, the drop may have users.
    pub async fn load(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        revision: u64,
        meta: &DropMeta,
    ) -> RedisResult<Loaded> {
        let fence = fence.to_string();
        let (word, _) = self
            .run_settings("load", &[keys], revision, fence, meta.fields())
            .await?;
        Ok(match word.as_str() {
            "ok" => Loaded::Yes,
            "present" => Loaded::Present,
            "outdated" => Loaded::Outdated,
            _ => Loaded::Stale,
        })
    }

    /// Overwrites the `meta` of loaded drops with the settings of one revision of their coupon.
    pub async fn write_settings(
        &self,
        revision: u64,
        drops: &[(&DropKeys, DropMeta)],
    ) -> RedisResult<Written> {
        let fields = drops.iter().flat_map(|(_, meta)| meta.fields()).collect();
        let drops: Vec<&DropKeys> = drops.iter().map(|(keys, _)| *keys).collect();
        let word = self.run_settings("write", &drops, revision, String::new(), fields);
        Ok(match word.await?.0.as_str() {
            "ok" => Written::Yes,
            "outdated" => Written::Outdated,
            _ => Written::Unloaded,
        })
    }

    /// Lowers the quantity of loaded and verified drops, of which MySQL has a larger one, in Redis
    /// first, all or none, so that no slot above it is given from then on.
    pub async fn lower(
        &self,
        drops: &[&DropKeys],
        read: CouponRead,
        quantity: Slot,
    ) -> RedisResult<Lowered> {
        let (revision, era) = (read.revision, read.era.to_string());
        let args = vec![["quantity".to_owned(), quantity.to_string()]; drops.len()].concat();
        let (word, count) = self
            .run_settings("lower", drops, revision, era, args)
            .await?;
        Ok(match word.as_str() {
            "ok" => Lowered::Yes,
            "below_given_out" => Lowered::GivenOut(count),
            "outdated" => Lowered::Outdated,
            "unverified" => Lowered::Unverified,
            _ => Lowered::Unloaded,
        })
    }

    /// Runs the script on drops of one coupon; `args` has the same number of words for each.
    async fn run_settings(
        &self,
        how: &str,
        drops: &[&DropKeys],
        revision: u64,
        fence: String,
        args: Vec<String>,
    ) -> RedisResult<(String, Slot)> {
        let Some((first, rest)) = drops.split_first() else {
            return Ok(("ok".to_owned(), 0));
        };
        let mut keys = first.of_scripts().to_vec();
        keys.extend(rest.iter().flat_map(|drop| drop.own()));
        let args = [vec![how.to_owned(), revision.to_string(), fence], args].concat();
        let (word, count): (String, i64) =
            SETTINGS.run(&mut self.connection(), &keys, &args).await?;
        Ok((word, Slot::try_from(count).unwrap_or_default()))
    }
}
