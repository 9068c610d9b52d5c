//! Reads of coupons and drops for passes and for the watch, in bulk. Content that Firstcome did not
//! write (a key of another type, a score that is no slot) is part of the result: an error means
//! that Redis could not be asked. In a cluster, it may concern the coupons of one hash slot only
//! ([`is_of_hash_slot`](super::refusing::is_of_hash_slot)).

use std::array;
use std::collections::{HashMap, HashSet};
use std::iter::Zip;
use std::vec::IntoIter;

use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisResult, Value};

use super::Redis;
use super::allow_list::{self, SeenList};
use super::gate::{Gate, number_in};
use super::keys::{self, DropKeys, DropMeta};
use super::refusing::{is_refused, unless_missed};
use super::servers::ServerId;
use crate::domain::{CouponId, DropId, Slot, UserId};

/// Coupons or drops requested at the same time.
const AT_ONCE: usize = 200;

/// A coupon's keys outside its drops.
#[derive(Debug, Clone, Default)]
pub struct CouponState {
    pub gate: Gate,
    /// The highest revision whose settings were written; 0 if unknown.
    pub revision: u64,
    pub claimants: u64,
    pub revoked: u64,
    /// The last drop whose sealing this Redis knows of ([`Redis::note_seal`]).
    pub sealed: Option<DropId>,
    pub list: SeenList,
    /// The names of keys of another type than Firstcome's, and `revoked` and `claimants` if they
    /// are lost.
    pub unreadable: Vec<&'static str>,
}

/// A drop's numbers, with the gate of its coupon.
#[derive(Debug, Clone, Default)]
pub struct LoadedDrop {
    pub gate: Gate,
    /// The highest revision of the coupon; 0 if unknown.
    pub revision: u64,
    /// The settings, or `None` if they are missing or invalid.
    pub meta: Option<DropMeta>,
    /// The counter, or `None` if the key is missing or not a number.
    pub count: Option<i64>,
    pub users: u64,
    pub free: u64,
    pub waiting: u64,
    /// Users at the head of the waiting list, whose promise is broken. Included in `waiting`.
    pub owed: u64,
    pub times: u64,
    /// The highest slot that is held or free; 0 if there is none.
    pub highest: i64,
    /// Whether any key of the drop exists.
    pub has_keys: bool,
    /// The names of keys of another type than Firstcome's.
    pub unreadable: Vec<&'static str>,
}

impl LoadedDrop {
    /// Whether the keys are complete, and count = |users| + |free|.
    pub fn adds_up(&self) -> bool {
        let sum = i64::try_from(self.users + self.free).ok();
        self.unreadable.is_empty()
            && self.meta.is_some()
            && self.count.is_some()
            && self.count == sum
    }
}

/// A consistent view of some slots of a drop, with the gate of its coupon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotPage {
    /// The slots `from..=to`, or all from `from` on if `to` is `None`.
    pub from: i64,
    pub to: Option<i64>,
    pub gate: Gate,
    /// The highest revision of the coupon; 0 if unknown.
    pub revision: u64,
    /// The highest slot given, or `None` if the key is missing or not a number.
    pub count: Option<i64>,
    /// In order of slot. Several users on one slot all appear.
    pub users: Vec<SlotHolder>,
    pub free: Vec<i64>,
    /// The number of users and free slots that are left out, because the score is not a slot, or the
    /// name is not a user id.
    pub odd: u64,
    /// The names of keys of another type than Firstcome's.
    pub unreadable: Vec<&'static str>,
}

/// A user on a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotHolder {
    pub slot: i64,
    pub user: UserId,
    /// When the user was admitted, in Unix milliseconds by Redis's clock. `None` if unknown or not
    /// asked for.
    pub at_ms: Option<i64>,
}

/// Converts a score. Returns `None` for one that cannot be a slot: it is not an integer, or too
/// large to be exact.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // compared afterwards
pub(super) fn slot_in(score: f64) -> Option<i64> {
    let slot = score as i64;
    (slot.unsigned_abs() < 1 << 52 && (slot as f64 - score).abs() == 0.0).then_some(slot)
}

/// The commands of one transaction, each with the name of its key.
pub(super) struct Reads {
    pipe: Pipeline,
    keys: Vec<&'static str>,
}

/// The members of a sorted set with their scores.
type Scored = Vec<(Vec<u8>, f64)>;

