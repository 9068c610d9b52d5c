//! Shares one write to the second store among all concurrent retries of a claim.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};

use firstcome_shared::domain::{DropId, Slot, UserId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::durability::SecondStore;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AdmissionId {
    drop: DropId,
    slot: Slot,
    fingerprint: u64,
}

impl AdmissionId {
    /// Returns the part of the fingerprint that is kept in memory, where 0 means none.
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

#[derive(Debug, Clone, Copy)]
pub(super) enum WriteState {
    Running,
    Ended(Option<SecondStore>),
}

pub(super) type WriteResult = watch::Receiver<WriteState>;

/// Singleflight for durable writes: a claim that is being written, or is known to be durable, is
/// not written again.
///
/// For each slot it keeps a fingerprint of the user and the time of admission. If a repair gives
/// the slot to another user, or to the same user a second time, the fingerprint differs and the
/// claim is written again. The fingerprints stay valid when Redis loses data, because they describe
/// Kafka and MySQL.
#[derive(Default)]
pub(super) struct Singleflight {
    durable: Mutex<HashMap<DropId, Vec<u32>>>,
    running: Mutex<HashMap<AdmissionId, WriteResult>>,
    hashing: RandomState,
}

impl Singleflight {
    pub(super) fn id(
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
    pub(super) fn begin(&self, id: AdmissionId) -> WriteTurn<'_> {
        if self.is_durable(id) {
            return WriteTurn::Durable;
        }
        let mut running = self.running.lock();
        // Check again under the lock: a writer stores the fingerprint before it leaves `running`.
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

    pub(super) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
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
pub(super) enum WriteTurn<'a> {
    /// No task has to write the claim, because it is durable.
    Durable,
    /// Another task is writing the claim.
    Joined(WriteResult),
    Ours(RunningWrite<'a>),
}

/// Waits for the write of another task. Also returns `None` if that task panicked.
pub(super) async fn ended(mut result: WriteResult) -> Option<SecondStore> {
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
pub(super) struct RunningWrite<'a> {
    writes: &'a Singleflight,
    id: AdmissionId,
    result: watch::Sender<WriteState>,
}

impl RunningWrite<'_> {
    /// Sends the result to all waiting tasks. The drop's `quantity` bounds the memory.
    pub(super) fn end(self, stored: Option<SecondStore>, quantity: Slot) -> Option<SecondStore> {
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

    /// Whether a claim is known to be durable, so that a write of it does not run.
    async fn is_known(writes: &Singleflight, id: AdmissionId) -> bool {
        run(writes, id, 100, async { None }).await.is_some()
    }

    #[tokio::test]
    async fn remembers_durable_claims_by_slot_user_and_time_of_admission() {
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
        assert!(!is_known(&writes, first).await, "the drop was not kept");
    }

    #[tokio::test]
    async fn slot_above_the_quantity_takes_no_memory() {
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
        assert_eq!(retry.await, None, "the writer was dropped");
        assert!(!is_known(&writes, claim).await);
    }
}
