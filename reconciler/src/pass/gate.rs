//! Handles the admission gate in a pass: closes coupons whose data in Redis may be lost, by
//! beginning a new era, and opens verified coupons.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::redis::life::Life;

use super::findings;
use super::request::Aborted;
use super::steps::{Pass, PassGate};
use crate::execute::{self, CouponFence, Patience};

impl Pass<'_> {
    /// If the gate is closed, waits for a running reopening to end, but no longer than a reopening
    /// usually takes. If the gate is still closed then, takes the lock of reopenings.
    pub(super) async fn wait_for_reopening(&self) -> Result<Option<PassLock>, Aborted> {
        if self.request.work == Work::Reopening
            || self.request.dry_run
            || self.stores.redis.gate_is_open().await?
        {
            return Ok(None);
        }
        // The reopening includes this coupon. This pass would open the gate after comparing only
        // one coupon.
        if self.request.work == Work::Change {
            return Err(Aborted::AnotherLife);
        }
        let patience = self.settings.longest_in_flight() + Duration::from_secs(5);
        let lock = PassLock::take(&self.stores.db_settings, Work::Reopening, patience);
        let lock = tokio::select! {
            lock = lock => lock?,
            () = self.stop.cancelled() => return Err(Aborted::Stopped),
        };
        // The reopening has ended in the meantime, and the next one must not wait for this pass.
        match lock {
            Some(lock) if self.stores.redis.gate_is_open().await? => {
                lock.release().await;
                Ok(None)
            }
            lock => Ok(lock),
        }
    }

    /// Records which Redis servers hold data, before anything is read from them.
    pub(super) async fn enter_life(&mut self) -> Result<(), Aborted> {
        let gate = self.stores.redis.gate().await?;
        self.gate = PassGate {
            life: Some(gate.life()),
            open: gate.open_servers(),
            was_closed: !gate.is_open(),
            has_begun: false,
        };
        Ok(())
    }

    /// Returns the fences of these drops' coupons on the Redis servers of this pass. Closes coupons
    /// whose data may be lost, and starts the wait for their claims in flight.
    pub(super) async fn fences(
        &self,
        drops: &[(Coupon, Drop)],
    ) -> Result<HashMap<CouponId, CouponFence>, Aborted> {
        let Some(life) = &self.gate.life else {
            return Ok(HashMap::new());
        };
        let mut coupons: Vec<&Coupon> = drops.iter().map(|(coupon, _)| coupon).collect();
        coupons.sort_unstable_by_key(|coupon| coupon.id);
        coupons.dedup_by_key(|coupon| coupon.id);
        let fences = execute::fences(self.stores, life, &coupons, self.request.dry_run).await?;
        for (coupon, found) in &fences {
            if let Some(fence) = found.fence.as_ref().filter(|_| !found.is_verified) {
                self.memory.losses.note(*coupon, fence);
            }
        }
        Ok(fences)
    }

    /// Returns an error if Redis was emptied or has other servers than when the pass began. The
    /// pass then ends, because its data may date from before that.
    pub(super) async fn must_be_same_life(&self) -> Result<(), Aborted> {
        let now = self.stores.redis.gate().await?;
        if self.gate.life == Some(now.life()) && self.gate.open.is_subset(&now.open_servers()) {
            return Ok(());
        }
        Err(Aborted::AnotherLife)
    }

    /// Opens these verified coupons, if the pass compared all their drops and knows the tail. With
    /// [`Patience::None`], a coupon that an operator is changing stays closed.
    pub(super) async fn open_verified(
        &mut self,
        coupons: &[CouponId],
        patience: Patience,
    ) -> Result<(), Aborted> {
        // If the tail is unknown, it may contain admissions that Redis has lost.
        let is_known = self.run.error.is_none() && self.context.knows_the_tail();
        let may_open = is_known && !self.request.dry_run && self.request.drop.is_none();
        let Some(life) = self.gate.life.clone().filter(|_| may_open) else {
            return Ok(());
        };
        let fenced = |coupon: &CouponId| Some((*coupon, self.context.fences.get(coupon)?.clone()));
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
        if !execute::open_coupons(&self.stores.redis, &fenced).await? {
            return Err(Aborted::AnotherLife);
        }
        for (coupon, _) in &fenced {
            tracing::info!(%coupon, "the coupon is verified");
            self.context.unverified.remove(coupon);
        }
        let opened: Vec<CouponId> = fenced.iter().map(|(coupon, _)| *coupon).collect();
        self.note_compared(&life, life.servers_of(&opened)).await
    }

    /// Records that the coupons of these servers were compared, unless that is already recorded.
    pub(super) async fn note_compared(
        &mut self,
        life: &Life,
        mut servers: BTreeSet<usize>,
    ) -> Result<(), Aborted> {
        servers.retain(|server| !self.gate.open.contains(server));
        if !servers.is_empty() {
            if !execute::note_compared(&self.stores.redis, life, &servers).await? {
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
        // A server without closed coupons is also recorded, for example if there are no coupons
        // yet.
        let all_compared =
            self.run.error.is_none() && self.request.coupon.is_none() && !self.request.dry_run;
        if let Some(life) = self.gate.life.clone().filter(|_| all_compared) {
            let with_closed = life.servers_of(&closed);
            self.note_compared(&life, &life.servers() - &with_closed)
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
