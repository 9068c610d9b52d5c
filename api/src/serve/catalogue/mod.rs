//! Live coupons and their drops in memory, refreshed from MySQL. Finished coupons are looked up by
//! ID, so the cost of a refresh depends only on the number of live coupons. While MySQL is
//! unavailable, the last snapshot stays in use and claims continue.

pub(crate) mod coupon_with_drops;
pub(crate) mod losers;
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
use firstcome_shared::report::StoreRefusal;
use metrics::gauge;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use self::coupon_with_drops::CouponWithDrops;

pub(crate) type LiveCoupons = BTreeMap<CouponId, Arc<CouponWithDrops>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    NoSuchCoupon(CouponId),
    /// It is unknown whether the coupon exists: MySQL did not answer, or may have lost it.
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
    /// one. Holds the coupon that was last read again, and when that read began.
    turn: Mutex<Option<(CouponId, Instant)>>,
    /// Held while a coupon that is not live is looked up, one request at a time, so that requests
    /// for unknown coupons can neither occupy MySQL nor delay a refresh, which waits for `turn`.
    unknown: Mutex<()>,
    /// Held while a page of the list is read, one request at a time, so that requests cannot occupy
    /// MySQL.
    lookup: Mutex<()>,
    last: parking_lot::Mutex<RefreshOutcome>,
    /// When a full pass last succeeded, if one has and that was read.
    passed_at: parking_lot::Mutex<Option<DateTime<Utc>>>,
}

type LookedUpCoupon = Result<Arc<CouponWithDrops>, LookupError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefreshOutcome {
    Fresh,
    /// MySQL is read-only, so its rows may be old. The copy in memory stays in use.
    ReadOnly,
    Away,
    /// The copy in Redis, with which this process started, is in use. Coupons have not been read
    /// from MySQL yet.
    Copied,
}

impl Catalogue {
    /// Reads the live coupons from MySQL or, if it is given, takes the copy.
    pub(crate) async fn load(
        db: Db,
        redis: Redis,
        copy: Option<CatalogueCopy>,
    ) -> Result<Self, DbError> {
        let (read, outcome) = match copy {
            Some(copy) => ((copy, None), RefreshOutcome::Copied),
            None => (read_live(&db).await?, RefreshOutcome::Fresh),
        };
        let (coupons, passed_at) = read;
        Ok(Self {
            live: ArcSwap::from_pointee(live(&redis, coupons, &LiveCoupons::new())),
            db,
            redis,
            turn: Mutex::default(),
            unknown: Mutex::default(),
            lookup: Mutex::default(),
            last: parking_lot::Mutex::new(outcome),
            passed_at: parking_lot::Mutex::new(passed_at),
        })
    }

    pub(crate) fn live(&self) -> Arc<LiveCoupons> {
        self.live.load_full()
    }

    fn outcome(&self) -> RefreshOutcome {
        *self.last.lock()
    }

    /// Whether MySQL answered the last refresh.
    pub(crate) fn mysql_up(&self) -> bool {
        matches!(
            self.outcome(),
            RefreshOutcome::Fresh | RefreshOutcome::ReadOnly
        )
    }

    /// Whether the coupons are a copy from Redis, which may lack the newest drops.
    pub(crate) fn is_copy(&self) -> bool {
        self.outcome() == RefreshOutcome::Copied
    }

    /// Whether the last refresh read the primary. A read-only server may have old rows.
    pub(crate) fn is_of_primary(&self) -> bool {
        self.outcome() == RefreshOutcome::Fresh
    }

