//! Micro-batching of admission: claims of one drop that come while a call to Redis is under way go together in the next call.
//!
//! The first claim of a drop that nobody asks for at that moment is sent at once. A busy drop has one call under way, and its
//! claims share everything that a call costs: the round trip, the script's reading of the drop, one write of each key, one
//! entry in the append-only file. Every answer is computed by Redis after its claim came, so answers are linearizable: what
//! one process acknowledged, the next claim at any process sees (docs/decisions/0011-micro-batches.md).

use parking_lot::Mutex;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::admission::MAX_BATCH;

/// Claims that wait for the next call, by drop. A drop is in here exactly as long as a call for it is under way.
pub(crate) struct Batches<T> {
    waiting: Mutex<HashMap<DropId, VecDeque<T>>>,
}

/// The one who makes the calls of a drop. Dropped, the drop has no call under way, and claims that still wait are dropped.
pub(crate) struct Caller<'a, T> {
    batches: &'a Batches<T>,
    drop: DropId,
    ended: bool,
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

impl<T> Batches<T> {
    /// Puts a claim into the drop's next call. `true`: no call is under way, and it is for this caller to make them with
    /// [`Batches::caller`].
    #[must_use]
    pub(crate) fn join(&self, drop: DropId, claim: T) -> bool {
        match self.waiting.lock().entry(drop) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(claim);
                false
            }
            Entry::Vacant(first) => {
                first.insert(VecDeque::from([claim]));
                true
            }
        }
    }

    /// For the one whose claim was the first.
    pub(crate) fn caller(&self, drop: DropId) -> Caller<'_, T> {
        Caller { batches: self, drop, ended: false }
    }
}

impl<T> Caller<'_, T> {
    /// The claims of the next call, in the order in which they came. `None`: nobody waits, and the next to come is the first.
    pub(crate) fn next(&mut self) -> Option<Vec<T>> {
        let mut all = self.batches.waiting.lock();
        let waiting = all.get_mut(&self.drop)?;
        if waiting.is_empty() {
            all.remove(&self.drop);
            self.ended = true;
            return None;
        }
        let people = waiting.len().min(MAX_BATCH);
        Some(waiting.drain(..people).collect())
    }

    /// Everybody who waits, for a call that was not answered: they would only wait for the same silence.
    pub(crate) fn take_all(&self) -> Vec<T> {
        self.batches.waiting.lock().get_mut(&self.drop).map(std::mem::take).unwrap_or_default().into()
    }
}

impl<T> Drop for Caller<'_, T> {
    fn drop(&mut self) {
        if !self.ended {
            // A panic. Dropped outside the lock: who waits hears of it by that.
            let left = self.batches.waiting.lock().remove(&self.drop);
            drop(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROP: DropId = DropId(1);

    #[test]
    fn the_first_makes_the_calls_and_those_who_come_meanwhile_go_together_in_their_order() {
        let batches = Batches::default();
        assert!(batches.join(DROP, 1));
        let mut caller = batches.caller(DROP);
        assert_eq!(caller.next(), Some(vec![1]));
        assert!(!batches.join(DROP, 2));
        assert!(!batches.join(DROP, 3));
        assert!(batches.join(DropId(2), 9), "another drop has calls of its own");
        assert_eq!(caller.next(), Some(vec![2, 3]));
        assert_eq!(caller.next(), None);
        assert!(batches.join(DROP, 4), "nobody asks any more");
    }

    #[test]
    fn a_call_is_bounded_and_a_failed_one_takes_everybody() {
        let batches = Batches::default();
        let people = MAX_BATCH * 2 + 1;
        for number in 0..people {
            assert_eq!(batches.join(DROP, number), number == 0);
        }
        let mut caller = batches.caller(DROP);
        assert_eq!(caller.next().unwrap().len(), MAX_BATCH);
        assert_eq!(caller.take_all(), (MAX_BATCH..people).collect::<Vec<_>>());
        assert_eq!(caller.next(), None);
    }

    #[test]
    fn after_a_panic_the_next_claim_is_the_first_again() {
        let batches = Batches::default();
        assert!(batches.join(DROP, 1));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _caller = batches.caller(DROP);
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(batches.join(DROP, 2));
    }
}
