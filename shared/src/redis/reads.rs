//! Reads: what is left of a drop, and what a pass compares.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use redis::{ErrorKind, FromRedisValue, RedisError, Value};

use super::Redis;
use super::keys::{self, DropKeys, DropMeta};
use crate::domain::{CouponId, DropId, OncePer, Slot, UserId};

/// What is left of a drop that admission knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Slots in all, as admission has it.
    pub quantity: Slot,
    pub held: u32,
    pub paused: bool,
    /// How many people are on the waiting list, and how many may be.
    pub waiting: u32,
    pub waiting_list: u32,
}

/// What a person gets who claims now, as `claim.lua` decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    Slot,
    /// A place on the waiting list.
    Place,
    Nothing,
}

impl Stock {
    /// For display only: the next claim may change it.
    pub fn prospect(&self) -> Prospect {
        let left = self.quantity.saturating_sub(self.held);
        // What comes free goes to the people who wait already.
        if self.waiting == 0 && left > 0 {
            Prospect::Slot
        } else if self.waiting < self.waiting_list.max(left) {
            Prospect::Place
        } else {
            Prospect::Nothing
        }
    }
}

impl Redis {
    /// What is left of each drop, in the order asked; `None` for one that admission does not know.
    pub async fn stock(&self, drops: &[&DropKeys]) -> Result<Vec<Option<Stock>>, RedisError> {
        if drops.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for keys in drops {
            pipe.cmd("HMGET")
                .arg(&keys.meta)
                .arg("quantity")
                .arg("paused")
                .arg("waiting_list");
            pipe.cmd("ZCARD")
                .arg(&keys.users)
                .cmd("ZCARD")
                .arg(&keys.waiting);
        }
        let replies: Vec<Value> = pipe.query_async(&mut self.connection()).await?;
        let read = |replies: &[Value]| {
            let [meta, users, waiting] = replies else {
                return None;
            };
            let [quantity, paused, waiting_list] =
                <[Option<String>; 3]>::from_redis_value_ref(meta).ok()?;
            Some(Stock {
                quantity: quantity?.parse().ok()?,
                held: u32::from_redis_value_ref(users).ok()?,
                paused: paused.is_some_and(|p| p == "1"),
                waiting: u32::from_redis_value_ref(waiting).ok()?,
                // As `claim.lua` reads it: no list where the field is missing or no number.
                waiting_list: waiting_list
                    .and_then(|places| places.parse().ok())
                    .unwrap_or(0),
            })
        };
        Ok(replies.chunks(3).map(read).collect())
    }

    /// The highest slot given out in each drop, in the order asked; `None` for one that admission
    /// does not know.
    pub async fn given_out(&self, drops: &[&DropKeys]) -> Result<Vec<Option<Slot>>, RedisError> {
        if drops.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipe = redis::pipe();
        for keys in drops {
            pipe.cmd("GET").arg(&keys.count);
        }
        let counts: Vec<Option<String>> = pipe.query_async(&mut self.connection()).await?;
        Ok(counts
            .into_iter()
            .map(|count| count?.parse().ok())
            .collect())
    }
}

#[derive(Debug, Clone, Default)]
pub struct DropNumbers {
    /// The settings; `None` where they are missing or can't be read.
    pub meta: Option<DropMeta>,
    /// The counter; `None` where the key is missing or no number.
    pub count: Option<i64>,
    pub users: u64,
    pub free: u64,
    pub waiting: u64,
    /// The highest slot that is held or free.
    pub highest: i64,
}

impl DropNumbers {
    /// There is nothing that admission could work on.
    pub fn are_lost(&self) -> bool {
        self.meta.is_none()
            || self.count.is_none()
            || self.users == 0
                && self
                    .count
                    .is_some_and(|count| count > i64::try_from(self.free).unwrap_or(i64::MAX))
    }
}

/// A range of slots at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotPage {
    /// Highest slot given out; `None` where the key is missing or no number.
    pub count: Option<i64>,
    /// Slot and person, in order of slots.
    pub users: Vec<(i64, String)>,
    pub free: Vec<i64>,
    /// There are more on these slots than are read at once.
    pub is_cut: bool,
}

/// Most people, and free slots, read at once: more than a page has slots. By hand any number may be
/// put onto one slot, or beyond the last.
const ON_PAGE_AT_MOST: usize = 200_000;

type RawNumbers = (
    HashMap<String, String>,
    Option<String>,
    u64,
    u64,
    u64,
    Vec<(String, f64)>,
    Vec<(String, f64)>,
);

/// Field of `meta`: people hold a coupon of an earlier drop, so the coupon has claimants.
pub(super) const EARLIER_HOLDERS: &str = "claimants";

/// Drops asked for at the same time.
const DROPS_AT_ONCE: usize = 200;

/// Stands for every score that is no whole number, or too large to be counted by ones: no slot of
/// any drop. `set_slots.lua` knows it.
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

/// Whether an error speaks of what a key holds, and not of Redis: other keys can be read.
pub fn is_about_data(error: &RedisError) -> bool {
    let of_a_key = |code: &str, detail: &str| {
        code == "WRONGTYPE"
            || code == "ERR"
                && ["user_script", "not an integer", "not a valid float"]
                    .iter()
                    .any(|t| detail.contains(t))
    };
    matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType
    ) || error.clone().into_server_errors().is_some_and(|errors| {
        errors
            .iter()
            .any(|(_, e)| of_a_key(e.code(), e.details().unwrap_or_default()))
    })
}

/// A key that has another type than Firstcome gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongKey {
    pub key: String,
    /// The type it has.
    pub found: &'static str,
    /// The type it should have.
    pub wanted: &'static str,
}

