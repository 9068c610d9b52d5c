//! Durability: a slot is acknowledged only after a second store in addition to Redis holds the
//! claim (docs/decisions/0008-second-store.md). Kafka is that store; if it does not acknowledge in
//! time, the fallback table is. Concurrent retries of one claim share one write ([`Singleflight`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
use futures_util::future::join_all;

use super::publisher::{Fallback, Outgoing, Publisher};
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};

/// The second store that holds a claim, in addition to Redis.
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
    /// By Redis's clock; `None` if Redis does not know it.
    pub(super) admitted_at_ms: Option<i64>,
    pub(super) now_ms: i64,
    /// The span of its request, if it has a trace.
    pub(super) trace: Option<TraceContext>,
}

impl AdmittedClaim {
    fn id(&self, writes: &Singleflight) -> AdmissionId {
        writes.id(self.drop_id, self.slot, &self.user, self.admitted_at_ms)
    }

    fn outgoing(&self, coupon: &CouponWithDrops) -> Outgoing {
        let claimed_at = instant(self.admitted_at_ms.unwrap_or(self.now_ms));
        let coupon_id = coupon.coupon.id;
        let drop_id = self.drop_id;
        let slot = self.slot;
        let user_id = self.user.clone();
        Outgoing {
            claim: ClaimEvent {
                coupon_id,
                drop_id,
                slot,
                user_id,
                claimed_at,
            },
            trace: self.trace,
        }
    }
}

