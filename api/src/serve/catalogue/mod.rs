//! Live coupons and their drops in memory, refreshed from MySQL. Finished coupons are looked up by
//! ID, so the cost depends only on the number of live coupons. While MySQL is unavailable, the last
//! snapshot stays in use and claims continue.

pub(crate) mod coupon_with_drops;
pub(crate) mod remaining;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::runs::LAST_SUCCESS_AT;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::copy::CatalogueCopy;
use metrics::gauge;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::coupon_with_drops::{CouponWithDrops, with_drops};

pub(crate) type LiveCoupons = BTreeMap<CouponId, Arc<CouponWithDrops>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    NoSuchCoupon(CouponId),
    /// MySQL did not answer.
    Unavailable,
}

impl From<DbError> for LookupError {
    fn from(error: DbError) -> Self {
        tracing::debug!(%error, "coupons could not be looked up in MySQL");
        Self::Unavailable
    }
}

/// Maximum wait for a refresh or a look-up that a request needs.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Catalogue {
    db: Db,
    redis: Redis,
    /// Lock-free, because each claim reads it.
    live: ArcSwap<LiveCoupons>,
    /// Held while live coupons are read and stored, so that an older state never replaces a newer
    /// one. The coupon that was read again last, when that began, and the answer.
    turn: Mutex<Option<(CouponId, Instant, Found)>>,
    /// Held while other coupons are read, one request at a time, so that requests for unknown
    /// coupons cannot occupy MySQL.
    lookup: Mutex<()>,
    last: parking_lot::Mutex<Refresh>,
}

