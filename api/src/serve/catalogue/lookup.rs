//! Looks up coupons that are not in the snapshot: finished ones, new ones from other processes, and
//! unknown IDs.
//!
//! Concurrent lookups share one query, and a pause separates two queries, so that any number of
//! requests for unknown coupons costs MySQL a few queries per second. Each query begins after the
//! requests that it answers, so that a 404 is never out of date.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::Redis;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::coupon_with_drops::{CouponWithDrops, with_drops};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    NoSuchCoupon(CouponId),
    /// MySQL did not answer.
    Unavailable,
}

/// Maximum wait for a refresh or a lookup that a request needs.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);

/// Minimum interval between two lookups.
const PAUSE: Duration = Duration::from_millis(200);

/// Maximum number of requests in one lookup, and of requests that wait for the next one. Additional
/// requests get 503.
const QUEUE: usize = 4_096;

const FRESH_FOR: Duration = Duration::from_secs(10);

/// Coupons kept in memory.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1_000);

pub(super) struct Lookup {
    requests: mpsc::Sender<LookupRequest>,
    pending: tokio::sync::Mutex<mpsc::Receiver<LookupRequest>>,
    found: Mutex<LruCache<CouponId, (Instant, Arc<CouponWithDrops>)>>,
}

struct LookupRequest {
    id: CouponId,
    answer: oneshot::Sender<Result<Arc<CouponWithDrops>, LookupError>>,
}

impl Lookup {
    pub(super) fn new() -> Self {
        let (requests, pending) = mpsc::channel(QUEUE);
        Self {
            requests,
            pending: pending.into(),
            found: LruCache::new(KEPT).into(),
        }
    }

    /// Finds a coupon. While MySQL is unavailable, returns an old answer if there is one.
    pub(super) async fn find(
        &self,
        id: CouponId,
        mysql_up: bool,
    ) -> Result<Arc<CouponWithDrops>, LookupError> {
        let known = self.found.lock().get(&id).cloned();
        match known {
            Some((read_at, coupon)) if !mysql_up || read_at.elapsed() < FRESH_FOR => Ok(coupon),
            Some((_, coupon)) => match self.ask(id).await {
                Err(LookupError::Unavailable) => Ok(coupon),
                found => found,
            },
            None if mysql_up => self.ask(id).await,
            None => Err(LookupError::Unavailable),
        }
    }

    /// Forgets the answer for this coupon, so that the next request looks it up.
    pub(super) fn forget(&self, id: CouponId) {
        self.found.lock().pop(&id);
    }

    async fn ask(&self, id: CouponId) -> Result<Arc<CouponWithDrops>, LookupError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .try_send(LookupRequest { id, answer })
            .map_err(|_| LookupError::Unavailable)?;
        match tokio::time::timeout(TIMEOUT, answered).await {
            Ok(Ok(found)) => found,
            _ => Err(LookupError::Unavailable),
        }
    }

    /// Answers requests. Never ends.
    pub(super) async fn run(&self, db: &Db, redis: &Redis) {
        let mut pending = self.pending.lock().await;
        let mut requests = Vec::new();
        while pending.recv_many(&mut requests, QUEUE).await > 0 {
            let begun = Instant::now();
            let mut ids: Vec<CouponId> = requests.iter().map(|request| request.id).collect();
            ids.sort_unstable();
            ids.dedup();
            // A demoted primary lacks the newest coupons.
            let mut knows_all = true;
            let read = async {
                let mut coupons = db.of_primary().coupons_by_id(ids.clone()).await;
                if let Err(DbError::ReadOnly { .. }) = coupons {
                    knows_all = false;
                    coupons = db.coupons_by_id(ids.clone()).await;
                }
                with_drops(db, redis, coupons?).await
            };
            let found: Option<HashMap<CouponId, Arc<CouponWithDrops>>> = match read.await {
                Ok(found) => Some(found.into_iter().map(|one| (one.coupon.id, one)).collect()),
                Err(error) => {
                    tracing::debug!(%error, "coupons could not be looked up in MySQL");
                    None
                }
            };
            let lost = match &found {
                Some(found) if knows_all => lost_in_mysql(redis, &ids, found).await,
                _ => HashSet::new(),
            };
            for (id, coupon) in found.iter().flatten() {
                self.found.lock().put(*id, (begun, Arc::clone(coupon)));
            }
            for request in requests.drain(..) {
                let answer = match &found {
                    Some(found) if knows_all || found.contains_key(&request.id) => {
                        match found.get(&request.id) {
                            Some(coupon) => Ok(Arc::clone(coupon)),
                            None if lost.contains(&request.id) => Err(LookupError::Unavailable),
                            None => Err(LookupError::NoSuchCoupon(request.id)),
                        }
                    }
                    _ => Err(LookupError::Unavailable),
                };
                // Fails if the client hung up.
                let _ = request.answer.send(answer);
            }
            tokio::time::sleep_until(begun + PAUSE).await;
        }
    }
}

/// Returns the coupons that MySQL does not have but Redis does, or may have: MySQL has lost them,
/// and users hold slots in them.
async fn lost_in_mysql(
    redis: &Redis,
    ids: &[CouponId],
    found: &HashMap<CouponId, Arc<CouponWithDrops>>,
) -> HashSet<CouponId> {
    let missing = ids.iter().filter(|id| !found.contains_key(id));
    let missing: Vec<CouponId> = missing.copied().collect();
    match redis.are_remembered(&missing).await {
        Ok(remembered) => {
            let lost = missing.into_iter().zip(remembered);
            lost.filter_map(|(id, is_lost)| is_lost.then_some(id))
                .collect()
        }
        Err(error) => {
            tracing::debug!(%error, "Redis could not be asked for coupons that MySQL does not have");
            missing.into_iter().collect()
        }
    }
}