impl Durability {
    /// `longest_in_flight`: the earliest time after a loss of Redis at which the reconciler
    /// rebuilds it from the second stores.
    pub(crate) fn new(
        publisher: Publisher,
        fallback: Fallback,
        questions: Db,
        longest_in_flight: Duration,
    ) -> Self {
        let writes = Singleflight::default();
        let issued = IssuedClaims::new(questions);
        Self {
            writes,
            issued,
            publisher,
            fallback,
            longest_in_flight,
        }
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Makes sure that a second store holds the claims that one call admitted, and returns which
    /// store, in the order of the claims. `None`: neither took the claim in time, so it must not be
    /// acknowledged. The admission remains, and a retry finds it.
    ///
    /// A claim may be published twice, by two processes or after a restart; the consumer ignores
    /// the second message.
    pub(super) async fn ensure_new(
        &self,
        coupon: &CouponWithDrops,
        claims: Vec<AdmittedClaim>,
    ) -> Vec<Option<SecondStore>> {
        let mut stored = vec![None; claims.len()];
        let mut ours = Vec::new();
        let mut outgoing = Vec::new();
        let mut joined = Vec::new();
        let quantity =
            |claim: &AdmittedClaim| coupon.drop(claim.drop_id).map_or(0, |drop| drop.quantity);
        for (at, claim) in claims.iter().enumerate() {
            match self.writes.begin(claim.id(&self.writes)) {
                WriteTurn::Durable => stored[at] = Some(SecondStore::Kafka),
                // A retry came first: its call was answered earlier.
                WriteTurn::Joined(result) => joined.push((at, result)),
                WriteTurn::Ours(turn) => {
                    ours.push((at, turn));
                    outgoing.push(claim.outgoing(coupon));
                }
            }
        }
        for ((at, turn), result) in ours.into_iter().zip(self.write(&outgoing).await) {
            stored[at] = turn.end(result, quantity(&claims[at]));
        }
        for (at, result) in joined {
            stored[at] = ended(result).await;
        }
        claims
            .iter()
            .zip(stored)
            .map(|(claim, stored)| self.in_time(claim, stored))
            .collect()
    }

    /// The same for a claim that already had its slot in Redis: a retry. Returns Kafka if the claim
    /// was written earlier.
    pub(super) async fn ensure(
        &self,
        coupon: &CouponWithDrops,
        claim: AdmittedClaim,
    ) -> Option<SecondStore> {
        let drop = coupon.drop(claim.drop_id);
        let outgoing = claim.outgoing(coupon);
        // A claim of a sealed drop has its row, unless it was admitted after sealing because a
        // wrong clock opened the drop again. So the row decides.
        let has_row = if drop.is_some_and(|drop| drop.sealed_at.is_none()) {
            Some(false)
        } else {
            self.issued.has_row(&outgoing.claim).await
        };
        let stored = match has_row {
            Some(true) => Some(SecondStore::Kafka),
            // A dead letter would unseal its drop, which most likely has the row.
            None => self
                .publish(&[outgoing])
                .await
                .first()
                .is_some_and(|sent| *sent)
                .then_some(SecondStore::Kafka),
            Some(false) => match self.writes.begin(claim.id(&self.writes)) {
                WriteTurn::Durable => Some(SecondStore::Kafka),
                WriteTurn::Joined(result) => ended(result).await,
                WriteTurn::Ours(turn) => {
                    let stored = self.write(&[outgoing]).await.first().copied().flatten();
                    turn.end(stored, drop.map_or(0, |drop| drop.quantity))
                }
            },
        };
        self.in_time(&claim, stored)
    }

    /// Each store has a separate deadline, but Redis's response may have taken long before that, or
    /// this process may have been paused in between. A claim that a second store took later than
    /// the reconciler waits may have been missing when a lost Redis was rebuilt.
    fn in_time(&self, claim: &AdmittedClaim, stored: Option<SecondStore>) -> Option<SecondStore> {
        let is_late = claim.asked_at.elapsed() > self.longest_in_flight;
        if is_late && stored.is_some() {
            counter!("firstcome_claims_not_held_total").increment(1);
            let drop = claim.drop_id;
            let slot = claim.slot;
            tracing::debug!(%drop, slot, "a second store took an admission too late, and it is not promised");
        }
        stored.filter(|_| !is_late)
    }

    async fn publish(&self, claims: &[Outgoing]) -> Vec<bool> {
        let published = self.publisher.publish(claims).await;
        crash_point(Point::ClaimPublished);
        published
    }

    /// Writes claims to a second store, and returns which store holds each.
    async fn write(&self, claims: &[Outgoing]) -> Vec<Option<SecondStore>> {
        if claims.is_empty() {
            return Vec::new();
        }
        let published = self.publish(claims).await;
        let one = async |(claim, is_published): (&Outgoing, bool)| {
            if is_published {
                Some(SecondStore::Kafka)
            } else {
                self.keep(claim).await
            }
        };
        join_all(claims.iter().zip(published).map(one)).await
    }

    async fn keep(&self, Outgoing { claim, trace }: &Outgoing) -> Option<SecondStore> {
        let kept = self.fallback.keep(claim, *trace).await;
        crash_point(Point::ClaimKept);
        if !kept {
            counter!("firstcome_claims_not_held_total").increment(1);
            tracing::debug!(drop = %claim.drop_id, slot = claim.slot, "an admission is held by Redis alone and is not promised");
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
    #[allow(
        clippy::cast_possible_truncation,
        reason = "32 bits of a keyed hash are enough"
    )]
    fn short(self) -> u32 {
        (self.fingerprint as u32).max(1)
    }

    fn index(self) -> Option<usize> {
        usize::try_from(self.slot.checked_sub(1)?).ok()
    }
}

/// The progress of a write.
#[derive(Debug, Clone, Copy)]
enum WriteState {
    Running,
    Ended(Option<SecondStore>),
}

type WriteResult = watch::Receiver<WriteState>;

/// Singleflight for durable writes: a claim that is being written, or is known to be durable, is
/// not written again.
///
/// The memory is a fingerprint for each slot: of the user and of the time of admission. A repair
/// may give a slot to another user, or to the same user a second time; then the fingerprint
/// differs, and the claim is written again. The memory stays valid when Redis loses data, because
/// it concerns Kafka and MySQL.
#[derive(Default)]
struct Singleflight {
    durable: Mutex<HashMap<DropId, Vec<u32>>>,
    running: Mutex<HashMap<AdmissionId, WriteResult>>,
    hashing: RandomState,
}

impl Singleflight {
    fn id(
        &self,
        drop: DropId,
        slot: Slot,
        user: &UserId,
        admitted_at_ms: Option<i64>,
    ) -> AdmissionId {
        AdmissionId {
            drop,
            slot,
            fingerprint: self.hashing.hash_one((user.as_str(), admitted_at_ms)),
        }
    }

    /// Takes the turn to write a claim, unless it is known to be durable or another task is writing
    /// it.
    fn begin(&self, id: AdmissionId) -> WriteTurn<'_> {
        if self.is_durable(id) {
            return WriteTurn::Durable;
        }
        let mut running = self.running.lock();
        // Checked again under the lock: a writer remembers its claim before it leaves `running`.
        if self.is_durable(id) {
            return WriteTurn::Durable;
        }
        match running.entry(id) {
            Entry::Occupied(other) => WriteTurn::Joined(other.get().clone()),
            Entry::Vacant(free) => {
                let (result, receiver) = watch::channel(WriteState::Running);
                free.insert(receiver);
                WriteTurn::Ours(RunningWrite {
                    writes: self,
                    id,
                    result,
                })
            }
        }
    }

