//! All changes of a drop in Redis except admission: loading, operators' changes, and the
//! reconciler's repairs. Each is one atomic script that checks its caller's precondition and does
//! nothing if that has changed, so all of them are safe to run twice, by two reconcilers at once,
//! and concurrently with live traffic.

use std::sync::LazyLock;

use redis::RedisError;

use super::Redis;
use super::claimants::EARLIER_HOLDERS;
use super::client::Script;
use super::gate::Fence;
use super::keys::{self, DropKeys, DropMeta};
use crate::domain::{CouponId, DropId, OncePer, Slot, UserId};

static LOAD: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/load_drop.lua")));
static WRITE_META: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/write_meta.lua")));
static LOWER: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/lower.lua")));
static WITHHOLD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/withhold.lua")));
static PUT_BACK: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/put_back.lua")));
static REPAIR_COUNT: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/repair_count.lua")));
static MOVE: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/move.lua")));
static WITHDRAW: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/withdraw.lua")));
static PROMOTE: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/promote.lua")));
static TO_FRONT: LazyLock<Script> =
    LazyLock::new(|| Script::with_identity(include_str!("scripts/to_front.lua")));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<T> {
    /// It took effect, or what it wanted was so already.
    Applied(T),
    /// The caller's precondition has changed; nothing was done.
    Changed,
    /// Redis was emptied since; nothing was done.
    Stale,
}

/// The outcome of [`Redis::lower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowered {
    /// The quantity is no larger than asked.
    Yes,
    /// This many slots are already given; nothing was changed.
    GivenOut(Slot),
    /// A newer revision of the coupon was seen; nothing was changed.
    Outdated,
    Unloaded,
    /// Redis may have forgotten given slots, and the coupon has not been verified since.
    Unverified,
}

/// The outcome of [`Redis::withhold`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// It stands still until its settings are written again.
    Yes,
    /// It has opened, or a user holds a slot or waits; nothing was changed.
    InUse,
    /// A newer revision of the coupon was seen; nothing was changed.
    Outdated,
    Unloaded,
}

/// Evidence that a user holds a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub user: UserId,
    pub slot: Slot,
    /// Since when, Unix milliseconds, where known.
    pub claimed_at_ms: Option<i64>,
    /// The evidence is a row: the user gets the slot even if another is on it, who then has to be
    /// moved.
    pub certain: bool,
}

/// A slot that was given a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenSlot {
    pub slot: Slot,
    /// By Redis's clock, Unix milliseconds.
    pub at_ms: i64,
}

/// The outcome for the head of a waiting list.
#[derive(Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Users and their slots, in order.
    pub people: Vec<(UserId, GivenSlot)>,
    /// How many left the list without one: they hold one, are revoked, or no person has the name.
    pub left_without: u32,
    /// The number of invalid user ids among these.
    pub no_user_ids: u32,
}

/// The outcome of one holding in [`Redis::put_back`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutBack {
    /// The user is on the slot now.
    Applied,
    /// The person was on it already.
    Same,
    /// Another user is on it; nothing was changed.
    Taken,
    /// The claim was given back or revoked; nothing was changed.
    Revoked,
}

/// A coupon's era and revision as the caller read them. If Redis has others, a change is refused.
#[derive(Debug, Clone, Copy)]
pub struct CouponRead {
    pub era: u64,
    pub revision: u64,
}

impl Redis {
    /// Loads a drop for admission unless it is loaded; `Applied(false)` if it was. `Changed`: a
    /// newer revision was seen.
    pub async fn load_drop(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<Done<bool>, RedisError> {
        self.note_numbers(keys.coupon, keys.drop).await?;
        let mut args = vec![fence.to_string(), revision.to_string()];
        args.extend(meta.fields());
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
        ];
        let reply: String = LOAD.run(&mut self.conn.clone(), &names, &args).await?;
        Ok(match reply.as_str() {
            "loaded" => Done::Applied(true),
            "present" => Done::Applied(false),
            "outdated" => Done::Changed,
            _ => Done::Stale,
        })
    }

