//! Look-up tables that all checks share.

use std::collections::{HashMap, HashSet};

use crate::event::{RecordedAnswer, RecordedScope};
use crate::history::{Ended, History, Operation, OperationKind, RowsRead};

pub(super) struct Index<'a> {
    /// Coupon and user → claims and look-ups.
    pub(super) answered: HashMap<(u64, &'a str), Vec<&'a Operation>>,
    /// Coupon and user → revocations.
    pub(super) revoking: HashMap<(u64, &'a str), Vec<&'a Operation>>,
    /// Coupon and user → changes of the allow list.
    pub(super) listing: HashMap<(u64, &'a str), Vec<&'a Operation>>,
    /// Drop, slot and user of every final row.
    pub(super) last: HashSet<(u64, i64, &'a str)>,
    /// Drop and user → final slot.
    pub(super) holds: HashMap<(u64, &'a str), i64>,
    /// Drop and user → slots listed as broken. `None` is any slot.
    pub(super) broken: HashMap<(u64, &'a str), Vec<Option<i64>>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        let mut index = Self {
            answered: HashMap::new(),
            revoking: HashMap::new(),
            listing: HashMap::new(),
            last: HashSet::new(),
            holds: HashMap::new(),
            broken: HashMap::new(),
        };
        for op in &history.operations {
            let of = match op.act {
                OperationKind::Claim | OperationKind::LookUp => &mut index.answered,
                OperationKind::Revoke { .. } => &mut index.revoking,
                OperationKind::List { .. } => &mut index.listing,
            };
            of.entry((op.coupon, &op.person)).or_default().push(op);
        }
        for RowsRead { drop, rows, .. } in history.finals.values() {
            for row in rows {
                index.last.insert((*drop, row.slot, &row.person));
                index.holds.insert((*drop, &row.person), row.slot);
            }
        }
        for (drop, person, slot) in &history.broken {
            index.broken.entry((*drop, person)).or_default().push(*slot);
        }
        index
    }

    /// Returns the claims that a user made for a coupon.
    pub(super) fn asked(
        &'a self,
        coupon: u64,
        person: &'a str,
    ) -> impl Iterator<Item = &'a Operation> {
        let answered = self.answered(coupon, person).iter().copied();
        answered.filter(|op| op.act == OperationKind::Claim)
    }

    /// Returns the claims and look-ups of a user, in the order in which they begin.
    pub(super) fn answered(&'a self, coupon: u64, person: &'a str) -> &'a [&'a Operation] {
        let of = self.answered.get(&(coupon, person));
        of.map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_broken(&self, drop: u64, slot: i64, person: &str) -> bool {
        let listed = self.broken.get(&(drop, person));
        listed.is_some_and(|slots| {
            slots
                .iter()
                .any(|listed| listed.is_none_or(|listed| listed == slot))
        })
    }
}

/// Whether an operation certainly gave neither a slot nor a place on the waiting list.
pub(super) fn refused(op: &Operation) -> bool {
    matches!(
        op.ended,
        Ended::Failed | Ended::Ok(RecordedAnswer::SoldOut | RecordedAnswer::NotAllowed)
    )
}

/// Returns the drop of an operation: from the answer, otherwise the one that it concerns.
pub(super) fn drop_of(op: &Operation) -> Option<u64> {
    op.promise().map(|(drop, _)| drop).or(op.drop)
}

pub(super) fn once_per_coupon(history: &History, drop: u64) -> Option<u64> {
    history
        .drops
        .get(&drop)
        .filter(|facts| facts.once_per == RecordedScope::Coupon)
        .map(|facts| facts.coupon)
}
