//! The admission gate. It is each coupon's own, and rests on *epochs*, fencing tokens of one life
//! of Redis.
//!
//! A life ends when Redis may have lost data: its process restarts, another one is promoted, a
//! demoted one is promoted again, or it is emptied. `fc:epoch` names the epoch of the life and the
//! server it was given to; in another server, or after another promotion, it names the wrong one.
//! The text of `claim.lua` carries the epoch and the promotion, stands only in the script cache of
//! that server process, and only the reconciler loads it. It admits to a coupon whose `verified`
//! key has the same epoch. So what an older life left behind, in keys, in the cache or in a
//! process's memory, opens nothing.
//!
//! While a system is upgraded, releases with different texts of `claim.lua` share a life. A second
//! script, the *witness*, is the same in all of them.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use futures_util::future::{join_all, try_join_all};
use redis::aio::ConnectionLike;
use redis::{RedisError, Value};

use super::client::Script;
use super::known_gate::{Epoch, KnownGate};
use super::life::{Life, ServerLife};
use super::router::Shard;
use super::server::ServerFacts;
use super::servers::HashSlots;
use super::{Redis, keys};
use crate::domain::CouponId;

static BEGIN_LIFE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/begin_life.lua")));
static OPEN_COUPON: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/open_coupon.lua")));

/// The gate as it was read from one server.
#[derive(Debug, Clone)]
pub(super) struct ServerGate {
    hash_slots: Vec<HashSlots>,
    server: ServerFacts,
    /// `fc:epoch`, whatever stands there.
    text: String,
    /// The life that stands, if it is this server's.
    life: Option<ServerLife>,
    has_script: bool,
    has_witness: bool,
}

impl ServerGate {
    pub(super) fn is_open(&self) -> bool {
        self.life.is_some() && self.has_script && self.server.is_master
    }

    /// The same, and other releases can tell that this life was not lost.
    fn is_open_and_witnessed(&self) -> bool {
        self.is_open() && self.has_witness
    }

    /// What keeps this process from admitting anybody; `None` where coupons that are verified are
    /// open.
    fn why_closed(&self) -> Option<&'static str> {
        match self.life() {
            _ if self.is_open() => None,
            Some(life) if life.loaded && !self.has_script => Some(OTHER_RELEASE),
            _ => Some(UNVERIFIED),
        }
    }

    /// The life, while coupons that are verified in it are open.
    pub(super) fn open_life(&self) -> Option<&ServerLife> {
        self.life.as_ref().filter(|_| self.is_open())
    }

    fn life(&self) -> Option<&ServerLife> {
        self.life
            .as_ref()
            .filter(|life| self.has_script || self.has_witness || !life.loaded)
    }
}

const UNVERIFIED: &str = "admission is closed until the reconciler has verified Redis";
const OTHER_RELEASE: &str = "admission is open to another release only, which has another script: start a reconciler of this release";

/// How far admission is open, over all servers that hold data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openness {
    /// To all coupons that are verified
    Open,
    /// To those of some servers; others are closed or do not answer
    InPart,
    /// To none, and why
    Closed(&'static str),
}

/// The gate as it was read from every server that holds data, in the order of their hash slots.
#[derive(Debug, Clone)]
pub struct GateReading(Vec<ServerGate>);

impl GateReading {
    /// Whether coupons that are verified in this life are open.
    pub fn is_open(&self) -> bool {
        self.0.iter().all(ServerGate::is_open)
    }

    /// The same, and other releases can tell that this life was not lost.
    pub fn is_open_and_witnessed(&self) -> bool {
        self.0.iter().all(ServerGate::is_open_and_witnessed)
    }

    /// The servers whose gates are open, to other releases too, by their order.
    pub fn open_servers(&self) -> BTreeSet<usize> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, gate)| gate.is_open_and_witnessed())
            .map(|(at, _)| at)
            .collect()
    }

    /// The life under which Redis may be verified; `None` after a loss that nobody has noted yet.
    pub fn life(&self) -> Option<Life> {
        let lives = self
            .0
            .iter()
            .map(|gate| Some((gate.hash_slots.clone(), gate.life()?.clone())));
        lives.collect::<Option<Vec<_>>>().map(Life)
    }
}

/// What a coupon's keys say of the life they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CouponFence {
    pub generation: Option<Generation>,
    pub verified: Option<Epoch>,
    /// The highest revision whose settings were written here; 0 where none is known.
    pub revision: u64,
}

