//! Live coupons and their drops in memory, refreshed from MySQL. Finished coupons are looked up by
//! ID, so the cost depends only on the number of live coupons. While MySQL is unavailable, the last
//! snapshot stays in use and claims continue.

pub(crate) mod coupon_with_drops;
pub(crate) mod listed;
mod lookup;
mod pages;
pub(crate) mod remaining;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::runs::LAST_SUCCESS_AT;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use metrics::gauge;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::coupon_with_drops::{CouponWithDrops, with_drops};
pub(crate) use self::lookup::LookupError;
use self::lookup::{Lookup, TIMEOUT};
use self::pages::PageCache;

pub(crate) type LiveCoupons = BTreeMap<CouponId, Arc<CouponWithDrops>>;

/// Minimum pause between two refreshes.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Catalogue {
    db: Db,
    redis: Redis,
    /// Lock-free, because each claim reads it.
    live: ArcSwap<LiveCoupons>,
    /// Version of `live`: counts refreshes.
    version: AtomicU64,
    lookup: Lookup,
    pages: PageCache,
    last: watch::Sender<Refresh>,
    tickets: AtomicU64,
    wanted: Notify,
}

struct Refresh {
    reconciled_at: Option<DateTime<Utc>>,
    /// The last ticket that was taken before this refresh began.
    served: u64,
    outcome: RefreshOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefreshOutcome {
    Fresh,
    /// MySQL is read-only, so its rows may be old. The copy in memory stays in use.
    ReadOnly,
    Away,
}

impl Catalogue {
    pub(crate) async fn load(db: Db, redis: Redis) -> Result<Self, DbError> {
        let (live, reconciled_at) = read(&db, &redis, &LiveCoupons::new()).await?;
        Ok(Self {
            db,
            redis,
            live: ArcSwap::from_pointee(live),
            version: AtomicU64::new(0),
            lookup: Lookup::new(),
            pages: PageCache::new(),
            last: watch::Sender::new(Refresh {
                reconciled_at,
                served: 0,
                outcome: RefreshOutcome::Fresh,
            }),
            tickets: AtomicU64::new(0),
            wanted: Notify::new(),
        })
    }

    pub(crate) fn live(&self) -> Arc<LiveCoupons> {
        self.live.load_full()
    }

    /// Changes with each refresh. Read it before [`Self::live`]; otherwise old data could get the
    /// new version.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Whether MySQL answered the last refresh.
    pub(crate) fn mysql_up(&self) -> bool {
        self.last.borrow().outcome != RefreshOutcome::Away
    }

    /// Whether MySQL was not read-only at the last refresh. A read-only server may have old rows.
    pub(crate) fn is_of_primary(&self) -> bool {
        self.last.borrow().outcome != RefreshOutcome::ReadOnly
    }

    /// Looks the coupon up in MySQL if it is not live.
    pub(crate) async fn find(&self, id: CouponId) -> Result<Arc<CouponWithDrops>, LookupError> {
        if let Some(found) = self.live.load().get(&id) {
            return Ok(Arc::clone(found));
        }
        if id.0 < 1 {
            return Err(LookupError::NoSuchCoupon(id));
        }
        self.lookup.find(id, self.mysql_up()).await
    }

    /// Reads a coupon that this process has just written.
    pub(crate) async fn reread(&self, id: CouponId) -> Result<Arc<CouponWithDrops>, LookupError> {
        self.lookup.forget(id);
        self.pages.forget();
        self.refreshed().await?;
        self.find(id).await
    }

    /// Returns the first `limit` coupons after an ID, in order, including finished ones.
    pub(crate) async fn page(
        &self,
        after: CouponId,
        limit: usize,
    ) -> Result<Vec<Arc<CouponWithDrops>>, LookupError> {
        let page = self.pages.of(&self.db, &self.redis, after, limit).await?;
        let live = self.live();
        Ok(page
            .iter()
            .map(|one| Arc::clone(live.get(&one.coupon.id).unwrap_or(one)))
            .collect())
    }