    /// Overwrites a loaded drop's `meta` with the settings of one revision of its coupon.
    /// `Changed`: a newer revision was seen; `Stale`: the drop is not loaded. Both leave `meta`
    /// unchanged.
    pub async fn write_meta(
        &self,
        keys: &DropKeys,
        revision: u64,
        meta: &DropMeta,
    ) -> Result<Done<()>, RedisError> {
        let mut args = vec![revision.to_string()];
        args.extend(meta.fields());
        let reply: String = WRITE_META
            .run(&mut self.conn.clone(), &[&keys.meta, &keys.revision], &args)
            .await?;
        Ok(match reply.as_str() {
            "ok" => Done::Applied(()),
            "outdated" => Done::Changed,
            _ => Done::Stale,
        })
    }

    /// Records in a loaded drop's `meta` whether users hold a coupon of an earlier drop: if so,
    /// admission to it is closed while there are no claimants.
    pub async fn note_earlier_holders(
        &self,
        keys: &DropKeys,
        revision: u64,
        are_there: bool,
    ) -> Result<(), RedisError> {
        let args = [
            revision.to_string(),
            EARLIER_HOLDERS.to_owned(),
            u8::from(are_there).to_string(),
        ];
        let names = [&*keys.meta, &keys.revision];
        let _: String = WRITE_META
            .run(&mut self.conn.clone(), &names, &args)
            .await?;
        Ok(())
    }

    /// Lowers a loaded and verified drop's quantity before MySQL does, so that no slot above it is
    /// given from then on.
    pub async fn lower(
        &self,
        keys: &DropKeys,
        read: CouponRead,
        quantity: Slot,
    ) -> Result<Lowered, RedisError> {
        let names = [&*keys.meta, &keys.count, &keys.revision, &keys.gate];
        let args = [
            read.revision.to_string(),
            quantity.to_string(),
            read.era.to_string(),
        ];
        let (word, count): (String, Slot) =
            LOWER.run(&mut self.conn.clone(), &names, &args).await?;
        Ok(match word.as_str() {
            "lowered" => Lowered::Yes,
            "below_given_out" => Lowered::GivenOut(count),
            "outdated" => Lowered::Outdated,
            "unverified" => Lowered::Unverified,
            _ => Lowered::Unloaded,
        })
    }

    /// Keeps a drop that has not opened, and has no users, from opening, before MySQL changes it.
    pub async fn withhold(&self, keys: &DropKeys, revision: u64) -> Result<Withheld, RedisError> {
        let names = [
            &*keys.meta,
            &keys.count,
            &keys.users,
            &keys.waiting,
            &keys.revision,
        ];
        let word: String = WITHHOLD
            .run(&mut self.conn.clone(), &names, &[revision.to_string()])
            .await?;
        Ok(match word.as_str() {
            "withheld" => Withheld::Yes,
            "in_use" => Withheld::InUse,
            "outdated" => Withheld::Outdated,
            _ => Withheld::Unloaded,
        })
    }

    /// Gives users the slots that their evidence shows, one reply each, in order.
    ///
    /// # Errors
    /// If Redis can't be reached; some users may have been restored.
    pub async fn put_back(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        drop: DropId,
        once_per: OncePer,
        holdings: &[Holding],
    ) -> Result<Done<Vec<PutBack>>, RedisError> {
        let mut args = vec![
            fence.to_string(),
            drop.to_string(),
            once_per.as_str().to_owned(),
        ];
        for holding in holdings {
            args.push(holding.user.to_string());
            args.push(holding.slot.to_string());
            args.push(
                holding
                    .claimed_at_ms
                    .map(|ms| ms.to_string())
                    .unwrap_or_default(),
            );
            args.push(u8::from(holding.certain).to_string());
        }
        let names = [
            &*keys.count,
            &keys.users,
            &keys.free,
            &keys.times,
            &keys.claimants,
            &keys.gate,
            &keys.revoked,
            &keys.version,
        ];
        let words: Vec<String> = PUT_BACK.run(&mut self.conn.clone(), &names, &args).await?;
        if words.first().is_some_and(|w| w == "stale") {
            return Ok(Done::Stale);
        }
        let read = |word: String| match word.as_str() {
            "applied" => PutBack::Applied,
            "same" => PutBack::Same,
            "revoked" => PutBack::Revoked,
            _ => PutBack::Taken,
        };
        Ok(Done::Applied(words.into_iter().map(read).collect()))
    }

