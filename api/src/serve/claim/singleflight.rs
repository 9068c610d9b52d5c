//! What this process knows to be held by a second store beside Redis, so that it makes sure of each claim at most once, and
//! a thousand retries at the same time make sure of it together.
//!
//! For each slot a fingerprint of its holder and the instant of their admission is kept, not a mere bit: where a repair moves
//! somebody onto a slot that was another's, or gives the same person the same slot anew, the fingerprint differs, and it is made
//! sure of again. Nothing has to be forgotten when Redis loses data: what is known is a fact about the topic and MySQL.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use firstcome_shared::domain::{DropId, Slot, UserId};
use tokio::sync::watch;

/// One admission, as it is told apart from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    drop: DropId,
    slot: Slot,
    print: u64,
}

impl Mark {
    /// What is kept of the fingerprint: 0 is none.
    #[allow(clippy::cast_possible_truncation)] // meant: 32 bits of a keyed hash are enough
    fn short(self) -> u32 {
        (self.print as u32).max(1)
    }
}

/// Which second store took a claim; `None`: neither, in time.
pub(crate) type Taken = Option<Holder>;

/// A store beside Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Kafka acknowledged its message.
    Topic,
    /// The backup table keeps it.
    Backup,
}

/// Who makes sure of a claim.
pub(crate) enum Turn<'a> {
    /// Nobody need: it is held.
    Held,
    Mine(Work<'a>),
    /// Somebody does at this moment, and says here what came of it.
    Another(watch::Receiver<Option<Taken>>),
}

#[derive(Default)]
pub(crate) struct Held {
    slots: Mutex<HashMap<DropId, Vec<u32>>>,
    under_way: Mutex<HashMap<Mark, watch::Receiver<Option<Taken>>>>,
    hashing: RandomState,
}

impl Held {
    /// The mark of the admission of `user` to a slot at an instant, in ms, where that is known.
    pub(crate) fn mark(&self, drop: DropId, slot: Slot, user: &UserId, admitted_at_ms: Option<i64>) -> Mark {
        Mark { drop, slot, print: self.hashing.hash_one((user.as_str(), admitted_at_ms)) }
    }

    /// Whose turn it is. `most`: the drop's quantity, which bounds what is remembered.
    pub(crate) fn turn(&self, mark: Mark, most: Slot) -> Turn<'_> {
        if self.knows(mark) {
            return Turn::Held;
        }
        let mut under_way = self.under_way.lock();
        if let Some(result) = under_way.get(&mark) {
            return Turn::Another(result.clone());
        }
        // Somebody may have ended between the two looks.
        if self.knows(mark) {
            return Turn::Held;
        }
        let (result, seen) = watch::channel(None);
        under_way.insert(mark, seen);
        Turn::Mine(Work { held: self, mark, most, result })
    }

    /// Forgets the drops that are not among these.
    pub(crate) fn keep_only(&self, wanted: impl Fn(DropId) -> bool) {
        self.slots.lock().retain(|drop, _| wanted(*drop));
    }

    fn knows(&self, mark: Mark) -> bool {
        let slots = self.slots.lock();
        let known = slots.get(&mark.drop).and_then(|prints| prints.get(index(mark.slot)?));
        known.is_some_and(|print| *print == mark.short())
    }

    fn remember(&self, mark: Mark, most: Slot) {
        let Some(at) = index(mark.slot).filter(|_| mark.slot <= most) else { return };
        let mut slots = self.slots.lock();
        let prints = slots.entry(mark.drop).or_default();
        if prints.len() <= at {
            prints.resize(at + 1, 0);
        }
        prints[at] = mark.short();
    }
}

fn index(slot: Slot) -> Option<usize> {
    usize::try_from(slot.checked_sub(1)?).ok()
}

/// The making sure of one claim. Dropped without an end, whoever waits for it hears that it failed.
pub(crate) struct Work<'a> {
    held: &'a Held,
    mark: Mark,
    most: Slot,
    result: watch::Sender<Option<Taken>>,
}

impl Work<'_> {
    pub(crate) fn ended(self, taken: Taken) {
        if taken.is_some() {
            self.held.remember(self.mark, self.most);
        }
        self.result.send_replace(Some(taken));
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.held.under_way.lock().remove(&self.mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(held: &Held, slot: Slot, user: &str, at: i64) -> Mark {
        held.mark(DropId(1), slot, &user.parse().unwrap(), Some(at))
    }

    fn take(held: &Held, mark: Mark, taken: Taken) {
        let Turn::Mine(work) = held.turn(mark, 100) else { panic!("not ours") };
        work.ended(taken);
    }

    fn is_held(held: &Held, mark: Mark) -> bool {
        matches!(held.turn(mark, 100), Turn::Held)
    }

    #[test]
    fn what_is_held_is_remembered_for_that_admission_only() {
        let held = Held::default();
        let first = mark(&held, 7, "u-1", 1_000);
        take(&held, first, None);
        assert!(!is_held(&held, first), "no store took it");
        take(&held, first, Some(Holder::Topic));
        assert!(is_held(&held, first));
        for other in [mark(&held, 7, "u-2", 1_000), mark(&held, 8, "u-1", 1_000), mark(&held, 7, "u-1", 2_000)] {
            assert!(!is_held(&held, other), "{other:?}");
        }
        held.keep_only(|drop| drop == DropId(2));
        assert!(!is_held(&held, first), "its drop is forgotten");
    }

    #[test]
    fn a_slot_beyond_the_quantity_takes_no_memory() {
        let held = Held::default();
        let beyond = mark(&held, 4_000_000_000, "u-1", 1);
        take(&held, beyond, Some(Holder::Topic));
        assert!(!is_held(&held, beyond));
        assert!(held.slots.lock().is_empty());
    }

    #[tokio::test]
    async fn whoever_comes_meanwhile_waits_for_the_one_and_hears_what_came_of_it() {
        let held = Held::default();
        let claim = mark(&held, 1, "u-1", 1);
        for taken in [None, Some(Holder::Backup)] {
            let Turn::Mine(work) = held.turn(claim, 1) else { panic!("not ours") };
            let Turn::Another(mut others) = held.turn(claim, 1) else { panic!("twice") };
            work.ended(taken);
            assert_eq!(*others.wait_for(Option::is_some).await.unwrap(), Some(taken));
        }
        assert!(is_held(&held, claim));
        let claim = mark(&held, 2, "u-2", 1);
        let Turn::Mine(work) = held.turn(claim, 2) else { panic!("not ours") };
        let Turn::Another(mut others) = held.turn(claim, 2) else { panic!("twice") };
        drop(work);
        assert!(others.wait_for(Option::is_some).await.is_err(), "it panicked");
        assert!(!is_held(&held, claim));
    }
}