    /// Waits for a refresh that begins after this call.
    async fn refreshed(&self) -> Result<(), LookupError> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        self.wanted.notify_one();
        let mut refreshes = self.last.subscribe();
        let served =
            tokio::time::timeout(TIMEOUT, refreshes.wait_for(|last| last.served >= ticket)).await;
        match served {
            Ok(Ok(last)) if last.outcome == RefreshOutcome::Fresh => Ok(()),
            _ => Err(LookupError::Unavailable),
        }
    }

    /// Answers lookups. Never ends.
    pub(crate) async fn answer_lookups(&self) {
        self.lookup.run(&self.db, &self.redis).await;
    }

    /// Refreshes every `every`, and sooner if a request needs it. Never ends.
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
        let before = self.live();
        let had = self.last.borrow().outcome;
        let begun = Instant::now();
        // A demoted primary lacks the newest coupons and changes.
        match read(&self.db.of_primary(), &self.redis, &before).await {
            Ok((live, reconciled_at)) => {
                if had != RefreshOutcome::Fresh {
                    tracing::info!("MySQL answers again: coupons are up to date");
                }
                gauge!("firstcome_catalogue_coupons")
                    .set(u32::try_from(live.len()).unwrap_or(u32::MAX));
                gauge!("firstcome_catalogue_refresh_seconds").set(begun.elapsed());
                // A coupon that is no longer live counts as changed.
                before
                    .keys()
                    .filter(|id| !live.contains_key(id))
                    .for_each(|id| self.lookup.forget(*id));
                // Store before sending `last`: requests that wait for this refresh read `live`
                // next.
                self.live.store(Arc::new(live));
                self.version.fetch_add(1, Ordering::SeqCst);
                gauge!("firstcome_catalogue_read_timestamp_seconds").set(unix_seconds(Utc::now()));
                self.last.send_replace(Refresh {
                    reconciled_at,
                    served,
                    outcome: RefreshOutcome::Fresh,
                });
            }
            Err(error) => {
                if had == RefreshOutcome::Fresh {
                    tracing::warn!(%error, "coupons could not be read again; the copy in memory stays in use");
                }
                let is_read_only = matches!(error, DbError::ReadOnly { .. });
                let outcome = if is_read_only {
                    RefreshOutcome::ReadOnly
                } else {
                    RefreshOutcome::Away
                };
                self.last.send_modify(|last| {
                    last.served = served;
                    last.outcome = outcome;
                });
            }
        }
        self.report();
    }

    fn report(&self) {
        let last = self.last.borrow();
        gauge!("firstcome_mysql_up").set(f64::from(u8::from(last.outcome != RefreshOutcome::Away)));
        gauge!("firstcome_pass_last_success_timestamp_seconds")
            .set(last.reconciled_at.map_or(0.0, unix_seconds));
        // Infinite until the first pass, so that an alert on the age also detects a reconciler that
        // never ran.
        #[allow(clippy::cast_precision_loss)] // milliseconds of an age are far below 2^52
        let age = last.reconciled_at.map_or(f64::INFINITY, |at| {
            (Utc::now() - at).num_milliseconds() as f64 / 1e3
        });
        gauge!("reconciler_last_success_age_seconds").set(age);
    }
}

#[allow(clippy::cast_precision_loss)] // until the year 287,000
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1e3
}

/// Reads the live coupons. Unchanged ones are taken from `before`.
async fn read(
    db: &Db,
    redis: &Redis,
    before: &LiveCoupons,
) -> Result<(LiveCoupons, Option<DateTime<Utc>>), DbError> {
    let (coupons, reconciled) = tokio::join!(db.catalogue(), db.state(LAST_SUCCESS_AT));
    let coupons = coupons?;
    let reconciled = reconciled?;
    let mut live = LiveCoupons::new();
    let mut changed = Vec::new();
    for (coupon, drops) in coupons {
        match before
            .get(&coupon.id)
            .filter(|known| known.coupon == coupon && known.drops == drops)
        {
            Some(known) => drop(live.insert(coupon.id, Arc::clone(known))),
            None => changed.push((coupon, drops)),
        }
    }
    live.extend(
        with_drops(db, redis, changed)
            .await?
            .into_iter()
            .map(|one| (one.coupon.id, one)),
    );
    let reconciled = reconciled.and_then(|text| DateTime::parse_from_rfc3339(&text).ok());
    Ok((live, reconciled.map(|at| at.with_timezone(&Utc))))
}
