//! The findings of a pass. Each step appends its findings to a [`Ledger`], and each look at a
//! coupon is appended to the list of the run, which is summed once at its end (`sum`): nothing
//! changes what an earlier step has found. Of the findings of a drop with the same kind, action and
//! outcome, the first are listed. The others are only counted.

use std::collections::{BTreeMap, HashSet};

use firstcome_shared::domain::{CouponId, DropId};

use crate::report::{ActionKind, Cause, DropReport, Finding, Kind, Outcome};

/// Maximum number of findings of a drop with the same kind, action and outcome that are listed one
/// by one. If a million rows are missing, a list of all of them is not useful.
pub const NAMED_AT_MOST: u64 = 200;

/// The findings of a drop, or of no drop: an append-only list.
#[derive(Debug, Default)]
pub struct Ledger {
    named: Vec<Finding>,
    /// Numbers of all findings, including those that are not listed.
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

    pub fn append(&mut self, other: Self) {
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

    /// Returns what was done. The next look finds again what is left.
    #[must_use]
    pub fn applied(mut self) -> Self {
        self.named.retain(|found| found.result == Outcome::Applied);
        self.counts
            .retain(|(_, _, result), _| *result == Outcome::Applied);
        self
    }

    /// Gives all findings this outcome.
    #[must_use]
    pub fn with_outcome(self, to: Outcome) -> Self {
        let mut all = Self::default();
        for mut found in self.named {
            found.result = to;
            all.named.push(found);
        }
        for ((kind, action, _), number) in self.counts {
            *all.counts.entry((kind, action, to)).or_default() += number;
        }
        all
    }

    /// Returns the listed findings, and one for each group of the others with their number. A given
    /// coupon or drop is set in all of them.
    pub fn findings(mut self, coupon: Option<CouponId>, drop: Option<DropId>) -> Vec<Finding> {
        for found in &self.named {
            let key = (found.kind, found.action, found.result);
            self.counts.entry(key).and_modify(|number| *number -= 1);
        }
        self.counts.retain(|_, number| *number > 0);
        let more = |((kind, action, result), n)| {
            let detail = format!("{n} more like the ones listed");
            let mut more = Finding::new(kind, action, result, detail);
            more.cause = Cause::MoreLeft(n);
            more
        };
        let more = self.counts.into_iter().map(more);
        let mut all: Vec<Finding> = self.named.into_iter().chain(more).collect();
        for found in &mut all {
            found.coupon_id = coupon.or(found.coupon_id);
            found.drop_id = drop.or(found.drop_id);
        }
        all
    }
}

/// What one look at a coupon found, at an open or a closed gate.
#[derive(Debug, Default)]
pub(crate) struct CouponLook {
    pub coupon: CouponId,
    pub drops: Vec<DropReport>,
    /// Findings outside the drops' reports: about the coupon as a whole, and about users who lose
    /// their slot when a drop is written to Redis again.
    pub findings: Vec<Finding>,
    /// Why the server of Redis that holds the coupon took no writes, or did not answer.
    pub redis_error: Option<String>,
    /// An error ended the pass during this look, which has judged nothing: it has only what was done
    /// before.
    pub is_interrupted: bool,
}

/// Sums up the looks of a run at each coupon. In a drop, what any of them did counts, and what is
/// left is what the last one found. Findings about the coupon as a whole are kept from all looks,
/// each once. A dry run does nothing and finds the same again, so only its last look counts.
pub(crate) fn sum(looks: Vec<CouponLook>, is_dry_run: bool) -> BTreeMap<CouponId, CouponLook> {
    let mut sums = BTreeMap::new();
    for look in looks {
        let known: &mut CouponLook = sums.entry(look.coupon).or_default();
        if is_dry_run {
            *known = look;
        } else {
            known.add(look);
        }
    }
    sums
}

impl CouponLook {
    pub(crate) fn new(coupon: CouponId) -> Self {
        Self {
            coupon,
            ..Self::default()
        }
    }

    /// Creates a look that found one thing about the coupon as a whole.
    pub(crate) fn at_whole(coupon: CouponId, found: Finding) -> Self {
        Self {
            findings: vec![found],
            ..Self::new(coupon)
        }
    }

    /// Whether the coupon is still closed, or another process works on it, or nobody knows.
    pub(crate) fn is_left_closed(&self) -> bool {
        self.is_interrupted || self.findings.iter().any(says_closed)
    }

    /// Whether claims are left to a later look, usually because they may still be on their way.
    pub(crate) fn has_claims_in_flight(&self) -> bool {
        self.drops.iter().any(|drop| drop.after.in_flight > 0)
    }

    /// Whether repairs wait for an operator.
    pub(crate) fn is_held_back(&self) -> bool {
        self.drops.iter().any(|drop| drop.held_back.is_some())
    }

