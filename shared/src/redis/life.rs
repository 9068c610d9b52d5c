//! A life of Redis (docs/decisions/0003-admission-gate.md), and which coupons are verified in it.

use std::collections::BTreeSet;

use super::known_gate::Epoch;
use super::servers::{HashSlots, has_hash_slot, hash_slot};
use crate::domain::CouponId;

/// What `fc:epoch` of one server says: `EPOCH SERVER new|open`. It is open once the script was
/// loaded, so that a script that is missing then was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerLife {
    pub(super) epoch: Epoch,
    pub(super) server: String,
    pub(super) loaded: bool,
}

impl ServerLife {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let epoch = words.next()?;
        let server = words.next()?;
        let state = words.next()?;
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
        self.server
            .split_once(':')
            .map_or(&*self.server, |(run_id, _)| run_id)
    }

    /// `master_replid2` of the server.
    pub(super) fn promotion(&self) -> &str {
        self.server
            .split_once(':')
            .map_or("", |(_, promotion)| promotion)
    }

    pub(super) fn text(&self, state: &str) -> String {
        format!("{} {} {state}", self.epoch.0, self.server)
    }
}

/// A life of Redis: of each server that holds data, in the order of their hash slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life(pub(super) Vec<(Vec<HashSlots>, ServerLife)>);

impl Life {
    /// Whether no server lost anything from one to the other, and each kept its hash slots.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |((hash_slots, life), (others, other)): (&(_, ServerLife), &(_, ServerLife))| {
            hash_slots == others && life.epoch == other.epoch
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }

    /// The epochs.
    pub fn name(&self) -> String {
        self.0
            .iter()
            .map(|(_, life)| life.epoch.as_str())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Whether the coupon, which was verified last in that epoch, was verified in this life.
    pub fn has_verified(&self, coupon: CouponId, verified: Option<&Epoch>) -> bool {
        verified.is_some() && verified == self.of(coupon).map(|life| &life.epoch)
    }

    /// The servers that hold these coupons, by their order.
    pub fn servers_of(&self, coupons: &[CouponId]) -> BTreeSet<usize> {
        coupons
            .iter()
            .filter_map(|coupon| self.place(*coupon))
            .collect()
    }

    /// All servers, by their order.
    pub fn servers(&self) -> BTreeSet<usize> {
        (0..self.0.len()).collect()
    }

    pub(super) fn of(&self, coupon: CouponId) -> Option<&ServerLife> {
        self.place(coupon).map(|at| &self.0[at].1)
    }

    fn place(&self, coupon: CouponId) -> Option<usize> {
        if self.0.len() == 1 {
            return Some(0);
        }
        // The hash tag of all its keys.
        let slot = hash_slot(coupon.to_string().as_bytes());
        self.0
            .iter()
            .position(|(hash_slots, _)| has_hash_slot(hash_slots, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_read_as_it_was_written_and_garbage_is_none() {
        let life = ServerLife {
            epoch: Epoch::fresh(),
            server: "0a:0b".into(),
            loaded: true,
        };
        assert_eq!(ServerLife::parse(&life.text("open")), Some(life.clone()));
        for garbage in [
            "",
            "x",
            "0123456789abcdef 0a:0b",
            "0123456789abcde' 0a open",
            "0123456789abcdef 0a open more",
            "0123456789abcdef x' open",
        ] {
            assert_eq!(ServerLife::parse(garbage), None, "{garbage}");
        }
    }
}
