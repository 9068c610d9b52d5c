//! Reads the data of drops that a pass compares.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use redis::RedisError;

use super::Redis;
use super::keys::{DropKeys, DropMeta};
use crate::domain::{OncePer, Slot, UserId};

/// Score in a waiting list of a user who was promised slot 0; `set_slots.lua` adds the slot.
const FIRST_PROMISED: i64 = -(1 << 40);
const LAST_PROMISED: i64 = FIRST_PROMISED + Slot::MAX as i64;

#[derive(Debug, Clone, Default)]
pub struct DropNumbers {
    /// The settings, or `None` if they are missing or invalid.
    pub meta: Option<DropMeta>,
    /// The counter, or `None` if the key is missing or not a number.
    pub count: Option<i64>,
    pub users: u64,
    pub free: u64,
    pub waiting: u64,
    /// Whether a pass put users whose promise is broken at the head of the waiting list.
    pub has_promised_waiting: bool,
    /// The highest slot that is held or free.
    pub highest: i64,
}

impl DropNumbers {
    /// Whether the drop's keys are missing or unusable for admission.
    pub fn are_lost(&self) -> bool {
        self.meta.is_none()
            || self.count.is_none()
            || self.users == 0
                && self
                    .count
                    .is_some_and(|count| count > i64::try_from(self.free).unwrap_or(i64::MAX))
    }
}

/// A consistent view of a range of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotPage {
    /// The highest slot given, or `None` if the key is missing or not a number.
    pub count: Option<i64>,
    /// Slot and user, in order of slot.
    pub users: Vec<(i64, String)>,
    pub free: Vec<i64>,
    /// Set if these slots have more users or free slots than one read returns.
    pub is_cut: bool,
}

/// Maximum number of users, and of free slots, per read. It exceeds the number of slots in a page,
/// because manual edits can put any number of users on one slot or beyond the last one.
const ON_PAGE_AT_MOST: usize = 200_000;

type RawNumbers = (
    HashMap<String, String>,
    Option<String>,
    u64,
    u64,
    u64,
    u64,
    Vec<(String, f64)>,
    Vec<(String, f64)>,
);

/// Drops requested at the same time.
pub(super) const DROPS_AT_ONCE: usize = 200;

/// Replaces a score that cannot be a slot: it is not an integer, or too large to be exact.
/// `set_slots.lua` uses the same value.
const NO_SLOT: i64 = -1;

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // compared afterwards
pub(super) fn slot_of(score: f64) -> i64 {
    let slot = score as i64;
    if slot.unsigned_abs() < 1 << 52 && (slot as f64 - score).abs() == 0.0 {
        slot
    } else {
        NO_SLOT
    }
}

impl Redis {
    /// Reads the counters of many drops, in the same order. An unreadable drop does not affect the
    /// others.
    pub async fn drop_numbers(&self, drops: &[DropKeys]) -> Vec<Result<DropNumbers, RedisError>> {
        let mut numbers = Vec::with_capacity(drops.len());
        for some in drops.chunks(DROPS_AT_ONCE) {
            numbers.extend(join_all(some.iter().map(|keys| self.numbers_of(keys))).await);
        }
        numbers
    }

    /// Uses one transaction, because a claim between two of these reads would look like a wrong
    /// counter.
    async fn numbers_of(&self, keys: &DropKeys) -> Result<DropNumbers, RedisError> {
        let mut pipe = redis::pipe();
        pipe.atomic()
            .cmd("HGETALL")
            .arg(&keys.meta)
            .cmd("GET")
            .arg(&keys.count);
        pipe.cmd("ZCARD")
            .arg(&keys.users)
            .cmd("ZCARD")
            .arg(&keys.free)
            .cmd("ZCARD")
            .arg(&keys.waiting);
        pipe.cmd("ZCOUNT")
            .arg(&keys.waiting)
            .arg(FIRST_PROMISED)
            .arg(LAST_PROMISED);
        for set in [&keys.users, &keys.free] {
            pipe.cmd("ZREVRANGE")
                .arg(set)
                .arg(0)
                .arg(0)
                .arg("WITHSCORES");
        }
        Ok(read_numbers(
            pipe.query_async(&mut self.connection()).await?,
        ))
    }

    /// Returns when a drop's keys were given the expiry `ttl`, by Redis's clock, or `None` if they
    /// have no expiry.
    pub async fn expire_since(
        &self,
        keys: &DropKeys,
        ttl: Duration,
    ) -> Result<Option<DateTime<Utc>>, RedisError> {
        let at: i64 = redis::cmd("PEXPIRETIME")
            .arg(&keys.meta)
            .query_async(&mut self.connection())
            .await?;
        let since = (at >= 0)
            .then(|| DateTime::from_timestamp_millis(at))
            .flatten();
        Ok(since.and_then(|at| at.checked_sub_signed(TimeDelta::from_std(ttl).ok()?)))
    }

