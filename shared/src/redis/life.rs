//! The Redis servers that hold data, each identified from one promotion to the next
//! (docs/decisions/0003-admission-gate.md).

use std::collections::BTreeSet;

use super::servers::{HashSlots, has_hash_slot, hash_slot};
use crate::domain::CouponId;

/// The identities of all servers that hold data, ordered by hash slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life(pub(super) Vec<(Vec<HashSlots>, String)>);

impl Life {
    /// Returns the indexes of the servers that hold these coupons.
    pub fn servers_of(&self, coupons: &[CouponId]) -> BTreeSet<usize> {
        coupons
            .iter()
            .filter_map(|coupon| self.place(*coupon))
            .collect()
    }

    /// Returns the indexes of all servers.
    pub fn servers(&self) -> BTreeSet<usize> {
        (0..self.0.len()).collect()
    }

    /// Returns the identity of the server that holds a coupon.
    pub(super) fn of(&self, coupon: CouponId) -> Option<&str> {
        self.place(coupon).map(|at| self.0[at].1.as_str())
    }

    fn place(&self, coupon: CouponId) -> Option<usize> {
        if self.0.len() == 1 {
            return Some(0);
        }
        // The coupon's id is the hash tag of all its keys.
        let slot = hash_slot(coupon.to_string().as_bytes());
        self.0
            .iter()
            .position(|(hash_slots, _)| has_hash_slot(hash_slots, slot))
    }
}
