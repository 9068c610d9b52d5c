//! Durability: a slot is acknowledged only after a second store beside Redis holds the claim
//! (docs/decisions/0008-second-store.md). Kafka is that store; where it does not acknowledge in
//! time, the fallback table. Concurrent retries of one claim share one write ([`Singleflight`]).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::mysql::Db;
use firstcome_shared::trace::TraceContext;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::issued::IssuedClaims;
use super::publisher::Fallback;
use super::publisher::Publisher;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};

/// The second store that holds a claim, beside Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondStore {
    /// Kafka acknowledged the message.
    Kafka,
    /// `failed_claims` has a row.
    Fallback,
}

pub(crate) struct Durability {
    writes: Singleflight,
    issued: IssuedClaims,
    publisher: Publisher,
    fallback: Fallback,
    longest_in_flight: Duration,
}

/// A claim that has a slot in Redis.
pub(super) struct AdmittedClaim {
    /// Before Redis was asked.
    pub(super) asked_at: Instant,
    pub(super) drop_id: DropId,
    pub(super) slot: Slot,
    pub(super) user: UserId,
    /// By Redis's clock; `None` where Redis does not know it.
    pub(super) admitted_at_ms: Option<i64>,
    pub(super) now_ms: i64,
    /// Redis gave the slot just now.
    pub(super) is_new: bool,
    /// The span of its request, where it has a trace.
    pub(super) trace: Option<TraceContext>,
}

impl Durability {
    /// `longest_in_flight`: how long after a loss of Redis the reconciler rebuilds it at the
    /// earliest, from what the second stores hold by then.
    pub(crate) fn new(publisher: Publisher, fallback: Fallback, questions: Db, longest_in_flight: Duration) -> Self {
        let (writes, issued) = (Singleflight::default(), IssuedClaims::new(questions));
        Self { writes, issued, publisher, fallback, longest_in_flight }
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Makes sure that a second store holds the claim, and says which (Kafka, where it was written
    /// earlier). `None`: neither took it in time, so it must not be acknowledged. The admission
    /// stands, and a retry finds it.
    ///
    /// A claim may be published twice, by two processes or after a restart; the consumer ignores
    /// the second message.
    ///
    /// Each store has a deadline of its own, and Redis's answer may have taken long before them, or
    /// this process may have stood still in between. A claim that a second store took later than
    /// the reconciler waits for may have been missing where a lost Redis was rebuilt.
    pub(super) async fn ensure(&self, coupon: &CouponWithDrops, claim: AdmittedClaim) -> Option<SecondStore> {
        let AdmittedClaim { asked_at, drop_id, slot, user, admitted_at_ms, now_ms, is_new, trace } = claim;
        let drop = coupon.drop(drop_id);
        let id = self.writes.id(drop_id, slot, &user, admitted_at_ms);
        let claimed_at = instant(admitted_at_ms.unwrap_or(now_ms));
        let event = ClaimEvent { coupon_id: coupon.coupon.id, drop_id, slot, user_id: user, claimed_at };
        // A claim of a sealed drop has its row, unless it was admitted after sealing: a clock that
        // was wrong opened the drop again. So the row counts, and never for a new admission.
        let has_row = if is_new || drop.is_some_and(|drop| drop.sealed_at.is_none()) {
            Some(false)
        } else {
            self.issued.has_row(&event).await
        };
        let stored = match has_row {
            Some(true) => Some(SecondStore::Kafka),
            // A dead letter would unseal its drop, which most likely has the row.
            None => self.publish(&event, trace).await.then_some(SecondStore::Kafka),
            Some(false) => self.writes.run(id, drop.map_or(0, |drop| drop.quantity), self.write(&event, trace)).await,
        };
        let is_late = asked_at.elapsed() > self.longest_in_flight;
        if is_late && stored.is_some() {
            counter!("firstcome_claims_not_held_total").increment(1);
            tracing::debug!(drop = %drop_id, slot, "a second store took an admission too late, and it is not promised");
        }
        stored.filter(|_| !is_late)
    }

    async fn publish(&self, event: &ClaimEvent, trace: Option<TraceContext>) -> bool {
        let published = self.publisher.publish(event, trace).await;
        crash_point(Point::ClaimPublished);
        published
    }

    async fn write(&self, event: &ClaimEvent, trace: Option<TraceContext>) -> Option<SecondStore> {
        if self.publish(event, trace).await {
            return Some(SecondStore::Kafka);
        }
        let kept = self.fallback.keep(event, trace).await;
        crash_point(Point::ClaimKept);
        if !kept {
            counter!("firstcome_claims_not_held_total").increment(1);
            tracing::debug!(drop = %event.drop_id, slot = event.slot, "an admission is held by Redis alone and is not promised");
        }
        kept.then_some(SecondStore::Fallback)
    }

    /// Forgets which claims are durable, for all drops but the wanted ones.
    pub(crate) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.writes.keep_only(wanted);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct AdmissionId {
    drop: DropId,
    slot: Slot,
    fingerprint: u64,
}

impl AdmissionId {
    /// The part of the fingerprint that is remembered; 0 means none.
    #[allow(clippy::cast_possible_truncation, reason = "32 bits of a keyed hash are enough")]
    fn short(self) -> u32 {
        (self.fingerprint as u32).max(1)
    }

    fn index(self) -> Option<usize> {
        usize::try_from(self.slot.checked_sub(1)?).ok()
    }
}

/// `None` until the write has ended.
type WriteResult = watch::Receiver<Option<Option<SecondStore>>>;

/// Singleflight for durable writes: a claim that is being written, or is known to be durable, is
/// not written again.
///
/// The memory is a fingerprint for each slot: of the person and of the instant of admission. A
/// repair may give a slot to another person, or to the same person anew; the fingerprint differs
/// then, and the claim is written again. Nothing has to be forgotten when Redis loses data, because
/// the memory is about Kafka and MySQL.
#[derive(Default)]
struct Singleflight {
    durable: Mutex<HashMap<DropId, Vec<u32>>>,
    running: Mutex<HashMap<AdmissionId, WriteResult>>,
    hashing: RandomState,
}

impl Singleflight {
    fn id(&self, drop: DropId, slot: Slot, user: &UserId, admitted_at_ms: Option<i64>) -> AdmissionId {
        AdmissionId { drop, slot, fingerprint: self.hashing.hash_one((user.as_str(), admitted_at_ms)) }
    }

    /// Runs `write`, unless the claim is known to be durable or another task is writing it.
    /// `quantity` is the drop's and bounds the memory. `None`: no store took the claim.
    async fn run(
        &self,
        id: AdmissionId,
        quantity: Slot,
        write: impl Future<Output = Option<SecondStore>>,
    ) -> Option<SecondStore> {
        if self.is_durable(id) {
            return Some(SecondStore::Kafka);
        }
        let (sender, receiver) = watch::channel(None);
        let other = {
            let mut running = self.running.lock();
            // Again, under the lock: a writer remembers its claim before it leaves `running`.
            if self.is_durable(id) {
                return Some(SecondStore::Kafka);
            }
            let other = running.get(&id).cloned();
            if other.is_none() {
                running.insert(id, receiver);
            }
            other
        };
        if let Some(mut result) = other {
            // An error: the writer panicked, and the result is unknown.
            return result.wait_for(Option::is_some).await.ok().and_then(|stored| (*stored)?);
        }
        let _leaves_at_the_end = RunningWrite { all: &self.running, id };
        let stored = write.await;
        if stored.is_some() {
            self.remember(id, quantity);
        }
        sender.send_replace(Some(stored));
        stored
    }

    /// Forgets all drops but the wanted ones.
    fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.durable.lock().retain(|drop, _| wanted(*drop));
    }

    fn is_durable(&self, id: AdmissionId) -> bool {
        let durable = self.durable.lock();
        let known = durable.get(&id.drop).and_then(|slots| slots.get(id.index()?));
        known.is_some_and(|fingerprint| *fingerprint == id.short())
    }

    fn remember(&self, id: AdmissionId, quantity: Slot) {
        let Some(at) = id.index().filter(|_| id.slot <= quantity) else { return };
        let mut durable = self.durable.lock();
        let slots = durable.entry(id.drop).or_default();
        if slots.len() <= at {
            slots.resize(at + 1, 0);
        }
        slots[at] = id.short();
    }
}

struct RunningWrite<'a> {
    all: &'a Mutex<HashMap<AdmissionId, WriteResult>>,
    id: AdmissionId,
}

impl Drop for RunningWrite<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn id(writes: &Singleflight, slot: Slot, user: &str, at: i64) -> AdmissionId {
        writes.id(DropId(1), slot, &user.parse().unwrap(), Some(at))
    }

