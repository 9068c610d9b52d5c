//! Live coupons and their drops in memory, refreshed from MySQL. Finished coupons are looked up by
//! ID, so the cost depends only on the number of live coupons. While MySQL is unavailable, the last
//! snapshot stays in use and claims continue.

pub(crate) mod coupon_with_drops;
pub(crate) mod listed;
mod lookup;
pub(crate) mod remaining;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::runs::LAST_SUCCESS_AT;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::copy::CatalogueCopy;
use metrics::gauge;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::coupon_with_drops::{CouponWithDrops, with_drops};
pub(crate) use self::lookup::LookupError;
use self::lookup::{Lookup, TIMEOUT};

pub(crate) type LiveCoupons = BTreeMap<CouponId, Arc<CouponWithDrops>>;

pub(crate) struct Catalogue {
    db: Db,
    redis: Redis,
    /// Lock-free, because each claim reads it.
    live: ArcSwap<LiveCoupons>,
    /// Version of `live`: counts its changes.
    version: AtomicU64,
    /// Held while coupons are read and stored, so that an older state never replaces a newer one.
    /// The coupon that was read again last, and when that began.
    turn: tokio::sync::Mutex<Option<(CouponId, Instant)>>,
    lookup: Lookup,
    last: Mutex<Refresh>,
}

struct Refresh {
    reconciled_at: Option<DateTime<Utc>>,
    outcome: RefreshOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefreshOutcome {
    Fresh,
    /// MySQL is read-only, so its rows may be old. The copy in memory stays in use.
    ReadOnly,
    Away,
    /// MySQL has not answered since this process started.
    Copied,
}

impl Catalogue {
    /// Reads the live coupons from MySQL or, if it is given, takes the copy.
    pub(crate) async fn load(
        db: Db,
        redis: Redis,
        copy: Option<CatalogueCopy>,
    ) -> Result<Self, DbError> {
        let (live, reconciled_at, outcome) = if let Some(copy) = copy {
            let one = |(coupon, drops): (Coupon, Vec<Drop>)| {
                let id = coupon.id;
                let entry = CouponWithDrops::new(&redis, coupon, drops, |_| None);
                (id, Arc::new(entry))
            };
            let live = copy.into_iter().map(one).collect();
            (live, None, RefreshOutcome::Copied)
        } else {
            let (live, reconciled_at) = read(&db, &redis, &LiveCoupons::new()).await?;
            (live, reconciled_at, RefreshOutcome::Fresh)
        };
        let last = Refresh {
            reconciled_at,
            outcome,
        };
        Ok(Self {
            db,
            redis,
            live: ArcSwap::from_pointee(live),
            version: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
            lookup: Lookup::new(),
            last: last.into(),
        })
    }

    pub(crate) fn live(&self) -> Arc<LiveCoupons> {
        self.live.load_full()
    }

    /// Changes with [`Self::live`]. Read it first; otherwise old data could get the new version.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Whether MySQL answered the last refresh.
    pub(crate) fn mysql_up(&self) -> bool {
        matches!(
            self.last.lock().outcome,
            RefreshOutcome::Fresh | RefreshOutcome::ReadOnly
        )
    }

    /// Whether the coupons are a copy from Redis, which may lack the newest drops.
    pub(crate) fn is_copy(&self) -> bool {
        self.last.lock().outcome == RefreshOutcome::Copied
    }

