//! The second store: a slot is acknowledged only once Kafka or, if Kafka does not acknowledge in
//! time, MySQL holds the claim in addition to Redis (docs/decisions/0008-second-store.md). While
//! Kafka answers, no query is sent to MySQL. Otherwise the row is written here, with the consumer's
//! writer.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use firstcome_shared::claim::{Claim, IssuedBy};
use firstcome_shared::config::PublishArgs;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::mysql::issued::has_later_era;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::report::FailureCause;
use lru::LruCache;
use metrics::counter;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::kafka::Publisher;
use super::refusal::LastRefusal;
use crate::rows::{WriteOutcome, write_rows};

/// The call to Redis that returned slots.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) coupon: CouponId,
    /// The era of the gate when Redis returned the slots, or an earlier one.
    pub(super) era: u64,
    /// The time before the call.
    pub(super) asked_at: Instant,
    /// Redis's time before the call, for claims whose time of admission is unknown. A later one could
    /// be after a return of the claim.
    pub(super) now: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredIn {
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
    /// Claims that a second store holds. An entry stays valid when Redis loses data.
    stored: Mutex<LruCache<AdmissionId, StoredIn>>,
    hashing: RandomState,
    refused: LastRefusal,
}

/// Number of claims in `stored`. A claim that was forgotten is written again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(100_000);

/// Drop, slot, and a keyed hash of the user and the time of admission. If a repair gives the slot
/// to another user, or to the same user a second time, the claim differs and is written again.
type AdmissionId = (DropId, Slot, u64);

impl SecondStore {
    /// `mysql` has connections that nothing else uses.
    pub(crate) fn new(publisher: Publisher, mysql: &Db, deadlines: PublishArgs) -> Self {
        Self {
            publisher,
            mysql: mysql.of_primary().within(deadlines.backup_deadline()),
            deadlines,
            stored: LruCache::new(REMEMBERED).into(),
            hashing: RandomState::new(),
            refused: LastRefusal::new(FailureCause::Mysql),
        }
    }

    /// Returns the last error with which MySQL refused rows, for a minute or until it accepts some.
    /// MySQL being unavailable is no refusal.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refused.get()
    }

    /// Ensures that a second store holds claims of one call and drop. Those that are not known to
    /// be stored share a message. Returns the store of each claim, in order. `None` means that
    /// neither store took the claim in time, so it must not be acknowledged. A retry finds the
    /// admission, if it still stands.
    ///
    /// Two processes may publish the same claim, as may one process for concurrent retries. The
    /// consumer ignores the second message.
    pub(super) async fn ensure(&self, call: Call, claims: &[Claim]) -> Vec<Option<StoredIn>> {
        let ids: Vec<AdmissionId> = claims.iter().map(|claim| self.id(claim)).collect();
        let mut missing: BTreeMap<_, _> = ids.iter().copied().zip(claims).collect();
        {
            let mut stored = self.stored.lock();
            missing.retain(|id, _| stored.get(id).is_none());
        }
        if !missing.is_empty() {
            let (missing, claims): (Vec<AdmissionId>, Vec<&Claim>) = missing.into_iter().unzip();
            let written = self.write(call, &claims).await;
            let mut stored = self.stored.lock();
            for (id, store) in missing.into_iter().zip(written) {
                if let Some(store) = store {
                    stored.put(id, store);
                }
            }
        }
        // After both deadlines, Redis may have been lost and rebuilt without these claims. The
        // stores' own deadlines do not prevent this, because a slow response from Redis or a pause
        // of this process may have come before them.
        let is_in_time = call.asked_at.elapsed() <= self.deadlines.longest_in_flight();
        let mut stored = self.stored.lock();
        let store = |id| stored.get(id).copied().filter(|_| is_in_time);
        let stores: Vec<Option<StoredIn>> = ids.iter().map(store).collect();
        let not_held = stores.iter().filter(|store| store.is_none()).count();
        counter!("firstcome_claims_not_durable_total").increment(not_held as u64);
        stores
    }

    fn id(&self, claim: &Claim) -> AdmissionId {
        let user = claim.user_id.as_str();
        let fingerprint = self.hashing.hash_one((user, claim.claimed_at));
        (claim.drop_id, claim.slot, fingerprint)
    }

    /// Writes claims to Kafka or, if Kafka does not acknowledge them, to MySQL.
    async fn write(&self, call: Call, claims: &[&Claim]) -> Vec<Option<StoredIn>> {
        // If this process was suspended, or Redis answered late, a claim that is published now
        // could arrive after the reconciler has waited for claims in flight and given its slot to
        // another user. A retry finds the admission, if it still stands.
        if call.asked_at.elapsed() > self.deadlines.backup_deadline() {
            return vec![None; claims.len()];
        }
        let is_published = self.publisher.publish(claims, call.now).await;
        crash_point(Point::ClaimPublished);
        if is_published {
            return vec![Some(StoredIn::Kafka); claims.len()];
        }
        let limit = self.deadlines.backup_deadline();
        let written = timeout(limit, self.write_rows(call, claims)).await;
        crash_point(Point::ClaimKept);
        let written = written
            .unwrap_or_else(|_| Err(DbError::Unreachable(format!("no answer within {limit:?}"))));
        let error = written.as_ref().err().map(ToString::to_string);
        self.refused.note(error.as_deref());
        let have_rows = written.unwrap_or_else(|error| {
            tracing::debug!(%error, "rows of claims that Kafka has not acknowledged are not written");
            vec![false; claims.len()]
        });
        let rows = have_rows.iter().filter(|has_row| **has_row).count();
        counter!("firstcome_claims_fallback_total").increment(rows as u64);
        have_rows
            .into_iter()
            .map(|has_row| has_row.then_some(StoredIn::Mysql))
            .collect()
    }

    /// Writes the rows of claims of one call, and returns which of them exist. If the coupon has
    /// begun a later era, none is written: Redis may have been rebuilt without them.
    async fn write_rows(&self, call: Call, claims: &[&Claim]) -> Result<Vec<bool>, DbError> {
        let key = self.mysql.code_key().await?;
        loop {
            let timed = claims.iter().map(|claim| Claim {
                claimed_at: claim.claimed_at.or(Some(call.now)),
                ..(*claim).clone()
            });
            let claims: Vec<Claim> = timed.collect();
            let key = key.clone();
            let what = "write claims that are not published";
            let written = self.mysql.transaction(what, async move |conn| {
                if has_later_era(conn, call.coupon, call.era).await? {
                    return Ok(vec![false; claims.len()]);
                }
                let claims: Vec<&Claim> = claims.iter().collect();
                let outcomes = write_rows(conn, &claims, &key, IssuedBy::Api).await?;
                Ok(outcomes.iter().map(WriteOutcome::has_row).collect())
            });
            match written.await {
                // Two processes that write the same claims can deadlock.
                Err(error) if error.is_deadlock() => {}
                written => return written,
            }
        }
    }
}