    /// Whether Redis has each of these drops, in the same order.
    pub async fn are_loaded(&self, drops: &[DropKeys]) -> Result<Vec<bool>, RedisError> {
        if drops.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for keys in drops {
            pipe.cmd("EXISTS").arg(&keys.meta);
        }
        pipe.query_async(&mut self.connection()).await
    }

    /// Whether Redis has any key of each of these coupons, in the same order.
    pub async fn are_remembered(&self, coupons: &[DropKeys]) -> Result<Vec<bool>, RedisError> {
        if coupons.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for keys in coupons {
            pipe.cmd("EXISTS")
                .arg(&keys.gate)
                .arg(&keys.claimants)
                .arg(&keys.revoked)
                .arg(&keys.revision);
            pipe.arg(&keys.allowed).arg(&keys.allow_list);
        }
        let found: Vec<u64> = pipe.query_async(&mut self.connection()).await?;
        Ok(found.into_iter().map(|number| number > 0).collect())
    }

    /// Whether Redis has any user of these drops or their coupons.
    pub async fn any_people(&self, drops: &[DropKeys]) -> Result<bool, RedisError> {
        for some in drops.chunks(1_000) {
            let mut pipe = redis::pipe();
            for keys in some {
                pipe.cmd("EXISTS")
                    .arg(&keys.users)
                    .arg(&keys.waiting)
                    .arg(&keys.claimants)
                    .arg(&keys.revoked);
            }
            let found: Vec<u64> = pipe.query_async(&mut self.connection()).await?;
            if found.iter().any(|keys| *keys > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether any user holds a slot of a drop or waits for one.
    pub async fn has_people(&self, drop: &DropKeys) -> Result<bool, RedisError> {
        let mut cmd = redis::cmd("EXISTS");
        let found: u64 = cmd
            .arg(&drop.users)
            .arg(&drop.waiting)
            .query_async(&mut self.connection())
            .await?;
        Ok(found > 0)
    }

    /// Reads the first entries of a drop's waiting list, in order, at most `limit`. Entries added
    /// manually may not be valid text.
    pub async fn first_waiting(
        &self,
        keys: &DropKeys,
        limit: u64,
    ) -> Result<Vec<UserId>, RedisError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut cmd = redis::cmd("ZRANGE");
        let names: Vec<Vec<u8>> = cmd
            .arg(&keys.waiting)
            .arg(0)
            .arg(last)
            .query_async(&mut self.connection())
            .await?;
        let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        Ok(names.iter().map(text).map(UserId::from_store).collect())
    }

    /// Reads the users whom passes put at the head of a drop's waiting list, with the slots that
    /// they were promised: at most a thousand. Leaves out those whose slot is unknown.
    pub async fn promised_waiting(
        &self,
        keys: &DropKeys,
    ) -> Result<Vec<(UserId, i64)>, RedisError> {
        let names: Vec<(Vec<u8>, f64)> = redis::cmd("ZRANGEBYSCORE")
            .arg(&keys.waiting)
            .arg(FIRST_PROMISED)
            .arg(LAST_PROMISED)
            .arg(&["WITHSCORES", "LIMIT", "0", "1000"])
            .query_async(&mut self.connection())
            .await?;
        let promised = |(name, score): (Vec<u8>, f64)| {
            let name = String::from_utf8_lossy(&name).into_owned();
            (UserId::from_store(name), slot_of(score) - FIRST_PROMISED)
        };
        Ok(names.into_iter().map(promised).collect())
    }

    /// Reads a consistent view of the slots `from..=to`, or of all slots from `from` on if `to` is
    /// `None`.
    ///
    /// This is a transaction and not a script, because Lua would convert every name and slot to a
    /// separate value and back, which costs Redis more than the read itself (docs/PERFORMANCE.md).
    pub async fn slot_page(
        &self,
        keys: &DropKeys,
        from: i64,
        to: Option<i64>,
    ) -> Result<SlotPage, RedisError> {
        type Seen = (Option<String>, Vec<(String, f64)>, Vec<String>);
        // Start just above the last slot of the previous page, so that a score between two slots
        // belongs to the next page.
        let first = if from < 1 {
            "-inf".to_owned()
        } else {
            format!("({}", from - 1)
        };
        let to = to.map_or("+inf".to_owned(), |t| t.to_string());
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("GET").arg(&*keys.count);
        let limit = |cmd: &mut redis::Pipeline| {
            cmd.arg("LIMIT").arg(0).arg(ON_PAGE_AT_MOST);
        };
        limit(
            pipe.cmd("ZRANGEBYSCORE")
                .arg(&keys.users)
                .arg(&first)
                .arg(&to)
                .arg("WITHSCORES"),
        );
        limit(
            pipe.cmd("ZRANGEBYSCORE")
                .arg(&keys.free)
                .arg(&first)
                .arg(&to),
        );
        let (count, users, free): Seen = pipe.query_async(&mut self.connection()).await?;
        let mut users: Vec<_> = users
            .into_iter()
            .map(|(user, score)| (slot_of(score), user))
            .collect();
        users.sort_by_key(|(slot, _)| *slot);
        Ok(SlotPage {
            count: count.and_then(|text| text.parse().ok()),
            is_cut: users.len().max(free.len()) >= ON_PAGE_AT_MOST,
            users,
            free: free
                .into_iter()
                .filter_map(|slot| slot.parse().ok())
                .collect(),
        })
    }

    /// Reads the slots of these users in a drop. Omits users without a slot.
    pub async fn slots_of(
        &self,
        keys: &DropKeys,
        people: &[UserId],
    ) -> Result<HashMap<UserId, i64>, RedisError> {
        if people.is_empty() {
            return Ok(HashMap::new());
        }
        let names: Vec<&str> = people.iter().map(UserId::as_str).collect();
        let scores: Vec<Option<f64>> = redis::cmd("ZMSCORE")
            .arg(&keys.users)
            .arg(names)
            .query_async(&mut self.connection())
            .await?;
        let found = people
            .iter()
            .zip(scores)
            .filter_map(|(user, score)| Some((user.clone(), slot_of(score?))));
        Ok(found.collect())
    }

    /// Whether each of these users, who were promised a slot, neither holds a slot nor is at the
    /// head of the waiting list. The results are in the order of the users.
    pub async fn out_of_line(
        &self,
        keys: &DropKeys,
        once_per: OncePer,
        people: &[UserId],
    ) -> Result<Vec<bool>, RedisError> {
        type Replies = (Vec<Option<f64>>, Vec<Option<f64>>, Vec<Option<String>>);
        if people.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = people.iter().map(UserId::as_str).collect();
        let mut pipe = redis::pipe();
        pipe.cmd("ZMSCORE")
            .arg(&keys.waiting)
            .arg(&names)
            .cmd("ZMSCORE")
            .arg(&keys.users)
            .arg(&names);
        pipe.cmd("HMGET").arg(&keys.claimants).arg(&names);
        let (places, slots, claims): Replies = pipe.query_async(&mut self.connection()).await?;
        // Users who join the waiting list get scores from 1 on. Users at its head have lower
        // scores.
        let out = |((place, slot), claim): ((Option<f64>, Option<f64>), Option<String>)| {
            let holds = slot.is_some() || once_per == OncePer::Coupon && claim.is_some();
            !holds && place.is_none_or(|score| score >= 1.0)
        };
        Ok(places.into_iter().zip(slots).zip(claims).map(out).collect())
    }

    /// Reads when these slots were given, in Unix milliseconds, if known.
    pub async fn admission_times(
        &self,
        keys: &DropKeys,
        slots: &[i64],
    ) -> Result<HashMap<i64, i64>, RedisError> {
        if slots.is_empty() {
            return Ok(HashMap::new());
        }
        let times: Vec<Option<String>> = redis::cmd("HMGET")
            .arg(&keys.times)
            .arg(slots)
            .query_async(&mut self.connection())
            .await?;
        Ok(slots
            .iter()
            .zip(times)
            .filter_map(|(slot, at)| Some((*slot, at?.parse().ok()?)))
            .collect())
    }
}

fn read_numbers(raw: RawNumbers) -> DropNumbers {
    let (meta, count, users, free, waiting, promised, top_user, top_free) = raw;
    let top = |set: Vec<(String, f64)>| set.first().map_or(0.0, |(_, score)| *score);
    #[allow(clippy::cast_possible_truncation)] // scores are slots, far below 2^53
    let highest = top(top_user).max(top(top_free)) as i64;
    DropNumbers {
        meta: DropMeta::read(&meta),
        count: count.and_then(|text| text.parse().ok()),
        users,
        free,
        waiting,
        has_promised_waiting: promised > 0,
        highest,
    }
}
