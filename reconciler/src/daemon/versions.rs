//! Watches the versions of open coupons. If an older state is restored into a running Redis
//! (`RESTORE`, `SWAPDB`), the open gate is restored with it, so admission would continue and give
//! held slots to other users. Since the coupon's version decreases as well, this watch notices it
//! and closes the coupon at once. A pass then rebuilds the coupon in a new era.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::gate::CouponVersion;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::execute;
use crate::stores::Stores;

/// Interval between reads of the versions, and thus the longest time that admission stays open with
/// older data.
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
    let open = watch::Sender::default();
    tokio::select! {
        () = stop.cancelled() => {}
        // Run both concurrently, because MySQL may hang while Redis is restored to an older state.
        () = list(&stores.db, &open) => {}
        () = compare(&stores, open.subscribe(), &older_state) => {}
    }
}

/// Reads the open coupons again and again.
async fn list(db: &Db, open: &watch::Sender<Vec<CouponId>>) {
    loop {
        match db.open_coupons_now().await {
            Ok(now) => drop(open.send_replace(now)),
            Err(error) => tracing::debug!(%error, "the open coupons cannot be read"),
        }
        tokio::time::sleep(LISTED_EVERY).await;
    }
}

/// Compares the versions of the open coupons again and again.
async fn compare(
    stores: &Stores,
    open: watch::Receiver<Vec<CouponId>>,
    older_state: &OlderStateSeen,
) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut versions = Versions::default();
    loop {
        ticks.tick().await;
        let open = open.borrow().clone();
        if versions.close_what_went_back(stores, &open).await {
            older_state.0.store(true, Ordering::SeqCst);
        }
    }
}

/// The highest versions that this process has seen.
#[derive(Default)]
struct Versions {
    highest: HashMap<CouponId, CouponVersion>,
}

impl Versions {
    /// Closes the coupons whose version has decreased since the last read, and returns whether
    /// there were any. If Redis does not respond, it closes none.
    async fn close_what_went_back(&mut self, stores: &Stores, open: &[CouponId]) -> bool {
        let listed: HashSet<&CouponId> = open.iter().collect();
        self.highest.retain(|coupon, _| listed.contains(coupon));
        let found = match stores.redis.coupon_versions(open).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "the versions of coupons cannot be read");
                return false;
            }
        };
        let mut any = false;
        for (coupon, now) in open.iter().zip(found) {
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