impl Reads {
    pub(super) fn new() -> Self {
        let mut pipe = redis::pipe();
        pipe.atomic().ignore_errors();
        let keys = Vec::new();
        Self { pipe, keys }
    }

    /// Adds a command about the key of this name.
    pub(super) fn add(&mut self, key: &'static str, command: Cmd) -> &mut Self {
        self.keys.push(key);
        self.pipe.add_command(command);
        self
    }

    /// Reads both keys with MGET, which, unlike GET, treats a key of another type as missing.
    pub(super) fn gate_and_revision(&mut self, gate: &str, revision: &str) -> &mut Self {
        self.add("gate", Cmd::mget(&[gate, revision]))
    }

    /// Reads the size of a key, and whether it has the mark that `gate.lua` sets.
    fn marked(&mut self, name: &'static str, key: &str) -> &mut Self {
        self.add(name, Cmd::hlen(key))
            .add(name, Cmd::hexists(key, ""))
    }
}

/// The replies of one transaction, in the order of its commands. A key of another type than
/// expected is noted, and its reply counts as missing.
pub(super) struct Replies {
    left: Zip<IntoIter<&'static str>, IntoIter<Value>>,
    pub(super) unreadable: Vec<&'static str>,
}

impl Replies {
    /// Returns the reply to the next command.
    pub(super) fn read<T: FromRedisValue + Default>(&mut self) -> T {
        match self.left.next() {
            None | Some((_, Value::Nil)) => T::default(),
            Some((key, value)) => T::from_redis_value(value).unwrap_or_else(|_| {
                self.note_unreadable(key);
                T::default()
            }),
        }
    }

    fn note_unreadable(&mut self, key: &'static str) {
        if !self.unreadable.contains(&key) {
            self.unreadable.push(key);
        }
    }

    pub(super) fn gate_and_revision(&mut self) -> (Gate, u64) {
        let [gate, revision]: [Option<Vec<u8>>; 2] = self.read();
        let gate = Gate(gate.unwrap_or_default());
        (gate, number_in(revision).unwrap_or(0))
    }

    /// The size of a key without its mark. Without the mark, the key is lost.
    fn marked(&mut self, name: &'static str) -> u64 {
        let size: u64 = self.read();
        let has_mark: bool = self.read();
        if !has_mark {
            self.note_unreadable(name);
        }
        size - u64::from(has_mark)
    }

    /// A key that holds a number. Other text counts as missing.
    pub(super) fn number(&mut self) -> Option<i64> {
        number_of(self.read())
    }

    /// The highest score, if it is a slot.
    fn highest(&mut self) -> i64 {
        let top: Scored = self.read();
        let slot = top.first().and_then(|(_, score)| slot_in(*score));
        slot.unwrap_or(0).max(0)
    }
}

impl Redis {
    /// Runs commands about one coupon in one transaction: a claim between two of them would look
    /// like a wrong number.
    ///
    /// This is a transaction and not a script, because Lua would convert every name and slot to a
    /// separate value and back, which costs Redis more than the read itself (docs/PERFORMANCE.md).
    pub(super) async fn read_at_once(
        &self,
        coupon: CouponId,
        reads: Reads,
    ) -> RedisResult<Replies> {
        let Reads { mut pipe, keys } = reads;
        if self.pinned.is_some() {
            pipe.cmd("INFO").arg("server").arg("replication");
        }
        let mut found: Vec<Value> = pipe.query_async(&mut self.connection()).await?;
        if let Some(pinned) = &self.pinned {
            let info: String = redis::from_redis_value(found.pop().unwrap_or(Value::Nil))?;
            let server = ServerId::parse(&info);
            if server.is_none() || server.as_ref() != pinned.holding(coupon) {
                return Err((ErrorKind::Io, "another server process answers now").into());
            }
        }
        Ok(Replies {
            left: keys.into_iter().zip(found),
            unreadable: Vec::new(),
        })
    }

    /// Reads many coupons, in the same order.
    pub async fn coupon_states(&self, coupons: &[CouponId]) -> Vec<RedisResult<CouponState>> {
        let reads = coupons.iter().map(|id| self.coupon_state(*id)).collect();
        in_parts(reads).await
    }

