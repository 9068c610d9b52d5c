//! The admission gate. Each coupon has one: the key `gate` with the value `SERVER ERA open` or
//! `SERVER ERA closed`.
//!
//! `SERVER` identifies a Redis server process between two promotions. `ERA` is a number that MySQL
//! increments whenever a coupon may have lost data and is about to be rebuilt. The admission script
//! compares the gate with the server it runs on and with the era that its caller read from MySQL,
//! so that a gate from an earlier server or era admits no user. A missing or unreadable gate is
//! closed.
//!
//! [`Fence`] is `SERVER ERA`: the fencing token of all changes to a coupon except admission and
//! settings. A writer reads it first; the scripts do nothing if it has changed since.
//!
//! `version` counts the changes of a coupon in its era. The reconciler's watch remembers the
//! highest value. A lower one shows that an older state was restored into a running Redis
//! (`RESTORE`, `SWAPDB`).
//!
//! `fc:compared` names the server whose coupons a reconciler has compared. It only determines when
//! to compare again, and does not affect admission.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use futures_util::future::{join_all, try_join_all};
use redis::aio::ConnectionLike;
use redis::{RedisError, Value};

use super::client::Script;
use super::life::Life;
use super::router::Shard;
use super::server::ServerFacts;
use super::servers::HashSlots;
use super::wrong_key::is_about_data;
use super::{Redis, keys};
use crate::domain::CouponId;

static GATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/gate.lua")));

/// A coupon's era on one server. The default value names no era, and every script refuses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fence {
    server: String,
    era: u64,
}

impl Fence {
    fn new(server: &str, era: u64) -> Self {
        Self {
            server: server.to_owned(),
            era,
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.server, self.era)
    }
}

/// The value of a coupon's `gate`, and the highest revision whose settings were written to Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CouponGate {
    /// Any bytes: a client other than Firstcome may have written them.
    text: Vec<u8>,
    /// 0 if none is known.
    pub revision: u64,
}

impl CouponGate {
    /// Returns the era, regardless of the server.
    pub fn era(&self) -> Option<u64> {
        parsed(&self.text).map(|(_, era, _)| era)
    }

    /// Returns the fence, if the era began on the server that now holds the coupon.
    pub fn fence(&self, life: &Life, coupon: CouponId) -> Option<Fence> {
        let (server, era, _) = parsed(&self.text)?;
        (life.of(coupon) == Some(server)).then(|| Fence::new(server, era))
    }

    /// Whether the coupon admits callers that pass `era`.
    pub fn is_open(&self, life: &Life, coupon: CouponId, era: u64) -> bool {
        let open = |server| (server, era, "open");
        life.of(coupon).map(open) == parsed(&self.text)
    }
}

/// The version of a coupon's data in its era.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CouponVersion {
    gate: Vec<u8>,
    version: u64,
}

impl CouponVersion {
    pub fn has_era(&self) -> bool {
        parsed(&self.gate).is_some()
    }

    /// Whether the data is older than `before`. Returns `false` if the eras began on different
    /// servers, because the gate is closed then.
    pub fn went_back(&self, before: &Self) -> bool {
        match (parsed(&before.gate), parsed(&self.gate)) {
            (Some((of, era, _)), Some((server, now, _))) if of == server => {
                now < era || now == era && self.version < before.version
            }
            _ => false,
        }
    }
}

/// The highest era and revision that count (`HIGHEST_REVISION` in `identity.lua`). Higher numbers
/// were written manually.
const HIGHEST_REVISION: u64 = 1 << 40;

/// Parses `SERVER ERA STATE`.
fn parsed(text: &[u8]) -> Option<(&str, u64, &str)> {
    let mut words = str::from_utf8(text).ok()?.split(' ');
    let server = words.next()?;
    let era = words.next()?;
    let state = words.next()?;
    let is_whole = words.next().is_none() && ["open", "closed"].contains(&state);
    let is_valid = is_whole && !server.is_empty();
    let era = seen_revision(era).filter(|_| is_valid)?;
    Some((server, era, state))
}

