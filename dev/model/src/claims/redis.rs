//! The drop's state in Redis, and the effect of each script as one step.

use super::{PEOPLE, Person, SLOTS, Slot};

/// The drop's keys, and the era of its coupon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    pub era: u8,
    /// Whether the drop is loaded.
    pub meta: bool,
    /// The highest slot that was given out.
    pub count: Slot,
    pub users: [Slot; PEOPLE],
    /// Whether each slot has become free again.
    pub free: [bool; SLOTS as usize],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The slot that this call has given out.
    Accepted(Slot),
    Already(Slot),
    /// Refused, or temporarily unavailable.
    Refused,
}

/// The result of moving a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The user is now on this slot.
    To(Slot),
    /// No slot is left.
    NoneLeft,
    /// The user is no longer where the caller saw them.
    Changed,
}

impl Redis {
    pub fn on(&self, slot: Slot) -> impl Iterator<Item = Person> {
        let users = self.users;
        (0_u8..)
            .zip(users)
            .filter(move |(_, held)| *held == slot)
            .map(|(person, _)| person)
    }

    /// Returns the user's slot. 0 means that there is none.
    pub fn slot_of(&self, person: Person) -> Slot {
        self.users[usize::from(person)]
    }

    fn held(self) -> usize {
        self.users.iter().filter(|slot| **slot > 0).count()
            + self.free.iter().filter(|free| **free).count()
    }

    /// Whether count = |users| + |free|.
    pub fn adds_up(&self) -> bool {
        usize::from(self.count) == self.held()
    }

    fn take(&mut self, person: Person, slot: Slot) {
        self.users[usize::from(person)] = slot;
        self.free[usize::from(slot) - 1] = false;
        self.count = self.count.max(slot);
    }

    /// Returns the lowest free slot, otherwise the next slot of the counter.
    fn next(self) -> Option<Slot> {
        let next = self.count + 1;
        let freed = (1..=SLOTS)
            .find(|slot| self.free[usize::from(*slot) - 1] && self.on(*slot).next().is_none());
        freed.or_else(|| (next..=SLOTS).find(|slot| self.on(*slot).next().is_none()))
    }

    pub fn claim(&mut self, person: Person) -> Admission {
        let held = self.slot_of(person);
        if !self.meta {
            return Admission::Refused;
        }
        if held > 0 {
            return Admission::Already(held);
        }
        match self.next().filter(|_| self.adds_up()) {
            Some(slot) => {
                self.take(person, slot);
                Admission::Accepted(slot)
            }
            None => Admission::Refused,
        }
    }

    pub fn load(&mut self, era: u8, checked: bool) {
        if self.era == era || !checked {
            self.meta = true;
        }
    }

    pub fn put_back(&mut self, era: u8, person: Person, slot: Slot, certain: bool) {
        let taken = self.on(slot).any(|other| other != person);
        let before = self.slot_of(person);
        if self.era != era || before == slot || (taken && !certain) {
            return;
        }
        self.take(person, slot);
    }

    pub fn settle(&mut self, era: u8) {
        if self.era != era || !self.meta {
            return;
        }
        let highest = self.users.iter().copied().max().unwrap_or(0);
        for slot in 1..=SLOTS {
            self.free[usize::from(slot) - 1] = slot <= highest && self.on(slot).next().is_none();
        }
        self.count = highest;
    }

    pub fn move_person(&mut self, era: u8, person: Person, from: Slot) -> Moved {
        if self.era != era || !self.meta || self.slot_of(person) != from {
            return Moved::Changed;
        }
        let Some(slot) = self.next() else {
            return Moved::NoneLeft;
        };
        self.take(person, slot);
        Moved::To(slot)
    }

    /// Removes the user. The slot stays reserved until the counter is corrected.
    pub fn withdraw(&mut self, era: u8, person: Person, from: Slot) {
        if self.era == era && self.slot_of(person) == from {
            self.users[usize::from(person)] = 0;
        }
    }
}
