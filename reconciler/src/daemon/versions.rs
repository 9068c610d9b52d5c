//! Watches the versions of open coupons. If an older state is restored into a running Redis
//! (`RESTORE`, `SWAPDB`), the open gate is restored with it, so admission would continue and give
//! held slots to other users. Since the coupon's version decreases as well, this watch notices it
//! and closes the coupon at once. A pass then rebuilds the coupon in a new era.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::gate::CouponVersion;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::execute;
use crate::stores::Stores;

/// Interval between reads of the versions. Admission stays open for at most this long.
const EVERY: Duration = Duration::from_millis(250);

/// Interval between reads of the open coupons from MySQL.
const LISTED_EVERY: Duration = Duration::from_secs(1);

/// Whether coupons were closed and must be reopened.
#[derive(Debug, Clone, Default)]
pub(super) struct OlderStateSeen(Arc<AtomicBool>);

impl OlderStateSeen {
    /// Returns the flag and resets it.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// Watches the versions until `stop`. This is a separate task because it must not wait for a pass.
pub(super) async fn watch(stores: Stores, older_state: OlderStateSeen, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut versions = Versions::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if versions.close_what_went_back(&stores).await {
            older_state.0.store(true, Ordering::SeqCst);
        }
    }
}

/// The highest versions that this process has seen.
#[derive(Default)]
struct Versions {
    open: Vec<CouponId>,
    listed_at: Option<Instant>,
    highest: HashMap<CouponId, CouponVersion>,
}

impl Versions {
    /// Closes the coupons whose version has decreased since the last read, and returns whether
    /// there were any. If a store does not respond, it closes none.
    async fn close_what_went_back(&mut self, stores: &Stores) -> bool {
        let is_listed = |at: Instant| at.elapsed() < LISTED_EVERY;
        if !self.listed_at.is_some_and(is_listed) {
            self.listed_at = Some(Instant::now());
            match stores.db.open_coupons_now().await {
                Ok(open) => {
                    let listed: HashSet<&CouponId> = open.iter().collect();
                    self.highest.retain(|coupon, _| listed.contains(coupon));
                    self.open = open;
                }
                Err(error) => tracing::debug!(%error, "the open coupons cannot be read"),
            }
        }
        let found = match stores.redis.coupon_versions(&self.open).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the versions of coupons cannot be read");
                return false;
            }
        };
        let mut any = false;
        for (coupon, now) in self.open.iter().zip(found) {
            let went_back = |before: &CouponVersion| now.went_back(before);
            if !self.highest.get(coupon).is_some_and(went_back) {
                // A coupon without an era is already closed. Its last version stays, since an older
                // state may still be restored.
                if now.has_era() {
                    self.highest.insert(*coupon, now);
                }
                continue;
            }
            match execute::close_coupon(&stores.redis, *coupon, &now).await {
                Ok(true) => {
                    tracing::error!(%coupon, "Redis has an older state: the coupon is closed");
                    any = true;
                }
                // The next read retries this.
                Ok(false) => {}
                Err(error) => tracing::error!(%coupon, %error, "the coupon cannot be closed"),
            }
        }
        any
    }
}
