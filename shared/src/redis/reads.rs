//! What people are shown: how much of a drop is left, and where one person stands. Reads only, in one round trip.

use redis::{FromRedisValue as _, RedisError, Value};

use super::Redis;
use super::keys::DropKeys;
use super::safety::is_master;
use crate::domain::{DropId, Slot, UserId};

/// What is left of a drop that admission knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Slots in all, as admission has it.
    pub quantity: Slot,
    /// People who hold one.
    pub held: u32,
    /// Whether admission is stopped.
    pub paused: bool,
}

/// Where one person stands in a drop, and in its coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether Redis can be believed about this drop: it knows it, and admission is open. Otherwise what is missing below
    /// may only be lost.
    pub trusted: bool,
    /// The slot held in this drop.
    pub slot: Option<Slot>,
    /// The place on this drop's waiting list, 1 is next.
    pub position: Option<u32>,
    /// What is held anywhere in the coupon, where one each is allowed in the whole of it.
    pub claimant: Option<(DropId, Slot)>,
}

impl Redis {
    /// What is left of each drop, in the order asked; `None` for one that admission does not know.
    pub async fn stock(&self, drops: &[&DropKeys]) -> Result<Vec<Option<Stock>>, RedisError> {
        if drops.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for keys in drops {
            pipe.cmd("HMGET").arg(&keys.meta).arg("quantity").arg("paused").cmd("ZCARD").arg(&keys.users);
        }
        let replies: Vec<Value> = pipe.query_async(&mut self.connection()).await?;
        let read = |pair: &[Value]| {
            let (quantity, paused) = <(Option<String>, Option<String>)>::from_redis_value_ref(pair.first()?).ok()?;
            let held = u32::from_redis_value_ref(pair.get(1)?).ok()?;
            Some(Stock { quantity: quantity?.parse().ok()?, held, paused: paused.is_some_and(|p| p == "1") })
        };
        Ok(replies.chunks(2).map(read).collect())
    }

    /// Where `user` stands.
    pub async fn standing(&self, keys: &DropKeys, user: &UserId) -> Result<Standing, RedisError> {
        type Replies = (Vec<bool>, String, bool, Option<f64>, Option<u32>, Option<String>);
        let mut pipe = redis::pipe();
        pipe.cmd("SCRIPT").arg("EXISTS").arg(&*self.claim_hash).cmd("INFO").arg("replication");
        pipe.cmd("EXISTS").arg(&keys.meta);
        pipe.cmd("ZSCORE").arg(&keys.users).arg(user.as_str());
        pipe.cmd("ZRANK").arg(&keys.waiting).arg(user.as_str());
        pipe.cmd("HGET").arg(&keys.claimants).arg(user.as_str());
        let (script, replication, known, score, rank, claimant): Replies =
            pipe.query_async(&mut self.connection()).await?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a score is a slot; what is none is refused
        let slot = score.filter(|s| *s >= 1.0 && *s <= f64::from(Slot::MAX)).map(|s| s as Slot);
        let claimant = claimant.as_deref().and_then(|text| text.split_once(':'));
        Ok(Standing {
            trusted: script == [true] && is_master(&replication) && known,
            slot,
            position: rank.map(|r| r + 1),
            claimant: claimant.and_then(|(drop, slot)| Some((DropId(drop.parse().ok()?), slot.parse().ok()?))),
        })
    }

    /// When the holder of a slot was admitted, Unix milliseconds by Redis's clock; `None` where that is not known.
    pub async fn admitted_at(&self, keys: &DropKeys, slot: Slot) -> Result<Option<i64>, RedisError> {
        redis::cmd("HGET").arg(&keys.times).arg(slot).query_async(&mut self.connection()).await
    }

    /// The highest slot given out in each drop, in the order asked; `None` for one that admission does not know.
    pub async fn given_out(&self, drops: &[&DropKeys]) -> Result<Vec<Option<Slot>>, RedisError> {
        if drops.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for keys in drops {
            pipe.cmd("GET").arg(&keys.count);
        }
        let counts: Vec<Option<String>> = pipe.query_async(&mut self.connection()).await?;
        Ok(counts.into_iter().map(|count| count?.parse().ok()).collect())
    }
}
