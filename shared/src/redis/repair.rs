//! Every change of a drop in Redis except admission: loading, operators' changes, and repairs. Each
//! is an atomic script that checks its caller's precondition and does nothing if it no longer
//! holds. All of them are therefore safe to repeat, to run from two reconcilers at once, and to run
//! during live traffic.

use std::sync::LazyLock;

use redis::RedisError;

use super::Redis;
use super::client::Script;
use super::gate::Fence;
use super::keys::{self, DropKeys, DropMeta};
use crate::domain::{CouponId, DropId, OncePer, Slot, UserId};

static SETTINGS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/settings.lua")));
static SET_SLOTS: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/set_slots.lua")));
static REPAIR_COUNT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/repair_count.lua")));
static PROMOTE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/promote.lua")));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<T> {
    /// The change took effect, or the wanted state already existed.
    Applied(T),
    /// The caller's precondition no longer holds; nothing was done.
    Changed,
    /// Redis was emptied in the meantime; nothing was done.
    Stale,
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

/// The slot that a user must hold after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This slot. If a row confirms it, the user gets it even if another user holds it, and the
    /// other user is moved afterwards.
    Slot {
        slot: Slot,
        /// When it was given, in Unix milliseconds, if known.
        at_ms: Option<i64>,
        has_row: bool,
    },
    /// The lowest free slot, or else the next slot number.
    Any,
    /// No slot.
    Nothing,
    /// No slot, but a position at the head of the waiting list, ordered by promised slot.
    Front(i64),
}

/// The slot that a user held when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenSlot {
    pub slot: i64,
    /// When it was given, in Unix milliseconds, if known. Distinguishes it from another admission
    /// to the same slot.
    pub at_ms: Option<i64>,
}

/// A difference between the slot that a user holds in Redis and the slot the user must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotChange {
    pub user: UserId,
    pub seen: Option<SeenSlot>,
    pub wanted: Wanted,
}

impl SlotChange {
    /// Restores a user whom Redis has lost to a slot that no row confirms.
    pub fn put_back(user: UserId, slot: Slot, at_ms: Option<i64>) -> Self {
        let has_row = false;
        Self {
            user,
            seen: None,
            wanted: Wanted::Slot {
                slot,
                at_ms,
                has_row,
            },
        }
    }

    /// Returns the specific slot that the user must hold, if any.
    pub fn wanted_slot(&self) -> Option<i64> {
        match self.wanted {
            Wanted::Slot { slot, .. } => Some(i64::from(slot)),
            _ => None,
        }
    }

    /// Whether the user loses their current slot.
    pub fn takes(&self) -> bool {
        self.seen
            .is_some_and(|seen| Some(seen.slot) != self.wanted_slot())
    }

    /// Whether the slot stays the same, so that only the claimants or the waiting list change.
    pub fn is_kept(&self) -> bool {
        match self.wanted {
            Wanted::Slot { slot, .. } => self.seen.is_some_and(|seen| seen.slot == i64::from(slot)),
            Wanted::Front(_) => true,
            Wanted::Any | Wanted::Nothing => false,
        }
    }
}

/// The drop whose slots change, as read by the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropOfChanges {
    pub drop: DropId,
    pub once_per: OncePer,
    /// [`Wanted::Any`] applies only if the drop still has this quantity, because a plan for another
    /// quantity may be wrong.
    pub quantity: Option<Slot>,
}

/// The outcome of one change in [`Redis::set_slots`]. Only `Applied` means that something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotSet {
    /// The change was made. Contains the user's slot, if any.
    Applied(Option<GivenSlot>),
    /// The wanted state already existed.
    Same,
    /// Another user holds the slot.
    Taken,
    /// The user is not on the slot that the caller read.
    Changed,
    /// The claim was given back or revoked.
    Revoked,
    /// No slot is left.
    Full,
}

/// A newly given slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenSlot {
    pub slot: Slot,
    /// When it was given, by Redis's clock, in Unix milliseconds.
    pub at_ms: i64,
}

/// The outcome of promoting users from a waiting list.
#[derive(Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Users and their slots, in order.
    pub people: Vec<(UserId, GivenSlot)>,
    /// Number of users who left the list without a slot: they already hold one, are revoked, or
    /// have an invalid id.
    pub left_without: u32,
    /// How many of them have an invalid id.
    pub no_user_ids: u32,
}

