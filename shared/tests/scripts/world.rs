//! One drop on a real Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use chrono::DateTime;
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::admission::{
    Admission, AdmissionError, AdmissionReply, Candidates, Claimant,
};
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::repair::{
    CouponRead, Done, DropOfChanges, Promoted, SeenSlot, SlotChange, SlotSet, Wanted,
};
use firstcome_shared::redis::{Redis, RedisDurability, RedisMode, RedisSettings};
use firstcome_stack::{RedisOptions, RedisServer};

use crate::command::{PersonLetter, ScriptCommand, ScriptRepair, Start, Tamper};

pub(crate) const DROP: DropId = DropId(3);

/// A time before every claim, including restored ones.
pub(crate) const ENDED_AT_MS: i64 = 3;

/// The readable state of a drop, from Redis or from the model.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) quantity_and_pause: Option<(String, String)>,
    pub(crate) count: Option<String>,
    pub(crate) users: BTreeSet<(i64, String)>,
    pub(crate) free: BTreeSet<i64>,
    pub(crate) waiting: Vec<String>,
    pub(crate) claimants: BTreeMap<String, String>,
    pub(crate) revoked: BTreeMap<String, String>,
    pub(crate) sizes: [Option<String>; 2],
}

pub(crate) struct ScriptWorld {
    pub(crate) redis: Redis,
    pub(crate) keys: DropKeys,
    coupon: CouponId,
    pub(crate) fence: Fence,
    pub(crate) era: u64,
    meta: DropMeta,
}

/// Removes times, which the model cannot predict.
fn map<T, R>(done: Done<T>, of: impl Fn(T) -> R) -> Done<R> {
    match done {
        Done::Applied(value) => Done::Applied(of(value)),
        Done::Changed => Done::Changed,
        Done::Stale => Done::Stale,
    }
}

pub(crate) fn connect(url: &str) -> Redis {
    connect_to(url, RedisMode::Single)
}

pub(crate) fn connect_to(url: &str, mode: RedisMode) -> Redis {
    let timeout = Duration::from_secs(10);
    Redis::new(&RedisSettings {
        url: url.into(),
        prefix: "t".into(),
        timeout,
        mode,
        durability: RedisDurability::default(),
    })
    .unwrap()
}

/// Begins an era of a coupon and opens it.
pub(crate) async fn opened(redis: &Redis, coupon: CouponId, era: u64) -> Fence {
    let life = redis.gate().await.unwrap().life();
    let seen = redis.coupon_gates(&[coupon]).await.unwrap().remove(0);
    let begun = redis.begin_era(coupon, &life, era, &seen).await.unwrap();
    let fence = begun.expect("nobody else begins one");
    let both = [(coupon, fence.clone())];
    assert!(redis.open_coupons(&both).await.unwrap());
    fence
}

fn user(person: PersonLetter) -> UserId {
    person.to_string().parse().unwrap()
}

pub(crate) fn change(person: PersonLetter, seen: Option<i64>, wanted: Wanted) -> SlotChange {
    SlotChange {
        user: user(person),
        seen: seen.map(|slot| SeenSlot { slot, at_ms: None }),
        wanted,
    }
}

/// Starts a Redis without a file, because durability is not tested here.
pub(crate) async fn server() -> RedisServer {
    RedisServer::start(RedisOptions {
        appendonly: false,
        ..RedisOptions::default()
    })
    .await
    .unwrap()
}

impl ScriptWorld {
    /// Starts a server with one coupon.
    pub(crate) async fn start(start: Start) -> (RedisServer, Self) {
        let server = server().await;
        let world = Self::open(&server.url(), 1, &start).await;
        (server, world)
    }

    pub(crate) async fn open(url: &str, coupon: i64, start: &Start) -> Self {
        Self::open_on(connect(url), coupon, start).await
    }

