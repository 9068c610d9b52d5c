//! Durability: a slot is acknowledged only once a second store in addition to Redis holds the claim
//! (docs/decisions/0008-second-store.md). The second store is Kafka or, if Kafka does not
//! acknowledge in time, MySQL. Concurrent retries of one claim share one write
//! ([`Singleflight`]).

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::issued::{self, IssuedRow};
use firstcome_shared::mysql::{Conn, Db};
use firstcome_shared::trace::TraceContext;
use futures_util::future::join_all;
use metrics::counter;
use tokio::time::Instant;

use super::fallback::Fallback;
use super::publisher::{Outgoing, Publisher};
use super::singleflight::{AdmissionId, Singleflight, WriteTurn, ended};
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondStore {
    /// Kafka acknowledged the message.
    Kafka,
    /// MySQL has the row.
    Fallback,
}

pub(crate) struct Durability {
    writes: Singleflight,
    questions: Db,
    publisher: Publisher,
    fallback: Fallback,
    longest_in_flight: Duration,
}

/// A claim that has a slot in Redis.
pub(super) struct AdmittedClaim {
    /// The time before the call to Redis.
    pub(super) asked_at: Instant,
    pub(super) drop_id: DropId,
    pub(super) slot: Slot,
    pub(super) user: UserId,
    /// Whether the call has just admitted the user.
    pub(super) is_new: bool,
    /// The time of admission by Redis's clock, or `None` if Redis does not have it.
    pub(super) admitted_at_ms: Option<i64>,
    /// Whether the drop's `users` contain the user. Otherwise, only the coupon's claimants do.
    pub(super) is_in_users: bool,
    pub(super) now_ms: i64,
    /// The era of the gate at which Redis named the slot, or an earlier one.
    pub(super) era: u64,
    /// The span of its request, if it has a trace.
    pub(super) trace: Option<TraceContext>,
}

/// Times that the consumer accepts, in Unix milliseconds: 1970 to 9998.
const TIMES_MS: std::ops::Range<i64> = 0..253_370_764_800_000;

impl AdmittedClaim {
    fn id(&self, writes: &Singleflight) -> AdmissionId {
        writes.id(self.drop_id, self.slot, &self.user, self.admitted_at_ms)
    }

    fn outgoing(&self, coupon: &CouponWithDrops) -> Outgoing {
        // MySQL refuses a whole statement because of one impossible time (a manual edit in Redis).
        let admitted_at_ms = self.admitted_at_ms.filter(|at| TIMES_MS.contains(at));
        Outgoing {
            claim: ClaimEvent {
                coupon_id: coupon.coupon.id,
                drop_id: self.drop_id,
                slot: self.slot,
                user_id: self.user.clone(),
                claimed_at: instant(admitted_at_ms.unwrap_or(self.now_ms)),
            },
            era: self.era,
            trace: self.trace,
        }
    }
}

