//! Acts on what the watch sees. The urgent lane reopens coupons, and another lane gives the slots
//! that are left, so that a reopening, which waits for claims in flight, holds up no user of
//! another coupon. Repeated runs that repair nothing and find the same are recorded and mailed
//! once.

use std::collections::{BTreeMap, HashMap};

use firstcome_shared::domain::CouponId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Wants;
use crate::context::{Confirmation, Step};
use crate::judged;
use crate::ledger::{self, CouponLook};
use crate::notify::Notifier;
use crate::passes::{note_end, note_look};
use crate::promote;
use crate::record;
use crate::report::{Finding, Outcome, Run, Trigger};
use crate::run::Reconciler;
use crate::urgent::{AFTER_FAILURE, pause_after};

/// Ends a run that a lane began by itself, without a schedule or an operator.
fn ended(mut run: Run, found: BTreeMap<CouponId, CouponLook>, result: Step<()>) -> Run {
    for look in found.into_values() {
        run.findings.extend(look.findings);
        run.drops.extend(look.drops);
    }
    match result {
        Ok(()) => run.end(),
        Err(error) => record::fail(&mut run, &error, &Confirmation::None),
    }
    run
}

/// Takes the runs of a lane. Its receiver outlives the lane.
pub(super) type EndedRuns = mpsc::UnboundedSender<Run>;

#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    pub(super) reconciler: &'a Reconciler,
    pub(super) notifier: &'a Notifier,
    pub(super) stop: &'a CancellationToken,
}

impl Lanes<'_> {
    /// Lets the urgent lane reopen the coupons that a look wants. While a store is away, it tries
    /// again every few seconds.
    pub(super) async fn reopen(self, mut wanted: watch::Receiver<Wants>, runs: EndedRuns) {
        // Coupons that are left alone, each with the end of its pause.
        let mut pauses: HashMap<CouponId, Instant> = HashMap::new();
        while let Some(wants) = self.next(&mut wanted).await {
            let mut closed = wants.closed;
            pauses.retain(|_, until| Instant::now() < *until);
            closed.retain(|coupon, _| !pauses.contains_key(coupon));
            if closed.is_empty() {
                continue;
            }
            let asked: Vec<CouponId> = closed.keys().copied().collect();
            let mut run = record::blank(Trigger::Watch);
            let mut looks = Vec::new();
            let id = &run.run_id;
            let reopened =
                self.reconciler
                    .urgent(closed, id, Confirmation::None, self.stop, &mut looks);
            let result = reopened.await.map(|_| ());
            let found = ledger::sum(looks, false);
            for coupon in asked {
                // Without a look, the lane ended before it reached this coupon.
                let pause = found.get(&coupon).map_or(Some(AFTER_FAILURE), pause_after);
                if let Some(pause) = pause {
                    pauses.insert(coupon, Instant::now() + pause);
                }
            }
            run.judged.coupons = judged::by_lane(&found);
            runs.send(ended(run, found, result)).ok();
            // An earlier look is out of date.
            wanted.mark_unchanged();
        }
    }

    /// Gives the slots that are left to users who wait or are owed one.
    pub(super) async fn promote(self, mut wanted: watch::Receiver<Wants>, runs: EndedRuns) {
        while let Some(wants) = self.next(&mut wanted).await {
            if wants.with_slots.is_empty() {
                continue;
            }
            let run = record::blank(Trigger::Watch);
            let mut looks = Vec::new();
            let drops = wants.with_slots;
            let ctx = self
                .reconciler
                .context_without_topic(&run.run_id, self.stop);
            let result = match ctx.await {
                Ok(ctx) => promote::in_drops(&ctx, drops, &mut looks).await,
                Err(error) => Err(error),
            };
            runs.send(ended(run, ledger::sum(looks, false), result))
                .ok();
            wanted.mark_unchanged();
        }
    }

    /// Waits for the next look. Returns `None` at the end of the watch.
    async fn next(self, wanted: &mut watch::Receiver<Wants>) -> Option<Wants> {
        let changed = self.stop.run_until_cancelled(wanted.changed()).await?;
        changed.ok()?;
        Some(wanted.borrow_and_update().clone())
    }

    /// Records the runs of a lane that have done something, or found something else than the last
    /// one, and notes for alerts what they saw. The lane does not wait for that.
    pub(super) async fn record(self, mut ended: mpsc::UnboundedReceiver<Run>) {
        let mut last = Vec::new();
        while let Some(run) = ended.recv().await {
            let now = own_findings(&run);
            let mut stored = None;
            if has_done(&run) || !now.is_empty() && now != last {
                let db = &self.reconciler.stores.db;
                match record::finish(db, &run, false).await {
                    Ok(()) => stored = Some(run.run_id.as_str()),
                    Err(error) => {
                        tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded");
                    }
                }
                note_end(&run);
            }
            if stored.is_some() || !run.judged.coupons.is_empty() || run.error.is_some() {
                note_look(self.notifier, &run, stored).await;
            }
            last = now;
        }
    }
}

/// Returns the identities of what the run did or left, sorted. Another process does what was
/// skipped, and records it.
fn own_findings(run: &Run) -> Vec<i64> {
    let own = run
        .all_findings()
        .filter(|found| found.result != Outcome::Skipped || found.needs_person);
    let mut identities: Vec<i64> = own.map(Finding::identity).collect();
    identities.sort_unstable();
    identities
}

/// Whether the run has repaired something, or sealed a drop, which is no finding. No later run
/// reports a drop as sealed again.
fn has_done(run: &Run) -> bool {
    run.all_findings().any(|it| it.result == Outcome::Applied)
        || run.drops.iter().any(|drop| drop.sealed)
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::DropId;

    use super::*;
    use crate::report::{DropReport, Kind, RunJudged};

    /// It compares nothing, so that it must not end what a comparison has seen.
    #[test]
    fn run_of_promotions_judges_no_coupon() {
        let look = CouponLook::new(CouponId(1));
        let found = BTreeMap::from([(look.coupon, look)]);
        let run = ended(record::blank(Trigger::Watch), found, Ok(()));
        assert_eq!(run.judged, RunJudged::default());
    }

    #[test]
    fn run_that_only_sealed_a_drop_has_done_something() {
        let with = |sealed, result| {
            let mut finding = Finding::report(Kind::Unfilled, "closed with 3 slots left");
            finding.needs_person = false;
            let drop = DropReport {
                sealed,
                findings: vec![Finding { result, ..finding }],
                ..DropReport::begun(CouponId(1), DropId(7), 9)
            };
            let mut run = record::blank(Trigger::Watch);
            run.drops.push(drop);
            run
        };
        let sealed = with(true, Outcome::Skipped);
        assert!(own_findings(&sealed).is_empty() && has_done(&sealed));
        assert!(has_done(&with(false, Outcome::Applied)));
        assert!(!has_done(&with(false, Outcome::Skipped)));
        assert!(!has_done(&record::blank(Trigger::Watch)));
    }
}
