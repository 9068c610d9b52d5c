//! The second store: a slot is acknowledged only once Kafka or, if Kafka does not acknowledge in
//! time, MySQL holds the claim in addition to Redis (docs/decisions/0008-second-store.md).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::issued::{self, IssuedRow};
use firstcome_shared::mysql::{Conn, Db};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::standing::HeldSlot;
use firstcome_shared::trace::TraceContext;
use futures_util::future::join_all;
use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::fallback::Fallback;
use super::kafka::Publisher;
use crate::bounded_cache::BoundedCache;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Kafka acknowledged the message.
    Kafka,
    /// MySQL has the row.
    Mysql,
}

pub(crate) struct SecondStore {
    redis: Redis,
    questions: Db,
    publisher: Publisher,
    fallback: Fallback,
    longest_in_flight: Duration,
    /// Claims that a second store holds. What is known stays valid when Redis loses data.
    stored: Mutex<BoundedCache<AdmissionId, ()>>,
    hashing: RandomState,
}

/// Number of claims in each of the two generations of `stored`. A claim that was forgotten is
/// written again.
const REMEMBERED: usize = 100_000;

/// Drop, slot, and a keyed hash of the user and the time of admission. If a repair gives the slot
/// to another user, or to the same user a second time, the claim differs and is written again.
type AdmissionId = (DropId, Slot, u64);

/// A claim that has a slot: from the script's reply to the message or the row.
pub(super) struct Admitted {
    pub(super) claim: ClaimEvent,
    /// The span of its request, if it has a trace.
    pub(super) trace: Option<TraceContext>,
    /// The time before the call to Redis.
    pub(super) asked_at: Instant,
    /// The era of the gate at which Redis named the slot, or an earlier one.
    pub(super) era: u64,
    /// Whether the call has just admitted the user.
    is_new: bool,
    /// What Redis holds; `None` until it is confirmed.
    held: Option<HeldSlot>,
}

/// Times that the consumer accepts, in Unix milliseconds: 1970 to 9998.
const TIMES_MS: std::ops::Range<i64> = 0..253_370_764_800_000;

/// The call to Redis that named a slot.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) coupon: CouponId,
    pub(super) era: u64,
    pub(super) asked_at: Instant,
    /// Redis's clock.
    pub(super) now_ms: i64,
}

impl Admitted {
    pub(super) fn new(
        call: Call,
        drop_id: DropId,
        slot: Slot,
        user_id: UserId,
        trace: Option<TraceContext>,
    ) -> Self {
        Self {
            claim: ClaimEvent {
                coupon_id: call.coupon,
                drop_id,
                slot,
                user_id,
                claimed_at: instant(call.now_ms),
            },
            trace,
            asked_at: call.asked_at,
            era: call.era,
            is_new: false,
            held: None,
        }
    }

    /// Notes that the script has read the user in `users`.
    pub(super) fn found_at(self, admitted_at_ms: Option<i64>, is_new: bool) -> Self {
        let is_in_users = true;
        Self { is_new, ..self }.confirmed(HeldSlot {
            admitted_at_ms,
            is_in_users,
        })
    }

    fn confirmed(mut self, held: HeldSlot) -> Self {
        // MySQL refuses a whole statement because of one impossible time (a manual edit in Redis).
        if let Some(ms) = held.admitted_at_ms.filter(|ms| TIMES_MS.contains(ms)) {
            self.claim.claimed_at = instant(ms);
        }
        self.held = Some(held);
        self
    }
}