    /// Restores count = |users| + |free|, walking the slots in pages; returns the number of slots
    /// freed. `Changed` if that is impossible: two users are on one slot.
    pub async fn repair_count(
        &self,
        keys: &DropKeys,
        fence: &Fence,
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
            let args = [fence.to_string(), from.to_string(), to.to_string()];
            let (word, end, freed_here): (String, i64, u64) = REPAIR_COUNT
                .run(&mut self.conn.clone(), &names, &args)
                .await?;
            freed += freed_here;
            match word.as_str() {
                "stale" => return Ok(Done::Stale),
                // A right sum proves nothing before the last page: a gap here and a free slot there
                // that is held cancel out.
                _ if to < end => from = to + 1,
                "done" => return Ok(Done::Applied(freed)),
                _ => return Ok(Done::Changed),
            }
        }
    }

    /// Gives a user another slot than `from`, or a first one if `from` is `None`, and returns when.
    /// `Applied(None)` if no slot is left. With `quantity`, only if that is the drop's: a plan for
    /// another quantity may be wrong now.
    pub async fn move_person(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        drop: DropId,
        user: &UserId,
        from: Option<i64>,
        quantity: Option<Slot>,
    ) -> Result<Done<Option<GivenSlot>>, RedisError> {
        let quantity = quantity
            .map(|quantity| quantity.to_string())
            .unwrap_or_default();
        let from = from.unwrap_or(0).to_string();
        let args = [
            fence.to_string(),
            drop.to_string(),
            user.to_string(),
            from,
            quantity,
        ];
        let (word, slot, at_ms): (String, i64, i64) = MOVE
            .run(&mut self.conn.clone(), &Self::all(keys), &args)
            .await?;
        Ok(match word.as_str() {
            "moved" => Done::Applied(
                Slot::try_from(slot)
                    .ok()
                    .map(|slot| GivenSlot { slot, at_ms }),
            ),
            "none" => Done::Applied(None),
            "changed" => Done::Changed,
            _ => Done::Stale,
        })
    }

    /// Takes a slot back from a user; with `to_front` the user goes to the head of the waiting
    /// list.
    pub async fn withdraw(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        drop: DropId,
        user: &UserId,
        from: i64,
        to_front: bool,
    ) -> Result<Done<()>, RedisError> {
        let args = [
            fence.to_string(),
            drop.to_string(),
            user.to_string(),
            from.to_string(),
            u8::from(to_front).to_string(),
        ];
        let (word, _): (String, i64) = WITHDRAW
            .run(&mut self.conn.clone(), &Self::all(keys), &args)
            .await?;
        Ok(match word.as_str() {
            "withdrawn" => Done::Applied(()),
            "changed" => Done::Changed,
            _ => Done::Stale,
        })
    }

    /// Puts users at the head of the waiting list, each with the promised slot, unless they hold
    /// one.
    pub async fn to_front(
        &self,
        keys: &DropKeys,
        fence: &Fence,
        drop: DropId,
        once_per: OncePer,
        people: &[(UserId, i64)],
    ) -> Result<Done<()>, RedisError> {
        let mut args = vec![
            fence.to_string(),
            once_per.as_str().to_owned(),
            drop.to_string(),
        ];
        args.extend(
            people
                .iter()
                .flat_map(|(user, slot)| [user.to_string(), slot.to_string()]),
        );
        let names = [
            &*keys.users,
            &keys.waiting,
            &keys.claimants,
            &keys.gate,
            &keys.revoked,
            &keys.version,
        ];
        let word: String = TO_FRONT.run(&mut self.conn.clone(), &names, &args).await?;
        Ok(if word == "ok" {
            Done::Applied(())
        } else {
            Done::Stale
        })
    }

    /// Gives free slots to the first users on the waiting list, at most `limit` of them.
    ///
    /// # Errors
    /// If Redis can't be reached; some may have been promoted.
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

    /// Adds users to a coupon's claimants, or only those who are missing: user, drop and slot.
    pub async fn set_claimants(
        &self,
        coupon: CouponId,
        people: &[(String, i64, Slot)],
        only_missing: bool,
    ) -> Result<(), RedisError> {
        let key = keys::claimants(&self.prefix, coupon);
        let mut pipe = redis::pipe();
        for (user, drop, slot) in people {
            pipe.cmd(if only_missing { "HSETNX" } else { "HSET" })
                .arg(&key)
                .arg(user)
                .arg(format!("{drop}:{slot}"))
                .ignore();
        }
        pipe.query_async(&mut self.conn.clone()).await
    }

    pub(super) fn all(keys: &DropKeys) -> [&str; 10] {
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
        ]
    }
}
