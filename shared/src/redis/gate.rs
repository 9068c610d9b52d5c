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

use std::sync::{Arc, LazyLock};

use futures_util::future::try_join_all;
use redis::{RedisError, Value};

use super::client::Script;
use super::known_gate::{Epoch, KnownGate};
use super::server::ServerFacts;
use super::{Redis, keys};
use crate::domain::CouponId;

static BEGIN_LIFE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/begin_life.lua")));
static OPEN_COUPON: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/open_coupon.lua")));

/// What `fc:epoch` says: `EPOCH SERVER new|open`. It is open once the script was loaded, so that a
/// script that is missing then was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub epoch: Epoch,
    server: String,
    loaded: bool,
}

impl Life {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (epoch, server, state) = (words.next()?, words.next()?, words.next()?);
        // They become part of a script's text.
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_epoch = epoch.len() == 16 && is_hex(epoch);
        (is_epoch && server.split(':').all(is_hex) && words.next().is_none()).then(|| Self {
            epoch: Epoch(epoch.to_owned()),
            server: server.to_owned(),
            loaded: state == "open",
        })
    }

    /// `run_id` of the server.
    pub(super) fn run_id(&self) -> &str {
        self.server.split_once(':').map_or(&*self.server, |(run_id, _)| run_id)
    }

    /// `master_replid2` of the server.
    pub(super) fn promotion(&self) -> &str {
        self.server.split_once(':').map_or("", |(_, promotion)| promotion)
    }

    fn text(&self, state: &str) -> String {
        format!("{} {} {state}", self.epoch.0, self.server)
    }
}

/// The gate as it was read from one server.
#[derive(Debug, Clone)]
pub struct GateReading {
    server: ServerFacts,
    /// `fc:epoch`, whatever stands there.
    text: String,
    /// The life that stands, if it is this server's.
    life: Option<Life>,
    has_script: bool,
    has_witness: bool,
}

impl GateReading {
    /// Whether coupons that are verified in this life are open.
    pub fn is_open(&self) -> bool {
        self.life.is_some() && self.has_script && self.server.is_master
    }

    /// The same, and other releases can tell that this life was not lost.
    pub fn is_open_and_witnessed(&self) -> bool {
        self.is_open() && self.has_witness
    }

    /// What keeps this process from admitting anybody; `None` where coupons that are verified are
    /// open.
    pub fn why_closed(&self) -> Option<&'static str> {
        match self.life() {
            _ if self.is_open() => None,
            Some(life) if life.loaded && !self.has_script => Some(OTHER_RELEASE),
            _ => Some(UNVERIFIED),
        }
    }

    /// The life, while coupons that are verified in it are open.
    pub(super) fn open_life(&self) -> Option<&Life> {
        self.life.as_ref().filter(|_| self.is_open())
    }

    /// The life under which Redis may be verified; `None` after a loss that nobody has noted yet.
    pub fn life(&self) -> Option<&Life> {
        self.life.as_ref().filter(|life| self.has_script || self.has_witness || !life.loaded)
    }
}

const UNVERIFIED: &str = "admission is closed until the reconciler has verified Redis";
const OTHER_RELEASE: &str =
    "admission is open to another release only, which has another script: start a reconciler of this release";

/// What a coupon's keys say of the life they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CouponFence {
    pub generation: Option<Generation>,
    pub verified: Option<Epoch>,
}

impl Redis {
    /// Reads the gate. A connection to a server that is no master is replaced: the address may lead
    /// to the master by now.
    pub async fn gate(&self) -> Result<GateReading, RedisError> {
        let mut conn = self.connection();
        let server = self.facts(&mut conn).await?;
        let text = self.text(&keys::epoch(&self.prefix)).await?.unwrap_or_default();
        let life = Life::parse(&text).filter(|life| life.server == server.id());
        let epoch = life.as_ref().map(|life| life.epoch.clone());
        let known = self.known_gate.load();
        let script = match &life {
            // Hashing the text again would cost more than the questions.
            Some(_) if known.epoch == epoch => known.script.clone(),
            Some(life) => self.claim_script(life).1,
            None => String::new(),
        };
        let [has_script, has_witness] = match &life {
            Some(life) => {
                let witness = hash(&self.witness(life));
                redis::cmd("SCRIPT").arg("EXISTS").arg(&script).arg(witness).query_async(&mut conn).await?
            }
            None => [false; 2],
        };
        if !server.is_master {
            self.conn.replace();
        }
        let gate = GateReading { server, text, life, has_script, has_witness };
        let (open, promoted_from) = (gate.is_open(), gate.server.promoted_from.clone());
        self.known_gate.store(Arc::new(KnownGate { epoch, script, open, promoted_from }));
        Ok(gate)
    }

    pub async fn gate_is_open(&self) -> Result<bool, RedisError> {
        Ok(self.gate().await?.is_open())
    }

    /// The life that stands; `None` as well where Redis does not answer.
    pub async fn life(&self) -> Option<Life> {
        self.gate().await.ok()?.life().cloned()
    }

    /// Begins a life on the server of `seen`, in which no coupon is verified. Where another process
    /// was faster, it gives the life of that one; `None` where the server is another by now.
    pub async fn begin_life(&self, seen: &GateReading) -> Result<Option<Life>, RedisError> {
        let fresh = Life { epoch: Epoch::fresh(), server: seen.server.id(), loaded: false };
        let (key, args) = (keys::epoch(&self.prefix), [seen.text.clone(), fresh.text("new")]);
        let now: String = BEGIN_LIFE.run(&mut self.connection(), &[&key], &args).await?;
        Ok(Life::parse(&now).filter(|life| life.server == fresh.server))
    }

