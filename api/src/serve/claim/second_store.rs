//! The second store: a slot is acknowledged only once Kafka or, if Kafka does not acknowledge in
//! time, MySQL holds the claim in addition to Redis (docs/decisions/0008-second-store.md). While
//! Kafka answers, no query is sent to MySQL. Otherwise the row is written here, with the consumer's
//! writer.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroUsize;
use std::time::Duration;

use firstcome_shared::config::PublishArgs;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::issued::{IssuedBy, has_later_era};
use firstcome_shared::mysql::{Conn, Db, DbError};
use firstcome_shared::trace::TraceContext;
use lru::LruCache;
use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::kafka::Publisher;
use crate::rows::{Outcome, write_rows};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Kafka acknowledged the message.
    Kafka,
    /// MySQL has the row.
    Mysql,
}

pub(crate) struct SecondStore {
    pub(crate) publisher: Publisher,
    /// The primary.
    mysql: Db,
    deadlines: PublishArgs,
    /// Claims that a second store holds. What is known stays valid when Redis loses data.
    stored: Mutex<LruCache<AdmissionId, Store>>,
    hashing: RandomState,
}

/// Number of claims in `stored`. A claim that was forgotten is written again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(100_000);

/// Drop, slot, and a keyed hash of the user and the time of admission. If a repair gives the slot
/// to another user, or to the same user a second time, the claim differs and is written again.
type AdmissionId = (DropId, Slot, u64);

/// The call to Redis that named slots.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) coupon: CouponId,
    /// The era of the gate at which Redis named the slots, or an earlier one.
    pub(super) era: u64,
    /// The time before the call.
    pub(super) asked_at: Instant,
}

/// A claim that has a slot: from the script's reply to the message or the row.
pub(super) struct Admitted {
    pub(super) claim: ClaimEvent,
    pub(super) call: Call,
    /// In Unix milliseconds, or `None` if unknown: of a user who holds a slot in another drop than
    /// the claimed one, the script reads only the coupon's claimants.
    pub(super) admitted_at_ms: Option<i64>,
    /// The span of its request, if it has a trace.
    pub(super) trace: Option<TraceContext>,
}

impl SecondStore {
    /// `mysql` has connections that nothing else uses.
    pub(crate) fn new(publisher: Publisher, mysql: &Db, deadlines: PublishArgs) -> Self {
        Self {
            publisher,
            mysql: mysql.of_primary(),
            deadlines,
            stored: LruCache::new(REMEMBERED).into(),
            hashing: RandomState::new(),
        }
    }

    /// Ensures that a second store holds claims of one call and drop. Those that are not known to
    /// be stored share a message. Returns the store of each claim, in order. `None` means that
    /// neither store took the claim in time, so it must not be acknowledged. The admission remains,
    /// and a retry finds it.
    ///
    /// Two processes may publish the same claim, as may one process for concurrent retries. The
    /// consumer ignores the second message.
    pub(super) async fn ensure(&self, claims: &[Admitted]) -> Vec<Option<Store>> {
        let ids: Vec<AdmissionId> = claims.iter().map(|claim| self.id(claim)).collect();
        let mut stores = HashMap::with_capacity(claims.len());
        let mut missing = BTreeMap::new();
        {
            let mut stored = self.stored.lock();
            for (id, claim) in ids.iter().zip(claims) {
                if let Some(store) = stored.get(id) {
                    stores.insert(*id, *store);
                } else {
                    missing.insert(*id, claim);
                }
            }
        }
        if !missing.is_empty() {
            let (missing, claims): (Vec<AdmissionId>, Vec<&Admitted>) = missing.into_iter().unzip();
            let written = self.write(&claims).await;
            let mut stored = self.stored.lock();
            for (id, store) in missing.into_iter().zip(written) {
                if let Some(store) = store {
                    stored.put(id, store);
                    stores.insert(id, store);
                }
            }
        }
        let acknowledged = |(id, claim): (&AdmissionId, &Admitted)| {
            let store = stores.get(id).copied().filter(|_| self.is_in_time(claim));
            if store.is_none() {
                counter!("firstcome_claims_not_held_total").increment(1);
            }
            store
        };
        ids.iter().zip(claims).map(acknowledged).collect()
    }

    fn id(&self, admitted: &Admitted) -> AdmissionId {
        let claim = &admitted.claim;
        let user = claim.user_id.as_str();
        let fingerprint = self.hashing.hash_one((user, admitted.admitted_at_ms));
        (claim.drop_id, claim.slot, fingerprint)
    }

    /// Whether a claim may still be acknowledged: after both deadlines, Redis may have been lost
    /// and rebuilt without it. The stores' own deadlines do not prevent this, because a slow
    /// response from Redis or a pause of this process may have come before them.
    fn is_in_time(&self, claim: &Admitted) -> bool {
        claim.call.asked_at.elapsed() <= self.deadlines.longest_in_flight()
    }

    /// Writes claims to Kafka or, if Kafka does not acknowledge them, to MySQL.
    async fn write(&self, claims: &[&Admitted]) -> Vec<Option<Store>> {
        let is_published = self.publisher.publish(claims).await;
        crash_point(Point::ClaimPublished);
        if is_published {
            return vec![Some(Store::Kafka); claims.len()];
        }
        let limit = self.deadlines.backup_deadline();
        let written = write_to_mysql(&self.mysql, claims, limit).await;
        crash_point(Point::ClaimKept);
        let have_rows = written.unwrap_or_else(|error| {
            tracing::debug!(%error, "rows of claims that Kafka has not acknowledged are not written");
            vec![false; claims.len()]
        });
        let rows = have_rows.iter().filter(|has_row| **has_row).count();
        counter!("firstcome_claims_backed_up_total").increment(rows as u64);
        let store = |has_row: bool| has_row.then_some(Store::Mysql);
        have_rows.into_iter().map(store).collect()
    }
}

/// Writes the rows of claims that one call named, and returns which of them exist. If the coupon
/// has begun a later era, none is written: Redis may have been rebuilt without them.
async fn write_to_mysql(
    db: &Db,
    admitted: &[&Admitted],
    limit: Duration,
) -> Result<Vec<bool>, DbError> {
    let Some(Call { coupon, era, .. }) = admitted.first().map(|one| one.call) else {
        return Ok(Vec::new());
    };
    let claim = |one: &&Admitted| Claim {
        trace: one.trace,
        ..Claim::from(&one.claim)
    };
    let claims: Vec<Claim> = admitted.iter().map(claim).collect();
    let begun = Instant::now();
    let write = async {
        let key = db.code_key().await?;
        loop {
            let (claims, key) = (claims.clone(), key.clone());
            let writing = async move |conn: &mut Conn| {
                if has_later_era(conn, coupon, era).await? {
                    return Ok(vec![false; claims.len()]);
                }
                let outcomes = write_rows(conn, &claims, &key, IssuedBy::Api).await?;
                Ok(outcomes.iter().map(Outcome::has_row).collect())
            };
            let left = db.within(limit.saturating_sub(begun.elapsed()));
            let written = left.transaction("write claims that are not published", writing);
            match written.await {
                // Two processes that write the same claims can deadlock.
                Err(error) if error.is_deadlock() && begun.elapsed() < limit => {}
                written => return written,
            }
        }
    };
    let late = |_| Err(DbError::Unreachable(format!("no answer within {limit:?}")));
    tokio::time::timeout(limit, write)
        .await
        .unwrap_or_else(late)
}