impl Durability {
    /// `longest_in_flight` is the time that the reconciler waits after a loss of Redis before it
    /// rebuilds Redis from the second stores.
    pub(crate) fn new(
        publisher: Publisher,
        fallback: Fallback,
        questions: Db,
        longest_in_flight: Duration,
    ) -> Self {
        Self {
            writes: Singleflight::new(),
            questions,
            publisher,
            fallback,
            longest_in_flight,
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
    /// Two processes may publish the same claim, as may one process after a restart. The consumer
    /// ignores the second message.
    pub(super) async fn ensure(
        &self,
        coupon: &CouponWithDrops,
        claims: &[AdmittedClaim],
    ) -> Vec<Option<SecondStore>> {
        let drop = claims.first().and_then(|claim| coupon.drop(claim.drop_id));
        let is_unsealed = drop.is_some_and(|drop| drop.sealed_at.is_none());
        let ids: Vec<AdmissionId> = claims.iter().map(|claim| claim.id(&self.writes)).collect();
        // A retry in a sealed drop has a row, unless a wrong clock opened the drop again and the
        // claim was admitted after sealing. In that case, `users` also contains it.
        let may_have_row = |at: &usize| {
            let is_unissued = claims[*at].is_new || is_unsealed && claims[*at].is_in_users;
            !is_unissued && !self.writes.is_stored(ids[*at])
        };
        let unsure: Vec<usize> = (0..claims.len()).filter(may_have_row).collect();
        let rows = self.rows(unsure.iter().map(|at| &claims[*at])).await;
        let mut stored = vec![None; claims.len()];
        let mut ours = Vec::new();
        let mut outgoing = Vec::new();
        let mut joined = Vec::new();
        let mut unknown = Vec::new();
        for (at, claim) in claims.iter().enumerate() {
            if unsure.contains(&at) {
                match &rows {
                    Some(rows) if rows.get(&claim.slot) == Some(&claim.user) => {
                        self.writes.remember(ids[at]);
                    }
                    Some(_) if claim.is_in_users => {}
                    None if !is_unsealed => {
                        unknown.push((at, claim.outgoing(coupon)));
                        continue;
                    }
                    // Only the claimants name the user, and MySQL does not confirm it.
                    Some(_) | None => continue,
                }
            }
            match self.writes.begin(ids[at]) {
                WriteTurn::Stored => stored[at] = Some(SecondStore::Kafka),
                // The call of another request returned first, and its task is writing the claim.
                WriteTurn::Joined(result) => joined.push((at, result)),
                WriteTurn::Ours(turn) => {
                    ours.push((at, turn));
                    outgoing.push(claim.outgoing(coupon));
                }
            }
        }
        for ((at, turn), result) in ours.into_iter().zip(self.write(&outgoing).await) {
            self.writes.end(ids[at], &turn, result);
            stored[at] = result;
        }
        for (at, result) in joined {
            stored[at] = ended(result).await;
        }
        // Do not write rows: most likely they exist.
        let (places, unknown): (Vec<_>, Vec<_>) = unknown.into_iter().unzip();
        for (at, is_published) in places.into_iter().zip(self.publish(&unknown).await) {
            stored[at] = is_published.then_some(SecondStore::Kafka);
        }
        claims
            .iter()
            .zip(stored)
            .map(|(claim, stored)| self.in_time(claim, stored))
            .collect()
    }

    /// Refuses a claim that a second store took after `longest_in_flight`. If Redis was lost, it
    /// may have been rebuilt without this claim. The stores' own deadlines do not prevent this,
    /// because a slow response from Redis or a pause of this process may have come before them.
    fn in_time(&self, claim: &AdmittedClaim, stored: Option<SecondStore>) -> Option<SecondStore> {
        let is_late = claim.asked_at.elapsed() > self.longest_in_flight;
        if is_late && stored.is_some() {
            counter!("firstcome_claims_not_held_total").increment(1);
            let drop = claim.drop_id;
            let slot = claim.slot;
            tracing::debug!(%drop, slot, "a second store took an admission too late to acknowledge it");
        }
        stored.filter(|_| !is_late)
    }

    async fn publish(&self, claims: &[Outgoing]) -> Vec<bool> {
        if claims.is_empty() {
            return Vec::new();
        }
        let published = self.publisher.publish(claims).await;
        crash_point(Point::ClaimPublished);
        published
    }

    async fn write(&self, claims: &[Outgoing]) -> Vec<Option<SecondStore>> {
        let published = self.publish(claims).await;
        let one = async |(claim, is_published): (&Outgoing, bool)| {
            if is_published {
                Some(SecondStore::Kafka)
            } else {
                self.write_row(claim).await
            }
        };
        join_all(claims.iter().zip(published).map(one)).await
    }

    async fn write_row(&self, outgoing: &Outgoing) -> Option<SecondStore> {
        let event = &outgoing.claim;
        let trace = outgoing.trace;
        let claim = Claim {
            trace,
            ..Claim::from(event)
        };
        let has_row = self.fallback.write(claim, outgoing.era).await;
        crash_point(Point::ClaimKept);
        if !has_row {
            counter!("firstcome_claims_not_held_total").increment(1);
            tracing::debug!(drop = %event.drop_id, slot = event.slot, "only Redis holds an admission, which is not acknowledged");
        }
        has_row.then_some(SecondStore::Fallback)
    }

    /// Reads who has the slots of these claims of one drop. Returns `None` if MySQL does not
    /// answer.
    async fn rows<'c>(
        &self,
        claims: impl Iterator<Item = &'c AdmittedClaim>,
    ) -> Option<HashMap<Slot, UserId>> {
        let (drops, slots): (Vec<DropId>, Vec<Slot>) =
            claims.map(|claim| (claim.drop_id, claim.slot)).unzip();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::catalogue::coupon_with_drops::tests::coupon;

    #[tokio::test]
    async fn impossible_time_of_admission_is_replaced_by_the_current_time() {
        let coupon = coupon(&[(0, 10)]);
        for (admitted_at_ms, sent_ms) in [(5, 5), (-1, 7), (i64::MAX, 7)] {
            let claim = AdmittedClaim {
                asked_at: Instant::now(),
                drop_id: DropId(1),
                slot: 1,
                user: "u-1".parse().unwrap(),
                is_new: true,
                admitted_at_ms: Some(admitted_at_ms),
                is_in_users: true,
                now_ms: 7,
                era: 1,
                trace: None,
            };
            assert_eq!(claim.outgoing(&coupon).claim.claimed_at, instant(sent_ms));
        }
    }
}