    /// Lets coupons open that are verified in this life. `false` where the life is over.
    pub async fn open_gate(&self, life: &Life) -> Result<bool, RedisError> {
        if self.facts(&mut self.connection()).await?.id() != life.server {
            return Ok(false);
        }
        // Noted afterwards: a reader in between takes a missing script for lost where it was noted.
        let mut load = redis::pipe();
        for text in [self.claim_script(life).0, self.witness(life)] {
            load.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        load.query_async::<Value>(&mut self.connection()).await?;
        let (key, open) = (keys::epoch(&self.prefix), life.text("open"));
        let now: String = BEGIN_LIFE.run(&mut self.connection(), &[&key], &[life.text("new"), open.clone()]).await?;
        Ok(now == open)
    }

    /// These coupons are verified in this life: admission to them is open. `false`: the keys of one
    /// were lost since its generation was read, or the server is another by now.
    pub async fn open_coupons(&self, coupons: &[(CouponId, Generation)], life: &Life) -> Result<bool, RedisError> {
        if self.facts(&mut self.connection()).await?.id() != life.server {
            return Ok(false);
        }
        let opened = coupons.iter().map(|(coupon, generation)| self.set_verified(*coupon, generation, &life.epoch));
        Ok(try_join_all(opened).await?.iter().all(|opened| *opened))
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
        let now = self.gate().await?;
        if now.life().is_some_and(|now| now.epoch == life.epoch) {
            self.set_verified(coupon, generation, &life.epoch).await?;
        }
        Ok(())
    }

    async fn set_verified(&self, coupon: CouponId, generation: &Generation, epoch: &Epoch) -> Result<bool, RedisError> {
        let names = [keys::verified(&self.prefix, coupon), keys::generation(&self.prefix, coupon)];
        let args = [generation.0.clone(), epoch.0.clone()];
        OPEN_COUPON.run(&mut self.connection(), &[&names[0], &names[1]], &args).await
    }

    /// The fences of coupons, in the order asked. A key of the wrong type counts as missing.
    pub async fn coupon_fences(&self, coupons: &[CouponId]) -> Result<Vec<CouponFence>, RedisError> {
        let mut fences = Vec::with_capacity(coupons.len());
        for some in coupons.chunks(500) {
            let mut pipe = redis::pipe();
            for coupon in some {
                pipe.cmd("GET").arg(keys::generation(&self.prefix, *coupon));
                pipe.cmd("GET").arg(keys::verified(&self.prefix, *coupon));
            }
            let found: Vec<Value> = pipe.ignore_errors().query_async(&mut self.connection()).await?;
            let text = |value: Option<&Value>| match value {
                Some(Value::BulkString(bytes)) => String::from_utf8(bytes.clone()).ok(),
                _ => None,
            };
            fences.extend(found.chunks(2).map(|pair| CouponFence {
                generation: text(pair.first()).map(Generation),
                verified: text(pair.get(1)).map(Epoch),
            }));
        }
        Ok(fences)
    }

    /// Admission's text and hash in one life of one installation. Key prefix and database stand in
    /// the text, so that two installations on one Redis have gates of their own.
    fn claim_script(&self, life: &Life) -> (String, String) {
        let (prefix, database) = (&self.prefix, self.database);
        let text = format!(
            "-- admission gate of {prefix} in database {database}\nlocal EPOCH, PROMOTION = '{}', '{}'\n{}",
            life.epoch.0,
            life.promotion(),
            include_str!("scripts/claim.lua")
        );
        let hash = hash(&text);
        (text, hash)
    }

    /// A script that nobody calls. It is lost with admission's, and is the same in every release: one
    /// with another admission script sees by it that this life stands, and loads its own beside it.
    /// So this text must not change.
    fn witness(&self, life: &Life) -> String {
        let (prefix, database) = (&self.prefix, self.database);
        format!("-- witness of {} from {} of {prefix} in database {database}\nreturn 1", life.epoch.0, life.promotion())
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
        Ok(self.text(&keys::generation(&self.prefix, coupon)).await?.map(Generation))
    }

    /// The coupon's generation, made now where it has none.
    pub async fn ensure_generation(&self, coupon: CouponId) -> Result<Generation, RedisError> {
        let key = keys::generation(&self.prefix, coupon);
        let fresh = [format!("{:032x}", rand::random::<u128>())];
        Ok(Generation(ENSURE_GENERATION.run(&mut self.connection(), &[&key], &fresh).await?))
    }

    /// A key that holds a text. What no program of ours wrote there counts as nothing, as the
    /// scripts read it.
    pub(super) async fn text(&self, key: &str) -> Result<Option<String>, RedisError> {
        match redis::cmd("GET").arg(key).query_async(&mut self.connection()).await {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            found => found,
        }
    }

    /// The highest revision of the coupon whose settings were written here; 0 where none is known.
    pub async fn revision(&self, coupon: CouponId) -> Result<u64, RedisError> {
        let text = self.text(&keys::revision(&self.prefix, coupon)).await?;
        Ok(text.filter(|text| text.len() <= 15).and_then(|text| digits(&text)).unwrap_or(0))
    }
}

/// A number of digits only; Rust's own parser takes a sign too.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_read_as_it_was_written_and_garbage_is_none() {
        let life = Life { epoch: Epoch::fresh(), server: "0a:0b".into(), loaded: true };
        assert_eq!(Life::parse(&life.text("open")), Some(life.clone()));
        for garbage in [
            "",
            "x",
            "0123456789abcdef 0a:0b",
            "0123456789abcde' 0a open",
            "0123456789abcdef 0a open more",
            "0123456789abcdef x' open",
        ] {
            assert_eq!(Life::parse(garbage), None, "{garbage}");
        }
    }
}