impl Redis {
    /// Reads the gate of every server. A connection to one that is no master is replaced: the
    /// address may lead to the master by now.
    pub async fn gate(&self) -> Result<GateReading, RedisError> {
        let shards = self.conn.shards().await?;
        try_join_all(shards.iter().map(|shard| self.gate_of(shard)))
            .await
            .map(GateReading)
    }

    /// Reads the gate of one server.
    pub(super) async fn gate_of(&self, shard: &Arc<Shard>) -> Result<ServerGate, RedisError> {
        let mut conn = self.conn.to(shard);
        let server = self.facts(&mut conn).await?;
        let text = text_of(&mut conn, &self.epoch_key(shard))
            .await?
            .unwrap_or_default();
        let life = ServerLife::parse(&text).filter(|life| life.server == server.id());
        let epoch = life.as_ref().map(|life| life.epoch.clone());
        let known = shard.server.known_gate.load();
        let script = match &life {
            // Hashing the text again would cost more than the questions.
            Some(_) if known.epoch == epoch => known.script.clone(),
            Some(life) => self.claim_script(life).1,
            None => String::new(),
        };
        let [has_script, has_witness] = match &life {
            Some(life) => {
                let witness = hash(&self.witness(life));
                redis::cmd("SCRIPT")
                    .arg("EXISTS")
                    .arg(&script)
                    .arg(witness)
                    .query_async(&mut conn)
                    .await?
            }
            None => [false; 2],
        };
        if !server.is_master {
            self.conn.leave(shard);
        }
        let gate = ServerGate {
            hash_slots: shard.hash_slots.clone(),
            server,
            text,
            life,
            has_script,
            has_witness,
        };
        let open = gate.is_open();
        let promoted_from = gate.server.promoted_from.clone();
        shard.server.known_gate.store(Arc::new(KnownGate {
            epoch,
            script,
            open,
            promoted_from,
        }));
        Ok(gate)
    }

    /// How far this process may admit people, as the servers say that answer.
    ///
    /// # Errors
    /// Where none answers.
    pub async fn openness(&self) -> Result<Openness, RedisError> {
        let shards = self.conn.shards().await?;
        let read = join_all(shards.iter().map(|shard| self.gate_of(shard))).await;
        let answered: Vec<Option<&str>> =
            read.iter().flatten().map(ServerGate::why_closed).collect();
        let is_away = answered.len() < read.len();
        if let Some(error) = read
            .into_iter()
            .find_map(Result::err)
            .filter(|_| answered.is_empty())
        {
            return Err(error);
        }
        let why = answered.iter().copied().flatten().next();
        Ok(match (answered.iter().any(Option::is_none), why) {
            (true, None) if !is_away => Openness::Open,
            (true, _) => Openness::InPart,
            (false, why) => Openness::Closed(why.unwrap_or(UNVERIFIED)),
        })
    }

    pub async fn gate_is_open(&self) -> Result<bool, RedisError> {
        Ok(self.gate().await?.is_open())
    }

    /// The life that stands; `None` as well where Redis does not answer.
    pub async fn life(&self) -> Option<Life> {
        self.gate().await.ok()?.life()
    }

    /// Begins a life on those servers of `seen` where none stands; no coupon is verified in it.
    /// Where another process was faster, it gives the life of that one; `None` where a server is
    /// another by now.
    pub async fn begin_life(&self, seen: &GateReading) -> Result<Option<Life>, RedisError> {
        let shards = self.conn.shards().await?;
        if !shards
            .iter()
            .map(|shard| &shard.hash_slots)
            .eq(seen.0.iter().map(|gate| &gate.hash_slots))
        {
            return Ok(None);
        }
        let mut lives = Vec::with_capacity(shards.len());
        for (shard, seen) in shards.iter().zip(&seen.0) {
            let life = match seen.life() {
                Some(life) => Some(life.clone()),
                None => self.begin_life_of(shard, seen).await?,
            };
            let Some(life) = life else { return Ok(None) };
            lives.push((shard.hash_slots.clone(), life));
        }
        Ok(Some(Life(lives)))
    }

