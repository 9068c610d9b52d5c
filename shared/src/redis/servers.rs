//! The Redis servers that hold data: their identities and their hash slots.

use std::collections::HashMap;

use crate::domain::CouponId;

/// First and last hash slot of a range.
pub(super) type HashSlots = (u16, u16);

/// Number of hash slots of a cluster.
pub(super) const HASH_SLOTS: u16 = 16_384;

/// The identity of a master between two promotions: `run_id:master_replid2`. The first changes with
/// every start of the process, the second with every promotion. (`master_replid` is unsuitable,
/// because it also changes when the first replica connects.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerId(pub(super) String);

impl ServerId {
    /// Reads `INFO server` and `INFO replication`. Returns `None` for a server that is not a
    /// master.
    pub(super) fn parse(info: &str) -> Option<Self> {
        let info = fields(info);
        (info.get("role") == Some(&"master")).then(|| {
            let field = |name| *info.get(name).unwrap_or(&"");
            Self(format!("{}:{}", field("run_id"), field("master_replid2")))
        })
    }
}

/// Parses `INFO` into fields by name.
pub(super) fn fields(info: &str) -> HashMap<&str, &str> {
    let fields = info.lines().filter_map(|line| line.split_once(':'));
    fields.collect()
}

/// The servers that hold data, with their hash slots. A server that does not answer, or is not a
/// master, has no identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers(pub(super) Vec<(Vec<HashSlots>, Option<ServerId>)>);

impl Servers {
    /// Returns the identity of the server that holds a coupon.
    pub fn holding(&self, coupon: CouponId) -> Option<&ServerId> {
        holding(&self.0, coupon).and_then(Option::as_ref)
    }

    /// Whether the server of a coupon did not answer as a master, while others of the cluster did.
    pub fn lack_server_of(&self, coupon: CouponId) -> bool {
        self.holding(coupon).is_none() && self.are_in_part()
    }

    /// Whether only some servers answered as masters.
    pub fn are_in_part(&self) -> bool {
        !self.are_complete() && self.0.iter().any(|(_, server)| server.is_some())
    }

    /// Whether the server with these hash slots was asked and did not answer as a master.
    pub(super) fn lack(&self, hash_slots: &[HashSlots]) -> bool {
        let mut servers = self.0.iter();
        servers.any(|(held, server)| held == hash_slots && server.is_none())
    }

    /// Whether every server answered as a master.
    pub fn are_complete(&self) -> bool {
        self.0.iter().all(|(_, server)| server.is_some())
    }
}

/// Returns what belongs to the server that holds a coupon.
pub(super) fn holding<T>(all: &[(Vec<HashSlots>, T)], coupon: CouponId) -> Option<&T> {
    if let [(_, only)] = all {
        return Some(only);
    }
    let slot = hash_slot(coupon);
    let mut all = all.iter();
    let found = all.find(|(hash_slots, _)| {
        hash_slots
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&slot))
    });
    found.map(|(_, of_server)| of_server)
}

/// A time on each server that answered, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks(pub(super) Vec<(Vec<HashSlots>, i64)>);

impl Clocks {
    /// Returns the time of the server that holds a coupon or, if it did not answer, the earliest.
    pub fn at(&self, coupon: CouponId) -> i64 {
        holding(&self.0, coupon).map_or_else(|| self.earliest(), |ms| *ms)
    }

    /// Returns the earliest time, so that nothing appears older than it is.
    pub fn earliest(&self) -> i64 {
        self.0.iter().map(|(_, ms)| *ms).min().unwrap_or_default()
    }

    /// Subtracts a time from all.
    #[must_use]
    pub fn since(mut self, ms: i64) -> Self {
        self.0.iter_mut().for_each(|(_, own)| *own -= ms);
        self
    }
}

/// Returns the hash slot of a coupon's keys, whose hash tag is the coupon's id.
pub(super) fn hash_slot(coupon: CouponId) -> u16 {
    hash_slot_of(&coupon.to_string())
}

/// Returns the hash slot of a key without a hash tag, or of a hash tag.
pub(super) fn hash_slot_of(key: &str) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(key.as_bytes()) % HASH_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_coupon_is_that_of_its_server_and_the_earliest_if_that_did_not_answer() {
        let coupon = CouponId(7);
        let own = hash_slot(coupon);
        let other = (own + 1) % HASH_SLOTS;
        let server = |slot, ms| (vec![(slot, slot)], ms);
        let clocks = Clocks(vec![server(other, 100), server(own, 900)]);
        assert_eq!(clocks.at(coupon), 900);
        let clocks = Clocks(vec![server(other, 100)]);
        assert_eq!(clocks.at(coupon), 100);
    }
}