impl SecondStore {
    /// `longest_in_flight` is the time that the reconciler waits after a loss of Redis before it
    /// rebuilds Redis from the second stores.
    pub(crate) fn new(
        redis: Redis,
        publisher: Publisher,
        fallback: Fallback,
        questions: Db,
        longest_in_flight: Duration,
    ) -> Self {
        Self {
            redis,
            questions,
            publisher,
            fallback,
            longest_in_flight,
            stored: BoundedCache::new(REMEMBERED).into(),
            hashing: RandomState::new(),
        }
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Ensures that a second store holds claims of one drop. Those that have to be written share a
    /// message. Returns the store of each claim, in order; `Kafka` if the claim was written
    /// earlier. `None` means that neither store took the claim in time, so it must not be
    /// acknowledged. The admission remains, and a retry finds it.
    ///
    /// Two processes may publish the same claim, as may one process for concurrent retries. The
    /// consumer ignores the second message.
    pub(super) async fn ensure(
        &self,
        coupon: &CouponWithDrops,
        mut claims: Vec<Admitted>,
    ) -> Vec<Option<Store>> {
        // Rare, and `join_all` allocates for each claim.
        if claims.iter().any(|claim| claim.held.is_none()) {
            claims = join_all(claims.into_iter().map(|claim| self.confirmed(claim))).await;
        }
        let drop = claims.first();
        let drop = drop.and_then(|claim| coupon.drop(claim.claim.drop_id));
        let is_unsealed = drop.is_some_and(|drop| drop.sealed_at.is_none());
        let mut stored = vec![None; claims.len()];
        let mut outgoing = Vec::new();
        let mut doubtful = Vec::new();
        let mut repeated = Vec::new();
        let mut seen = HashSet::new();
        for (at, claim) in claims.iter().enumerate() {
            let Some(held) = &claim.held else { continue };
            let id = self.id(claim);
            if self.is_stored(id) {
                stored[at] = Some(Store::Kafka);
            } else if !seen.insert(id) {
                repeated.push((at, id));
            } else if claim.is_new || is_unsealed && held.is_in_users {
                outgoing.push((at, true));
            } else {
                // A retry in a sealed drop has a row, unless a wrong clock opened the drop again
                // and the claim was admitted after sealing. In that case, `users` also contains it.
                doubtful.push((at, held.is_in_users));
            }
        }
        let rows = self.rows(doubtful.iter().map(|(at, _)| &claims[*at])).await;
        for (at, is_in_users) in doubtful {
            let claim = &claims[at].claim;
            match &rows {
                Some(rows) if rows.get(&claim.slot) == Some(&claim.user_id) => {
                    stored[at] = Some(Store::Kafka);
                }
                Some(_) if is_in_users => outgoing.push((at, true)),
                // Do not write rows: most likely they exist.
                None if !is_unsealed => outgoing.push((at, false)),
                // Only the claimants name the user, and MySQL does not confirm it.
                Some(_) | None => {}
            }
        }
        let messages: Vec<&Admitted> = outgoing.iter().map(|(at, _)| &claims[*at]).collect();
        let published = self.publisher.publish(&messages).await;
        if !messages.is_empty() {
            crash_point(Point::ClaimPublished);
        }
        let mut not_published = Vec::new();
        for ((at, may_have_row), is_published) in outgoing.into_iter().zip(published) {
            if is_published {
                stored[at] = Some(Store::Kafka);
            } else if may_have_row {
                not_published.push(at);
            }
        }
        let write = async |at: usize| (at, self.write_row(&claims[at]).await);
        for (at, written) in join_all(not_published.into_iter().map(write)).await {
            stored[at] = written;
        }
        self.remember(claims.iter().zip(&stored));
        for (at, id) in repeated {
            stored[at] = self.is_stored(id).then_some(Store::Kafka);
        }
        claims
            .iter()
            .zip(stored)
            .map(|(claim, stored)| stored.filter(|_| self.is_in_time(claim)))
            .collect()
    }

    fn id(&self, Admitted { claim, held, .. }: &Admitted) -> AdmissionId {
        let admitted_at_ms = held.and_then(|held| held.admitted_at_ms);
        let user = claim.user_id.as_str();
        let fingerprint = self.hashing.hash_one((user, admitted_at_ms));
        (claim.drop_id, claim.slot, fingerprint)
    }

    fn remember<'c>(&self, claims: impl Iterator<Item = (&'c Admitted, &'c Option<Store>)>) {
        let mut known = self.stored.lock();
        for (claim, _) in claims.filter(|(_, stored)| stored.is_some()) {
            known.insert(self.id(claim), ());
        }
    }

