//! Collects the findings of one drop. Each user is named up to a limit; the others are counted, and
//! their outcomes with them.

use std::collections::BTreeMap;

use firstcome_shared::domain::{CouponId, DropId};

use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

/// Maximum number of findings of a drop that are listed one by one. If a million rows are missing,
/// a list of all of them is not useful.
const NAMED_AT_MOST: usize = 1_000;

/// The findings of a drop, or of no drop.
#[derive(Debug, Default)]
pub struct Ledger {
    named: Vec<Finding>,
    more: BTreeMap<(Kind, ActionKind, Outcome), u64>,
}

impl Ledger {
    pub fn add(&mut self, found: Finding) {
        if self.named.len() < NAMED_AT_MOST {
            self.named.push(found);
        } else {
            let key = (found.kind, found.action, found.result);
            *self.more.entry(key).or_default() += found.case.number();
        }
    }

    pub fn extend(&mut self, other: Self) {
        other.named.into_iter().for_each(|found| self.add(found));
        for (key, number) in other.more {
            *self.more.entry(key).or_default() += number;
        }
    }

    /// Returns the findings without those of one action.
    #[must_use]
    pub fn without(mut self, action: ActionKind) -> Self {
        self.named.retain(|found| found.action != action);
        self.more.retain(|(_, of, _), _| *of != action);
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
        for ((kind, action, result), number) in std::mem::take(&mut self.more) {
            let result = if is_open(action, result) { to } else { result };
            *self.more.entry((kind, action, result)).or_default() += number;
        }
    }

    /// Returns the findings with this place, if it is the place of all of them.
    pub fn findings(self, coupon: Option<CouponId>, drop: Option<DropId>) -> Vec<Finding> {
        let more = self.more.into_iter().map(|((kind, action, result), n)| {
            let detail = format!("{n} more like the ones listed");
            Finding {
                case: FindingCase::MoreLeft(n),
                ..Finding::new(kind, action, result, detail)
            }
        });
        let mut all: Vec<Finding> = self.named.into_iter().chain(more).collect();
        for found in &mut all {
            found.coupon_id = coupon.or(found.coupon_id);
            found.drop_id = drop.or(found.drop_id);
        }
        all
    }
}