    pub(crate) async fn open_on(redis: Redis, coupon: i64, start: &Start) -> Self {
        let coupon = CouponId(coupon);
        let meta = DropMeta {
            quantity: start.quantity,
            opens_at_ms: 0,
            closes_at_ms: None,
            paused: false,
            once_per: start.once_per,
            waiting_list: start.waiting_list,
            closed_early: false,
            allow: None,
        };
        let keys = redis.keys(coupon, DROP);
        let fence = opened(&redis, coupon, 1).await;
        assert_eq!(
            redis.load_drop(&keys, &fence, 1, &meta).await.unwrap(),
            Done::Applied(true)
        );
        Self {
            redis,
            keys,
            coupon,
            fence,
            era: 1,
            meta,
        }
    }

    /// Begins the next era and opens it.
    pub(crate) async fn next_era(&mut self) {
        self.era += 1;
        self.fence = opened(&self.redis, self.coupon, self.era).await;
    }

    /// Claims for one user, and returns admission's result.
    pub(crate) async fn claim(&self, person: &str) -> Result<AdmissionReply, AdmissionError> {
        let user = person.parse().unwrap();
        self.redis.claim(&self.keys, self.era, &user).await
    }

    /// Claims for several users, each named by a letter, and returns admission's results.
    pub(crate) async fn claim_among(
        &self,
        candidates: Candidates<'_>,
        people: &str,
    ) -> Vec<AdmissionReply> {
        let users: Vec<UserId> = people.chars().map(user).collect();
        let users: Vec<Claimant<'_>> = users.iter().map(Claimant::from).collect();
        let replies = self
            .redis
            .claim_all(candidates, self.era, &users)
            .await
            .unwrap();
        replies.into_iter().map(Option::unwrap).collect()
    }

    /// Claims for all users in one call, and returns the results in words.
    pub(crate) async fn claims(&mut self, people: &str) -> String {
        let people = people.chars().collect();
        self.apply(&ScriptCommand::Claim(people)).await.0
    }

    /// Applies a command. Returns the result in words, and the admission of each user.
    pub(crate) async fn apply(&mut self, command: &ScriptCommand) -> (String, Vec<Admission>) {
        let redis = &self.redis;
        let keys = &self.keys;
        let words = |answer: &dyn Debug| format!("{answer:?}");
        let answer = match command {
            ScriptCommand::Claim(people) => {
                let users: Vec<UserId> = people.iter().map(|person| user(*person)).collect();
                let users: Vec<Claimant<'_>> = users.iter().map(Claimant::from).collect();
                let replies = redis
                    .claim_all(keys.into(), self.era, &users)
                    .await
                    .unwrap();
                let said: Vec<Admission> = replies
                    .iter()
                    .map(|reply| reply.as_ref().unwrap().admission)
                    .collect();
                return (words(&said), said);
            }
            ScriptCommand::Load(revision) => words(
                &redis
                    .load_drop(keys, &self.fence, *revision, &self.meta)
                    .await
                    .unwrap(),
            ),
            ScriptCommand::WriteMeta(revision, quantity, paused) => {
                let meta = DropMeta {
                    quantity: *quantity,
                    paused: *paused,
                    ..self.meta.clone()
                };
                words(&redis.write_meta(keys, *revision, &meta).await.unwrap())
            }
            ScriptCommand::Lower(revision, quantity) => {
                let read = CouponRead {
                    era: self.era,
                    revision: *revision,
                };
                words(&redis.lower(keys, read, *quantity).await.unwrap())
            }
            ScriptCommand::Revoke(person, number, ended) => {
                let until = self
                    .revoke(*person, *number, ended.then_some(ENDED_AT_MS))
                    .await;
                if until == ENDED_AT_MS {
                    "ended".into()
                } else {
                    "open".into()
                }
            }
            ScriptCommand::Repair(repair) => self.repair(repair, &self.fence).await,
            ScriptCommand::Stale(repair) => {
                let other = opened(redis, CouponId(1_000_000), 1_000_000).await;
                self.repair(repair, &other).await
            }
            ScriptCommand::Tamper(tamper) => {
                self.tamper(tamper).await;
                String::new()
            }
        };
        (answer, Vec::new())
    }

    pub(crate) async fn revoke(&self, person: PersonLetter, number: i64, over: Option<i64>) -> i64 {
        let revocation = revocation(&person.to_string(), number, over);
        let once_per = self.meta.once_per;
        self.redis
            .revoke(&self.keys, once_per, &revocation)
            .await
            .unwrap()
    }

