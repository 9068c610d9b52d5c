//! What a mail about a pass is made from.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::groups::Placed;
use super::letter::Links;
use crate::alerts::{AlertVerdict, is_repair};
use crate::report::{ActionKind, DropReport, Run};
use crate::wording;

/// Everything the mail says.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    pub run: &'a Run,
    /// What of it is mailed.
    pub verdict: &'a AlertVerdict,
    /// Alerts' numbers by fingerprint.
    pub ids: &'a HashMap<String, i64>,
    pub links: &'a Links,
    /// For how long admission was closed before this run opened it, where that is known.
    pub closed_for: Option<TimeDelta>,
    /// The time of mailing.
    pub now: DateTime<Utc>,
}

impl<'a> Pass<'a> {
    /// The report of a drop, where this pass examined it.
    pub(crate) fn report(&self, drop: DropId) -> Option<&'a DropReport> {
        self.run.drops.iter().find(|report| report.drop_id == drop)
    }

    /// The coupon of a drop and its name, as far as the run knows it.
    pub(crate) fn coupon_of(&self, drop: DropId) -> (Option<CouponId>, String) {
        let report = self.report(drop);
        let coupon = report.map(|report| report.coupon_id).or_else(|| {
            let notice = self.verdict.problems.iter().chain(&self.verdict.information);
            let notice = notice.map(|notice| &notice.observation).find(|seen| seen.drop_id == Some(drop));
            let over = self.verdict.resolved.iter().find(|alert| alert.drop_id == Some(drop));
            notice.and_then(|seen| seen.coupon_id).or_else(|| over.and_then(|alert| alert.coupon_id))
        });
        let name = report.map(|report| wording::line(&report.coupon_name, 100)).filter(|name| !name.is_empty());
        let named = || coupon.map_or_else(|| "a coupon".to_owned(), |id| format!("coupon {id}"));
        (coupon, name.unwrap_or_else(named))
    }

    /// The repairs that are mailed, with their drops.
    pub(crate) fn repairs(&self) -> Vec<Placed<'a>> {
        let is_mailed = |drop: Option<DropId>| self.verdict.repaired.contains(&drop);
        let of_drops = self.run.drops.iter().filter(|drop| is_mailed(Some(drop.drop_id)));
        let of_drops = of_drops.flat_map(|drop| drop.findings.iter().map(|finding| (Some(drop.drop_id), finding)));
        // That admission is open again is said with what was repaired for it.
        let any = !self.verdict.repaired.is_empty();
        let of_none = self.run.findings.iter();
        let of_none = of_none.filter(|finding| is_mailed(None) || any && finding.action == ActionKind::GrantLicence);
        let of_none = of_none.map(|finding| (None, finding));
        of_none.chain(of_drops).filter(|(_, finding)| is_repair(finding)).collect()
    }

    /// Repairs of earlier passes, all together: how many, and since when.
    pub(super) fn earlier(&self) -> Option<String> {
        let since = self.verdict.earlier.iter().map(|earlier| earlier.since).min()?;
        let repairs = self.verdict.earlier.iter().map(|earlier| earlier.repairs as usize).sum();
        let repairs = wording::count(repairs, "repair", "repairs");
        Some(format!("{repairs} in earlier passes since {}", since.format("%H:%M UTC")))
    }

    /// Drops that the mail is about, those with problems first.
    pub(super) fn drops(&self) -> Vec<DropId> {
        let verdict = self.verdict;
        let notice =
            verdict.problems.iter().chain(&verdict.information).filter_map(|notice| notice.observation.drop_id);
        let rest = notice.chain(verdict.repaired.iter().copied().flatten());
        let rest = rest.chain(verdict.earlier.iter().filter_map(|earlier| earlier.drop_id));
        let rest = rest.chain(verdict.resolved.iter().filter_map(|alert| alert.drop_id));
        let mut seen = BTreeSet::new();
        rest.filter(|drop| seen.insert(*drop)).collect()
    }

    /// "Winter coupon (coupon 1, drop 7)".
    pub(super) fn place(&self, drop: DropId) -> String {
        let (coupon, name) = self.coupon_of(drop);
        let coupon = coupon.map(|id| format!("coupon {id}, ")).unwrap_or_default();
        format!("{name} ({coupon}drop {drop})")
    }
}

/// Every id that must not stand in full in any detail.
pub(crate) fn everyone<'a>(pass: &'a Pass<'_>) -> HashSet<&'a str> {
    let notice = pass.verdict.problems.iter().flat_map(|notice| &notice.observation.findings);
    pass.run.all_findings().chain(notice).filter_map(|finding| finding.user_id.as_deref()).collect()
}

pub(super) fn issued(report: &DropReport) -> String {
    let (rows, quantity) = (wording::grouped(report.after.rows), wording::grouped(u64::from(report.quantity)));
    format!("{rows} of {quantity} issued")
}