    pub async fn coupon_state(&self, coupon: CouponId) -> RedisResult<CouponState> {
        let [gate, revision, claimants, revoked, allowed, allow_list] =
            keys::coupon_keys(self.prefix(), coupon);
        let mut reads = Reads::new();
        reads
            .gate_and_revision(&gate, &revision)
            .marked("claimants", &claimants)
            .add("revoked", Cmd::hlen(&revoked))
            .add("revoked", Cmd::hget(&revoked, ""))
            .add("allow_list", Cmd::get(allow_list))
            .add("allowed", Cmd::scard(allowed));
        let mut replies = self.read_at_once(coupon, reads).await?;
        let (gate, revision) = replies.gate_and_revision();
        let claimants = replies.marked("claimants");
        let revoked: u64 = replies.read();
        let mark: Option<Vec<u8>> = replies.read();
        if mark.is_none() {
            replies.note_unreadable("revoked");
        }
        let has_mark = mark.is_some();
        let sealed = mark.and_then(number_of).filter(|drop| *drop > 0);
        let list: Option<String> = replies.read();
        let list = SeenList {
            list: list.as_deref().and_then(allow_list::parse),
            people: replies.read(),
        };
        Ok(CouponState {
            gate,
            revision,
            claimants,
            revoked: revoked - u64::from(has_mark),
            sealed: sealed.map(DropId),
            list,
            unreadable: replies.unreadable,
        })
    }