    /// Sets the time at which a slot was given.
    pub(crate) async fn given_at(&self, slot: Slot, at_ms: i64) {
        let mut cmd = redis::cmd("HSET");
        cmd.arg(&self.keys.times).arg(slot).arg(at_ms);
        cmd.query_async::<()>(&mut self.redis.connection())
            .await
            .unwrap();
    }

    async fn repair(&self, repair: &ScriptRepair, fence: &Fence) -> String {
        let redis = &self.redis;
        let keys = &self.keys;
        match repair {
            ScriptRepair::PutBack(people) => {
                let change = |(person, seen, slot, has_row): &(_, _, u32, bool)| {
                    let at_ms = has_row.then_some(5);
                    let wanted = Wanted::Slot {
                        slot: *slot,
                        at_ms,
                        has_row: *has_row,
                    };
                    change(*person, *seen, wanted)
                };
                let changes: Vec<_> = people.iter().map(change).collect();
                self.set_slots(fence, &changes, None).await
            }
            ScriptRepair::Count => {
                format!("{:?}", redis.repair_count(keys, fence, 0).await.unwrap())
            }
            ScriptRepair::Move(person, from, quantity) => {
                let change = change(*person, *from, Wanted::Any);
                self.set_slots(fence, &[change], *quantity).await
            }
            ScriptRepair::Withdraw(person, from, front) => {
                let front = front.then_some(from.unwrap_or(1)).map(Wanted::Front);
                let change = change(*person, *from, front.unwrap_or(Wanted::Nothing));
                self.set_slots(fence, &[change], None).await
            }
            ScriptRepair::ToFront(people) => {
                let change =
                    |(person, slot): &(_, i64)| change(*person, None, Wanted::Front(*slot));
                let changes: Vec<_> = people.iter().map(change).collect();
                self.set_slots(fence, &changes, None).await
            }
            ScriptRepair::Promote(limit) => {
                let promoted = redis.promote(keys, fence, DROP, *limit).await.unwrap();
                let slots = |all: Promoted| {
                    all.people
                        .into_iter()
                        .map(|(who, given)| (who, given.slot))
                        .collect::<Vec<_>>()
                };
                format!("{:?}", map(promoted, slots))
            }
        }
    }

    pub(crate) async fn set_slots(
        &self,
        fence: &Fence,
        changes: &[SlotChange],
        quantity: Option<u32>,
    ) -> String {
        let of = DropOfChanges {
            drop: DROP,
            once_per: self.meta.once_per,
            quantity,
        };
        let set = self.redis.set_slots(&self.keys, fence, of, changes);
        let said = |one: SlotSet| match one {
            SlotSet::Applied(given) => format!("Applied({:?})", given.map(|given| given.slot)),
            other => format!("{other:?}"),
        };
        let all = map(set.await.unwrap(), |all| {
            all.into_iter().map(said).collect::<Vec<_>>()
        });
        format!("{all:?}")
    }

