//! Singleflight: concurrent retries of a claim share one write to a second store, and a claim that
//! is known to be stored is not written again.
//!
//! A claim is known by its slot, user and time of admission. If a repair gives the slot to another
//! user, or to the same user a second time, the claim differs and is written again. What is known
//! stays valid when Redis loses data, because it describes Kafka and MySQL.

use std::hash::{BuildHasher as _, RandomState};

use firstcome_shared::domain::{DropId, Slot, UserId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::durability::SecondStore;
use crate::bounded_cache::BoundedCache;

/// Number of claims in each of the two generations of the memory. A claim that was forgotten is
/// written again.
const REMEMBERED: usize = 100_000;

/// Drop, slot, and a keyed hash of the user and the time of admission.
pub(super) type AdmissionId = (DropId, Slot, u64);

pub(super) type WriteResult = watch::Receiver<Option<SecondStore>>;

enum WriteState {
    Stored,
    Running(WriteResult),
}

pub(super) struct Singleflight {
    writes: Mutex<BoundedCache<AdmissionId, WriteState>>,
    hashing: RandomState,
}

/// The task that writes a claim.
pub(super) enum WriteTurn {
    /// No task has to write the claim, because a second store holds it.
    Stored,
    /// Another task is writing the claim.
    Joined(WriteResult),
    /// This task. It tells the result with [`Singleflight::end`]; if it is dropped, nothing was
    /// stored.
    Ours(watch::Sender<Option<SecondStore>>),
}

impl Singleflight {
    pub(super) fn new() -> Self {
        Self {
            writes: BoundedCache::new(REMEMBERED).into(),
            hashing: RandomState::new(),
        }
    }

    pub(super) fn id(
        &self,
        drop: DropId,
        slot: Slot,
        user: &UserId,
        admitted_at_ms: Option<i64>,
    ) -> AdmissionId {
        let fingerprint = self.hashing.hash_one((user.as_str(), admitted_at_ms));
        (drop, slot, fingerprint)
    }

    pub(super) fn is_stored(&self, id: AdmissionId) -> bool {
        matches!(self.writes.lock().get(&id), Some(WriteState::Stored))
    }

    pub(super) fn remember(&self, id: AdmissionId) {
        self.writes.lock().insert(id, WriteState::Stored);
    }

    /// Takes the turn to write a claim, unless it is known to be stored or another task is writing
    /// it.
    pub(super) fn begin(&self, id: AdmissionId) -> WriteTurn {
        let mut writes = self.writes.lock();
        match writes.get(&id) {
            Some(WriteState::Stored) => return WriteTurn::Stored,
            // Fails if the task that was writing it was dropped.
            Some(WriteState::Running(result)) if result.has_changed().is_ok() => {
                return WriteTurn::Joined(result.clone());
            }
            Some(WriteState::Running(_)) | None => {}
        }
        let (turn, result) = watch::channel(None);
        writes.insert(id, WriteState::Running(result));
        WriteTurn::Ours(turn)
    }

    /// Ends this task's turn.
    pub(super) fn end(
        &self,
        id: AdmissionId,
        turn: &watch::Sender<Option<SecondStore>>,
        stored: Option<SecondStore>,
    ) {
        let mut writes = self.writes.lock();
        if stored.is_some() {
            writes.insert(id, WriteState::Stored);
        } else {
            writes.remove(&id);
        }
        drop(writes);
        turn.send_replace(stored);
    }
}

/// Waits for the write of another task. Returns `None` if no store took the claim.
pub(super) async fn ended(mut result: WriteResult) -> Option<SecondStore> {
    let stored = result.wait_for(Option::is_some).await;
    stored.ok().and_then(|stored| *stored)
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
        write: impl Future<Output = Option<SecondStore>>,
    ) -> Option<SecondStore> {
        match writes.begin(id) {
            WriteTurn::Stored => Some(SecondStore::Kafka),
            WriteTurn::Joined(result) => ended(result).await,
            WriteTurn::Ours(turn) => {
                let stored = write.await;
                writes.end(id, &turn, stored);
                stored
            }
        }
    }

    fn id(writes: &Singleflight, slot: Slot, user: &str, at: i64) -> AdmissionId {
        writes.id(DropId(1), slot, &user.parse().unwrap(), Some(at))
    }

    #[tokio::test]
    async fn remembers_stored_claims_by_slot_user_and_time_of_admission() {
        let writes = Singleflight::new();
        let first = id(&writes, 7, "u-1", 1_000);
        for stored in [None, Some(SecondStore::Kafka)] {
            assert_eq!(run(&writes, first, async { stored }).await, stored);
            assert_eq!(writes.is_stored(first), stored.is_some());
        }
        for other in [
            id(&writes, 7, "u-2", 1_000),
            id(&writes, 8, "u-1", 1_000),
            id(&writes, 7, "u-1", 2_000),
        ] {
            assert!(!writes.is_stored(other), "{other:?}");
        }
    }

    #[tokio::test]
    async fn concurrent_retries_share_one_write_and_its_result() {
        let writes = Singleflight::new();
        let never = async || -> Option<SecondStore> { panic!("written twice") };
        let claim = id(&writes, 1, "u-1", 1);
        for stored in [None, Some(SecondStore::Fallback)] {
            let (end, ended) = oneshot::channel();
            let mut first = Box::pin(run(&writes, claim, async { ended.await.unwrap() }));
            assert!((&mut first).now_or_never().is_none());
            let mut retry = Box::pin(run(&writes, claim, never()));
            assert!((&mut retry).now_or_never().is_none());
            end.send(stored).unwrap();
            assert_eq!((first.await, retry.await), (stored, stored));
        }
        assert!(writes.is_stored(claim));

        let claim = id(&writes, 2, "u-2", 1);
        let mut first = Box::pin(run(&writes, claim, std::future::pending()));
        assert!((&mut first).now_or_never().is_none());
        let mut retry = Box::pin(run(&writes, claim, never()));
        assert!((&mut retry).now_or_never().is_none());
        drop(first);
        assert_eq!(retry.await, None, "the writer was dropped");
        assert_eq!(run(&writes, claim, async { None }).await, None);
    }
}