    async fn write(writes: &Singleflight, id: AdmissionId, stored: Option<SecondStore>) {
        assert_eq!(writes.run(id, 100, async { stored }).await, stored);
    }

    /// Whether a claim is known: its write is not run then.
    async fn is_known(writes: &Singleflight, id: AdmissionId) -> bool {
        writes.run(id, 100, async { None }).await.is_some()
    }

    #[tokio::test]
    async fn what_is_durable_is_remembered_for_that_admission_only() {
        let writes = Singleflight::default();
        let first = id(&writes, 7, "u-1", 1_000);
        write(&writes, first, None).await;
        assert!(!is_known(&writes, first).await, "no store took it");
        write(&writes, first, Some(SecondStore::Kafka)).await;
        assert!(is_known(&writes, first).await);
        for other in [id(&writes, 7, "u-2", 1_000), id(&writes, 8, "u-1", 1_000), id(&writes, 7, "u-1", 2_000)] {
            assert!(!is_known(&writes, other).await, "{other:?}");
        }
        writes.keep_only(|drop| drop == DropId(2));
        assert!(!is_known(&writes, first).await, "its drop is forgotten");
    }

    #[tokio::test]
    async fn a_slot_beyond_the_quantity_takes_no_memory() {
        let writes = Singleflight::default();
        let beyond = id(&writes, 4_000_000_000, "u-1", 1);
        write(&writes, beyond, Some(SecondStore::Kafka)).await;
        assert!(!is_known(&writes, beyond).await);
        assert!(writes.durable.lock().is_empty());
    }

    #[tokio::test]
    async fn concurrent_retries_share_one_write_and_its_result() {
        let writes = Singleflight::default();
        let never = async || -> Option<SecondStore> { panic!("written twice") };
        let claim = id(&writes, 1, "u-1", 1);
        for stored in [None, Some(SecondStore::Fallback)] {
            let (end, ended) = oneshot::channel();
            let mut first = Box::pin(writes.run(claim, 1, async { ended.await.unwrap() }));
            assert!((&mut first).now_or_never().is_none());
            let mut retry = Box::pin(writes.run(claim, 1, never()));
            assert!((&mut retry).now_or_never().is_none());
            end.send(stored).unwrap();
            assert_eq!((first.await, retry.await), (stored, stored));
        }
        assert!(is_known(&writes, claim).await);

        let claim = id(&writes, 2, "u-2", 1);
        let mut first = Box::pin(writes.run(claim, 2, std::future::pending()));
        assert!((&mut first).now_or_never().is_none());
        let mut retry = Box::pin(writes.run(claim, 2, never()));
        assert!((&mut retry).now_or_never().is_none());
        drop(first);
        assert_eq!(retry.await, None, "the writer is gone");
        assert!(!is_known(&writes, claim).await);
    }
}