    async fn tamper(&mut self, tamper: &Tamper) {
        let k = &self.keys;
        let mut cmd = match tamper {
            Tamper::SetCount(_) => redis::cmd("SET"),
            Tamper::AddUser(..) | Tamper::AddFree(_) => redis::cmd("ZADD"),
            Tamper::RemoveUser(_) => redis::cmd("ZREM"),
            Tamper::LoseClaimant(_) | Tamper::LoseRevocation(_) => redis::cmd("HDEL"),
            Tamper::ClaimedElsewhere(_) => redis::cmd("HSET"),
            _ => redis::cmd("DEL"),
        };
        match tamper {
            Tamper::DropMeta => cmd.arg(&k.meta),
            Tamper::DropCount => cmd.arg(&k.count),
            Tamper::DropUsers => cmd.arg(&k.users),
            Tamper::DropFree => cmd.arg(&k.free),
            Tamper::DropWaiting => cmd.arg(&k.waiting),
            Tamper::SetCount(count) => cmd.arg(&k.count).arg(count),
            Tamper::AddUser(person, slot) => cmd.arg(&k.users).arg(slot).arg(person.to_string()),
            Tamper::RemoveUser(person) => cmd.arg(&k.users).arg(person.to_string()),
            Tamper::AddFree(slot) => cmd.arg(&k.free).arg(slot).arg(slot),
            Tamper::ClaimedElsewhere(person) => {
                cmd.arg(&k.claimants).arg(person.to_string()).arg("99:3")
            }
            Tamper::LoseClaimant(person) => cmd.arg(&k.claimants).arg(person.to_string()),
            Tamper::LoseRevocation(person) => {
                let field = match self.meta.once_per {
                    OncePer::Coupon => person.to_string(),
                    OncePer::Drop => format!("{DROP}:{person}"),
                };
                cmd.arg(&k.revoked).arg(field)
            }
            Tamper::DropSizes => cmd.arg(&k.sizes),
            Tamper::Empty => cmd
                .arg(&k.own())
                .arg(&k.claimants)
                .arg(&k.gate)
                .arg(&k.revision)
                .arg(&k.revoked)
                .arg(&k.sizes),
        };
        cmd.query_async::<()>(&mut self.redis.connection())
            .await
            .unwrap();
        if matches!(tamper, Tamper::Empty) {
            self.next_era().await;
        }
    }

    pub(crate) async fn version(&self) -> u64 {
        let mut cmd = redis::cmd("GET");
        cmd.arg(&self.keys.version);
        cmd.query_async(&mut self.redis.connection()).await.unwrap()
    }

    /// Returns the raw value of every key of the drop and its coupon.
    pub(crate) async fn dump(&self) -> Vec<Option<Vec<u8>>> {
        let mut pipe = redis::pipe();
        for key in self.keys.own().into_iter().chain([
            &*self.keys.claimants,
            &self.keys.gate,
            &self.keys.version,
            &self.keys.revoked,
            &self.keys.sizes,
        ]) {
            pipe.cmd("DUMP").arg(key);
        }
        pipe.query_async(&mut self.redis.connection())
            .await
            .unwrap()
    }

    pub(crate) async fn look(&self) -> Shown {
        type Found = (
            (Option<String>, Option<String>),
            Option<String>,
            Vec<(String, i64)>,
            BTreeSet<i64>,
            Vec<String>,
            BTreeMap<String, String>,
            BTreeMap<String, String>,
            [Option<String>; 2],
        );
        let k = &self.keys;
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET")
            .arg(&k.meta)
            .arg("quantity")
            .arg("paused")
            .cmd("GET")
            .arg(&k.count);
        pipe.cmd("ZRANGE")
            .arg(&k.users)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES");
        pipe.cmd("ZRANGE")
            .arg(&k.free)
            .arg(0)
            .arg(-1)
            .cmd("ZRANGE")
            .arg(&k.waiting)
            .arg(0)
            .arg(-1);
        pipe.cmd("HGETALL")
            .arg(&k.claimants)
            .cmd("HGETALL")
            .arg(&k.revoked)
            .cmd("HMGET")
            .arg(&k.sizes)
            .arg("claimants")
            .arg("revoked");
        let (meta, count, users, free, waiting, claimants, revoked, sizes): Found = pipe
            .query_async(&mut self.redis.connection())
            .await
            .unwrap();
        let users = users.into_iter().map(|(user, slot)| (slot, user)).collect();
        Shown {
            quantity_and_pause: meta.0.zip(meta.1),
            count,
            users,
            free,
            waiting,
            claimants,
            revoked,
            sizes,
        }
    }
}

/// Returns a revocation that lets its user claim again once it has ended.
pub(crate) fn revocation(user: &str, id: i64, ended_at_ms: Option<i64>) -> Revocation {
    let time = |ms| DateTime::from_timestamp_millis(ms).unwrap().naive_utc();
    Revocation {
        id,
        coupon_id: 1,
        drop_id: DROP.0,
        slot: None,
        user_id: user.to_owned(),
        reason: "test".into(),
        revoked_by: "test".into(),
        may_claim_again: true,
        revoked_at: time(0),
        again_from: ended_at_ms.map(time),
    }
}