    /// Reads the numbers of many drops, in the same order.
    pub async fn drop_states<'a>(
        &self,
        drops: impl IntoIterator<Item = &'a DropKeys>,
    ) -> Vec<RedisResult<LoadedDrop>> {
        let reads = drops.into_iter().map(|keys| self.drop_state(keys));
        in_parts(reads.collect()).await
    }

    pub async fn drop_state(&self, keys: &DropKeys) -> RedisResult<LoadedDrop> {
        let mut reads = Reads::new();
        reads
            .gate_and_revision(&keys.gate, &keys.revision)
            .add("meta", Cmd::hgetall(&keys.meta))
            .add("count", Cmd::get(&keys.count))
            .add("users", Cmd::zcard(&keys.users))
            .add("free", Cmd::zcard(&keys.free))
            .add("waiting", Cmd::zcard(&keys.waiting))
            // Users who join the waiting list get scores from 1 on (`claim.lua`), and owed users
            // lower ones (`project.lua`).
            .add("waiting", Cmd::zcount(&keys.waiting, "-inf", 0))
            .add("times", Cmd::hlen(&keys.times))
            .add("users", Cmd::zrevrange_withscores(&keys.users, 0, 0))
            .add("free", Cmd::zrevrange_withscores(&keys.free, 0, 0))
            .add("meta", Cmd::exists(&keys.own()));
        let mut replies = self.read_at_once(keys.coupon, reads).await?;
        let (gate, revision) = replies.gate_and_revision();
        let meta: HashMap<String, String> = replies.read();
        Ok(LoadedDrop {
            gate,
            revision,
            meta: DropMeta::read(&meta),
            count: replies.number(),
            users: replies.read(),
            free: replies.read(),
            waiting: replies.read(),
            owed: replies.read(),
            times: replies.read(),
            highest: replies.highest().max(replies.highest()),
            has_keys: replies.read::<u64>() > 0,
            unreadable: replies.unreadable,
        })
    }

    /// Reads the gate of each drop's coupon, and the highest slot given, in the same order. The
    /// count is `None` if the key is missing or not a number. Returns `None` for a drop that was
    /// missed, because its hash slot is not served.
    pub async fn watched(
        &self,
        drops: &[DropKeys],
    ) -> RedisResult<Vec<Option<(Gate, Option<i64>)>>> {
        let keys = drops.iter().map(|keys| [&*keys.gate, &*keys.count]);
        let found = self.strings(keys.collect()).await?.into_iter();
        let read = |[gate, count]: [Option<Vec<u8>>; 2]| {
            (Gate(gate.unwrap_or_default()), count.and_then(number_of))
        };
        Ok(found.map(|strings| strings.map(read)).collect())
    }

    /// Reads strings of many coupons, several of each. Outside a cluster, one command reads those of
    /// many coupons. Unlike GET, MGET treats a key of another type as missing. Returns `None` for a
    /// coupon that was missed.
    pub(super) async fn strings<const N: usize>(
        &self,
        keys: Vec<[&str; N]>,
    ) -> RedisResult<Vec<Option<[Option<Vec<u8>>; N]>>> {
        let parts: Vec<&[[&str; N]]> = keys.chunks(self.keys_at_once()).collect();
        let found: Vec<RedisResult<Vec<Option<Vec<u8>>>>> = self
            .pipe_each(&parts, |pipe, part| {
                pipe.cmd("MGET").arg(part.as_flattened());
            })
            .await?;
        let mut strings = Vec::with_capacity(keys.len());
        for (part, found) in parts.into_iter().zip(found) {
            let mut found = unless_missed(found)?.map(Vec::into_iter);
            strings.extend(part.iter().map(|_| {
                let values = found.as_mut()?;
                Some(array::from_fn(|_| values.next().flatten()))
            }));
        }
        Ok(strings)
    }

    /// Returns which of these keys exist. Asks for many at once, and halves what is neither all nor
    /// nothing, so that many keys cost few commands if few of them, or few others, exist. A key
    /// that was missed, because its hash slot is not served, counts as one that does not exist.
    pub async fn existing<'k>(&self, keys: &[&'k str]) -> RedisResult<HashSet<&'k str>> {
        let mut found = HashSet::new();
        let mut parts: Vec<&[&str]> = keys.chunks(self.keys_at_once()).collect();
        while !parts.is_empty() {
            let counted: Vec<RedisResult<usize>> = self
                .pipe_each(&parts, |pipe, part| {
                    pipe.cmd("EXISTS").arg(*part);
                })
                .await?;
            let mut mixed = Vec::new();
            for (part, counted) in parts.into_iter().zip(counted) {
                let number = unless_missed(counted)?.unwrap_or(0);
                if number == part.len() {
                    found.extend(part);
                } else if number > 0 {
                    let (first, second) = part.split_at(part.len() / 2);
                    mixed.extend([first, second]);
                }
            }
            parts = mixed;
        }
        Ok(found)
    }

    /// Returns which of these coupons have the keys that name users, in the same order, or cannot be
    /// read.
    pub async fn have_user_keys(&self, coupons: &[CouponId]) -> RedisResult<Vec<bool>> {
        let reads = coupons.iter().map(async |coupon| {
            let [_, _, claimants, revoked, ..] = keys::coupon_keys(self.prefix(), *coupon);
            let mut reads = Reads::new();
            reads
                .add("claimants", Cmd::hexists(claimants, ""))
                .add("revoked", Cmd::hexists(revoked, ""));
            match self.read_at_once(*coupon, reads).await {
                Ok(mut replies) => Ok(replies.read::<bool>() && replies.read()),
                // A server without memory refuses transactions, as the check of writes reports.
                Err(error) if is_refused(&error) => Ok(true),
                Err(error) => Err(error),
            }
        });
        in_parts(reads.collect()).await.into_iter().collect()
    }

    /// Maximum number of keys of different coupons that one command may name.
    fn keys_at_once(&self) -> usize {
        if self.deployment.is_cluster() {
            1
        } else {
            AT_ONCE
        }
    }

    /// Reads the slots `from..=to`, or all slots from `from` on if `to` is `None`, without times.
    pub async fn page(&self, keys: &DropKeys, from: i64, to: Option<i64>) -> RedisResult<SlotPage> {
        // Start just above the last slot of the previous page, so that a score between two slots
        // belongs to the next page.
        let first = if from <= 1 {
            "-inf".to_owned()
        } else {
            format!("({}", from - 1)
        };
        let last = to.map_or("+inf".to_owned(), |to| to.to_string());
        let page = self.read_slots(keys, &[(first, last)], &[]).await?;
        Ok(SlotPage { from, to, ..page })
    }

    /// Reads single slots, with the times at which their users were admitted. A user and the time
    /// are read at the same moment: a time from another read may belong to the slot's next user.
    pub async fn slots(&self, keys: &DropKeys, slots: &[Slot]) -> RedisResult<SlotPage> {
        let ranges: Vec<_> = slots
            .iter()
            .map(|slot| (slot.to_string(), slot.to_string()))
            .collect();
        self.read_slots(keys, &ranges, slots).await
    }

    async fn read_slots(
        &self,
        keys: &DropKeys,
        ranges: &[(String, String)],
        timed: &[Slot],
    ) -> RedisResult<SlotPage> {
        let mut reads = Reads::new();
        reads
            .gate_and_revision(&keys.gate, &keys.revision)
            .add("count", Cmd::get(&keys.count));
        // HMGET needs a field.
        if !timed.is_empty() {
            let read = redis::cmd("HMGET").arg(&keys.times).arg(timed).to_owned();
            reads.add("times", read);
        }
        for (first, last) in ranges {
            let between = |set| Cmd::zrangebyscore_withscores(set, first, last);
            reads
                .add("users", between(&keys.users))
                .add("free", between(&keys.free));
        }
        let mut replies = self.read_at_once(keys.coupon, reads).await?;
        let (gate, revision) = replies.gate_and_revision();
        let mut page = SlotPage {
            gate,
            revision,
            count: replies.number(),
            ..SlotPage::default()
        };
        let found: Vec<Option<Vec<u8>>> = if timed.is_empty() {
            Vec::new()
        } else {
            replies.read()
        };
        let mut times = HashMap::new();
        for (slot, text) in timed.iter().zip(found) {
            times.extend(text.and_then(number_of).map(|at| (i64::from(*slot), at)));
        }
        let mut entries = 0;
        for _ in ranges {
            let users: Scored = replies.read();
            let free: Scored = replies.read();
            entries += users.len() + free.len();
            page.users
                .extend(users.into_iter().filter_map(|(name, score)| {
                    let slot = slot_in(score).filter(|slot| *slot >= 1)?;
                    let name = String::from_utf8(name).ok()?;
                    let user = UserId::has_form(&name).then(|| UserId::from_store(name))?;
                    let at_ms = times.get(&slot).copied();
                    Some(SlotHolder { slot, user, at_ms })
                }));
            let free = free.iter().filter_map(|(name, score)| {
                slot_in(*score).filter(|slot| *slot >= 1 && name == slot.to_string().as_bytes())
            });
            page.free.extend(free);
        }
        page.odd = (entries - page.users.len() - page.free.len()) as u64;
        page.unreadable = replies.unreadable;
        Ok(page)
    }

    /// Counts a coupon's claimants, and the users of these drops, at one moment: a claim between
    /// two reads would look like a claimant that is missing.
    pub async fn claimants_and_users(
        &self,
        coupon: CouponId,
        drops: &[DropKeys],
    ) -> RedisResult<(u64, u64)> {
        let mut reads = Reads::new();
        let [_, _, claimants, ..] = keys::coupon_keys(self.prefix(), coupon);
        reads.marked("claimants", &claimants);
        for keys in drops {
            reads.add("users", Cmd::zcard(&keys.users));
        }
        let mut replies = self.read_at_once(coupon, reads).await?;
        let claimants = replies.marked("claimants");
        let users = drops.iter().map(|_| replies.read::<u64>());
        Ok((claimants, users.sum()))
    }

    /// Whether each of these drops has this user, on a slot or waiting, in the same order.
    pub async fn have_user(&self, drops: &[DropKeys], user: &UserId) -> RedisResult<Vec<bool>> {
        let told: Vec<RedisResult<Option<f64>>> = self
            .pipe_each(drops, |pipe, keys| {
                for set in [&keys.users, &keys.waiting] {
                    pipe.cmd("ZSCORE").arg(set).arg(user.as_str());
                }
            })
            .await?;
        let scores = told.into_iter().collect::<RedisResult<Vec<_>>>()?;
        Ok(scores
            .chunks_exact(2)
            .map(|of_drop| of_drop.iter().any(Option::is_some))
            .collect())
    }

    /// Sends commands about each item, for [`AT_ONCE`] items in one pipeline, and returns all
    /// replies in order, with the errors of single commands.
    pub(super) async fn pipe_each<T, R: FromRedisValue>(
        &self,
        items: &[T],
        add: impl Fn(&mut Pipeline, &T),
    ) -> RedisResult<Vec<RedisResult<R>>> {
        let mut replies = Vec::with_capacity(items.len());
        for some in items.chunks(AT_ONCE) {
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for item in some {
                add(&mut pipe, item);
            }
            let told: Vec<RedisResult<R>> = pipe.query_async(&mut self.connection()).await?;
            replies.extend(told);
        }
        Ok(replies)
    }
}

/// Awaits reads, [`AT_ONCE`] at the same time. Returns the results in order.
async fn in_parts<R>(reads: Vec<impl Future<Output = R>>) -> Vec<R> {
    let mut all = Vec::with_capacity(reads.len());
    let mut reads = reads.into_iter();
    while reads.len() > 0 {
        all.extend(join_all(reads.by_ref().take(AT_ONCE)).await);
    }
    all
}

/// Parses a number that may have been written manually.
pub(super) fn number_of(text: Vec<u8>) -> Option<i64> {
    String::from_utf8(text).ok()?.parse().ok()
}
