//! The reports of a pass, one a drop.

use std::collections::HashMap;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};

use super::findings::{self, FindingLedger};
use super::known::CountedUsers;
use super::request::Obstacle;
use crate::plan::Plan;
use crate::report::{DropReport, Numbers};

/// A report a drop, in the order in which they were compared first.
#[derive(Default)]
pub(super) struct Reports {
    drops: Vec<(DropReport, FindingLedger)>,
    index: HashMap<DropId, usize>,
    of_coupon: HashMap<CouponId, Vec<usize>>,
    /// Of each drop that was compared.
    pub(super) counted: HashMap<DropId, CountedUsers>,
    /// How many repairs a person confirmed in this pass.
    pub(super) confirmed: HashMap<DropId, usize>,
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

    /// Nothing is left in this coupon that admission could trip over.
    pub(super) fn are_whole(&self, coupon: CouponId) -> bool {
        self.of_coupon
            .get(&coupon)
            .into_iter()
            .flatten()
            .all(|at| self.drops[*at].1.is_whole())
    }

    /// What is stored of this drop can't be read, or its repair is refused or held up.
    pub(super) fn unworkable(&mut self, coupon: &Coupon, drop: &Drop, why: Obstacle) {
        tracing::error!(
            coupon_id = coupon.id.0,
            drop_id = drop.id.0,
            ?why,
            "a drop could not be worked on"
        );
        let (report, ledger) = self.of(coupon, drop, &Plan::default());
        report.exact = false;
        ledger.note(findings::unworkable(coupon.id, drop.id, why), None);
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
        coupon_id: coupon.id,
        coupon_name: coupon.name.clone(),
        drop_id: drop.id,
        quantity: drop.quantity,
        exact: false,
        sealed: false,
        before: plan.numbers,
        after: Numbers::default(),
        unconfirmed: false,
        examined: plan.examined,
        findings: Vec::new(),
    }
}
