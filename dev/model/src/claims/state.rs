//! The whole state at one moment.

use super::redis::Redis;
use super::{Faults, Person, Protocol, SLOTS, Slot};

/// A person and a slot: an admission, a message, a promise.
pub type Claim = (Person, Slot);

/// MySQL's data at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dump {
    pub rows: [Option<Person>; SLOTS as usize],
    pub failed: Vec<Claim>,
    pub position: u8,
}

/// The progress of a reconciler.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reconciler {
    Idle,
    /// A pass has begun.
    Begun(PassView),
    Repairing {
        /// The coupon's era according to the pass; 0 if the pass read it late and Redis had none.
        era: u8,
        /// The Redis process that the pass has read.
        process: u8,
        /// The remaining repairs, last first.
        todo: Vec<Repair>,
    },
}

/// The first reads of a pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassView {
    pub(super) process: u8,
    /// The coupon's era, which the pass created if Redis had none.
    pub(super) era: u8,
    pub(super) gate_was_open: bool,
    pub(super) tail: Vec<Claim>,
    /// Admissions older than the publishing deadline.
    pub(super) settled: Vec<Claim>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Repair {
    /// Restores a user to a slot; `true` if the slot comes from a row.
    PutBack(Person, Slot, bool),
    Load,
    /// Corrects the counter.
    Settle,
    Move(Person, Slot),
    /// Takes a slot from a user whose promise is listed as broken.
    Withdraw(Person, Slot),
    Issue(Person, Slot),
    /// Resolves a dead letter, if its user has a row.
    Resolve(Person, Slot),
    Grant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub redis: Redis,
    /// Whether admission is open.
    pub gate_open: bool,
    /// Number of the Redis process.
    pub process: u8,
    /// Redis's data at the time of the copy.
    pub copy: Option<Redis>,
    /// The era that a process has read before it loads the drop, which it may do late.
    pub loader: Option<u8>,
    /// Eras given so far.
    pub eras: u8,
    /// Admissions whose message is in flight to the topic.
    pub publishing: Vec<Claim>,
    /// Claims that are published again, because the process that got the retry has no record that a
    /// second store has them.
    pub again: Vec<Claim>,
    /// Claims that processes have recorded as being in a second store.
    pub held: Vec<Claim>,
    pub topic: Vec<Claim>,
    /// Where reading begins.
    pub position: u8,
    /// The offset of the message that the consumer has read.
    pub in_hand: Option<u8>,
    /// `issued_coupons`, by slot. Its keys are unique, as in the schema.
    pub rows: [Option<Person>; SLOTS as usize],
    pub failed: Vec<Claim>,
    /// MySQL's data at the time of the dump.
    pub dump: Option<Dump>,
    pub reconcilers: Vec<Reconciler>,
    /// Remaining faults.
    pub faults: Faults,
    /// Promises made to users.
    pub promises: Vec<Claim>,
    /// Promises listed as broken.
    pub broken: Vec<Claim>,
    /// All admissions ever made by Redis.
    pub admitted: Vec<Claim>,
    /// Whether a user got a slot that belonged to another user.
    pub admitted_blindly: bool,
}

impl State {
    /// Returns a state in which the drop is loaded and admission is open. A process is also about
    /// to load the drop.
    pub fn open(protocol: &Protocol) -> Self {
        Self {
            redis: Redis {
                era: 1,
                meta: true,
                ..Redis::default()
            },
            gate_open: true,
            process: 0,
            copy: None,
            loader: Some(1),
            eras: 1,
            publishing: Vec::new(),
            again: Vec::new(),
            held: Vec::new(),
            topic: Vec::new(),
            position: 0,
            in_hand: None,
            rows: [None; SLOTS as usize],
            failed: Vec::new(),
            dump: None,
            reconcilers: vec![Reconciler::Idle; protocol.reconcilers],
            faults: protocol.faults,
            promises: Vec::new(),
            broken: Vec::new(),
            admitted: Vec::new(),
            admitted_blindly: false,
        }
    }

    /// Normalises irrelevant differences to reduce the number of states: sets are sorted, and
    /// reconcilers are interchangeable.
    pub fn tidy(&mut self) {
        let on_the_way = [&mut self.publishing, &mut self.again, &mut self.held];
        let told = [
            &mut self.failed,
            &mut self.promises,
            &mut self.broken,
            &mut self.admitted,
        ];
        for set in on_the_way.into_iter().chain(told) {
            set.sort_unstable();
            set.dedup();
        }
        self.reconcilers.sort_unstable();
        if self.faults.flushes == 0 && self.redis.era == self.eras {
            // A loaded drop stays loaded, so loading it late does nothing.
            self.loader = self.loader.filter(|_| !self.redis.meta);
        }
        if self.faults.gone_back == 0 {
            self.copy = None;
        }
        if self.faults.restored == 0 {
            self.dump = None;
        }
    }

    pub(super) fn to_dump(&self) -> Dump {
        Dump {
            rows: self.rows,
            failed: self.failed.clone(),
            position: self.position,
        }
    }

    pub fn row_of(&self, person: Person) -> Option<Slot> {
        (1..)
            .zip(self.rows)
            .find(|(_, row)| *row == Some(person))
            .map(|(slot, _)| slot)
    }

    pub fn row_on(&self, slot: Slot) -> Option<Person> {
        self.rows[usize::from(slot) - 1]
    }

    /// Writes a row if the schema allows it. Returns whether the row exists now.
    pub fn insert(&mut self, claim: Claim) -> bool {
        let (person, slot) = claim;
        let row = self.row_on(slot);
        if row.is_none() && self.row_of(person).is_none() {
            self.rows[usize::from(slot) - 1] = Some(person);
        }
        self.row_on(slot) == Some(person)
    }

    /// The unread tail of the topic.
    pub fn tail(&self) -> &[Claim] {
        &self.topic[usize::from(self.position)..]
    }

    /// Promises that are not listed as broken.
    pub fn standing(&self) -> impl Iterator<Item = &Claim> {
        self.promises
            .iter()
            .filter(|promise| !self.broken.contains(promise))
    }

    pub(crate) fn promises_agree(&self) -> bool {
        self.standing().all(|(person, slot)| {
            self.standing()
                .all(|(other, on)| (person == other) == (slot == on))
        })
    }

    pub(crate) fn promises_are_held(&self) -> bool {
        let held = |claim: &Claim| {
            self.tail().contains(claim)
                || self.failed.contains(claim)
                || self.row_on(claim.1) == Some(claim.0)
        };
        self.standing().all(held)
    }

    pub(crate) fn rows_are_admitted(&self) -> bool {
        let rows = || {
            (1..)
                .zip(self.rows)
                .filter_map(|(slot, row)| Some((row?, slot)))
        };
        rows().all(|claim| self.admitted.contains(&claim) && self.row_of(claim.0) == Some(claim.1))
    }

    /// Whether another user has a right to the slot.
    pub(crate) fn belongs_to_another(&self, person: Person, slot: Slot) -> bool {
        let anothers =
            |claim: &&Claim| claim.1 == slot && claim.0 != person && !self.broken.contains(claim);
        self.promises
            .iter()
            .chain(&self.topic)
            .any(|claim| anothers(&claim))
            || self.row_on(slot).is_some_and(|row| row != person)
    }
}
