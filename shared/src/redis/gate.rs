//! The admission gate. Each coupon has one: the key `gate` with the value `SERVER ERA open` or
//! `SERVER ERA closed`.
//!
//! `SERVER` identifies a Redis server process between two promotions. `ERA` is a number above all
//! earlier ones of the coupon, and is also stored in MySQL: a new era begins whenever the coupon is
//! closed so that its data in Redis can be compared and rebuilt. The admission script compares the
//! gate with the server it runs on and with the era that its caller read from MySQL, so that a gate
//! from an earlier server or era admits no user. A missing or unreadable gate is closed.
//!
//! [`Fence`] is `SERVER ERA`: the fencing token of all changes to a coupon except admission,
//! revocations, and changes of loaded settings and of allow lists. A writer reads it first; the
//! scripts do nothing if it has changed since.

use std::fmt;

use futures_util::future::join_all;
use redis::{RedisResult, Value, from_redis_value};

use super::Redis;
use super::client::{Master, Script};
use super::keys::{self, DropKeys};
use super::servers::{ServerId, Servers};
use crate::domain::{CouponId, DropId};

static GATE: Script = Script::new(include_str!("scripts/gate.lua"));

/// A coupon's era on one server. The default value names no era, and every script refuses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Fence {
    server: String,
    era: u64,
}

impl Fence {
    pub(super) fn new(server: &str, era: u64) -> Self {
        Self {
            server: server.to_owned(),
            era,
        }
    }

    pub fn era(&self) -> u64 {
        self.era
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.server, self.era)
    }
}

/// The value of a coupon's `gate`: empty if it is missing or of another type, and any bytes if a
/// client other than Firstcome wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gate(pub(super) Vec<u8>);

impl Gate {
    /// The value after the era of `fence` was begun.
    pub fn closed(fence: &Fence) -> Self {
        Self(format!("{fence} closed").into_bytes())
    }

    /// Returns the era, regardless of the server.
    pub fn era(&self) -> Option<u64> {
        self.parsed().map(|(_, era, _)| era)
    }

    /// Returns the fence, if the era began on this server.
    pub fn fence(&self, server: Option<&ServerId>) -> Option<Fence> {
        let (of, era, _) = self.parsed()?;
        (server?.0 == of).then(|| Fence::new(of, era))
    }

    /// Whether the coupon admits callers that pass `era`.
    pub fn is_open(&self, server: Option<&ServerId>, era: u64) -> bool {
        server.is_some_and(|server| self.parsed() == Some((server.0.as_str(), era, "open")))
    }

    /// Parses `SERVER ERA STATE`.
    fn parsed(&self) -> Option<(&str, u64, &str)> {
        let mut words = str::from_utf8(&self.0).ok()?.split(' ');
        let server = words.next().filter(|server| !server.is_empty())?;
        let era = revision_in(words.next()?)?;
        let state = words
            .next()
            .filter(|state| ["open", "closed"].contains(state))?;
        words.next().is_none().then_some((server, era, state))
    }
}

/// The outcome of [`Redis::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    Yes,
    /// The coupon is in another era, or on another server.
    Stale,
    /// This drop has no settings, or its numbers do not add up.
    NotWhole(DropId),
}