    fn is_stored(&self, id: AdmissionId) -> bool {
        self.stored.lock().get(&id).is_some()
    }

    /// Confirms a slot of which the script has read only the coupon's claimants, one of whom may be
    /// wrong.
    async fn confirmed(&self, admitted: Admitted) -> Admitted {
        if admitted.held.is_some() {
            return admitted;
        }
        let ClaimEvent {
            coupon_id,
            drop_id,
            slot,
            user_id,
            ..
        } = &admitted.claim;
        let keys = self.redis.keys(*coupon_id, *drop_id);
        match self.redis.held_slot(&keys, *slot, user_id).await {
            Ok(Some(held)) => admitted.confirmed(held),
            Ok(None) => admitted,
            Err(error) => {
                tracing::debug!(%error, "could not look up a slot");
                admitted
            }
        }
    }

    /// Whether a claim may still be acknowledged: after `longest_in_flight`, Redis may have been
    /// lost and rebuilt without it. The stores' own deadlines do not prevent this, because a slow
    /// response from Redis or a pause of this process may have come before them.
    fn is_in_time(&self, claim: &Admitted) -> bool {
        let is_late = claim.asked_at.elapsed() > self.longest_in_flight;
        if is_late {
            not_held(
                claim,
                "a second store took an admission too late to acknowledge it",
            );
        }
        !is_late
    }

    async fn write_row(&self, admitted: &Admitted) -> Option<Store> {
        let claim = Claim {
            trace: admitted.trace,
            ..Claim::from(&admitted.claim)
        };
        let has_row = self.fallback.write(claim, admitted.era).await;
        crash_point(Point::ClaimKept);
        if !has_row {
            not_held(
                admitted,
                "only Redis holds an admission, which is not acknowledged",
            );
        }
        has_row.then_some(Store::Mysql)
    }

    /// Reads who has the slots of these claims of one drop. Returns `None` if MySQL does not
    /// answer.
    async fn rows<'c>(
        &self,
        claims: impl Iterator<Item = &'c Admitted>,
    ) -> Option<HashMap<Slot, UserId>> {
        let (drops, slots): (Vec<DropId>, Vec<Slot>) = claims
            .map(|Admitted { claim, .. }| (claim.drop_id, claim.slot))
            .unzip();
        let Some(drop) = drops.first().copied() else {
            return Some(HashMap::new());
        };
        let find = async move |conn: &mut Conn| issued::on_slots(conn, drop, &slots).await;
        match self.questions.run("find rows of claims", find).await {
            Ok(rows) => {
                let holder = |row: IssuedRow| (row.slot, UserId::from_store(row.user_id));
                Some(rows.into_iter().map(holder).collect())
            }
            Err(error) => {
                tracing::debug!(%error, "could not look up whether claims have rows");
                None
            }
        }
    }
}

fn not_held(Admitted { claim, .. }: &Admitted, why: &str) {
    counter!("firstcome_claims_not_held_total").increment(1);
    tracing::debug!(drop = %claim.drop_id, slot = claim.slot, "{why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn impossible_time_of_admission_is_replaced_by_the_current_time() {
        for (admitted_at_ms, sent_ms) in [(5, 5), (-1, 7), (i64::MAX, 7)] {
            let call = Call {
                coupon: CouponId(1),
                era: 1,
                asked_at: Instant::now(),
                now_ms: 7,
            };
            let claim = Admitted::new(call, DropId(1), 1, "u-1".parse().unwrap(), None);
            let claim = claim.found_at(Some(admitted_at_ms), true);
            assert_eq!(claim.claim.claimed_at, instant(sent_ms));
        }
    }
}