/// A coupon's era and revision as read by the caller. If Redis has different ones, changes are
/// refused.
#[derive(Debug, Clone, Copy)]
pub struct CouponRead {
    pub era: u64,
    pub revision: u64,
}

impl Redis {
    /// Loads a drop for admission. Returns `Applied(false)` if it was already loaded, and `Changed`
    /// if Redis has a newer revision.
    pub async fn load_drop(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<Done<bool>, RedisError> {
        let mut args = vec![revision.to_string(), fence.to_string()];
        args.extend(meta.fields());
        let (word, _) = self.settings("load", keys, args).await?;
        Ok(match word.as_str() {
            "loaded" => Done::Applied(true),
            "present" => Done::Applied(false),
            "outdated" => Done::Changed,
            _ => Done::Stale,
        })
    }

    /// Unloads a lost drop until [`Self::load_drop`]: admission refuses its claims, and every pass
    /// rebuilds it. Changes nothing if the coupon's era has ended, or if another pass has rebuilt
    /// the drop.
    pub async fn unload_drop(&self, keys: &DropKeys, fence: &Fence) -> Result<(), RedisError> {
        let args = vec!["0".to_owned(), fence.to_string()];
        self.settings("unload", keys, args).await?;
        Ok(())
    }

    async fn settings(
        &self,
        how: &str,
        keys: &DropKeys,
        mut args: Vec<String>,
    ) -> Result<(String, Slot), RedisError> {
        let names = [
            &*keys.meta,
            &keys.count,
            &keys.gate,
            &keys.revision,
            &keys.claimants,
            &keys.revoked,
            &keys.allowed,
            &keys.allow_list,
            &keys.version,
            &keys.users,
            &keys.waiting,
            &keys.sizes,
        ];
        args.insert(0, how.to_owned());
        let (word, count): (String, i64) =
            SETTINGS.run(&mut self.conn.clone(), &names, &args).await?;
        Ok((word, Slot::try_from(count).unwrap_or_default()))
    }

    /// Overwrites a loaded drop's `meta` with the settings of one revision of its coupon. Returns
    /// `Changed` if Redis has a newer revision, and `Stale` if the drop is not loaded. In both
    /// cases, `meta` is unchanged.
    pub async fn write_meta(
        &self,
        keys: &DropKeys,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<Done<()>, RedisError> {
        let mut args = vec![revision.to_string(), String::new()];
        args.extend(meta.fields());
        let (word, _) = self.settings("write", keys, args).await?;
        Ok(match word.as_str() {
            "ok" => Done::Applied(()),
            "outdated" => Done::Changed,
            _ => Done::Stale,
        })
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
        let (word, count) = self.settings("lower", keys, args).await?;
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
        let (word, _) = self.settings("withhold", keys, args).await?;
        Ok(match word.as_str() {
            "withheld" => Withheld::Yes,
            "in_use" => Withheld::InUse,
            "outdated" => Withheld::Outdated,
            _ => Withheld::Unloaded,
        })
    }

    /// Changes the slots that users hold, each from the slot that the caller read to the wanted
    /// one. Returns one result per change, in order.
    ///
    /// # Errors
    /// If Redis cannot be reached; some slots may have been changed.
    pub async fn set_slots(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        of: DropOfChanges,
        changes: &[SlotChange],
    ) -> Result<Done<Vec<SlotSet>>, RedisError> {
        let text = |number: Option<i64>| number.map(|n| n.to_string()).unwrap_or_default();
        let mut args = vec![
            fence.to_string(),
            of.drop.to_string(),
            of.once_per.as_str().to_owned(),
            text(of.quantity.map(i64::from)),
        ];
        for SlotChange { user, seen, wanted } in changes {
            let (word, at_ms, has_row) = match *wanted {
                Wanted::Slot {
                    slot,
                    at_ms,
                    has_row,
                } => (slot.to_string(), at_ms, has_row),
                Wanted::Any => ("any".to_owned(), None, false),
                Wanted::Nothing => ("none".to_owned(), None, false),
                Wanted::Front(slot) => (format!("front:{slot}"), None, false),
            };
            args.extend([
                user.to_string(),
                text(seen.map(|seen| seen.slot)),
                text(seen.and_then(|seen| seen.at_ms)),
                word,
                text(at_ms),
                u8::from(has_row).to_string(),
            ]);
        }
        let reply: Vec<String> = SET_SLOTS
            .run(&mut self.conn.clone(), &Self::all(keys), &args)
            .await?;
        if reply.first().is_none_or(|word| word != "ok") {
            return Ok(Done::Stale);
        }
        let now = reply.get(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let became = |pair: &[String]| match pair[0].as_str() {
            "applied" => {
                let slot = pair[1].parse().ok().filter(|slot| *slot > 0);
                SlotSet::Applied(slot.map(|slot| GivenSlot { slot, at_ms: now }))
            }
            "same" => SlotSet::Same,
            "taken" => SlotSet::Taken,
            "revoked" => SlotSet::Revoked,
            "full" => SlotSet::Full,
            _ => SlotSet::Changed,
        };
        let pairs = reply.get(2..).unwrap_or_default().chunks_exact(2);
        Ok(Done::Applied(pairs.map(became).collect()))
    }

    /// Restores count = |users| + |free|, page by page. Returns the number of slots freed. Returns
    /// `Changed` if two users are on one slot, which makes this impossible, and `Stale` if the drop
    /// has fewer than `least` users.
    pub async fn repair_count(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        least: u64,
    ) -> Result<Done<u64>, RedisError> {
        const PAGE_SLOTS: i64 = 5_000;
        let names = [
            &*keys.meta,
            &keys.count,
            &keys.users,
            &keys.free,
            &keys.gate,
            &keys.version,
        ];
        let mut from = 1;
        let mut freed = 0;
        loop {
            let to = from + PAGE_SLOTS - 1;
            let args = [
                fence.to_string(),
                from.to_string(),
                to.to_string(),
                least.to_string(),
            ];
            let (word, end, freed_here): (String, i64, u64) = REPAIR_COUNT
                .run(&mut self.conn.clone(), &names, &args)
                .await?;
            freed += freed_here;
            match word.as_str() {
                "stale" => return Ok(Done::Stale),
                // A correct sum proves nothing before the last page: a missing slot and a free slot
                // that is held cancel out.
                _ if to < end => from = to + 1,
                "done" => return Ok(Done::Applied(freed)),
                _ => return Ok(Done::Changed),
            }
        }
    }

    /// Gives free slots to the first users on the waiting list, at most `limit`.
    ///
    /// # Errors
    /// If Redis cannot be reached; some users may have been promoted.
    pub async fn promote(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        drop: DropId,
        limit: u32,
    ) -> Result<Done<Promoted>, RedisError> {
        let args = [fence.to_string(), drop.to_string(), limit.to_string()];
        let reply: Vec<String> = PROMOTE
            .run(&mut self.conn.clone(), &Self::all(keys), &args)
            .await?;
        if reply.first().is_none_or(|w| w != "ok") {
            return Ok(Done::Stale);
        }
        let at_ms = reply.get(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let number = |at: usize| {
            reply
                .get(at)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        let given = |pair: &[String]| {
            Some((
                pair[0].parse().ok()?,
                GivenSlot {
                    slot: pair[1].parse().ok()?,
                    at_ms,
                },
            ))
        };
        let people = reply
            .get(4..)
            .unwrap_or_default()
            .chunks_exact(2)
            .filter_map(given)
            .collect();
        Ok(Done::Applied(Promoted {
            people,
            left_without: number(2),
            no_user_ids: number(3),
        }))
    }

    /// Adds users to a coupon's claimants, with drop and slot, optionally only those who are
    /// missing. Returns the number of new claimants.
    pub async fn set_claimants(
        &self,
        coupon: CouponId,
        people: &[(String, i64, Slot)],
        only_missing: bool,
    ) -> Result<u64, RedisError> {
        if people.is_empty() {
            return Ok(0);
        }
        let key = keys::claimants(&self.prefix, coupon);
        let mut pipe = redis::pipe();
        for (user, drop, slot) in people {
            pipe.cmd(if only_missing { "HSETNX" } else { "HSET" })
                .arg(&key)
                .arg(user)
                .arg(format!("{drop}:{slot}"));
        }
        let added: Vec<u64> = pipe.query_async(&mut self.conn.clone()).await?;
        Ok(added.into_iter().sum())
    }

    pub(super) fn all(keys: &DropKeys) -> [&str; 11] {
        [
            &keys.meta,
            &keys.count,
            &keys.users,
            &keys.free,
            &keys.times,
            &keys.claimants,
            &keys.gate,
            &keys.waiting,
            &keys.revoked,
            &keys.version,
            &keys.sizes,
        ]
    }
}