    /// Forgets all drops but the wanted ones.
    fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.durable.lock().retain(|drop, _| wanted(*drop));
    }

    fn is_durable(&self, id: AdmissionId) -> bool {
        let durable = self.durable.lock();
        let known = durable
            .get(&id.drop)
            .and_then(|slots| slots.get(id.index()?));
        known.is_some_and(|fingerprint| *fingerprint == id.short())
    }

    fn remember(&self, id: AdmissionId, quantity: Slot) {
        let Some(at) = id.index().filter(|_| id.slot <= quantity) else {
            return;
        };
        let mut durable = self.durable.lock();
        let slots = durable.entry(id.drop).or_default();
        if slots.len() <= at {
            slots.resize(at + 1, 0);
        }
        slots[at] = id.short();
    }
}

/// The task that writes a claim.
enum WriteTurn<'a> {
    /// None: it is durable.
    Durable,
    /// Another task.
    Joined(WriteResult),
    Ours(RunningWrite<'a>),
}

/// The result of another task's write. An error: it panicked, and the result is unknown.
async fn ended(mut result: WriteResult) -> Option<SecondStore> {
    let state = result
        .wait_for(|state| matches!(state, WriteState::Ended(_)))
        .await;
    if let WriteState::Ended(stored) = *state.ok()? {
        stored
    } else {
        None
    }
}

/// The turn to write a claim. Dropping it releases the turn.
struct RunningWrite<'a> {
    writes: &'a Singleflight,
    id: AdmissionId,
    result: watch::Sender<WriteState>,
}

impl RunningWrite<'_> {
    /// Announces the store that holds the claim to all waiting tasks. `quantity` is the drop's and
    /// bounds the memory.
    fn end(self, stored: Option<SecondStore>, quantity: Slot) -> Option<SecondStore> {
        if stored.is_some() {
            self.writes.remember(self.id, quantity);
        }
        self.result.send_replace(WriteState::Ended(stored));
        stored
    }
}

impl Drop for RunningWrite<'_> {
    fn drop(&mut self) {
        self.writes.running.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// Writes a claim if it is this task's turn.
    async fn run(
        writes: &Singleflight,
        id: AdmissionId,
        quantity: Slot,
        write: impl Future<Output = Option<SecondStore>>,
    ) -> Option<SecondStore> {
        match writes.begin(id) {
            WriteTurn::Durable => Some(SecondStore::Kafka),
            WriteTurn::Joined(result) => ended(result).await,
            WriteTurn::Ours(turn) => {
                let stored = write.await;
                turn.end(stored, quantity)
            }
        }
    }

    fn id(writes: &Singleflight, slot: Slot, user: &str, at: i64) -> AdmissionId {
        writes.id(DropId(1), slot, &user.parse().unwrap(), Some(at))
    }

    async fn write(writes: &Singleflight, id: AdmissionId, stored: Option<SecondStore>) {
        assert_eq!(run(writes, id, 100, async { stored }).await, stored);
    }

    /// Whether a claim is known: then its write does not run.
    async fn is_known(writes: &Singleflight, id: AdmissionId) -> bool {
        run(writes, id, 100, async { None }).await.is_some()
    }

    #[tokio::test]
    async fn what_is_durable_is_remembered_for_that_admission_only() {
        let writes = Singleflight::default();
        let first = id(&writes, 7, "u-1", 1_000);
        write(&writes, first, None).await;
        assert!(!is_known(&writes, first).await, "no store took it");
        write(&writes, first, Some(SecondStore::Kafka)).await;
        assert!(is_known(&writes, first).await);
        for other in [
            id(&writes, 7, "u-2", 1_000),
            id(&writes, 8, "u-1", 1_000),
            id(&writes, 7, "u-1", 2_000),
        ] {
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
            let mut first = Box::pin(run(&writes, claim, 1, async { ended.await.unwrap() }));
            assert!((&mut first).now_or_never().is_none());
            let mut retry = Box::pin(run(&writes, claim, 1, never()));
            assert!((&mut retry).now_or_never().is_none());
            end.send(stored).unwrap();
            assert_eq!((first.await, retry.await), (stored, stored));
        }
        assert!(is_known(&writes, claim).await);

        let claim = id(&writes, 2, "u-2", 1);
        let mut first = Box::pin(run(&writes, claim, 2, std::future::pending()));
        assert!((&mut first).now_or_never().is_none());
        let mut retry = Box::pin(run(&writes, claim, 2, never()));
        assert!((&mut retry).now_or_never().is_none());
        drop(first);
        assert_eq!(retry.await, None, "the writer is gone");
        assert!(!is_known(&writes, claim).await);
    }
}