    async fn begin_life_of(
        &self,
        shard: &Arc<Shard>,
        seen: &ServerGate,
    ) -> Result<Option<ServerLife>, RedisError> {
        let fresh = ServerLife {
            epoch: Epoch::fresh(),
            server: seen.server.id(),
            loaded: false,
        };
        let key = self.epoch_key(shard);
        let args = [seen.text.clone(), fresh.text("new")];
        let now: String = BEGIN_LIFE
            .run(&mut self.conn.to(shard), &[&key], &args)
            .await?;
        Ok(ServerLife::parse(&now).filter(|life| life.server == fresh.server))
    }

    /// Lets coupons open that are verified in this life, on these servers of it. `false` where the
    /// life is over.
    pub async fn open_gate(
        &self,
        life: &Life,
        servers: &BTreeSet<usize>,
    ) -> Result<bool, RedisError> {
        let Some(standing) = self.standing_servers(life, servers).await? else {
            return Ok(false);
        };
        for (shard, life) in standing {
            // Noted afterwards: a reader in between takes a missing script for lost where it was
            // noted.
            let mut conn = self.conn.to(&shard);
            let mut load = redis::pipe();
            for text in [self.claim_script(life).0, self.witness(life)] {
                load.cmd("SCRIPT").arg("LOAD").arg(text);
            }
            load.query_async::<Value>(&mut conn).await?;
            let key = self.epoch_key(&shard);
            let open = life.text("open");
            let now: String = BEGIN_LIFE
                .run(&mut conn, &[&key], &[life.text("new"), open.clone()])
                .await?;
            if now != open {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// These servers of a life; `None` where one is another by now.
    async fn standing_servers<'a>(
        &self,
        life: &'a Life,
        servers: &BTreeSet<usize>,
    ) -> Result<Option<Vec<(Arc<Shard>, &'a ServerLife)>>, RedisError> {
        let shards = self.conn.shards().await?;
        let mut standing = Vec::with_capacity(servers.len());
        for at in servers {
            let (Some(shard), Some((hash_slots, life))) = (shards.get(*at), life.0.get(*at)) else {
                return Ok(None);
            };
            if shard.hash_slots != *hash_slots
                || self.facts(&mut self.conn.to(shard)).await?.id() != life.server
            {
                return Ok(None);
            }
            standing.push((Arc::clone(shard), life));
        }
        Ok(Some(standing))
    }

    /// These coupons are verified in this life: admission to them is open. `false`: the keys of one
    /// were lost since its generation was read, or a server is another by now.
    pub async fn open_coupons(
        &self,
        coupons: &[(CouponId, Generation)],
        life: &Life,
    ) -> Result<bool, RedisError> {
        let ids: Vec<CouponId> = coupons.iter().map(|(coupon, _)| *coupon).collect();
        if self
            .standing_servers(life, &life.servers_of(&ids))
            .await?
            .is_none()
        {
            return Ok(false);
        }
        let open = async |(coupon, generation): &(CouponId, Generation)| match life.of(*coupon) {
            Some(life) => self.set_verified(*coupon, generation, &life.epoch).await,
            None => Ok(false),
        };
        Ok(try_join_all(coupons.iter().map(open))
            .await?
            .iter()
            .all(|opened| *opened))
    }

    /// Opens a coupon that was made in this life, so that nobody can hold anything of it. `life`
    /// was read before it was made: else people may hold slots of it, which a loss since then took
    /// away. Where it does not open it, the reconciler does.
    pub async fn open_new_coupon(
        &self,
        coupon: CouponId,
        generation: &Generation,
        life: &Life,
    ) -> Result<(), RedisError> {
        let shard = self
            .conn
            .shard_of(&keys::verified(&self.prefix, coupon))
            .await?;
        let now = self.gate_of(&shard).await?;
        let before = life.of(coupon).map(|life| &life.epoch);
        if let Some(now) = now.life().filter(|now| Some(&now.epoch) == before) {
            self.set_verified(coupon, generation, &now.epoch).await?;
        }
        Ok(())
    }

    fn epoch_key(&self, shard: &Shard) -> String {
        self.server_key(keys::epoch(&self.prefix), shard)
    }

    async fn set_verified(
        &self,
        coupon: CouponId,
        generation: &Generation,
        epoch: &Epoch,
    ) -> Result<bool, RedisError> {
        let names = [
            keys::verified(&self.prefix, coupon),
            keys::generation(&self.prefix, coupon),
        ];
        let args = [generation.0.clone(), epoch.0.clone()];
        OPEN_COUPON
            .run(&mut self.connection(), &[&names[0], &names[1]], &args)
            .await
    }

    /// The fences of coupons, in the order asked. A key of the wrong type counts as missing.
    pub async fn coupon_fences(
        &self,
        coupons: &[CouponId],
    ) -> Result<Vec<CouponFence>, RedisError> {
        let mut fences = Vec::with_capacity(coupons.len());
        for some in coupons.chunks(500) {
            let mut pipe = redis::pipe();
            for coupon in some {
                pipe.cmd("GET").arg(keys::generation(&self.prefix, *coupon));
                pipe.cmd("GET").arg(keys::verified(&self.prefix, *coupon));
                pipe.cmd("GET").arg(keys::revision(&self.prefix, *coupon));
            }
            let found: Vec<Value> = pipe
                .ignore_errors()
                .query_async(&mut self.connection())
                .await?;
            let text = |value: Option<&Value>| match value {
                Some(Value::BulkString(bytes)) => String::from_utf8(bytes.clone()).ok(),
                _ => None,
            };
            fences.extend(found.chunks(3).map(|three| {
                CouponFence {
                    generation: text(three.first()).map(Generation),
                    verified: text(three.get(1)).map(Epoch),
                    revision: text(three.get(2))
                        .and_then(|text| seen_revision(&text))
                        .unwrap_or(0),
                }
            }));
        }
        Ok(fences)
    }

    /// Admission's text and hash in one life of one installation. Key prefix and database stand in
    /// the text, so that two installations on one Redis have gates of their own.
    fn claim_script(&self, life: &ServerLife) -> (String, String) {
        let prefix = &self.prefix;
        let database = self.seeds.database();
        let text = format!(
            "-- admission gate of {prefix} in database {database}\nlocal EPOCH, PROMOTION = '{}', '{}'\n{}",
            life.epoch.0,
            life.promotion(),
            include_str!("scripts/claim.lua")
        );
        let hash = hash(&text);
        (text, hash)
    }

    /// A script that nobody calls. It is lost with admission's, and is the same in every release: a
    /// release with another admission script sees by it that this life stands, and loads its own
    /// beside it. So this text must not change.
    fn witness(&self, life: &ServerLife) -> String {
        let prefix = &self.prefix;
        let database = self.seeds.database();
        format!(
            "-- witness of {} from {} of {prefix} in database {database}\nreturn 1",
            life.epoch.0,
            life.promotion()
        )
    }
}

fn hash(text: &str) -> String {
    redis::Script::new(text).get_hash().to_owned()
}

static ENSURE_GENERATION: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/ensure_generation.lua")));

/// Fencing token of one life of a coupon in Redis: a random value that is lost together with the
/// data. A pass reads it before anything else and sends it with every write; a write whose
/// generation is not the one in Redis does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation(pub(super) String);

impl Redis {
    /// The coupon's generation, if it has one. A key of the wrong type counts as missing.
    pub async fn generation(&self, coupon: CouponId) -> Result<Option<Generation>, RedisError> {
        Ok(self
            .text(&keys::generation(&self.prefix, coupon))
            .await?
            .map(Generation))
    }

    /// The coupon's generation, made now where it has none.
    pub async fn ensure_generation(&self, coupon: CouponId) -> Result<Generation, RedisError> {
        let key = keys::generation(&self.prefix, coupon);
        let fresh = [format!("{:032x}", rand::random::<u128>())];
        Ok(Generation(
            ENSURE_GENERATION
                .run(&mut self.connection(), &[&key], &fresh)
                .await?,
        ))
    }

    pub(super) async fn text(&self, key: &str) -> Result<Option<String>, RedisError> {
        text_of(&mut self.connection(), key).await
    }

    /// The highest revision of the coupon whose settings were written here; 0 where none is known.
    pub async fn revision(&self, coupon: CouponId) -> Result<u64, RedisError> {
        Ok(self
            .text(&keys::revision(&self.prefix, coupon))
            .await?
            .and_then(|text| seen_revision(&text))
            .unwrap_or(0))
    }
}

/// A key that holds a text. A value that Firstcome did not write counts as missing, as in the
/// scripts.
async fn text_of(conn: &mut impl ConnectionLike, key: &str) -> Result<Option<String>, RedisError> {
    match redis::cmd("GET").arg(key).query_async(conn).await {
        Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
        found => found,
    }
}

/// Parsed like in the scripts; Rust's own parser also accepts a sign.
pub(super) fn seen_revision(text: &str) -> Option<u64> {
    let is_one = text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_one)
}
