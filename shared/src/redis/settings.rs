//! Settings of drops in Redis. Every write carries the coupon's revision: Redis keeps the highest
//! one, even of a [`Redis::write_settings`] that found no loaded drop, and refuses lower ones.

use std::time::Duration;

use redis::{ErrorKind, RedisResult};
use strum::EnumString;

use super::Redis;
use super::client::Script;
use super::gate::Fence;
use super::keys::{DropKeys, DropMeta};
use crate::domain::Slot;

static SETTINGS: Script = Script::new(include_str!("scripts/settings.lua"));

/// The outcome of writing settings or an allow list. After `Yes`, everything was written; after
/// `Unloaded` of [`Redis::write_settings`], the loaded drops and the revision; after any other,
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum Written {
    #[strum(serialize = "ok")]
    Yes,
    /// The gate is open and the drop has been used: it is not new.
    Present,
    /// Redis has a newer revision of the coupon, or of its allow list.
    Outdated,
    /// The coupon is in another era, or on another server.
    Stale,
    /// A drop is not loaded.
    Unloaded,
    /// This many slots are already given.
    #[strum(serialize = "below_given_out")]
    GivenOut(Slot),
    /// The coupon is closed or in another era: Redis may have forgotten given slots.
    Unverified,
    /// The gathered allow list is incomplete, for example because Redis was emptied.
    Incomplete,
}

impl Written {
    pub(super) fn from_reply(word: &str, count: i64) -> RedisResult<Self> {
        match word.parse() {
            Ok(Self::GivenOut(_)) => Ok(Self::GivenOut(count.try_into().unwrap_or_default())),
            Ok(written) => Ok(written),
            Err(_) => Err((
                ErrorKind::UnexpectedReturnType,
                "an unknown word of a script",
            )
                .into()),
        }
    }
}

/// A coupon's era and revision as read by the caller. If Redis has another era or a later revision,
/// changes are refused.
#[derive(Debug, Clone, Copy)]
pub struct CouponRead {
    pub era: u64,
    pub revision: u64,
}

impl Redis {
    /// Writes all settings of a drop: under the closed gate, of one that was rebuilt or compared;
    /// at an open gate, of a new one, which has no keys, or only those of a deleted drop with the
    /// same id. The caller must have read the fence before it found that the new drop
    /// has no rows: if Redis has lost data since, the drop may have users.
    pub async fn load(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        revision: u64,
        meta: &DropMeta,
    ) -> RedisResult<Written> {
        let fence = fence.to_string();
        self.run_settings("load", &[keys], revision, fence, meta.fields())
            .await
    }

    /// Overwrites the `meta` of loaded drops with the settings of one revision of their coupon.
    pub async fn write_settings(
        &self,
        revision: u64,
        drops: &[(&DropKeys, DropMeta)],
    ) -> RedisResult<Written> {
        let fields = drops.iter().flat_map(|(_, meta)| meta.fields()).collect();
        let drops: Vec<&DropKeys> = drops.iter().map(|(keys, _)| *keys).collect();
        self.run_settings("write", &drops, revision, String::new(), fields)
            .await
    }

    /// Lowers the quantity of loaded and verified drops in Redis before MySQL, of all drops or none,
    /// so that no slot above the new quantity is given from then on.
    pub async fn lower(
        &self,
        drops: &[&DropKeys],
        read: CouponRead,
        quantity: Slot,
    ) -> RedisResult<Written> {
        let revision = read.revision;
        let era = read.era.to_string();
        let args = vec![["quantity".to_owned(), quantity.to_string()]; drops.len()].concat();
        self.run_settings("lower", drops, revision, era, args).await
    }

    /// Lets the keys of drops that this revision of their coupon removed expire, unless a slot was
    /// given.
    pub async fn forget_drops(
        &self,
        revision: u64,
        drops: &[&DropKeys],
        after: Duration,
    ) -> RedisResult<Written> {
        let args = vec![after.as_millis().to_string(); drops.len()];
        self.run_settings("forget", drops, revision, String::new(), args)
            .await
    }

    /// Runs the script on drops of one coupon; `args` has the same number of words for each.
    async fn run_settings(
        &self,
        how: &str,
        drops: &[&DropKeys],
        revision: u64,
        fence: String,
        args: Vec<String>,
    ) -> RedisResult<Written> {
        let Some((first, rest)) = drops.split_first() else {
            return Ok(Written::Yes);
        };
        let mut keys = first.of_scripts().to_vec();
        keys.extend(rest.iter().flat_map(|drop| drop.own()));
        let args = [vec![how.to_owned(), revision.to_string(), fence], args].concat();
        let (word, count): (String, i64) = self.call(&SETTINGS, &keys, &args).await?;
        Written::from_reply(&word, count)
    }
}
