//! The sweep: compares every coupon, inserts rows, ends dead letters, writes settings again,
//! promotes and seals, all at open gates. A coupon that is closed or dirty is left to the urgent
//! lane ([`crate::urgent`]).

use std::collections::{BTreeMap, HashSet};

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::project::ClaimOfSlot;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::context::{PassContext, PassError, Step};
use crate::pass::{Compared, compare, unworkable};
use crate::read::{CouponSeen, DropPass};
use crate::record::Ledger;
use crate::report::{ActionKind, DropReport, Finding, Kind, Outcome};
use crate::{claimants, gate, limit, revoke_promote, seal, settings};

/// Coupons reconciled at the same time. A pass over thousands of small ones mostly waits for
/// answers.
const AT_ONCE: usize = 8;

/// What a step found out about a coupon.
#[derive(Debug, Default)]
pub(crate) struct CouponDone {
    pub drops: Vec<DropReport>,
    pub findings: Vec<Finding>,
    /// The coupon needs the urgent lane: its gate, as it was read.
    pub urgent: Option<Gate>,
    /// Claims that were too young to judge.
    pub in_flight: u64,
}

/// Adds what a later step found out about a coupon. A dry run finds the same again.
pub(crate) fn add(
    all: &mut BTreeMap<CouponId, CouponDone>,
    id: CouponId,
    later: CouponDone,
    is_same: bool,
) {
    let known = all.entry(id).or_default();
    if is_same {
        *known = later;
        return;
    }
    let found: HashSet<i64> = later.findings.iter().map(Finding::identity).collect();
    known.findings.retain(|it| !found.contains(&it.identity()));
    known.findings.extend(later.findings);
    known.in_flight += later.in_flight;
    for report in later.drops {
        let mut drops = known.drops.iter_mut();
        match drops.find(|known| known.drop_id == report.drop_id) {
            Some(known) => {
                known.exact = report.exact;
                known.sealed |= report.sealed;
                known.after = report.after;
                // What is left was found again.
                known.findings.retain(|it| it.result == Outcome::Applied);
                known.findings.extend(report.findings);
                known.examined.users = known.examined.users.max(report.examined.users);
                known.examined.rows = known.examined.rows.max(report.examined.rows);
            }
            None => known.drops.push(report),
        }
    }
}

/// Reconciles coupons, several at once, and adds what was found to `done`, also if an error stops
/// the pass. Bad data of one coupon, or a query about it that takes too long, is reported, and
/// stops no other.
pub(crate) async fn coupons(
    ctx: &PassContext,
    mut all: Vec<CouponSeen>,
    done: &mut BTreeMap<CouponId, CouponDone>,
) -> Step<()> {
    // Small ones first: a coupon with millions of claims must not delay the others.
    all.sort_by_key(|seen| seen.drops.iter().map(|own| own.state.users).sum::<u64>());
    let reconcile = async |seen: CouponSeen| {
        ctx.must_go_on()?;
        let id = seen.coupon.id;
        let done = match open_coupon(ctx, seen.clone()).await {
            Ok(done) => done,
            Err(error) => {
                let why = ctx.about_coupon(error).await?;
                let coupon_id = id.0;
                tracing::error!(coupon_id, why, "a coupon cannot be reconciled");
                CouponDone {
                    drops: unworkable(ctx, &seen, &why),
                    ..CouponDone::default()
                }
            }
        };
        Ok::<_, PassError>((id, done))
    };
    let all = stream::iter(all).map(reconcile);
    let mut reconciled = std::pin::pin!(all.buffer_unordered(AT_ONCE));
    while let Some((id, coupon)) = reconciled.try_next().await? {
        done.insert(id, coupon);
    }
    Ok(())
}

/// What is known of a coupon while its drops are reconciled.
#[derive(Default)]
struct CouponPass {
    done: CouponDone,
    ledger: Ledger,
    /// The drops to be loaded for the first time.
    new: Vec<DropId>,
    /// A drop differs, only a projection repairs it, and nothing holds that back.
    is_dirty: bool,
    is_unsettled: bool,
}

async fn open_coupon(ctx: &PassContext, mut seen: CouponSeen) -> Step<CouponDone> {
    let mut pass = CouponPass::default();
    let id = seen.coupon.id;
    settings::adopt(ctx, &mut seen, &mut pass.ledger).await?;
    let found_gate = seen.state.gate.clone();
    seen.is_closed = !gate::is_open(ctx, &mut seen).await?;
    // Keys that cannot be read are written again by the urgent lane.
    let unreadable = &seen.state.unreadable;
    if (seen.is_closed || !unreadable.is_empty()) && !ctx.dry_run {
        pass.done.urgent = Some(found_gate);
        return Ok(pass.end(id));
    }
    if !unreadable.is_empty() {
        let lost = settings::lost_keys(unreadable, Outcome::Planned);
        pass.ledger.add(lost);
    }
    revoke_promote::finish_revocations(ctx, &seen, &mut pass.ledger).await?;
    settings::write_again(ctx, &seen, &mut pass.ledger).await?;
    for own in &seen.drops {
        pass.reconcile_drop(DropPass::new(ctx, &seen, own)).await?;
    }
    if pass.is_dirty {
        pass.done.urgent = Some(found_gate.clone());
        pass.leave_to_urgent();
    }
    let server = ctx.servers.holding(id);
    if let Some(fence) = found_gate.fence(server).filter(|_| !ctx.dry_run) {
        settings::load_new(ctx, &seen, &fence, &pass.new).await?;
    }
    if !pass.is_dirty && !pass.is_unsettled && claimants::lacks_claimants(ctx, &seen).await? {
        if ctx.dry_run {
            let lost = claimants::lost_claimants(Outcome::Planned);
            pass.ledger.add(lost);
        } else {
            pass.done.urgent = Some(found_gate);
        }
    }
    Ok(pass.end(id))
}