/// A server's state when it was read.
#[derive(Debug, Clone)]
pub(super) struct ServerGate {
    hash_slots: Vec<HashSlots>,
    pub(super) server: ServerFacts,
    is_compared: bool,
}

impl ServerGate {
    fn is_open(&self) -> bool {
        self.is_compared && self.server.is_master
    }
}

/// The state of admission across all servers that hold data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openness {
    /// Open for all coupons that were compared
    Open,
    /// Open for the coupons of some servers; other servers are closed or do not respond
    InPart,
    /// Closed for all coupons
    Closed,
}

/// Why no claim is admitted.
pub const CLOSED: &str = "admission is closed until the reconciler has verified Redis";

/// The state of every server that holds data, in order of hash slot.
#[derive(Debug, Clone)]
pub struct GateReading(Vec<ServerGate>);

impl GateReading {
    /// Whether the coupons of all servers were compared.
    pub fn is_open(&self) -> bool {
        self.0.iter().all(ServerGate::is_open)
    }

    /// Returns the indexes of the servers whose coupons were compared.
    pub fn open_servers(&self) -> BTreeSet<usize> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, gate)| gate.is_open())
            .map(|(at, _)| at)
            .collect()
    }

    pub fn life(&self) -> Life {
        Life(
            self.0
                .iter()
                .map(|gate| (gate.hash_slots.clone(), gate.server.id()))
                .collect(),
        )
    }
}

impl Redis {
    /// Reads all servers. Replaces the connection to a server that is not a master, because its
    /// address may lead to the new master.
    pub async fn gate(&self) -> Result<GateReading, RedisError> {
        let shards = self.conn.shards().await?;
        try_join_all(shards.iter().map(|shard| self.gate_of(shard)))
            .await
            .map(GateReading)
    }

    pub(super) async fn gate_of(&self, shard: &Arc<Shard>) -> Result<ServerGate, RedisError> {
        let mut conn = self.conn.to(shard);
        let server = self.facts(&mut conn).await?;
        let compared = text_of(&mut conn, &self.compared_key(shard)).await?;
        if !server.is_master {
            self.conn.leave(shard);
        }
        Ok(ServerGate {
            hash_slots: shard.hash_slots.clone(),
            is_compared: compared == Some(server.id()),
            server,
        })
    }

    /// Whether this process may admit users, according to the servers that respond.
    ///
    /// # Errors
    /// If no server responds.
    pub async fn openness(&self) -> Result<Openness, RedisError> {
        let shards = self.conn.shards().await?;
        let read = join_all(shards.iter().map(|shard| self.gate_of(shard))).await;
        let open: Vec<bool> = read.iter().flatten().map(ServerGate::is_open).collect();
        let is_away = open.len() < read.len();
        if let Some(error) = read
            .into_iter()
            .find_map(Result::err)
            .filter(|_| open.is_empty())
        {
            return Err(error);
        }
        Ok(match (open.contains(&true), open.contains(&false)) {
            (true, false) if !is_away => Openness::Open,
            (true, _) => Openness::InPart,
            (false, _) => Openness::Closed,
        })
    }

    pub async fn gate_is_open(&self) -> Result<bool, RedisError> {
        Ok(self.gate().await?.is_open())
    }

    /// Begins an era of a coupon, which closes the coupon. Returns `None` if the gate is no longer
    /// `seen` or the server has been replaced.
    pub async fn begin_era(
        &self,
        coupon: CouponId,
        life: &Life,
        era: u64,
        seen: &CouponGate,
    ) -> Result<Option<Fence>, RedisError> {
        let Some(server) = life.of(coupon) else {
            return Ok(None);
        };
        let fence = Fence::new(server, era);
        let new = fence.to_string();
        let args: [&[u8]; 3] = [b"begin", &seen.text, new.as_bytes()];
        let begun = self.change_gate(coupon, &args).await?;
        Ok(begun.then_some(fence))
    }