    /// Adds a later look.
    fn add(&mut self, later: Self) {
        let found: HashSet<(i64, Option<&Cause>)> = later.findings.iter().map(merged_by).collect();
        self.findings
            .retain(|before| !says_closed(before) && !found.contains(&merged_by(before)));
        self.redis_error = later.redis_error;
        self.is_interrupted = later.is_interrupted;
        self.findings.extend(later.findings);
        for report in later.drops {
            let mut drops = self.drops.iter_mut();
            let Some(known) = drops.find(|known| known.drop_id == report.drop_id) else {
                self.drops.push(report);
                continue;
            };
            known.exact = report.exact;
            known.sealed |= report.sealed;
            known.judged = report.judged;
            known.held_back = report.held_back;
            known.after = report.after;
            known.findings.retain(|it| it.result == Outcome::Applied);
            known.findings.extend(report.findings);
            known.examined.users = known.examined.users.max(report.examined.users);
            known.examined.rows = known.examined.rows.max(report.examined.rows);
        }
    }
}

/// Whether a look has left the coupon closed, or to another process.
fn says_closed(found: &Finding) -> bool {
    found.action == ActionKind::Open && found.result != Outcome::Applied
}

/// Returns what identifies a finding about a coupon as a whole: two with the same identity are one.
/// For repairs it includes the numbers of the cause, because each look may have repaired more of the
/// same.
fn merged_by(found: &Finding) -> (i64, Option<&Cause>) {
    let repaired = match found.result {
        Outcome::Applied => Some(&found.cause),
        Outcome::Planned | Outcome::Skipped | Outcome::Failed => None,
    };
    (found.identity(), repaired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_repairs_of_several_looks_are_listed_once_each() {
        let did = |cause| {
            let kind = Kind::SettingsMismatch;
            let done = Finding::new(kind, ActionKind::Project, Outcome::Applied, "");
            CouponLook::at_whole(CouponId(1), Finding { cause, ..done })
        };
        let three = Cause::Revocations(3);
        let five = Cause::Revocations(5);
        let looks = [
            Cause::Settings,
            three.clone(),
            five.clone(),
            Cause::Settings,
        ];
        let looks = looks.map(did);
        let all = sum(looks.into(), false);
        let kept = all[&CouponId(1)].findings.iter();
        let kept: Vec<&Cause> = kept.map(|found| &found.cause).collect();
        assert_eq!(kept, [&three, &five, &Cause::Settings]);
    }

    #[test]
    fn remaining_findings_are_listed_once_and_repairs_stay_listed() {
        let look = |found: &[(i64, Outcome)]| {
            let finding = |(slot, result): &(i64, Outcome)| Finding {
                slot: Some(*slot),
                result: *result,
                ..Finding::report(Kind::FailedClaim, "")
            };
            let findings: Vec<Finding> = found.iter().map(finding).collect();
            let drop = DropReport {
                findings: findings.clone(),
                ..DropReport::begun(CouponId(1), DropId(7), 9)
            };
            CouponLook {
                drops: vec![drop],
                findings,
                ..CouponLook::new(CouponId(1))
            }
        };
        let done = (1, Outcome::Applied);
        let left = (2, Outcome::Skipped);
        let all = sum(vec![look(&[done, left]), look(&[left])], false);
        let CouponLook {
            drops, findings, ..
        } = &all[&CouponId(1)];
        for found in [findings, &drops[0].findings] {
            let found: Vec<_> = found.iter().map(|it| (it.slot, it.result)).collect();
            assert_eq!(found, [(Some(1), done.1), (Some(2), left.1)]);
        }
    }

    #[test]
    fn outcome_of_a_ledger_reaches_findings_that_are_only_counted() {
        let mut ledger = Ledger::default();
        for slot in 0..NAMED_AT_MOST + 3 {
            let found = Finding::report(Kind::CountMismatch, "differs");
            ledger.add(found.naming(i64::try_from(slot).ok(), None));
        }
        let ledger = ledger.with_outcome(Outcome::Planned);
        let found = ledger.findings(Some(CouponId(1)), Some(DropId(7)));
        assert!(found.iter().all(|it| it.result == Outcome::Planned));
        let number: u64 = found.iter().map(|it| it.cause.number()).sum();
        assert_eq!(number, NAMED_AT_MOST + 3);
    }

    #[test]
    fn looks_of_a_dry_run_replace_each_other_and_other_looks_add_up() {
        let look = |kind| CouponLook::at_whole(CouponId(1), Finding::report(kind, ""));
        let both = [Kind::RedisLost, Kind::CountMismatch];
        for (is_dry_run, expected) in [(true, &both[1..]), (false, &both[..])] {
            let all = sum(both.map(look).into(), is_dry_run);
            let found = all[&CouponId(1)].findings.iter();
            let kinds: Vec<Kind> = found.map(|found| found.kind).collect();
            assert_eq!(kinds, expected);
        }
    }
}
