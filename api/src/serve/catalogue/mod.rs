//! Live coupons and their drops in memory, refreshed from MySQL. Finished coupons are looked up by
//! ID, so the cost depends only on the number of live coupons. While MySQL is unavailable, the last
//! snapshot stays in use and claims continue.

pub(crate) mod coupon_with_drops;
pub(crate) mod remaining;

use std::collections::{BTreeMap, HashMap, HashSet};
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
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use self::coupon_with_drops::{CouponWithDrops, with_drops};

pub(crate) type LiveCoupons = BTreeMap<CouponId, Arc<CouponWithDrops>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    NoSuchCoupon(CouponId),
    /// MySQL did not answer.
    Unavailable,
}

/// Maximum wait for a refresh or a look-up that a request needs.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Minimum interval between two look-ups, so that any number of requests for unknown coupons costs
/// MySQL a few small queries per second.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Catalogue {
    db: Db,
    redis: Redis,
    /// Lock-free, because each claim reads it.
    live: ArcSwap<LiveCoupons>,
    /// Held while coupons are read and stored, so that an older state never replaces a newer one.
    turn: tokio::sync::Mutex<Lookup>,
    /// Coupons that requests wait for, and whether they become live. One query reads them all.
    wanted: Mutex<BTreeMap<CouponId, bool>>,
    last: Mutex<Refresh>,
}

type Found = Result<Arc<CouponWithDrops>, LookupError>;

/// The last look-up. Its query began after every request that it answers, so that a 404 is never
/// out of date.
struct Lookup {
    begun: Instant,
    found: HashMap<CouponId, Found>,
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
        Ok(Self {
            db,
            redis,
            live: ArcSwap::from_pointee(live),
            turn: tokio::sync::Mutex::new(Lookup {
                begun: Instant::now(),
                found: HashMap::new(),
            }),
            wanted: Mutex::default(),
            last: Mutex::new(Refresh {
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
        if self.mysql_up() {
            self.look_up(id, false).await
        } else {
            Err(LookupError::Unavailable)
        }
    }

    /// Reads a coupon that this process has just written, or that has a new era. A finished coupon
    /// counts as live until the next refresh.
    pub(crate) async fn reread(&self, id: CouponId) -> Found {
        self.look_up(id, true).await
    }

    /// Reads a coupon by a query that begins after this call. Concurrent calls share a query: one
    /// of them has the turn and reads all that are wanted, and the others find its answer.
    async fn look_up(&self, id: CouponId, becomes_live: bool) -> Found {
        let asked = Instant::now();
        *self.wanted.lock().entry(id).or_default() |= becomes_live;
        let read = async {
            let mut last = self.turn.lock().await;
            if last.begun > asked
                && let Some(found) = last.found.get(&id)
            {
                return found.clone();
            }
            sleep_until(last.begun + PAUSE).await;
            let mut wanted = std::mem::take(&mut *self.wanted.lock());
            // It is missing if another call took it and ended before its query did.
            *wanted.entry(id).or_default() |= becomes_live;
            last.found.clear();
            last.begun = Instant::now();
            last.found = self.read_wanted(&wanted).await;
            last.found
                .get(&id)
                .cloned()
                .unwrap_or(Err(LookupError::Unavailable))
        };
        timeout(TIMEOUT, read)
            .await
            .unwrap_or(Err(LookupError::Unavailable))
    }

    async fn read_wanted(&self, wanted: &BTreeMap<CouponId, bool>) -> HashMap<CouponId, Found> {
        let ids: Vec<CouponId> = wanted.keys().copied().collect();
        // A demoted primary lacks the newest coupons and changes.
        let mut is_of_primary = true;
        let read = async {
            let mut coupons = self.db.of_primary().coupons_by_id(ids.clone()).await;
            if let Err(DbError::ReadOnly { .. }) = coupons {
                is_of_primary = false;
                coupons = self.db.coupons_by_id(ids.clone()).await;
            }
            with_drops(&self.db, &self.redis, coupons?).await
        };
        let unknown = |id: &CouponId| (*id, Err(LookupError::Unavailable));
        let mut found: HashMap<CouponId, Found> = ids.iter().map(unknown).collect();
        let coupons = match read.await {
            Ok(coupons) => coupons,
            Err(error) => {
                tracing::debug!(%error, "coupons could not be looked up in MySQL");
                return found;
            }
        };
        let mut live = LiveCoupons::clone(&self.live.load());
        for coupon in coupons {
            let id = coupon.coupon.id;
            let becomes_live = wanted.get(&id) == Some(&true);
            if becomes_live && is_of_primary {
                live.insert(id, Arc::clone(&coupon));
            }
            if is_of_primary || !becomes_live {
                found.insert(id, Ok(coupon));
            }
        }
        if wanted.values().any(|becomes_live| *becomes_live) {
            self.live.store(Arc::new(live));
        }
        if is_of_primary {
            let missing = ids
                .into_iter()
                .filter(|id| found.get(id).is_some_and(Result::is_err));
            let missing: Vec<CouponId> = missing.collect();
            let lost = self.lost_in_mysql(&missing).await;
            let missing = missing.into_iter().filter(|id| !lost.contains(id));
            found.extend(missing.map(|id| (id, Err(LookupError::NoSuchCoupon(id)))));
        }
        found
    }

    /// Returns the coupons that MySQL does not have but Redis does, or may have: MySQL has lost
    /// them, and users hold slots in them.
    async fn lost_in_mysql(&self, missing: &[CouponId]) -> HashSet<CouponId> {
        let remembered = self.redis.are_remembered(missing).await;
        let remembered = remembered.unwrap_or_else(|error| {
            tracing::debug!(%error, "Redis could not be asked for coupons that MySQL does not have");
            vec![true; missing.len()]
        });
        let lost = missing.iter().zip(remembered).filter(|(_, lost)| *lost);
        lost.map(|(id, _)| *id).collect()
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
