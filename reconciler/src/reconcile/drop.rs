//! One drop of a coupon: its comparison, and what follows from it at an open gate.

use firstcome_shared::model::OwedUser;

use crate::context::Step;
use crate::ledger::{CouponLook, Ledger};
use crate::pass::{Compared, compare};
use crate::read::DropPass;
use crate::report::{AlertKind, DropReport, Finding, HeldBack, Judged, Kind, Kinds, Outcome};
use crate::{limit, owing, promote, seal};

/// Maximum number of comparisons of a drop at a closed gate, each after the repairs of the one
/// before.
const LOOKS: usize = 5;

/// What a look at a closed gate does not judge.
const LEFT_TO_THE_SWEEP: [AlertKind; 2] = [
    AlertKind::Left(Kind::Unfilled),
    AlertKind::Left(Kind::BrokenPromise),
];

/// The gate at which a coupon is reconciled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum GateMode {
    /// An open gate, or a dry run.
    Open,
    /// A gate that this pass has closed.
    Closed {
        /// Redis had the last state of every return.
        knows_returns: bool,
    },
}

/// The findings and the repairs of a drop, which outlive an error.
pub(super) struct DropDone<'c> {
    pub drop: DropPass<'c>,
    pub compared: Compared,
    /// The comparison after repairs or promotions at an open gate. Rows that have become due
    /// meanwhile belong to the next pass.
    verified: Option<Compared>,
    /// Users who are still owed a slot, at an open gate.
    owed: Vec<OwedUser>,
    /// The projection of the drop waits for an operator.
    pub held_back: Option<HeldBack>,
    /// The drop is written again from its rows, which needs a closed gate.
    pub is_projected: bool,
    /// It has been written.
    pub is_written: bool,
    is_sealed: bool,
}

/// Whether the drop differs in anything that only a projection repairs.
fn differs(drop: DropPass<'_>, gate: GateMode, compared: &Compared) -> bool {
    let is_whole = match gate {
        GateMode::Open => true,
        GateMode::Closed { knows_returns } => {
            // An older state of Redis may have another time of a claim that was given back and made
            // again, and a late revocation would then release the new claim. A Redis that knows
            // every return is not that old.
            let may_be_older = drop.has_returns() && !knows_returns;
            let state = &drop.own.state;
            state.has_keys && state.meta.is_some() && !compared.is_new && !may_be_older
        }
    };
    !compared.is_gone && (compared.dirty.is_some() || !is_whole)
}

impl<'c> DropDone<'c> {
    pub(super) fn begun(drop: DropPass<'c>) -> Self {
        Self {
            drop,
            compared: Compared::default(),
            verified: None,
            owed: Vec::new(),
            held_back: None,
            is_projected: false,
            is_written: false,
            is_sealed: false,
        }
    }

    /// Compares the drop, and writes the rows that are due. At an open gate, also promotes, compares
    /// once more, and seals.
    pub(super) async fn reconcile(&mut self, gate: GateMode) -> Step<()> {
        let drop = self.drop;
        self.compare(gate).await?;
        if differs(drop, gate, &self.compared) {
            self.held_back = limit::brake(drop, &self.compared.takes);
            self.is_projected = self.held_back.is_none() && !drop.ctx.dry_run;
        }
        if gate == GateMode::Open {
            let promoted = self.give_slots().await?;
            if self.compared.repaired + promoted > 0 && !drop.ctx.dry_run {
                self.verify().await?;
            }
            self.seal().await?;
        }
        Ok(())
    }

    async fn compare(&mut self, gate: GateMode) -> Step<()> {
        let drop = self.drop;
        let ctx = drop.ctx;
        if gate == GateMode::Open {
            if drop.own.is_empty() && !ctx.deep {
                return Ok(());
            }
            return compare(drop, !ctx.dry_run, &mut self.compared).await;
        }
        compare(drop, true, &mut self.compared).await?;
        for _ in 1..LOOKS {
            if self.compared.repaired == 0 {
                break;
            }
            // The repairs have changed what differs.
            let own = drop.again().await?;
            let mut again = Compared::default();
            let ended = compare(DropPass { own: &own, ..drop }, true, &mut again).await;
            self.compared = std::mem::take(&mut self.compared).followed_by(again);
            ended?;
        }
        Ok(())
    }