    pub(super) async fn change_gate(
        &self,
        coupon: CouponId,
        args: &[&[u8]],
    ) -> Result<bool, RedisError> {
        let names = [
            keys::gate(&self.prefix, coupon),
            keys::version(&self.prefix, coupon),
            keys::claimants(&self.prefix, coupon),
            keys::revoked(&self.prefix, coupon),
            keys::sizes(&self.prefix, coupon),
        ];
        GATE.run_with(&mut self.connection(), |cmd| {
            cmd.arg(names.len()).arg(&names).arg(args);
        })
        .await
    }

    /// Opens coupons that were compared, each in its era. Returns `false` if the era of any of them
    /// has ended.
    pub async fn open_coupons(&self, coupons: &[(CouponId, Fence)]) -> Result<bool, RedisError> {
        let open = async |(coupon, fence): &(CouponId, Fence)| {
            let seen = fence.to_string();
            self.change_gate(*coupon, &[b"open", seen.as_bytes()]).await
        };
        Ok(try_join_all(coupons.iter().map(open))
            .await?
            .iter()
            .all(|opened| *opened))
    }

    /// Reads the versions of coupons' data, in the same order.
    pub async fn coupon_versions(
        &self,
        coupons: &[CouponId],
    ) -> Result<Vec<CouponVersion>, RedisError> {
        let mut versions = Vec::with_capacity(coupons.len());
        for some in coupons.chunks(500) {
            let mut pipe = redis::pipe();
            for coupon in some {
                pipe.cmd("MGET")
                    .arg(keys::gate(&self.prefix, *coupon))
                    .arg(keys::version(&self.prefix, *coupon));
            }
            let found: Vec<[Option<Vec<u8>>; 2]> = pipe.query_async(&mut self.connection()).await?;
            versions.extend(found.into_iter().map(|[gate, version]| CouponVersion {
                gate: gate.unwrap_or_default(),
                version: number_in(version).unwrap_or(0),
            }));
        }
        Ok(versions)
    }

    /// Closes a coupon whose data was reset to an older state, so that the next pass finds no era
    /// and rebuilds it.
    pub async fn close_coupon(
        &self,
        coupon: CouponId,
        seen: &CouponVersion,
    ) -> Result<bool, RedisError> {
        self.change_gate(coupon, &[b"close", &seen.gate]).await
    }

    /// Records that the coupons of these servers were compared. Returns `false` if a server has
    /// been replaced.
    pub async fn note_compared(
        &self,
        life: &Life,
        servers: &BTreeSet<usize>,
    ) -> Result<bool, RedisError> {
        let shards = self.conn.shards().await?;
        for at in servers {
            let (Some(shard), Some((hash_slots, server))) = (shards.get(*at), life.0.get(*at))
            else {
                return Ok(false);
            };
            let mut conn = self.conn.to(shard);
            if shard.hash_slots != *hash_slots || self.facts(&mut conn).await?.id() != *server {
                return Ok(false);
            }
            // If the server is replaced or emptied, this key names another server or is missing.
            redis::cmd("SET")
                .arg(self.compared_key(shard))
                .arg(server)
                .query_async::<()>(&mut conn)
                .await?;
        }
        Ok(true)
    }

    fn compared_key(&self, shard: &Shard) -> String {
        self.server_key(keys::compared(&self.prefix), shard)
    }

    /// Reads the gates of coupons, in the same order. A key of the wrong type counts as missing.
    pub async fn coupon_gates(&self, coupons: &[CouponId]) -> Result<Vec<CouponGate>, RedisError> {
        let mut gates = Vec::with_capacity(coupons.len());
        for some in coupons.chunks(500) {
            let mut pipe = redis::pipe();
            for coupon in some {
                pipe.cmd("GET").arg(keys::gate(&self.prefix, *coupon));
                pipe.cmd("GET").arg(keys::revision(&self.prefix, *coupon));
            }
            let found: Vec<Value> = pipe
                .ignore_errors()
                .query_async(&mut self.connection())
                .await?;
            let bytes = |value: Option<&Value>| match value {
                Some(Value::BulkString(bytes)) => Some(bytes.clone()),
                _ => None,
            };
            gates.extend(found.chunks(2).map(|two| CouponGate {
                text: bytes(two.first()).unwrap_or_default(),
                revision: number_in(bytes(two.get(1))).unwrap_or(0),
            }));
        }
        Ok(gates)
    }