/// Redis's word for a type, and a person's.
const TYPES: [(&str, &str); 6] = [
    ("string", "a string"),
    ("list", "a list"),
    ("set", "a set"),
    ("zset", "a sorted set"),
    ("hash", "a hash"),
    ("stream", "a stream"),
];

fn type_in_words(word: &str) -> &'static str {
    TYPES
        .iter()
        .find(|(name, _)| *name == word)
        .map_or("of an unknown type", |(_, words)| words)
}

impl Redis {
    /// The first key of a drop or its coupon that has another type than Firstcome gives it.
    pub async fn wrong_key(&self, keys: &DropKeys) -> Result<Option<WrongKey>, RedisError> {
        let wanted = keys.types();
        let mut pipe = redis::pipe();
        for (key, _) in wanted {
            pipe.cmd("TYPE").arg(key);
        }
        let found: Vec<String> = pipe.query_async(&mut self.connection()).await?;
        let wrong = wanted
            .iter()
            .zip(found)
            .find(|((_, wanted), found)| found != "none" && found != wanted);
        Ok(wrong.map(|((key, wanted), found)| WrongKey {
            key: (*key).to_owned(),
            found: type_in_words(&found),
            wanted: type_in_words(wanted),
        }))
    }

    /// The numbers of many drops, in the order asked. One that can't be read keeps no other back.
    pub async fn drop_numbers(&self, drops: &[DropKeys]) -> Vec<Result<DropNumbers, RedisError>> {
        let mut numbers = Vec::with_capacity(drops.len());
        for some in drops.chunks(DROPS_AT_ONCE) {
            numbers.extend(join_all(some.iter().map(|keys| self.numbers_of(keys))).await);
        }
        numbers
    }

    /// In one transaction: a claim between two of these reads would look like a wrong counter.
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

    /// When it was said that a drop's keys expire after `ttl`, by Redis's clock; `None` where they
    /// stay.
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

    /// Which of these drops Redis has, in the order asked.
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

    /// Which of these coupons Redis still has anything of, in the order asked.
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

    /// Whether Redis knows anybody of these drops, or of their coupons.
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

    /// Whether Redis knows anybody who holds a slot of a drop, or waits in it.
    pub async fn has_people(&self, drop: &DropKeys) -> Result<bool, RedisError> {
        let mut cmd = redis::cmd("EXISTS");
        let found: u64 = cmd
            .arg(&drop.users)
            .arg(&drop.waiting)
            .query_async(&mut self.connection())
            .await?;
        Ok(found > 0)
    }

    /// The first names on a drop's waiting list, in order, `limit` at most. What a hand put there
    /// need not be text.
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

    /// The slots `from..=to` at one moment; without `to`, all from `from` on.
    ///
    /// A transaction, not a script: Lua would turn every name and slot into a value of its own and
    /// back, which cost Redis more than the reading did (docs/PERFORMANCE.md).
    pub async fn slot_page(
        &self,
        keys: &DropKeys,
        from: i64,
        to: Option<i64>,
    ) -> Result<SlotPage, RedisError> {
        type Seen = (Option<String>, Vec<(String, f64)>, Vec<String>);
        // From above the last slot before: a score between two slots is on the later one's page.
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

    /// Which slots these people hold in a drop; those who hold none are left out.
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

    /// Which of these people, promised a slot, neither hold one nor stand at the head of the
    /// waiting list, in the order asked.
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
        // Who arrives in line gets a score from 1 on; the head of it is below.
        let out = |((place, slot), claim): ((Option<f64>, Option<f64>), Option<String>)| {
            let holds = slot.is_some() || once_per == OncePer::Coupon && claim.is_some();
            !holds && place.is_none_or(|score| score >= 1.0)
        };
        Ok(places.into_iter().zip(slots).zip(claims).map(out).collect())
    }

    /// When these slots were given out, Unix milliseconds, for those of which that is known.
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

    /// Those of these people whom the coupon's claimants lack, or have on another slot.
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

    /// How many claimants each of these coupons has; `None` where the key is of another type.
    pub async fn claimants_numbers(
        &self,
        coupons: &[DropKeys],
    ) -> Result<Vec<Option<u64>>, RedisError> {
        let asked = coupons.iter().map(|keys| {
            let mut cmd = redis::cmd("HLEN");
            cmd.arg(&keys.claimants);
            cmd
        });
        self.each(asked).await
    }

    /// Whether `meta` of these drops says that people hold a coupon of an earlier drop; `None` of
    /// one that is not loaded.
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

    /// The answers to commands that are sent together; `None` where a key is of another type.
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

    /// The coupon's claimants on those slots of a drop that `is_wanted` selects. Reads the whole
    /// hash.
    pub async fn claimants_of(
        &self,
        coupon: CouponId,
        drop: DropId,
        is_wanted: impl Fn(i64) -> bool,
    ) -> Result<Vec<(i64, UserId)>, RedisError> {
        let key = keys::claimants(&self.prefix, coupon);
        let here = format!("{drop}:");
        let (mut cursor, mut found) = (0_u64, HashMap::new());
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

fn read_numbers(
    (meta, count, users, free, waiting, top_user, top_free): RawNumbers,
) -> DropNumbers {
    let top = |set: Vec<(String, f64)>| set.first().map_or(0.0, |(_, score)| *score);
    #[allow(clippy::cast_possible_truncation)] // scores are slots, far below 2^53
    let highest = top(top_user).max(top(top_free)) as i64;
    DropNumbers {
        meta: DropMeta::read(&meta),
        count: count.and_then(|text| text.parse().ok()),
        users,
        free,
        waiting,
        highest,
    }
}