type Found = Result<Arc<CouponWithDrops>, LookupError>;

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
        Ok(Self {
            db,
            redis,
            live: ArcSwap::from_pointee(live),
            turn: Mutex::default(),
            lookup: Mutex::default(),
            last: parking_lot::Mutex::new(Refresh {
                reconciled_at,
                outcome,
            }),
        })
    }

    pub(crate) fn live(&self) -> Arc<LiveCoupons> {
        self.live.load_full()
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
    pub(crate) async fn find(&self, id: CouponId) -> Found {
        if let Some(found) = self.live.load().get(&id) {
            return Ok(Arc::clone(found));
        }
        if id.0 < 1 {
            return Err(LookupError::NoSuchCoupon(id));
        }
        if !self.mysql_up() {
            return Err(LookupError::Unavailable);
        }
        let read = async {
            let _one_at_a_time = self.lookup.lock().await;
            // The request before this one may have looked the same coupon up.
            if let Some(found) = self.live.load().get(&id) {
                return Ok(Arc::clone(found));
            }
            let found = match self.read(self.db.of_primary(), id).await {
                // A demoted primary lacks the newest coupons, but may have this one.
                Err(DbError::ReadOnly { .. }) => {
                    let found = self.read(self.db.clone(), id).await?;
                    found.ok_or(LookupError::Unavailable)?
                }
                found => match found? {
                    Some(coupon) => coupon,
                    None => return Err(self.missing(id).await),
                },
            };
            // It counts as live until the next refresh: a crowd asks for it at once.
            self.live.rcu(|live| {
                let mut live = LiveCoupons::clone(live);
                live.entry(id).or_insert_with(|| Arc::clone(&found));
                live
            });
            Ok(found)
        };
        in_time(read).await
    }

    /// Reads a coupon that this process has just written, or that has a new era, by a query that
    /// begins after this call. Concurrent calls share it. A finished coupon counts as live until
    /// the next refresh.
    pub(crate) async fn reread(&self, id: CouponId) -> Found {
        let asked = Instant::now();
        let read = async {
            let mut last = self.turn.lock().await;
            if let Some((of, begun, found)) = &*last
                && *of == id
                && *begun > asked
            {
                return found.clone();
            }
            let begun = Instant::now();
            let found = match self.read(self.db.of_primary(), id).await? {
                Some(coupon) => Ok(coupon),
                None => Err(self.missing(id).await),
            };
            if let Ok(coupon) = &found {
                let mut live = LiveCoupons::clone(&self.live.load());
                live.insert(id, Arc::clone(coupon));
                self.live.store(Arc::new(live));
            }
            *last = Some((id, begun, found.clone()));
            found
        };
        in_time(read).await
    }

    async fn read(&self, db: Db, id: CouponId) -> Result<Option<Arc<CouponWithDrops>>, DbError> {
        let found = db.coupons_by_id(vec![id]).await?;
        Ok(with_drops(&db, &self.redis, found).await?.pop())
    }

    /// Returns why a coupon is not in MySQL. If Redis has it, or may have it, MySQL has lost it,
    /// and users hold slots in it.
    async fn missing(&self, id: CouponId) -> LookupError {
        match self.redis.is_remembered(id).await {
            Ok(false) => LookupError::NoSuchCoupon(id),
            _ => LookupError::Unavailable,
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
            let _one_at_a_time = self.lookup.lock().await;
            let page = self.db.coupons_after(after, most).await?;
            Ok(with_drops(&self.db, &self.redis, page).await?)
        };
        let page = in_time(read).await?;
        let live = self.live();
        let newest = |one: Arc<CouponWithDrops>| live.get(&one.coupon.id).cloned().unwrap_or(one);
        Ok(page.into_iter().map(newest).collect())
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
        let was = last.outcome;
        match read {
            Ok((live, reconciled_at)) => {
                if was != RefreshOutcome::Fresh {
                    tracing::info!("MySQL answers again: coupons are up to date");
                }
                gauge!("firstcome_catalogue_coupons")
                    .set(u32::try_from(live.len()).unwrap_or(u32::MAX));
                gauge!("firstcome_catalogue_refresh_seconds").set(begun.elapsed());
                gauge!("firstcome_catalogue_read_timestamp_seconds").set(unix_seconds(Utc::now()));
                self.live.store(Arc::new(live));
                *last = Refresh {
                    reconciled_at,
                    outcome: RefreshOutcome::Fresh,
                };
            }
            Err(error) => {
                if was == RefreshOutcome::Fresh {
                    tracing::warn!(%error, "coupons could not be read again; the copy in memory stays in use");
                }
                last.outcome = match error {
                    _ if was == RefreshOutcome::Copied => RefreshOutcome::Copied,
                    DbError::ReadOnly { .. } => RefreshOutcome::ReadOnly,
                    _ => RefreshOutcome::Away,
                };
            }
        }
    }

    fn report(&self) {
        gauge!("firstcome_mysql_up").set(f64::from(u8::from(self.mysql_up())));
        let last = self.last.lock();
        if last.outcome == RefreshOutcome::Copied {
            return;
        }
        gauge!("firstcome_pass_last_success_timestamp_seconds")
            .set(last.reconciled_at.map_or(0.0, unix_seconds));
        // Infinite until the first pass, so that an alert on the age also detects a reconciler that
        // never ran.
        let age = last.reconciled_at.map(|at| Utc::now() - at);
        gauge!("reconciler_last_success_age_seconds")
            .set(age.map_or(f64::INFINITY, TimeDelta::as_seconds_f64));
    }
}

async fn in_time<T>(read: impl Future<Output = Result<T, LookupError>>) -> Result<T, LookupError> {
    let read = timeout(TIMEOUT, read).await;
    read.unwrap_or(Err(LookupError::Unavailable))
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
    let (coupons, reconciled) = tokio::try_join!(db.catalogue(), db.state(LAST_SUCCESS_AT))?;
    let mut live = LiveCoupons::new();
    let mut changed = Vec::new();
    for (coupon, drops) in coupons {
        let known = before.get(&coupon.id);
        match known.filter(|known| known.coupon == coupon && known.drops == drops) {
            Some(known) => drop(live.insert(coupon.id, Arc::clone(known))),
            None => changed.push((coupon, drops)),
        }
    }
    let changed = with_drops(db, redis, changed).await?;
    live.extend(changed.into_iter().map(|one| (one.coupon.id, one)));
    let reconciled = reconciled.and_then(|text| text.parse().ok());
    Ok((live, reconciled))
}