impl Redis {
    /// Identifies all servers. Replaces the connection if a server is not a master.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn servers(&self) -> RedisResult<Servers> {
        let told = join_all(
            self.masters()
                .await?
                .into_iter()
                .map(async |master| (self.identify(&master).await, master.hash_slots)),
        )
        .await;
        if let Some((Err(error), _)) = told.first()
            && told.iter().all(|(read, _)| read.is_err())
        {
            return Err(error.clone());
        }
        Ok(Servers(
            told.into_iter()
                .map(|(read, hash_slots)| (hash_slots, Result::unwrap_or_default(read)))
                .collect(),
        ))
    }

    async fn identify(&self, master: &Master) -> RedisResult<Option<ServerId>> {
        let mut told = master
            .send(redis::pipe().cmd("INFO").arg("server").arg("replication"))
            .await?;
        let info: String = from_redis_value(told.pop().unwrap_or(Value::Nil))?;
        let server = ServerId::parse(&info);
        if server.is_none() {
            master.leave();
        }
        Ok(server)
    }

    /// Reads the gates of coupons, in the same order. Returns `None` for a coupon that was missed,
    /// because its hash slot is not served.
    pub async fn gates(&self, coupons: &[CouponId]) -> RedisResult<Vec<Option<Gate>>> {
        let keys: Vec<String> = coupons
            .iter()
            .map(|id| {
                let [gate, ..] = keys::coupon_keys(self.prefix(), *id);
                gate
            })
            .collect();
        let found = self.strings(keys.iter().map(|key| [&**key]).collect());
        Ok(found
            .await?
            .into_iter()
            .map(|strings| strings.map(|[text]| Gate(text.unwrap_or_default())))
            .collect())
    }

    /// Begins an era of a coupon, which closes the coupon. Returns `None` if the gate is no longer
    /// `seen`, or if the server is another one.
    pub async fn begin_era_on(
        &self,
        coupon: CouponId,
        ServerId(server): &ServerId,
        seen: &Gate,
        era: u64,
    ) -> RedisResult<Option<Fence>> {
        let fence = Fence::new(server, era);
        let args = [seen.0.clone(), format!("{fence} closed").into_bytes()];
        let keys = keys::coupon_keys(self.prefix(), coupon);
        let word: String = self.call(&GATE, &keys, &args).await?;
        Ok((word == "done").then_some(fence))
    }

    /// Opens a coupon that was compared and rebuilt in the era of `fence`. `drops` are all its
    /// unsealed drops: each must have settings, and numbers that add up.
    pub async fn open(
        &self,
        coupon: CouponId,
        fence: &Fence,
        drops: &[DropKeys],
    ) -> RedisResult<Opened> {
        let coupon = keys::coupon_keys(self.prefix(), coupon);
        let mut names: Vec<&str> = coupon.iter().map(String::as_str).collect();
        names.extend(drops.iter().flat_map(DropKeys::own));
        let mut args = vec![format!("{fence} closed"), format!("{fence} open")];
        args.extend(drops.iter().map(|keys| keys.drop.to_string()));
        let word: String = self.call(&GATE, &names, &args).await?;
        Ok(match (word.as_str(), word.parse()) {
            ("done", _) => Opened::Yes,
            (_, Ok(drop)) => Opened::NotWhole(DropId(drop)),
            _ => Opened::Stale,
        })
    }
}

/// The highest era and revision that count (`revision_in` in `identity.lua`). Higher numbers were
/// written manually.
const HIGHEST_REVISION: u64 = 1 << 40;

pub(super) fn number_in(value: Option<Vec<u8>>) -> Option<u64> {
    revision_in(&String::from_utf8(value?).ok()?)
}

/// Parses a revision or an era like the scripts do; Rust's own parser would also accept a sign.
pub(super) fn revision_in(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| is_digits && *number <= HIGHEST_REVISION)
}

#[cfg(test)]
mod tests {
    use super::super::servers::hash_slot;
    use super::*;

    #[test]
    fn coupon_is_missed_only_if_its_server_is_away_and_others_are_not() {
        let [low, high] = [vec![(0, 8_191)], vec![(8_192, 16_383)]];
        let id = || Some(ServerId("0a:0b".into()));
        let of = |low_slots: bool| {
            let mut coupons = (1..100).map(CouponId);
            coupons
                .find(|id| (hash_slot(*id) < 8_192) == low_slots)
                .unwrap()
        };
        let part = Servers(vec![(low.clone(), id()), (high.clone(), None)]);
        assert!(part.are_in_part() && part.lack(&high) && !part.lack(&low));
        assert!(!part.lack_server_of(of(true)) && part.lack_server_of(of(false)));
        let whole = Servers(vec![(low.clone(), id()), (high.clone(), id())]);
        let none = Servers(vec![(low, None), (high.clone(), None)]);
        let replica = Servers(vec![(vec![(0, 16_383)], None)]);
        for servers in [whole, none, replica] {
            assert!(
                !servers.lack_server_of(of(false)) && !servers.are_in_part(),
                "{servers:?}"
            );
        }
    }

    #[test]
    fn gate_is_open_only_on_its_server_in_its_era() {
        let [server, other] = ["0a:0b", "0a:0c"].map(|id| Some(ServerId(id.into())));
        let server = server.as_ref();
        let other = other.as_ref();
        let gate = |text: &str| Gate(text.into());
        let fence = Some(Fence::new("0a:0b", 7));
        let open = gate("0a:0b 7 open");
        assert!(open.is_open(server, 7));
        for (server, era) in [(other, 7), (None, 7), (server, 8)] {
            assert!(!open.is_open(server, era), "{server:?} {era}");
        }
        let closed = gate("0a:0b 7 closed");
        assert!(!closed.is_open(server, 7));
        assert_eq!(
            [&open, &closed].map(|gate| gate.fence(server)),
            [fence.clone(), fence]
        );
        assert_eq!(open.fence(other), None);
        let garbage = [
            "",
            "0a:0b",
            "0a:0b 7",
            "0a:0b 7 ajar",
            "0a:0b +7 open",
            "0a:0b 7 open x",
        ];
        for garbage in garbage.map(gate) {
            assert!(!garbage.is_open(server, 7), "{garbage:?}");
            assert_eq!(garbage.fence(server), None, "{garbage:?}");
        }
    }
}