    /// Returns the coupon's era, if it began on the server that holds the coupon now.
    pub async fn fence(&self, coupon: CouponId) -> Result<Option<Fence>, RedisError> {
        let life = self.gate().await?.life();
        let gates = self.coupon_gates(&[coupon]).await?;
        Ok(gates.first().and_then(|gate| gate.fence(&life, coupon)))
    }

    /// Reads the coupon's highest revision whose settings were written to Redis. Returns 0 if
    /// unknown.
    pub async fn revision(&self, coupon: CouponId) -> Result<u64, RedisError> {
        let key = keys::revision(&self.prefix, coupon);
        Ok(text_of(&mut self.connection(), &key)
            .await?
            .and_then(|text| seen_revision(&text))
            .unwrap_or(0))
    }
}

/// Reads a key that holds text. Like in the scripts, a value that Firstcome did not write counts as
/// missing.
async fn text_of(conn: &mut impl ConnectionLike, key: &str) -> Result<Option<String>, RedisError> {
    match redis::cmd("GET").arg(key).query_async(conn).await {
        Err(error) if is_about_data(&error) => Ok(None),
        found => found,
    }
}

fn number_in(value: Option<Vec<u8>>) -> Option<u64> {
    seen_revision(&String::from_utf8(value?).ok()?)
}

/// Parses a revision or an era like the scripts do; Rust's own parser would also accept a sign.
pub(super) fn seen_revision(text: &str) -> Option<u64> {
    let is_one = text.len() <= 15 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| is_one && *number <= HIGHEST_REVISION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_older_if_its_era_or_version_is_lower_on_the_same_server() {
        let at = |gate: &str, version| CouponVersion {
            gate: gate.into(),
            version,
        };
        let before = at("0a:0b 7 open", 5);
        for (now, went_back) in [
            (at("0a:0b 7 open", 5), false),
            (at("0a:0b 7 closed", 6), false),
            (at("0a:0b 7 open", 4), true),
            (at("0a:0b 6 open", 9), true),
            (at("0a:0b 8 open", 0), false),
            (at("0a:0c 7 open", 0), false),
            (at("", 0), false),
        ] {
            assert_eq!(now.went_back(&before), went_back, "{now:?}");
        }
    }

    #[test]
    fn gate_is_open_only_on_its_server_in_its_era() {
        let coupon = CouponId(1);
        let life = |server: &str| Life(vec![(vec![(0, 16_383)], server.to_owned())]);
        let gate = |text: &str| CouponGate {
            text: text.into(),
            revision: 0,
        };
        let whole = gate("0a:0b 7 open");
        assert!(whole.is_open(&life("0a:0b"), coupon, 7));
        assert!(!whole.is_open(&life("0a:0c"), coupon, 7));
        assert!(!whole.is_open(&life("0a:0b"), coupon, 8));
        assert_eq!(
            whole.fence(&life("0a:0b"), coupon),
            Some(Fence::new("0a:0b", 7))
        );
        assert_eq!(whole.fence(&life("0a:0c"), coupon), None);
        let closed = gate("0a:0b 7 closed");
        assert!(!closed.is_open(&life("0a:0b"), coupon, 7));
        assert_eq!(
            closed.fence(&life("0a:0b"), coupon),
            Some(Fence::new("0a:0b", 7))
        );
        for garbage in [
            "",
            "0a:0b",
            "0a:0b 7",
            "0a:0b 7 ajar",
            "0a:0b +7 open",
            "0a:0b 7 open x",
        ] {
            assert!(
                !gate(garbage).is_open(&life("0a:0b"), coupon, 7),
                "{garbage}"
            );
            assert_eq!(
                gate(garbage).fence(&life("0a:0b"), coupon),
                None,
                "{garbage}"
            );
        }
    }
}
