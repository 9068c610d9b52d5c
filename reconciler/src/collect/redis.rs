//! What Redis says of drops and people.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::redis::keys::{self, DropKeys};
use firstcome_shared::redis::meta::DropMeta;
use firstcome_shared::redis::{Redis, RedisError};

/// A drop's numbers in Redis.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) meta_matches: Option<bool>,
    pub(super) count: Option<i64>,
    pub(super) users: u64,
    pub(super) free: u64,
    pub(super) waiting: u64,
    pub(super) highest: i64,
    pub(super) first_waiting: Vec<UserId>,
}

type RawHead = (HashMap<String, String>, Option<String>, u64, u64, u64, Vec<(String, f64)>, Vec<(String, f64)>);

/// Drops asked for in one round trip.
const DROPS_A_ROUND: usize = 200;

/// The numbers of many drops, a few round trips in all.
pub(super) async fn heads(redis: &Redis, drops: &[(Coupon, Drop)]) -> Result<Vec<Head>, RedisError> {
    let mut heads = Vec::with_capacity(drops.len());
    for chunk in drops.chunks(DROPS_A_ROUND) {
        let mut pipe = redis::pipe();
        for (coupon, drop) in chunk {
            let keys = redis.keys(coupon.id, drop.id);
            pipe.cmd("HGETALL").arg(&keys.meta).cmd("GET").arg(&keys.count);
            pipe.cmd("ZCARD").arg(&keys.users).cmd("ZCARD").arg(&keys.free).cmd("ZCARD").arg(&keys.waiting);
            for set in [&keys.users, &keys.free] {
                pipe.cmd("ZREVRANGE").arg(set).arg(0).arg(0).arg("WITHSCORES");
            }
        }
        let values: Vec<redis::Value> = pipe.query_async(&mut redis.connection()).await?;
        for ((coupon, drop), raw) in chunk.iter().zip(values.chunks_exact(7)) {
            let raw: RawHead = redis::from_redis_value(redis::Value::Array(raw.to_vec()))?;
            heads.push(head(coupon, drop, raw));
        }
    }
    Ok(heads)
}

fn head(coupon: &Coupon, drop: &Drop, raw: RawHead) -> Head {
    let (meta, count, users, free, waiting, top_user, top_free) = raw;
    let top = |set: Vec<(String, f64)>| set.first().map_or(0.0, |(_, score)| *score);
    #[allow(clippy::cast_possible_truncation)] // scores are slots, far below 2^53
    let highest = top(top_user).max(top(top_free)) as i64;
    Head {
        meta_matches: DropMeta::read(&meta).map(|meta| meta == DropMeta::of(coupon, drop)),
        count: count.and_then(|text| text.parse().ok()),
        users,
        free,
        waiting,
        highest,
        first_waiting: Vec::new(),
    }
}

/// Most people looked at on a waiting list; more are promoted in the next round.
const WAITING: u64 = 1_000;

/// Asks who is first in line, where people wait although not everything is held.
pub(super) async fn first_in_line(
    redis: &Redis,
    drops: &[(Coupon, Drop)],
    heads: &mut [Head],
) -> Result<(), RedisError> {
    for ((coupon, drop), head) in drops.iter().zip(heads) {
        let left = u64::from(drop.quantity).saturating_sub(head.users);
        if head.waiting > 0 && left > 0 {
            let keys = redis.keys(coupon.id, drop.id);
            let last = left.min(WAITING) - 1;
            let names: Vec<String> =
                redis::cmd("ZRANGE").arg(&keys.waiting).arg(0).arg(last).query_async(&mut redis.connection()).await?;
            head.first_waiting = names.into_iter().map(UserId::from_store).collect();
        }
    }
    Ok(())
}

/// Where people are now.
pub(super) async fn slots_of(
    redis: &Redis,
    keys: &DropKeys,
    people: &[UserId],
) -> Result<HashMap<UserId, i64>, RedisError> {
    if people.is_empty() {
        return Ok(HashMap::new());
    }
    let names: Vec<&str> = people.iter().map(UserId::as_str).collect();
    let scores: Vec<Option<f64>> =
        redis::cmd("ZMSCORE").arg(&keys.users).arg(names).query_async(&mut redis.connection()).await?;
    #[allow(clippy::cast_possible_truncation)]
    let found = people.iter().zip(scores).filter_map(|(user, score)| Some((user.clone(), score?.floor() as i64)));
    Ok(found.collect())
}

/// When slots were given out, Unix milliseconds, for those of which that is known.
pub(super) async fn times(redis: &Redis, keys: &DropKeys, slots: &[i64]) -> Result<HashMap<i64, i64>, RedisError> {
    if slots.is_empty() {
        return Ok(HashMap::new());
    }
    let times: Vec<Option<String>> =
        redis::cmd("HMGET").arg(&keys.times).arg(slots).query_async(&mut redis.connection()).await?;
    Ok(slots.iter().zip(times).filter_map(|(slot, at)| Some((*slot, at?.parse().ok()?))).collect())
}

/// People of a page whom `claimants` does not have on their slot.
pub(super) async fn claimants_wrong(
    redis: &Redis,
    coupon: CouponId,
    drop: DropId,
    users: &[(i64, UserId)],
) -> Result<Vec<UserId>, RedisError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = users.iter().map(|(_, user)| user.as_str()).collect();
    let held: Vec<Option<String>> = redis::cmd("HMGET")
        .arg(keys::claimants(redis.prefix(), coupon))
        .arg(names)
        .query_async(&mut redis.connection())
        .await?;
    let mut expected = String::new();
    let wrong = users.iter().zip(held).filter(|((slot, _), held)| {
        expected.clear();
        // Writing to a `String` does not fail.
        let _ = write!(expected, "{drop}:{slot}");
        held.as_ref() != Some(&expected)
    });
    Ok(wrong.map(|((_, user), _)| user.clone()).collect())
}

/// People whom `claimants` has on these slots of a drop. Reads the whole hash, so only asked where slots have gone missing.
pub(super) async fn claimants_on(
    redis: &Redis,
    coupon: CouponId,
    drop: DropId,
    slots: &[i64],
) -> Result<Vec<(i64, UserId)>, RedisError> {
    let wanted: HashSet<i64> = slots.iter().copied().collect();
    claimants_of(redis, coupon, drop, |slot| wanted.contains(&slot)).await
}

/// Whom `claimants` has in a drop, on the slots that are asked for. Reads the whole hash.
pub(super) async fn claimants_of(
    redis: &Redis,
    coupon: CouponId,
    drop: DropId,
    is_asked: impl Fn(i64) -> bool,
) -> Result<Vec<(i64, UserId)>, RedisError> {
    let key = keys::claimants(redis.prefix(), coupon);
    let here = format!("{drop}:");
    let (mut cursor, mut found) = (0_u64, HashMap::new());
    loop {
        let (next, entries): (u64, Vec<(String, String)>) = redis::cmd("HSCAN")
            .arg(&key)
            .arg(cursor)
            .arg("COUNT")
            .arg(1_000)
            .query_async(&mut redis.connection())
            .await?;
        for (user, held) in entries {
            let slot = held.strip_prefix(&here).and_then(|slot| slot.parse().ok());
            if let Some(slot) = slot.filter(|slot| is_asked(*slot)) {
                found.insert(UserId::from_store(user), slot);
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(found.into_iter().map(|(user, slot)| (slot, user)).collect());
        }
    }
}
