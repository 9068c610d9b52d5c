//! One drop on a real Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use chrono::DateTime;
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::model::{OwedUser, Revocation};
use firstcome_shared::redis::admission::{
    Admission, AdmissionError, Admissions, AdmittedSlot, Candidates, Claimant,
};
use firstcome_shared::redis::gate::{Fence, Gate, Opened};
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::project::{ClaimOfSlot, Fenced};
use firstcome_shared::redis::settings::{CouponRead, Written};
use firstcome_shared::redis::{Redis, RedisDurability, RedisMode, RedisSettings};
use firstcome_stack::{ProcessClock, RedisOptions, RedisServer};

use crate::command::{
    FencedCommand, KEYS, PAGE_SLOTS, Row, RowTime, ScriptCommand, Start, Tamper, UserLetter,
};
use crate::model::OTHER_DROP;

pub(crate) const DROP: DropId = DropId(3);

/// A time before every claim, and after every [`RowTime::Before`].
pub(crate) const ENDED_AT_MS: i64 = 3;

/// The readable state of a drop, from Redis or from the model.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) quantity_and_pause: Option<(String, String)>,
    pub(crate) count: Option<String>,
    pub(crate) users: BTreeSet<(i64, String)>,
    pub(crate) free: BTreeSet<i64>,
    pub(crate) times: BTreeMap<i64, RowTime>,
    pub(crate) waiting: Vec<String>,
    pub(crate) claimants: BTreeMap<String, String>,
    pub(crate) revoked: BTreeMap<String, String>,
}