    /// Gives the slots that are left to users who wait (a dry run only reports them), and reads which
    /// users are still owed one. Returns how many users got a slot.
    async fn give_slots(&mut self) -> Step<u64> {
        let drop = self.drop;
        let DropPass { ctx, seen, own } = drop;
        // If the comparison has repaired something, users may be owed a slot who were not before.
        let own = if self.compared.repaired > 0 && !ctx.dry_run {
            drop.again().await?
        } else {
            own.clone()
        };
        let now = DropPass { own: &own, ..drop };
        let fence = seen.state.gate.fence(ctx.servers.holding(seen.coupon.id));
        let ledger = &mut self.compared.ledger;
        let mut promoted = 0;
        // Nobody gets a slot of a drop that is to be written again.
        if self.compared.dirty.is_none() {
            if ctx.dry_run {
                promote::plan(now, ledger);
            } else if let Some(fence) = fence {
                promoted = promote::give_slots(now, &fence, None, ledger).await?;
            }
        }
        if own.has_broken_promises || own.state.owed > 0 {
            self.owed = owing::open_promises(ctx, &seen.coupon, drop.id()).await?;
        }
        Ok(promoted)
    }

    /// Compares the drop once more, after repairs.
    async fn verify(&mut self) -> Step<()> {
        let drop = self.drop;
        let own = drop.again().await?;
        let mut verified = Compared::default();
        compare(DropPass { own: &own, ..drop }, false, &mut verified).await?;
        self.is_projected |= verified.dirty.is_some() && self.held_back.is_none();
        self.verified = Some(verified);
        Ok(())
    }

    /// Seals the drop if it is over and exact by its last comparison.
    async fn seal(&mut self) -> Step<()> {
        let last = self.verified.as_mut().unwrap_or(&mut self.compared);
        last.numbers.broken_promises = self.owed.len() as u64;
        let mut sealing = Ledger::default();
        self.is_sealed = seal::seal(self.drop, last, &mut sealing).await?;
        self.compared.ledger.append(sealing);
        Ok(())
    }

    /// Returns why the drop must not be written again, nor its coupon opened, yet.
    pub(super) fn why_unfinished(&self) -> Option<String> {
        let compared = &self.compared;
        let id = self.drop.id();
        if compared.refused > 0 {
            let refused = compared.refused;
            return Some(format!("MySQL refuses {refused} rows of drop {id}"));
        }
        let has_changed = compared.is_unsettled || compared.repaired > 0;
        has_changed.then(|| format!("drop {id} changed while it was read"))
    }

    /// Adds what was done before an error to the look. A drop that is sealed is done, and no later
    /// look reports it.
    pub(super) fn interrupted(self, look: &mut CouponLook) {
        if self.is_sealed {
            look.drops.extend(self.report(false));
            return;
        }
        let id = self.drop.id();
        let mut ledger = self.compared.ledger;
        if self.is_written {
            let projections = self.compared.projections;
            ledger.append(projections.with_outcome(Outcome::Applied));
        }
        let done = ledger.applied().findings(Some(look.coupon), Some(id));
        look.findings.extend(done);
    }

    /// Returns the report, unless the drop was sealed or deleted meanwhile. If it is left to a look
    /// at the closed gate, leaves out what that look will find again.
    pub(super) fn report(self, is_left: bool) -> Option<DropReport> {
        let Self {
            mut compared,
            mut verified,
            held_back,
            ..
        } = self;
        if compared.is_gone {
            return None;
        }
        let judged = if is_left && self.is_projected {
            // The look at the closed gate judges it.
            Judged::default()
        } else if held_back.is_some() {
            // What is held back hides the rest.
            Judged::of(Kinds::only([AlertKind::Braked]))
        } else {
            let last = verified.as_ref().unwrap_or(&compared);
            let is_at_closed_gate = self.drop.seen.is_closed && !self.drop.ctx.dry_run;
            Judged::of(if last.is_unsettled {
                Kinds::None
            } else if is_at_closed_gate {
                // The sweep promotes.
                Kinds::all_but(LEFT_TO_THE_SWEEP)
            } else {
                Kinds::All
            })
        };
        if !is_left {
            let rows = verified.as_ref().unwrap_or(&compared).numbers.rows;
            let detail = if rows >= u64::from(self.drop.own.drop.quantity) {
                "promised, and no slot is left"
            } else if self.drop.seen.coupon.paused {
                "promised, and gets a slot once the coupon is resumed"
            } else {
                "promised, and gets a slot from a later pass"
            };
            for owed in self.owed {
                let found = Finding::report(Kind::BrokenPromise, detail);
                compared
                    .ledger
                    .add(found.naming(owed.slot, Some(&owed.user)));
            }
            let outcome = if self.is_written {
                verified = Some(compared.projected());
                Outcome::Applied
            } else if held_back.is_some() || self.drop.ctx.dry_run {
                Outcome::Planned
            } else {
                Outcome::Failed
            };
            let projections = std::mem::take(&mut compared.projections);
            compared.ledger.append(projections.with_outcome(outcome));
        }
        Some(DropReport {
            sealed: self.is_sealed,
            held_back,
            judged,
            ..compared.report(self.drop, verified.as_ref())
        })
    }
}