    /// Describes the state of the coupons, if MySQL does not answer or takes no writes.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self.outcome() {
            RefreshOutcome::Fresh => None,
            RefreshOutcome::ReadOnly => Some(StoreRefusal::MysqlReadOnly.facts().says),
            RefreshOutcome::Away => Some("coupons are those last read from MySQL"),
            RefreshOutcome::Copied => Some(
                "this process started without MySQL: coupons are those of the copy in Redis, and \
                claims go on",
            ),
        }
    }

    /// Looks the coupon up in MySQL if it is not live.
    pub(crate) async fn find(&self, id: CouponId) -> LookedUpCoupon {
        match self.known(id) {
            Some(found) => Ok(found),
            None => Box::pin(self.look_up(id)).await,
        }
    }

    fn known(&self, id: CouponId) -> Option<Arc<CouponWithDrops>> {
        self.live.load().get(&id).map(Arc::clone)
    }

    async fn look_up(&self, id: CouponId) -> LookedUpCoupon {
        if id.0 < 1 {
            return Err(LookupError::NoSuchCoupon(id));
        }
        if !self.mysql_up() {
            return Err(LookupError::Unavailable);
        }
        // A crowd may ask for the coupon at the same time.
        let read = async {
            let _one_at_a_time = self.unknown.lock().await;
            if let Some(found) = self.known(id) {
                return Ok(found);
            }
            self.read(id).await?;
            self.reread(id).await
        };
        in_time(read).await
    }

    /// Reads a coupon again, because this process does not know it, has just written it, or may
    /// have an outdated copy. The result comes from a query that began after this call did. One
    /// query runs at a time, and all calls for its coupon that began before it share its result. A
    /// finished coupon counts as live until the next refresh.
    pub(crate) async fn reread(&self, id: CouponId) -> LookedUpCoupon {
        let asked = Instant::now();
        let read = async {
            let mut last = self.turn.lock().await;
            let is_read = last.is_some_and(|(of, begun)| of == id && begun > asked);
            if is_read && let Some(found) = self.live.load().get(&id) {
                return Ok(Arc::clone(found));
            }
            let begun = Instant::now();
            let found = self.read(id).await?;
            let mut live = LiveCoupons::clone(&self.live.load());
            live.insert(id, Arc::clone(&found));
            self.live.store(Arc::new(live));
            *last = Some((id, begun));
            Ok(found)
        };
        in_time(read).await
    }

    async fn read(&self, id: CouponId) -> LookedUpCoupon {
        let mut found = self.db.of_primary().coupons_by_id(vec![id]).await;
        let is_demoted = matches!(found, Err(DbError::ReadOnly { .. }));
        if is_demoted {
            found = self.db.coupons_by_id(vec![id]).await;
        }
        match found?.pop() {
            Some((coupon, drops)) => Ok(CouponWithDrops::new(&self.redis, coupon, drops).into()),
            // A demoted primary may lack the newest coupons.
            None if is_demoted => Err(LookupError::Unavailable),
            None => Err(self.missing(id).await),
        }
    }

    /// Returns why a coupon is not in MySQL. If Redis has it, MySQL has lost it, and users may hold
    /// slots in it. If Redis does not answer, it is unknown whether the coupon exists.
    async fn missing(&self, id: CouponId) -> LookupError {
        match self.redis.highest_revision(id).await {
            Ok(0) => LookupError::NoSuchCoupon(id),
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
            Ok(self.db.coupons_after(after, most).await?)
        };
        let page = in_time(read).await?;
        let page = live(&self.redis, page, &self.live());
        Ok(page.into_values().collect())
    }

    /// Refreshes at this interval. Never ends.
    pub(crate) async fn keep_fresh(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.refresh().await;
            let is_up = self.problem().is_none();
            gauge!("firstcome_mysql_up").set(f64::from(u8::from(is_up)));
            for coupon in self.live().values() {
                coupon.all().for_each(|drop| drop.losers.forget_if_idle());
            }
        }
    }

    async fn refresh(&self) {
        let _turn = self.turn.lock().await;
        let begun = Instant::now();
        // A demoted primary may lack the newest coupons and changes.
        let db = self.db.of_primary();
        let read = read_live(&db).await;
        let was = self.outcome();
        let outcome = match read {
            Ok((coupons, passed_at)) => {
                if was != RefreshOutcome::Fresh {
                    tracing::info!("MySQL answers again: coupons are up to date");
                }
                let live = live(&self.redis, coupons, &self.live());
                gauge!("firstcome_catalogue_coupons")
                    .set(u32::try_from(live.len()).unwrap_or(u32::MAX));
                gauge!("firstcome_catalogue_refresh_seconds").set(begun.elapsed());
                gauge!("firstcome_catalogue_read_timestamp_seconds").set(unix_seconds(Utc::now()));
                *self.passed_at.lock() = passed_at;
                self.live.store(Arc::new(live));
                RefreshOutcome::Fresh
            }
            Err(error) => {
                if was == RefreshOutcome::Fresh {
                    tracing::warn!(
                        %error,
                        "coupons could not be read again; the copy in memory stays in use"
                    );
                }
                match error {
                    _ if was == RefreshOutcome::Copied => RefreshOutcome::Copied,
                    DbError::ReadOnly { .. } => RefreshOutcome::ReadOnly,
                    _ => RefreshOutcome::Away,
                }
            }
        };
        *self.last.lock() = outcome;
        // The age also grows while MySQL is away. It is unknown until MySQL has answered once.
        if outcome != RefreshOutcome::Copied {
            report_pass(*self.passed_at.lock());
        }
    }
}

/// Reads the live coupons, and when a full pass last succeeded, if one has.
async fn read_live(db: &Db) -> Result<(CatalogueCopy, Option<DateTime<Utc>>), DbError> {
    let (coupons, passed_at) = tokio::try_join!(db.catalogue(), db.state(LAST_SUCCESS_AT))?;
    Ok((coupons, passed_at.and_then(|at| at.parse().ok())))
}

/// Reports when a full pass last succeeded. The age is infinite until the first pass, so that an
/// alert on it also detects a reconciler that never ran.
fn report_pass(succeeded_at: Option<DateTime<Utc>>) {
    gauge!("firstcome_pass_last_success_timestamp_seconds")
        .set(succeeded_at.map_or(0.0, unix_seconds));
    let age = succeeded_at.map(|at| Utc::now() - at);
    gauge!("reconciler_last_success_age_seconds")
        .set(age.map_or(f64::INFINITY, TimeDelta::as_seconds_f64));
}

async fn in_time<T>(read: impl Future<Output = Result<T, LookupError>>) -> Result<T, LookupError> {
    let read = timeout(TIMEOUT, read).await;
    read.unwrap_or(Err(LookupError::Unavailable))
}

#[allow(clippy::cast_precision_loss)] // until the year 287,000
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1e3
}

/// Indexes the coupons, and keeps those of `before` that did not change.
fn live(redis: &Redis, coupons: Vec<(Coupon, Vec<Drop>)>, before: &LiveCoupons) -> LiveCoupons {
    coupons
        .into_iter()
        .map(|(coupon, drops)| {
            let known = before
                .get(&coupon.id)
                .filter(|known| known.coupon == coupon && known.drops == drops);
            let id = coupon.id;
            (
                id,
                known.map_or_else(
                    || CouponWithDrops::new(redis, coupon, drops).into(),
                    Arc::clone,
                ),
            )
        })
        .collect()
}
