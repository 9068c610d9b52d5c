//! Collects the findings of one drop. Of each kind of repair some users are named; the others are
//! counted, with their outcomes.

use std::collections::BTreeMap;

use firstcome_shared::domain::{CouponId, DropId};

use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

/// Maximum number of findings of a drop with the same kind, action and outcome that are listed one
/// by one. If a million rows are missing, a list of all of them is not useful.
pub const NAMED_AT_MOST: u64 = 200;

/// The findings of a drop, or of no drop.
#[derive(Debug, Default)]
pub struct Ledger {
    named: Vec<Finding>,
    /// All findings, also those that are not named.
    counts: BTreeMap<(Kind, ActionKind, Outcome), u64>,
}

impl Ledger {
    pub fn add(&mut self, found: Finding) {
        let key = (found.kind, found.action, found.result);
        let number = self.counts.entry(key).or_default();
        *number += 1;
        if *number <= NAMED_AT_MOST {
            self.named.push(found);
        }
    }

    pub fn extend(&mut self, other: Self) {
        let mut more = other.counts;
        for found in other.named {
            let key = (found.kind, found.action, found.result);
            more.entry(key).and_modify(|number| *number -= 1);
            self.add(found);
        }
        for (key, number) in more {
            *self.counts.entry(key).or_default() += number;
        }
    }

    /// Returns the findings without those of one action.
    #[must_use]
    pub fn without(mut self, action: ActionKind) -> Self {
        self.named.retain(|found| found.action != action);
        self.counts.retain(|(_, of, _), _| *of != action);
        self
    }

    /// Gives every projection that has not succeeded yet its outcome.
    pub fn settle_projections(&mut self, to: Outcome, detail: &str) {
        let is_open = |action, result| action == ActionKind::Project && result == Outcome::Failed;
        for found in &mut self.named {
            if is_open(found.action, found.result) {
                found.result = to;
                found.detail.push_str(detail);
            }
        }
        for ((kind, action, result), number) in std::mem::take(&mut self.counts) {
            let result = if is_open(action, result) { to } else { result };
            *self.counts.entry((kind, action, result)).or_default() += number;
        }
    }

    /// Returns the findings with this place, if it is the place of all of them.
    pub fn findings(mut self, coupon: Option<CouponId>, drop: Option<DropId>) -> Vec<Finding> {
        for found in &self.named {
            let key = (found.kind, found.action, found.result);
            self.counts.entry(key).and_modify(|number| *number -= 1);
        }
        self.counts.retain(|_, number| *number > 0);
        let more = self
            .counts
            .into_iter()
            .map(|((kind, action, result), n)| Finding {
                case: FindingCase::MoreLeft(n),
                ..Finding::new(
                    kind,
                    action,
                    result,
                    format!("{n} more like the ones listed"),
                )
            });
        let mut all: Vec<Finding> = self.named.into_iter().chain(more).collect();
        for found in &mut all {
            found.coupon_id = coupon.or(found.coupon_id);
            found.drop_id = drop.or(found.drop_id);
        }
        all
    }
}
