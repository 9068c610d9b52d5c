//! Coupons and drops in memory, refreshed from MySQL. While MySQL is away the last snapshot stays
//! in use, and claims go on.
//!
//! Another process may have made a coupon after the last refresh. A request for an unknown coupon
//! therefore takes a ticket and waits for a refresh that begins later. Refreshes run one at a time
//! with a pause between them. So any number of requests for unknown coupons cost MySQL a few
//! queries a second, and no 404 is wrong.

pub(crate) mod coupon_with_drops;
pub(crate) mod remaining;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::runs::LAST_SUCCESS_AT;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use metrics::gauge;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::coupon_with_drops::CouponWithDrops;

/// Every coupon, by its number.
pub(crate) type Snapshot = BTreeMap<CouponId, Arc<CouponWithDrops>>;

/// Why a coupon was not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    NoSuchCoupon,
    /// MySQL could not be asked.
    Unavailable,
}

/// Shortest pause between two refreshes.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for a refresh that a request needs.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Catalogue {
    db: Db,
    redis: Redis,
    /// Each claim reads it, so it has no lock.
    coupons: ArcSwap<Snapshot>,
    last: watch::Sender<Refresh>,
    tickets: AtomicU64,
    wanted: Notify,
}

/// How the last refresh went.
struct Refresh {
    read_at: Instant,
    reconciled_at: Option<DateTime<Utc>>,
    /// The last ticket taken before this refresh began.
    served: u64,
    succeeded: bool,
}

impl Catalogue {
    /// Reads the coupons for the first time.
    pub(crate) async fn load(db: Db, redis: Redis) -> Result<Self, DbError> {
        let (coupons, reconciled_at) = read(&db, &redis, &Snapshot::new()).await?;
        let first = Refresh { read_at: Instant::now(), reconciled_at, served: 0, succeeded: true };
        let (coupons, last) = (ArcSwap::from_pointee(coupons), watch::Sender::new(first));
        Ok(Self { db, redis, coupons, last, tickets: AtomicU64::new(0), wanted: Notify::new() })
    }

    /// The snapshot in use.
    pub(crate) fn coupons(&self) -> Arc<Snapshot> {
        self.coupons.load_full()
    }

    /// One coupon; read from MySQL where the snapshot does not have it.
    pub(crate) async fn find(&self, id: CouponId) -> Result<Arc<CouponWithDrops>, LookupError> {
        if let Some(found) = self.coupons.load().get(&id) {
            return Ok(Arc::clone(found));
        }
        if id.0 < 1 {
            return Err(LookupError::NoSuchCoupon);
        }
        self.refreshed().await?.get(&id).cloned().ok_or(LookupError::NoSuchCoupon)
    }

    /// The coupons as MySQL has them now or later.
    pub(crate) async fn refreshed(&self) -> Result<Arc<Snapshot>, LookupError> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        self.wanted.notify_one();
        let mut refreshes = self.last.subscribe();
        let served = tokio::time::timeout(REFRESH_TIMEOUT, refreshes.wait_for(|last| last.served >= ticket)).await;
        match served {
            Ok(Ok(last)) if last.succeeded => Ok(self.coupons()),
            _ => Err(LookupError::Unavailable),
        }
    }

    /// Refreshes every `every`, and sooner when a request needs it. Never ends by itself.
    pub(crate) async fn keep_fresh(&self, every: Duration) {
        loop {
            let ended = Instant::now();
            tokio::select! {
                () = tokio::time::sleep_until(ended + every) => {}
                () = self.wanted.notified() => tokio::time::sleep_until(ended + PAUSE).await,
            }
            self.refresh().await;
        }
    }

    async fn refresh(&self) {
        let served = self.tickets.load(Ordering::SeqCst);
        let before = self.coupons();
        let had_succeeded = self.last.borrow().succeeded;
        match read(&self.db, &self.redis, &before).await {
            Ok((coupons, reconciled_at)) => {
                if !had_succeeded {
                    tracing::info!("MySQL answers again: coupons are up to date");
                }
                // Before `last`: a request that waits for this refresh must find its coupons.
                self.coupons.store(Arc::new(coupons));
                let read_at = Instant::now();
                self.last.send_replace(Refresh { read_at, reconciled_at, served, succeeded: true });
            }
            Err(error) => {
                if had_succeeded {
                    tracing::warn!(%error, "coupons could not be read again; the copy in memory stays in use");
                }
                self.last.send_modify(|last| (last.served, last.succeeded) = (served, false));
            }
        }
        self.report();
    }

    fn report(&self) {
        let last = self.last.borrow();
        gauge!("firstcome_mysql_up").set(if last.succeeded { 1.0 } else { 0.0 });
        gauge!("firstcome_catalogue_age_seconds").set(last.read_at.elapsed().as_secs_f64());
        // Infinite until there was one, so that an alert on silence also sees a reconciler that
        // never ran.
        #[allow(clippy::cast_precision_loss)] // milliseconds of an age are far below 2^52
        let age = last.reconciled_at.map_or(f64::INFINITY, |at| (Utc::now() - at).num_milliseconds() as f64 / 1e3);
        gauge!("reconciler_last_success_age_seconds").set(age);
    }
}

/// Reads all coupons. Those that did not change are taken over from `before`.
async fn read(db: &Db, redis: &Redis, before: &Snapshot) -> Result<(Snapshot, Option<DateTime<Utc>>), DbError> {
    let (coupons, reconciled) = tokio::join!(db.catalogue(), db.state(LAST_SUCCESS_AT));
    let (coupons, reconciled) = (coupons?, reconciled?);
    let unchanged = |(coupon, drops): &(Coupon, Vec<Drop>)| {
        before.get(&coupon.id).filter(|entry| entry.coupon == *coupon && entry.drops == *drops).map(Arc::clone)
    };
    let kept: Snapshot = coupons.iter().filter_map(unchanged).map(|entry| (entry.coupon.id, entry)).collect();
    let changed: Vec<_> = coupons.into_iter().filter(|(coupon, _)| !kept.contains_key(&coupon.id)).collect();
    let sealed: Vec<DropId> =
        changed.iter().flat_map(|(_, drops)| drops).filter(|d| d.sealed_at.is_some()).map(|d| d.id).collect();
    let rows: HashMap<DropId, u32> = db.sealed_rows(sealed).await?;
    let mut snapshot = kept;
    for (coupon, drops) in changed {
        let with_drops = CouponWithDrops::new(redis, coupon, drops, |drop| rows.get(&drop.id).copied());
        snapshot.insert(with_drops.coupon.id, Arc::new(with_drops));
    }
    let reconciled = reconciled.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    Ok((snapshot, reconciled.map(|at| at.with_timezone(&Utc))))
}