pub(crate) struct ScriptWorld {
    pub(crate) redis: Redis,
    pub(crate) keys: DropKeys,
    pub(crate) coupon: CouponId,
    pub(crate) fence: Fence,
    /// The fence of the era that ended last.
    ended: Option<Fence>,
    pub(crate) era: u64,
    pub(crate) meta: DropMeta,
    /// The rows of the last `Begin` in this era.
    plan: Option<Vec<Row>>,
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

pub(crate) async fn gate_of(redis: &Redis, coupon: CouponId) -> Gate {
    redis.coupon_state(coupon).await.unwrap().gate
}

/// Begins an era of a coupon, which closes it.
pub(crate) async fn begun(redis: &Redis, coupon: CouponId, era: u64) -> Fence {
    let servers = redis.servers().await.unwrap();
    let server = servers.holding(coupon).expect("a master");
    let seen = gate_of(redis, coupon).await;
    let begun = redis.begin_era_on(coupon, server, &seen, era).await;
    begun.unwrap().expect("nobody else begins one")
}

/// Begins an era of a coupon and opens it.
pub(crate) async fn opened(redis: &Redis, coupon: CouponId, era: u64) -> Fence {
    let fence = begun(redis, coupon, era).await;
    let opened = redis.open(coupon, &fence, &[]).await.unwrap();
    assert_eq!(opened, Opened::Yes);
    fence
}

/// Claims for one user.
pub(crate) async fn claim(
    redis: &Redis,
    keys: &DropKeys,
    era: u64,
    user: &UserId,
) -> Result<Admission, AdmissionError> {
    let mut replies = redis
        .claim_all(only(keys), era, &[&ungrouped(user.clone())], false)
        .await?
        .replies;
    let reply = replies.pop().flatten();
    reply.map(timeless).ok_or(AdmissionError::Unexpected)
}

/// A slot of the drop whose time of admission is not compared.
fn held(drop: DropId, slot: Slot) -> AdmittedSlot {
    AdmittedSlot {
        drop,
        slot,
        claimed_at: None,
    }
}

pub(crate) fn accepted(drop: DropId, slot: Slot) -> Admission {
    Admission::Accepted(held(drop, slot))
}

pub(crate) fn already(drop: DropId, slot: Slot) -> Admission {
    Admission::Already(held(drop, slot))
}

/// Returns the admission without its time, so that it equals an expected one.
pub(crate) fn timeless(admission: Admission) -> Admission {
    match admission {
        Admission::Accepted(given) => accepted(given.drop, given.slot),
        Admission::Already(held) => already(held.drop, held.slot),
        other => other,
    }
}

/// Returns an admission in words.
pub(crate) fn word(admission: &Admission) -> String {
    match admission {
        Admission::Accepted(given) => format!("Accepted({})", given.slot),
        Admission::Already(held) => format!("Already({:?}, {})", held.drop, held.slot),
        other => words(other),
    }
}

pub(crate) fn admissions_in_words(admissions: &[Admission]) -> String {
    let words: Vec<String> = admissions.iter().map(word).collect();
    format!("[{}]", words.join(", "))
}

pub(crate) fn user(person: UserLetter) -> UserId {
    person.to_string().parse().unwrap()
}

pub(crate) fn claim_on(person: UserLetter, slot: Slot) -> ClaimOfSlot {
    let time = RowTime::After;
    claim_of(&Row { slot, person, time })
}

pub(crate) fn owed_user(person: UserLetter, slot: Slot) -> OwedUser {
    OwedUser {
        user: user(person),
        slot: Some(slot.into()),
    }
}

fn claim_of(row: &Row) -> ClaimOfSlot {
    ClaimOfSlot {
        slot: row.slot,
        user: user(row.person),
        at_ms: match row.time {
            RowTime::Unknown => None,
            RowTime::Before => Some(ENDED_AT_MS - 1),
            RowTime::After => Some(ENDED_AT_MS + 1),
        },
    }
}

fn words(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

/// Starts a Redis without an append-only file, because durability is not tested here.
pub(crate) async fn server() -> RedisServer {
    start_server(Vec::new()).await
}

/// Starts a Redis with this clock.
pub(crate) async fn server_with(clock: &ProcessClock) -> RedisServer {
    start_server(clock.env().into()).await
}

async fn start_server(env: Vec<(&'static str, String)>) -> RedisServer {
    RedisServer::start(RedisOptions {
        env,
        // `DUMP` of a hash that is a table may have its fields in another order each time.
        extra_args: ["--appendonly", "no", "--hash-max-listpack-entries", "512"]
            .map(Into::into)
            .into(),
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
        let fence = begun(&redis, coupon, 1).await;
        let loaded = redis.load(&keys, &fence, 1, &meta).await.unwrap();
        assert_eq!(loaded, Written::Yes);
        let all = std::slice::from_ref(&keys);
        let opened = redis.open(coupon, &fence, all).await.unwrap();
        assert_eq!(opened, Opened::Yes);
        Self {
            redis,
            keys,
            coupon,
            fence,
            ended: None,
            era: 1,
            meta,
            plan: None,
        }
    }

    /// Begins the next era, which closes the coupon.
    pub(crate) async fn close(&mut self) {
        self.era += 1;
        let next = begun(&self.redis, self.coupon, self.era).await;
        self.ended = Some(std::mem::replace(&mut self.fence, next));
        self.plan = None;
    }

    /// Begins the next era and opens it.
    pub(crate) async fn next_era(&mut self) {
        self.close().await;
        let opened = self.redis.open(self.coupon, &self.fence, &[]).await;
        assert_eq!(opened.unwrap(), Opened::Yes);
    }

    /// Claims for one user, and returns admission's result.
    pub(crate) async fn claim(&self, person: &str) -> Result<Admission, AdmissionError> {
        let user = person.parse().unwrap();
        claim(&self.redis, &self.keys, self.era, &user).await
    }

    /// Claims for several users, each named by a letter, and returns admission's results.
    pub(crate) async fn claim_among(
        &self,
        candidates: Candidates<'_>,
        people: &str,
    ) -> Result<Vec<Admission>, AdmissionError> {
        let said = self.admissions(candidates, people, false).await?;
        let replies = said.replies.into_iter().map(Option::unwrap);
        Ok(replies.map(timeless).collect())
    }

    /// Claims for several users in one call.
    pub(crate) async fn admissions(
        &self,
        candidates: Candidates<'_>,
        people: &str,
        asks_for_lease: bool,
    ) -> Result<Admissions, AdmissionError> {
        let users: Vec<Claimant> = people.chars().map(|one| ungrouped(user(one))).collect();
        let users: Vec<&Claimant> = users.iter().collect();
        self.redis
            .claim_all(candidates, self.era, &users, asks_for_lease)
            .await
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
        let answer = match command {
            ScriptCommand::Claim(people) | ScriptCommand::Lease(people) => {
                let people: String = people.iter().collect();
                let asks = matches!(command, ScriptCommand::Lease(_));
                let said = match self.admissions(only(keys), &people, asks).await {
                    Ok(said) => said,
                    Err(AdmissionError::Closed) => return ("Closed".into(), Vec::new()),
                    Err(error) => panic!("{error}"),
                };
                let replies: Vec<_> = said.replies.into_iter().flatten().collect();
                let mut answer = admissions_in_words(&replies);
                if let Some(lease) = said.lease {
                    let left = lease.left.as_millis();
                    answer = format!("{answer} lease {left} of {}", lease.version);
                }
                return (answer, replies);
            }
            ScriptCommand::Wait(_) | ScriptCommand::SetBack(_) => {
                panic!("this world has no clock")
            }
            ScriptCommand::Load(revision) => {
                let loaded = redis.load(keys, &self.fence, *revision, &self.meta);
                words(&loaded.await.unwrap())
            }
            ScriptCommand::WriteSettings(revision, quantity, paused) => {
                let meta = DropMeta {
                    quantity: *quantity,
                    paused: *paused,
                    ..self.meta.clone()
                };
                let written = redis.write_settings(*revision, &[(keys, meta)]).await;
                words(&written.unwrap())
            }
            ScriptCommand::Lower(revision, quantity) => {
                let read = CouponRead {
                    era: self.era,
                    revision: *revision,
                };
                words(&redis.lower(&[keys], read, *quantity).await.unwrap())
            }
            ScriptCommand::Revoke(person, number, ended) => {
                let ended = ended.then_some(ENDED_AT_MS);
                let until = self.revoke(*person, *number, ended).await;
                ["open", "ended"][usize::from(until == ENDED_AT_MS)].into()
            }
            ScriptCommand::Close => {
                self.close().await;
                String::new()
            }
            ScriptCommand::Fenced(command) => {
                let answer = self.fenced(command, &self.fence).await;
                if let (FencedCommand::Begin(rows), true) = (command, answer != "Stale") {
                    self.plan = Some(rows.clone());
                }
                answer
            }
            ScriptCommand::Stale(command) => {
                let other = opened(redis, CouponId(1_000_000), 1_000_000).await;
                self.fenced(command, &other).await
            }
            ScriptCommand::Late(command) => match &self.ended {
                Some(ended) => self.fenced(command, ended).await,
                None => String::new(),
            },
            ScriptCommand::Tamper(tamper) => {
                self.tamper(*tamper).await;
                String::new()
            }
        };
        (answer, Vec::new())
    }

    pub(crate) async fn revoke(&self, person: UserLetter, number: i64, over: Option<i64>) -> i64 {
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

    async fn fenced(&self, command: &FencedCommand, fence: &Fence) -> String {
        let redis = &self.redis;
        let keys = &self.keys;
        let once_per = self.meta.once_per;
        match command {
            FencedCommand::Begin(rows) => {
                let highest = rows.iter().map(|row| row.slot).max().unwrap_or(0);
                words(&redis.project_begin(keys, fence, highest).await.unwrap())
            }
            FencedCommand::Page(page) => {
                let Some(rows) = &self.plan else {
                    return String::new();
                };
                let last = rows.iter().map(|row| row.slot).max().unwrap_or(0);
                let first = page * PAGE_SLOTS + 1;
                let slots = first..=(first + PAGE_SLOTS - 1).min(last);
                let rows = rows.iter().filter(|row| slots.contains(&row.slot));
                let rows: Vec<ClaimOfSlot> = rows.map(claim_of).collect();
                let written = redis.project_slots(keys, fence, once_per, slots, &rows);
                let written = written.await.unwrap();
                if once_per == OncePer::Coupon && !rows.is_empty() {
                    let claimants = redis.write_claimants(self.coupon, fence, keys.drop, &rows);
                    let is_stale = claimants.await.unwrap() == Fenced::Stale;
                    assert_eq!(is_stale, written == Fenced::Stale);
                }
                words(&written)
            }
            FencedCommand::ClearClaimants => {
                words(&redis.clear_claimants(self.coupon, fence).await.unwrap())
            }
            FencedCommand::Claimants(rows) => {
                let rows: Vec<ClaimOfSlot> = rows.iter().map(claim_of).collect();
                let drop = DropId(OTHER_DROP);
                let written = redis.write_claimants(self.coupon, fence, drop, &rows).await;
                words(&written.unwrap())
            }
            FencedCommand::Owed(owed) => {
                let owed = owed.iter().map(|(person, slot)| owed_user(*person, *slot));
                let owed: Vec<OwedUser> = owed.collect();
                let written = redis.write_owed(keys, fence, once_per, &owed).await;
                words(&written.unwrap())
            }
            FencedCommand::Settings(revision) => {
                let written = redis.load(keys, fence, *revision, &self.meta);
                words(&written.await.unwrap())
            }
            FencedCommand::Open => {
                let all = std::slice::from_ref(keys);
                words(&redis.open(self.coupon, fence, all).await.unwrap())
            }
            FencedCommand::Promote(limit) => {
                let promoted = redis.promote_waiting(keys, fence, *limit).await.unwrap();
                match promoted {
                    Fenced::Done(promotion) if promotion.is_leased => "leased".into(),
                    Fenced::Done(promotion) => {
                        let given = promotion.given.iter();
                        let given: Vec<_> = given
                            .map(|one| (one.user.as_str().chars().next().unwrap(), one.slot))
                            .collect();
                        words(&Fenced::Done(given))
                    }
                    Fenced::Stale => "Stale".into(),
                }
            }
        }
    }

    async fn tamper(&mut self, tamper: Tamper) {
        let keys = self.data_keys();
        let mut cmd = redis::cmd("DEL");
        match tamper {
            Tamper::Lose(lost) => {
                let at = KEYS.iter().position(|key| *key == lost).unwrap();
                cmd.arg(keys[at]);
            }
            Tamper::ClaimedElsewhere(person) => {
                cmd = redis::cmd("HSET");
                let claim = format!("{OTHER_DROP}:3");
                cmd.arg(&self.keys.claimants).arg(person.to_string());
                cmd.arg(claim);
            }
            Tamper::Empty => {
                cmd.arg(keys).arg(&self.keys.gate).arg(&self.keys.revision);
            }
        }
        let mut connection = self.redis.connection();
        cmd.query_async::<()>(&mut connection).await.unwrap();
        if matches!(tamper, Tamper::Empty) {
            self.next_era().await;
        }
    }

    /// Returns the keys of the drop, then `claimants` and `revoked`.
    pub(crate) fn data_keys(&self) -> Vec<&str> {
        let coupon = [&*self.keys.claimants, &self.keys.revoked];
        self.keys.own().into_iter().chain(coupon).collect()
    }

    /// Returns the raw values of [`Self::data_keys`], then of `gate` and `revision`. The keys of
    /// the allow list are not among them.
    pub(crate) async fn dump(&self) -> Vec<Option<Vec<u8>>> {
        let mut pipe = redis::pipe();
        for key in self.data_keys() {
            pipe.cmd("DUMP").arg(key);
        }
        pipe.cmd("DUMP").arg(&self.keys.gate);
        pipe.cmd("DUMP").arg(&self.keys.revision);
        let mut connection = self.redis.connection();
        pipe.query_async(&mut connection).await.unwrap()
    }

    pub(crate) async fn read_state(&self) -> Shown {
        type Found = (
            (Option<String>, Option<String>),
            Option<String>,
            Vec<(String, i64)>,
            BTreeSet<i64>,
            BTreeMap<i64, i64>,
            Vec<String>,
            BTreeMap<String, String>,
            BTreeMap<String, String>,
        );
        let k = &self.keys;
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(&k.meta).arg("quantity").arg("paused");
        pipe.cmd("GET").arg(&k.count);
        pipe.cmd("ZRANGE")
            .arg(&k.users)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES");
        pipe.cmd("ZRANGE").arg(&k.free).arg(0).arg(-1);
        pipe.cmd("HGETALL").arg(&k.times);
        pipe.cmd("ZRANGE").arg(&k.waiting).arg(0).arg(-1);
        pipe.cmd("HGETALL").arg(&k.claimants);
        pipe.cmd("HGETALL").arg(&k.revoked);
        let (meta, count, users, free, times, waiting, claimants, revoked): Found = pipe
            .query_async(&mut self.redis.connection())
            .await
            .unwrap();
        let time = |(slot, at_ms)| {
            if at_ms < ENDED_AT_MS {
                (slot, RowTime::Before)
            } else {
                (slot, RowTime::After)
            }
        };
        Shown {
            quantity_and_pause: meta.0.zip(meta.1),
            count,
            users: users.into_iter().map(|(user, slot)| (slot, user)).collect(),
            free,
            times: times.into_iter().map(time).collect(),
            waiting,
            claimants,
            revoked,
        }
    }
}

/// Returns a revocation that lets its user claim again once it has ended.
pub(crate) fn revocation(user: &str, id: i64, ended_at_ms: Option<i64>) -> Revocation {
    let time = |ms| DateTime::from_timestamp_millis(ms).unwrap();
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

/// Returns one drop as the only candidate of a claim.
pub(crate) fn only(first: &DropKeys) -> Candidates<'_> {
    Candidates {
        first,
        second: None,
    }
}

/// A user whose groups are unknown.
pub(crate) fn ungrouped(user: UserId) -> Claimant {
    Claimant { user, group: None }
}
