//! The reports of a pass, one per drop.

use std::collections::{HashMap, HashSet};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};

use super::findings::{self, FindingLedger};
use super::request::Obstacle;
use crate::plan::Plan;
use crate::report::DropReport;

/// One report per drop, in the order of the first comparison.
#[derive(Default)]
pub(super) struct Reports {
    drops: Vec<(DropReport, FindingLedger)>,
    index: HashMap<DropId, usize>,
    of_coupon: HashMap<CouponId, Vec<usize>>,
    /// The repairs of each drop that an operator confirmed in this pass.
    pub(super) confirmed: HashMap<DropId, ConfirmedRepairs>,
}

/// The repairs that an operator confirmed.
pub(super) struct ConfirmedRepairs {
    number: usize,
    hashes: HashSet<u64>,
    /// Whether some are carried out page by page. Only their number is known.
    has_more: bool,
}

impl ConfirmedRepairs {
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            number: plan.repairs,
            hashes: plan.counted.clone(),
            has_more: !plan.beyond.is_empty(),
        }
    }

    /// Whether all repairs that are left were confirmed.
    pub(super) fn include(&self, plan: &Plan) -> bool {
        plan.repairs <= self.number && (self.has_more || plan.counted.is_subset(&self.hashes))
    }
}

impl Reports {
    pub(super) fn of(
        &mut self,
        coupon: &Coupon,
        drop: &Drop,
        plan: &Plan,
    ) -> (&mut DropReport, &mut FindingLedger) {
        let next = self.drops.len();
        let at = *self.index.entry(drop.id).or_insert(next);
        if at == next {
            self.drops
                .push((first_report(coupon, drop, plan), FindingLedger::default()));
            self.of_coupon.entry(coupon.id).or_default().push(at);
        }
        let (report, ledger) = &mut self.drops[at];
        (report, ledger)
    }

    /// Whether admission to this coupon can safely open.
    pub(super) fn are_whole(&self, coupon: CouponId) -> bool {
        self.of_coupon
            .get(&coupon)
            .into_iter()
            .flatten()
            .all(|at| self.drops[*at].1.is_whole())
    }

    /// Reports a drop whose data cannot be read, or whose repair is rejected or blocked.
    pub(super) fn unworkable(&mut self, coupon: &Coupon, drop: &Drop, why: Obstacle) {
        tracing::error!(
            coupon_id = coupon.id.0,
            drop_id = drop.id.0,
            ?why,
            "a drop could not be worked on"
        );
        let (report, ledger) = self.of(coupon, drop, &Plan::default());
        report.exact = false;
        ledger.note(findings::unworkable(coupon.id, drop.id, why));
    }

    pub(super) fn into_drops(self) -> Vec<DropReport> {
        self.drops
            .into_iter()
            .map(|(report, ledger)| {
                let unconfirmed = ledger.is_unconfirmed;
                let findings = ledger.into_findings(report.coupon_id, report.drop_id);
                DropReport {
                    findings,
                    unconfirmed,
                    ..report
                }
            })
            .collect()
    }
}

fn first_report(coupon: &Coupon, drop: &Drop, plan: &Plan) -> DropReport {
    DropReport {
        coupon_name: coupon.name.clone(),
        before: plan.numbers,
        examined: plan.examined,
        ..DropReport::begun(coupon.id, drop.id, drop.quantity)
    }
}
