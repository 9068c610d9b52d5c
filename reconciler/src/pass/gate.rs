//! What a pass does with the admission gate: it enters a life of Redis, and opens what it verified.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::redis::gate::CouponFence;
use firstcome_shared::redis::life::Life;

use super::findings;
use super::request::Aborted;
use super::steps::{Pass, PassGate};
use crate::execute::{self, Patience};

impl Pass<'_> {
    /// If a pass finds the gate closed, it first lets a running reopening end, for as long as an
    /// undisturbed one takes. From then on the pass holds the reopening's lock.
    pub(super) async fn wait_for_reopening(&self) -> Result<Option<PassLock>, Aborted> {
        if self.request.work == Work::Reopening
            || self.request.dry_run
            || self.stores.redis.gate_is_open().await?
        {
            return Ok(None);
        }
        // The reopening includes this coupon; this pass would open the gate after one coupon.
        if self.request.work == Work::Change {
            return Err(Aborted::AnotherLife);
        }
        let patience = self.settings.longest_in_flight() + Duration::from_secs(5);
        let lock = PassLock::take(&self.stores.db_settings, Work::Reopening, patience);
        tokio::select! {
            lock = lock => Ok(lock?),
            () = self.stop.cancelled() => Err(Aborted::Stopped),
        }
    }

    /// Takes the life of Redis that stands, or begins one.
    pub(super) async fn enter_life(&mut self) -> Result<(), Aborted> {
        let redis = &self.stores.redis;
        let gate = redis.gate().await?;
        let life = match gate.life() {
            None if !self.request.dry_run => Some(
                execute::begin_life(redis, &gate)
                    .await?
                    .ok_or(Aborted::AnotherLife)?,
            ),
            life => life,
        };
        self.gate = PassGate {
            life,
            open: gate.open_servers(),
            was_closed: !gate.is_open(),
            has_begun: false,
        };
        if self.gate.was_closed {
            // The wait begins here, not after what is read first.
            self.memory.losses.note(self.loss_of_life());
        }
        Ok(())
    }

    /// The loss that ended the life before this one.
    pub(super) fn loss_of_life(&self) -> String {
        self.gate.life.as_ref().map_or_else(String::new, Life::name)
    }

    pub(super) fn is_verified(
        &self,
        fences: &HashMap<CouponId, CouponFence>,
        coupon: CouponId,
    ) -> bool {
        let fence = fences.get(&coupon);
        self.gate
            .life
            .as_ref()
            .zip(fence)
            .is_some_and(|(life, fence)| life.has_verified(coupon, fence.verified.as_ref()))
    }

    /// A pass that meets another life of Redis ends: what it read may be of the one before.
    pub(super) async fn must_be_same_life(&self) -> Result<(), Aborted> {
        let now = self.stores.redis.gate().await?.life();
        match (now, &self.gate.life) {
            (Some(now), Some(own)) if now.is_same(own) => Ok(()),
            (None, None) => Ok(()),
            _ => Err(Aborted::AnotherLife),
        }
    }

    /// Opens coupons that were closed and in which nothing is left that admission could trip over,
    /// if this pass compared all of them; with the first one the gate opens. Without patience, one
    /// that an operator is changing stays closed.
    pub(super) async fn open_verified(
        &mut self,
        coupons: &[CouponId],
        patience: Patience,
    ) -> Result<(), Aborted> {
        // Without the tail, messages could contain admissions that a lost Redis forgot.
        let is_known = self.run.error.is_none() && self.context.knows_the_tail();
        let may_open = is_known && !self.request.dry_run && self.request.drop.is_none();
        let Some(life) = self.gate.life.clone().filter(|_| may_open) else {
            return Ok(());
        };
        let fenced =
            |coupon: &CouponId| Some((*coupon, self.context.generations.get(coupon)?.clone()));
        let mut fenced: Vec<_> = coupons.iter().filter_map(fenced).collect();
        if fenced.is_empty() {
            return Ok(());
        }
        let ids: Vec<CouponId> = fenced.iter().map(|(coupon, _)| *coupon).collect();
        let renewed = execute::renew_settings(
            self.stores,
            &ids,
            patience,
            &self.histories,
            self.settings.sealed_keys_ttl,
        )
        .await?;
        fenced.retain(|(coupon, _)| renewed.contains(coupon));
        if !execute::open_coupons(&self.stores.redis, &fenced, &life).await? {
            return Err(Aborted::AnotherLife);
        }
        for (coupon, _) in &fenced {
            tracing::info!(%coupon, "the coupon is verified");
            self.context.unverified.remove(coupon);
        }
        let opened: Vec<CouponId> = fenced.iter().map(|(coupon, _)| *coupon).collect();
        self.open_gate(&life, life.servers_of(&opened)).await
    }

    /// Opens the gate on these servers of the life, where it is not open yet.
    pub(super) async fn open_gate(
        &mut self,
        life: &Life,
        mut servers: BTreeSet<usize>,
    ) -> Result<(), Aborted> {
        servers.retain(|server| !self.gate.open.contains(server));
        if !servers.is_empty() {
            if !execute::open_gate(&self.stores.redis, life, &servers).await? {
                return Err(Aborted::AnotherLife);
            }
            self.gate.open.append(&mut servers);
            tracing::info!("the admission gate is open");
        }
        Ok(())
    }

    /// Reports the outcome for the gate, and for the closed coupons.
    pub(super) async fn report_gate(&mut self) -> Result<(), Aborted> {
        let mut closed: Vec<CouponId> = self.context.unverified.iter().copied().collect();
        closed.sort_unstable();
        // If there never was a coupon, nothing has to be verified.
        let all_compared =
            self.run.error.is_none() && self.request.coupon.is_none() && !self.request.dry_run;
        if let Some(life) = self.gate.life.clone().filter(|_| all_compared) {
            let with_closed = life.servers_of(&closed);
            self.open_gate(&life, &life.servers() - &with_closed)
                .await?;
        }
        let is_open = self.gate.is_open();
        let has_begun = self.gate.has_begun;
        if self.gate.was_closed && (has_begun || !is_open) {
            self.run.findings.push(findings::gate(
                self.request.dry_run,
                is_open,
                closed.is_empty(),
            ));
        }
        let told = is_open && !self.request.dry_run && self.request.drop.is_none();
        let drops = &self.run.drops;
        let closed = closed
            .into_iter()
            .filter(|_| told)
            .map(|coupon| findings::closed_coupon(coupon, drops));
        self.run.findings.extend(closed);
        Ok(())
    }
}