impl CouponPass {
    async fn reconcile_drop(&mut self, drop: DropPass<'_>) -> Step<()> {
        let mut compared = Compared::default();
        if !drop.own.is_empty() || drop.ctx.deep {
            compared = compare(drop, !drop.ctx.dry_run).await?;
        }
        let report = settle_drop(drop, &mut compared).await?;
        self.done.in_flight += compared.numbers.in_flight;
        self.is_unsettled |= compared.is_unsettled;
        if compared.is_new {
            self.new.push(drop.id());
        }
        let mut findings = report.findings.iter();
        let is_held_back = findings.any(|it| it.result == Outcome::Planned);
        self.is_dirty |= compared.dirty.is_some() && !is_held_back;
        if !compared.is_gone {
            self.done.drops.push(report);
        }
        Ok(())
    }

    /// Leaves out what the urgent lane reports: it compares again under the closed gate, and
    /// reports what it writes.
    fn leave_to_urgent(&mut self) {
        for report in &mut self.done.drops {
            report
                .findings
                .retain(|it| it.action != ActionKind::Project && it.kind != Kind::BrokenPromise);
        }
    }

    fn end(mut self, coupon: CouponId) -> CouponDone {
        self.done.findings = self.ledger.findings(Some(coupon), None);
        self.done
    }
}

/// Does what follows the comparison of a drop at an open gate: promotes, looks once more if
/// anything was repaired, and seals.
async fn settle_drop(drop: DropPass<'_>, first: &mut Compared) -> Step<DropReport> {
    let DropPass { ctx, seen, own } = drop;
    let mut repaired = first.repaired;
    let server = ctx.servers.holding(seen.coupon.id);
    // With rows inserted and users owed.
    let mut now = own.clone();
    if repaired > 0 && !ctx.dry_run {
        now = drop.again().await?;
    }
    if first.dirty.is_some() {
        if let Some(why) = limit::brake(drop, &first.takes).await? {
            first.projections.settle(Outcome::Planned, Some(&why));
        }
    } else if ctx.dry_run {
        if !seen.coupon.paused {
            revoke_promote::plan(&now, &mut first.ledger);
        }
    } else if let Some(fence) = seen.state.gate.fence(server) {
        let now = DropPass { own: &now, ..drop };
        repaired += revoke_promote::promote(now, &fence, &mut first.ledger).await?;
    }
    let mut owed = Vec::new();
    if now.has_broken_promises || now.state.owed > 0 {
        owed = revoke_promote::open_promises(ctx, &seen.coupon, drop.id()).await?;
    }
    for ClaimOfSlot { slot, user, .. } in &owed {
        let found = Finding::report(Kind::BrokenPromise, "promised, and no slot is left");
        first
            .ledger
            .add(found.naming(Some((*slot).into()), Some(user)));
    }
    let mut second = None;
    if repaired > 0 && !ctx.dry_run {
        now = drop.again().await?;
        second = Some(compare(DropPass { own: &now, ..drop }, false).await?);
    }
    let last = second.as_mut().unwrap_or(&mut *first);
    last.numbers.broken_promises = owed.len() as u64;
    let mut sealing = Ledger::default();
    let is_sealed = seal::seal(drop, last, &mut sealing).await?;
    first.ledger.extend(sealing);
    if let Some(after) = &second {
        note_left(first, after);
    }
    let mut report = first.report(drop, second.as_ref());
    report.sealed = is_sealed;
    first.numbers.in_flight = report.after.in_flight;
    Ok(report)
}

/// Adds what the second look still finds: the repair had no effect. Rows that have become due
/// meanwhile belong to the next pass.
fn note_left(first: &mut Compared, after: &Compared) {
    if let Some((kind, detail)) = after.dirty.filter(|_| first.dirty.is_none()) {
        let found = Finding::new(kind, ActionKind::Project, Outcome::Failed, detail);
        first.projections.add(found);
        first.dirty = after.dirty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_listed_once_and_what_was_done_stays() {
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
            CouponDone {
                drops: vec![drop],
                findings,
                ..CouponDone::default()
            }
        };
        let mut all = BTreeMap::new();
        let done = (1, Outcome::Applied);
        let left = (2, Outcome::Skipped);
        for found in [&[done, left][..], &[left]] {
            add(&mut all, CouponId(1), look(found), false);
        }
        let CouponDone {
            drops, findings, ..
        } = &all[&CouponId(1)];
        for found in [findings, &drops[0].findings] {
            let found: Vec<_> = found.iter().map(|it| (it.slot, it.result)).collect();
            assert_eq!(found, [(Some(1), done.1), (Some(2), left.1)]);
        }
    }
}
