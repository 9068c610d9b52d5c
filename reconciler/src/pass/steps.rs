//! The steps of one pass, and the state that they share.

use std::collections::HashMap;

use firstcome_shared::coupon::{Coupon, Drop};
use tokio_util::sync::CancellationToken;

use super::memory::Memory;
use super::{Broken, Reconciler, Request, Settings, findings};
use crate::collect::{self, PassContext};
use crate::execute;
use crate::execute::fencing::{self, RedisProcess};
use crate::plan;
use crate::report::{ActionKind, Kind, Outcome, Run};
use crate::stores::Stores;

/// One pass under way.
pub(super) struct Pass<'a> {
    pub(super) stores: &'a Stores,
    pub(super) settings: &'a Settings,
    pub(super) memory: &'a mut Memory,
    pub(super) request: &'a Request,
    pub(super) run: &'a mut Run,
    pub(super) stop: &'a CancellationToken,
    pub(super) context: PassContext,
    pub(super) restored: execute::Restored,
    redis_process: RedisProcess,
}

impl<'a> Pass<'a> {
    pub(super) async fn new(
        reconciler: &'a mut Reconciler,
        request: &'a Request,
        run: &'a mut Run,
        stop: &'a CancellationToken,
    ) -> Result<Self, Broken> {
        let Reconciler { stores, settings, memory } = reconciler;
        let redis_process = RedisProcess::connect(&stores.redis).await?;
        let (context, restored) = Default::default();
        Ok(Self { stores, settings, memory, request, run, stop, context, restored, redis_process })
    }

    /// A full pass sets the canary before it reads anything: what is emptied from here on removes
    /// the canary again.
    pub(super) async fn go(mut self) -> Result<(), Broken> {
        let canary_was_missing = self.covers_everything() && fencing::set_canary(&self.stores.redis).await?;
        let ended = self.steps().await;
        if ended.is_err() && canary_was_missing {
            fencing::remove_canary(&self.stores.redis).await;
        }
        ended
    }

    async fn steps(&mut self) -> Result<(), Broken> {
        let drops = self.drops_in_question().await?;
        let has_begun = self.read_context(&drops).await?;
        self.report_stalled_consumer();
        if self.request.covers_everything() {
            self.report_loose_dead_letters(&drops);
        }
        self.compare_and_repair(drops).await?;
        if self.request.deep {
            self.count_sealed().await?;
        }
        if !self.redis_process.gate_was_open {
            self.reopen(has_begun).await?;
        } else if self.covers_everything() {
            self.memory.losses.clear();
        }
        Ok(())
    }

    /// Whether every drop is compared, and repaired.
    pub(super) fn covers_everything(&self) -> bool {
        self.request.covers_everything() && !self.request.dry_run
    }

    /// Reads what all drops have in common. Where Redis lost something, not before every claim from
    /// before the loss has reached the topic or the dead-letter table, or never will. Gives whether
    /// any drop has opened.
    async fn read_context(&mut self, drops: &[(Coupon, Drop)]) -> Result<bool, Broken> {
        // Generations are read before the topic and kept for the whole pass: what Redis loses from
        // here on, the next pass rebuilds, after waiting for what may be in flight.
        let generations = fencing::generations(&self.stores.redis, drops, self.request.dry_run).await?;
        self.context = PassContext { generations, ..self.fresh_context().await? };
        let headers = collect::headers(self.stores, drops, &self.context).await?;
        let has_begun = headers.iter().any(|h| h.facts.has_opened());
        let is_lost = headers.iter().any(|h| h.facts.has_opened() && h.facts.is_lost());
        if !(is_lost || has_begun && !self.redis_process.gate_was_open) || self.request.dry_run {
            return Ok(has_begun);
        }
        let wait = self.memory.losses.wait_needed(self.settings.longest_in_flight);
        if !wait.is_zero() {
            tracing::warn!(?wait, "Redis lost drops or its scripts: waiting for what may still be on its way");
            self.sleep(wait).await?;
            self.run.findings.retain(|finding| finding.kind != Kind::Stalled);
            let generations = fencing::generations(&self.stores.redis, drops, false).await?;
            self.context = PassContext { generations, ..self.fresh_context().await? };
        }
        Ok(has_begun)
    }

    /// The context without generations. A topic that can't be read is reported, and the pass goes
    /// on without it.
    pub(super) async fn fresh_context(&mut self) -> Result<PassContext, Broken> {
        let (mut context, kafka) = collect::context(self.stores).await?;
        context.gate_closed = !self.redis_process.gate_was_open;
        if let Some(error) = kafka {
            let detail = format!("the topic cannot be read, so what is on its way is not known: {error:#}");
            self.run.error = Some(detail.clone());
            self.run.findings.push(findings::general(Kind::Stalled, ActionKind::Report, detail));
        }
        Ok(context)
    }

    pub(super) async fn sleep(&self, wait: std::time::Duration) -> Result<(), Broken> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.stop.cancelled() => Err(Broken::Stopped),
        }
    }

    /// A consumer whose offsets stand still although messages wait.
    fn report_stalled_consumer(&mut self) {
        let Some(tail) = &self.context.tail else { return };
        let stuck = self.memory.consumer_stuck_for(&tail.committed, tail.unread);
        if stuck > self.settings.stall_after {
            let (unread, seconds) = (tail.unread, stuck.as_secs());
            let detail = format!("{unread} messages wait on the topic and the consumer has not moved for {seconds} s");
            self.run.findings.push(findings::general(Kind::Stalled, ActionKind::Report, detail));
        }
    }

    /// Dead letters that name no drop of this pass, or the wrong coupon for it.
    fn report_loose_dead_letters(&mut self, drops: &[(Coupon, Drop)]) {
        let known: HashMap<_, _> = drops.iter().map(|(c, d)| (d.id, c.id)).collect();
        let loose = self.context.dead_letters.iter().filter(|letter| {
            let coupon = letter.drop.and_then(|drop| known.get(&drop));
            coupon.is_none_or(|known| letter.coupon.is_some_and(|named| named != *known))
        });
        let loose = loose.map(|letter| findings::of_no_drop(&plan::loose(letter), letter.coupon, letter.drop));
        self.run.findings.extend(loose);
    }

    /// Opens the gate again, if this pass compared everything and left nothing behind.
    async fn reopen(&mut self, has_begun: bool) -> Result<(), Broken> {
        let mut finding = findings::general(
            Kind::RedisLost,
            ActionKind::GrantLicence,
            "Redis is new, was restarted, or failed over; admission was closed".to_owned(),
        );
        finding.needs_person = false;
        let whole = self.run.error.is_none() && self.run.drops.iter().all(findings::is_whole);
        finding.result = if self.request.dry_run {
            Outcome::Planned
        } else if !self.request.covers_everything() || !whole {
            finding.detail.push_str("; it stays closed, since not everything could be verified");
            finding.needs_person = true;
            Outcome::Failed
        } else if fencing::open_gate(&mut self.redis_process, &self.stores.redis).await? {
            self.memory.losses.clear();
            finding.detail.push_str("; every drop was verified and it is open again");
            Outcome::Applied
        } else {
            finding.detail.push_str("; Redis changed while it was verified, so it stays closed until the next pass");
            Outcome::Failed
        };
        tracing::info!(result = finding.result.as_str(), "admission gate: {}", finding.detail);
        // A new Redis before the first drop is no news.
        if has_begun || finding.result != Outcome::Applied {
            self.run.findings.push(finding);
        }
        Ok(())
    }
}
