//! Coupons and drops in memory. One task reads them from MySQL again and again and keeps the last copy while MySQL is away,
//! so that claims go on without it.
//!
//! A coupon that is not in the copy may have been made on another process a moment ago. Who asks for one takes a ticket
//! and waits for the next reading that begins after that. Readings happen one at a time with a pause between them, so
//! however many ask for what does not exist, MySQL sees a few readings a second, and nobody is told 404 wrongly.

pub(crate) mod clock;
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

use crate::serve::catalogue::coupon_with_drops::Entry;

/// Every coupon, in order of its number.
pub(crate) type Snapshot = BTreeMap<CouponId, Arc<Entry>>;

/// Why a coupon could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no such coupon.
    Unknown,
    /// MySQL could not be asked.
    Away,
}

/// Shortest pause between two readings.
const PAUSE: Duration = Duration::from_millis(50);

/// Longest wait for a reading that was asked for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The coupons in memory.
pub(crate) struct Catalogue {
    db: Db,
    redis: Redis,
    /// Read for each claim, so without a lock.
    coupons: ArcSwap<Snapshot>,
    last: watch::Sender<Reading>,
    tickets: AtomicU64,
    wanted: Notify,
}

/// How the last reading went; its coupons are in the catalogue before this is told.
struct Reading {
    read_at: Instant,
    reconciled_at: Option<DateTime<Utc>>,
    /// The last ticket taken before the last reading began, and whether that reading was a success.
    served: u64,
    fresh: bool,
}

impl Catalogue {
    /// Reads the coupons for the first time.
    pub(crate) async fn load(db: Db, redis: Redis) -> Result<Self, DbError> {
        let (coupons, reconciled_at) = read(&db, &redis, &Snapshot::new()).await?;
        let first = Reading { read_at: Instant::now(), reconciled_at, served: 0, fresh: true };
        let (coupons, last) = (ArcSwap::from_pointee(coupons), watch::Sender::new(first));
        Ok(Self { db, redis, coupons, last, tickets: AtomicU64::new(0), wanted: Notify::new() })
    }

    /// The copy as it is.
    pub(crate) fn coupons(&self) -> Arc<Snapshot> {
        self.coupons.load_full()
    }

    /// One coupon; looked for in MySQL where the copy has it not.
    pub(crate) async fn find(&self, id: CouponId) -> Result<Arc<Entry>, Missing> {
        if let Some(found) = self.coupons.load().get(&id) {
            return Ok(Arc::clone(found));
        }
        if id.0 < 1 {
            return Err(Missing::Unknown);
        }
        self.reread().await?.get(&id).cloned().ok_or(Missing::Unknown)
    }

    /// The coupons as MySQL has them now, or later.
    pub(crate) async fn reread(&self) -> Result<Arc<Snapshot>, Missing> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        self.wanted.notify_one();
        let mut readings = self.last.subscribe();
        let served = tokio::time::timeout(PATIENCE, readings.wait_for(|last| last.served >= ticket)).await;
        match served {
            Ok(Ok(last)) if last.fresh => Ok(self.coupons()),
            _ => Err(Missing::Away),
        }
    }

    /// Reads the coupons every `every`, and sooner when one is asked for. Never ends by itself.
    pub(crate) async fn keep_fresh(&self, every: Duration) {
        loop {
            let ended = Instant::now();
            tokio::select! {
                () = tokio::time::sleep_until(ended + every) => {}
                () = self.wanted.notified() => tokio::time::sleep_until(ended + PAUSE).await,
            }
            self.read_once().await;
        }
    }

    async fn read_once(&self) {
        let served = self.tickets.load(Ordering::SeqCst);
        let before = self.coupons();
        let was_fresh = self.last.borrow().fresh;
        match read(&self.db, &self.redis, &before).await {
            Ok((coupons, reconciled_at)) => {
                if !was_fresh {
                    tracing::info!("MySQL answers again: coupons are up to date");
                }
                // First, so that whoever waits for this reading finds what it read.
                self.coupons.store(Arc::new(coupons));
                let read_at = Instant::now();
                self.last.send_replace(Reading { read_at, reconciled_at, served, fresh: true });
            }
            Err(error) => {
                if was_fresh {
                    tracing::warn!(%error, "coupons could not be read again; the copy in memory stays in use");
                }
                self.last.send_modify(|last| (last.served, last.fresh) = (served, false));
            }
        }
        self.show();
    }

    fn show(&self) {
        let last = self.last.borrow();
        gauge!("firstcome_mysql_up").set(if last.fresh { 1.0 } else { 0.0 });
        gauge!("firstcome_catalogue_age_seconds").set(last.read_at.elapsed().as_secs_f64());
        // Infinite until there was one, so that an alert on silence also sees a reconciler that never ran.
        #[allow(clippy::cast_precision_loss)] // milliseconds of an age are far below 2^52
        let age = last.reconciled_at.map_or(f64::INFINITY, |at| (Utc::now() - at).num_milliseconds() as f64 / 1e3);
        gauge!("reconciler_last_success_age_seconds").set(age);
    }
}

/// One reading. What did not change is taken over from `before`.
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
        let entry = Entry::new(redis, coupon, drops, |drop| rows.get(&drop.id).copied());
        snapshot.insert(entry.coupon.id, Arc::new(entry));
    }
    let reconciled = reconciled.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    Ok((snapshot, reconciled.map(|at| at.with_timezone(&Utc))))
}