    /// Describes the state of the coupons, if MySQL does not answer.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self.last.lock().outcome {
            RefreshOutcome::Fresh | RefreshOutcome::ReadOnly => None,
            RefreshOutcome::Away => Some("coupons are those last read from MySQL"),
            RefreshOutcome::Copied => Some(
                "this process started without MySQL: coupons are those of the copy in Redis, and claims go on",
            ),
        }
    }

    /// Whether MySQL was not read-only at the last refresh. A read-only server may have old rows.
    pub(crate) fn is_of_primary(&self) -> bool {
        self.last.lock().outcome != RefreshOutcome::ReadOnly
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

    /// Reads a coupon that this process has just written, or that has a new era. Concurrent calls
    /// share a query that begins after them. A finished coupon counts as live until the next
    /// refresh.
    pub(crate) async fn reread(&self, id: CouponId) -> Result<Arc<CouponWithDrops>, LookupError> {
        let asked = Instant::now();
        let read = async {
            let mut turn = self.turn.lock().await;
            if turn.is_some_and(|(last, begun)| last == id && begun > asked) {
                return Ok(self.live.load().get(&id).cloned());
            }
            let begun = Instant::now();
            self.lookup.forget(id);
            let found = self.db.of_primary().coupons_by_id(vec![id]).await?;
            let found = with_drops(&self.db, &self.redis, found).await?.pop();
            if let Some(coupon) = &found {
                let mut live = LiveCoupons::clone(&self.live.load());
                live.insert(id, Arc::clone(coupon));
                self.store(live);
            }
            *turn = Some((id, begun));
            Ok::<_, DbError>(found)
        };
        match tokio::time::timeout(TIMEOUT, read).await {
            Ok(Ok(Some(coupon))) => Ok(coupon),
            Ok(Ok(None)) => Err(LookupError::NoSuchCoupon(id)),
            _ => Err(LookupError::Unavailable),
        }
    }

    /// Reads the first `limit` coupons after an ID, in order, including finished ones.
    pub(crate) async fn page(
        &self,
        after: CouponId,
        limit: usize,
    ) -> Result<Vec<Arc<CouponWithDrops>>, LookupError> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = async {
            let page = self.db.coupons_after(after, most).await?;
            with_drops(&self.db, &self.redis, page).await
        };
        let page = read.await.map_err(|error| {
            tracing::debug!(%error, "a page of coupons could not be read");
            LookupError::Unavailable
        })?;
        let live = self.live();
        let newest = |one: Arc<CouponWithDrops>| live.get(&one.coupon.id).cloned().unwrap_or(one);
        Ok(page.into_iter().map(newest).collect())
    }

    /// Answers lookups. Never ends.
    pub(crate) async fn answer_lookups(&self) {
        self.lookup.run(&self.db, &self.redis).await;
    }

    /// Refreshes at this interval. Never ends.
    pub(crate) async fn keep_fresh(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.refresh().await;
            self.report();
        }
    }

    async fn refresh(&self) {
        let _turn = self.turn.lock().await;
        let before = self.live();
        let begun = Instant::now();
        // A demoted primary lacks the newest coupons and changes.
        let read = read(&self.db.of_primary(), &self.redis, &before).await;
        let mut last = self.last.lock();
        match read {
            Ok((live, reconciled_at)) => {
                if last.outcome != RefreshOutcome::Fresh {
                    tracing::info!("MySQL answers again: coupons are up to date");
                }
                gauge!("firstcome_catalogue_coupons")
                    .set(u32::try_from(live.len()).unwrap_or(u32::MAX));
                gauge!("firstcome_catalogue_refresh_seconds").set(begun.elapsed());
                gauge!("firstcome_catalogue_read_timestamp_seconds").set(unix_seconds(Utc::now()));
                // A coupon that is no longer live counts as changed.
                let gone = before.keys().filter(|id| !live.contains_key(id));
                gone.for_each(|id| self.lookup.forget(*id));
                self.store(live);
                *last = Refresh {
                    reconciled_at,
                    outcome: RefreshOutcome::Fresh,
                };
            }
            Err(error) => {
                if last.outcome == RefreshOutcome::Fresh {
                    tracing::warn!(%error, "coupons could not be read again; the copy in memory stays in use");
                }
                last.outcome = match (error, last.outcome) {
                    (_, RefreshOutcome::Copied) => RefreshOutcome::Copied,
                    (DbError::ReadOnly { .. }, _) => RefreshOutcome::ReadOnly,
                    _ => RefreshOutcome::Away,
                };
            }
        }
    }

    fn store(&self, live: LiveCoupons) {
        self.live.store(Arc::new(live));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    fn report(&self) {
        let is_up = self.mysql_up();
        gauge!("firstcome_mysql_up").set(f64::from(u8::from(is_up)));
        let last = self.last.lock();
        if last.outcome == RefreshOutcome::Copied {
            return;
        }
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
