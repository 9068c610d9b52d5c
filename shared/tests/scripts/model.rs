//! The contract of each script, modelled in Rust.

use std::collections::{BTreeMap, BTreeSet};

use firstcome_shared::domain::{DropId, OncePer, UserId};
use firstcome_shared::redis::admission::Admission;
use firstcome_shared::redis::repair::{Done, Lowered};

use crate::command::{PersonLetter, ScriptCommand, ScriptRepair, Start, Tamper};
use crate::world::{ENDED_AT_MS, Shown};

#[derive(Debug, Clone)]
pub(crate) struct Model {
    start: Start,
    /// Quantity and pause; `None` if the drop is not loaded.
    meta: Option<(i64, bool)>,
    count: Option<i64>,
    users: BTreeMap<PersonLetter, i64>,
    free: BTreeSet<i64>,
    /// The waiting list in order. Users with a broken promise come first, with their former slot.
    waiting: Vec<(Option<i64>, PersonLetter)>,
    claimants: BTreeMap<PersonLetter, (i64, i64)>,
    /// Id of the last revocation, and whether it has ended.
    revoked: BTreeMap<PersonLetter, (i64, bool)>,
    /// The recorded sizes of `claimants` and `revoked`.
    expected_claimants: Option<i64>,
    expected_revoked: Option<i64>,
    era: u64,
    /// The highest revision written.
    revision: u64,
}

const DROP: i64 = 3;

fn words(answer: &impl std::fmt::Debug) -> String {
    format!("{answer:?}")
}

fn revocation(id: i64, ended: bool) -> String {
    if ended {
        format!("{id}:{ENDED_AT_MS}")
    } else {
        id.to_string()
    }
}

/// Numbers below 0 are invalid, so the scripts no longer change them.
fn count(size: &mut Option<i64>, change: i64) {
    *size = size.map(|size| if size < 0 { size } else { size + change });
}

fn len<K, V>(map: &BTreeMap<K, V>) -> i64 {
    i64::try_from(map.len()).unwrap()
}

fn narrow(slot: i64) -> u32 {
    u32::try_from(slot).unwrap()
}

impl Model {
    pub(crate) fn new(start: &Start, era: u64) -> Self {
        Self {
            start: *start,
            meta: Some((i64::from(start.quantity), false)),
            count: Some(0),
            users: BTreeMap::new(),
            free: BTreeSet::new(),
            waiting: Vec::new(),
            claimants: BTreeMap::new(),
            revoked: BTreeMap::new(),
            expected_claimants: Some(0),
            expected_revoked: Some(0),
            era,
            revision: 1,
        }
    }

    pub(crate) fn quantity(&self) -> Option<i64> {
        self.meta.map(|(quantity, _)| quantity)
    }

    /// count = |users| + |free|
    pub(crate) fn adds_up(&self) -> bool {
        self.count == Some(self.held_and_free())
    }

    pub(crate) fn is_held(&self, slot: i64) -> bool {
        self.users.values().any(|held| *held == slot)
    }

    pub(crate) fn left(&self) -> i64 {
        self.quantity().unwrap_or(0) - i64::try_from(self.users.len()).unwrap()
    }

    pub(crate) fn waiting(&self) -> i64 {
        i64::try_from(self.waiting.len()).unwrap()
    }

    fn held_and_free(&self) -> i64 {
        i64::try_from(self.users.len() + self.free.len()).unwrap()
    }

    fn once_per_coupon(&self) -> bool {
        self.start.once_per == OncePer::Coupon
    }

    pub(crate) fn shown(&self) -> Shown {
        Shown {
            quantity_and_pause: self
                .meta
                .map(|(q, paused)| (q.to_string(), u8::from(paused).to_string())),
            count: self.count.map(|count| count.to_string()),
            users: self
                .users
                .iter()
                .map(|(person, slot)| (*slot, person.to_string()))
                .collect(),
            free: self.free.clone(),
            waiting: self
                .waiting
                .iter()
                .map(|(_, person)| person.to_string())
                .collect(),
            claimants: self
                .claimants
                .iter()
                .map(|(p, (d, s))| (p.to_string(), format!("{d}:{s}")))
                .collect(),
            revoked: self
                .revoked
                .iter()
                .map(|(p, (id, ended))| (self.field(*p), revocation(*id, *ended)))
                .collect(),
            sizes: [self.expected_claimants, self.expected_revoked]
                .map(|size| size.map(|size| size.to_string())),
        }
    }

    pub(crate) fn apply(&mut self, command: &ScriptCommand, era: u64) -> String {
        match command {
            // Process users in order, as if each had made a separate call.
            ScriptCommand::Claim(people) => words(
                &people
                    .iter()
                    .map(|person| self.claim(*person))
                    .collect::<Vec<_>>(),
            ),
            ScriptCommand::Load(revision) => words(&self.load(*revision)),
            ScriptCommand::WriteMeta(revision, quantity, paused) => {
                words(&self.write_meta(*revision, *quantity, *paused))
            }
            ScriptCommand::Lower(revision, quantity) => {
                words(&self.lower(*revision, i64::from(*quantity)))
            }
            ScriptCommand::Repair(ScriptRepair::PutBack(people)) => words(&Done::Applied(
                people
                    .iter()
                    .map(|(person, seen, slot, has_row)| {
                        self.put_back(*person, *seen, *slot, *has_row)
                    })
                    .collect::<Vec<_>>(),
            )),
            ScriptCommand::Repair(ScriptRepair::Count) => words(&self.repair_count()),
            ScriptCommand::Repair(ScriptRepair::Move(person, from, quantity)) => {
                let moved = self.move_person(*person, *from, quantity.map(i64::from));
                words(&Done::Applied(vec![moved]))
            }
            ScriptCommand::Repair(ScriptRepair::Withdraw(person, from, front)) => {
                let front = front.then_some(from.unwrap_or(1));
                words(&Done::Applied(vec![self.leave(*person, *from, front)]))
            }
            ScriptCommand::Repair(ScriptRepair::ToFront(people)) => {
                let front = |(person, slot): &(_, i64)| self.leave(*person, None, Some(*slot));
                words(&Done::Applied(people.iter().map(front).collect::<Vec<_>>()))
            }
            ScriptCommand::Repair(ScriptRepair::Promote(limit)) => words(&self.promote(*limit)),
            ScriptCommand::Revoke(person, number, ended) => {
                self.revoke(*person, *number, *ended).into()
            }
            ScriptCommand::Stale(_) => "Stale".into(),
            ScriptCommand::Tamper(tamper) => {
                self.tamper(tamper);
                self.era = era;
                String::new()
            }
        }
    }

    fn field(&self, person: PersonLetter) -> String {
        if self.once_per_coupon() {
            person.to_string()
        } else {
            format!("{DROP}:{person}")
        }
    }

    fn is_banned(&self, person: PersonLetter) -> bool {
        self.revoked.get(&person).is_some_and(|(_, ended)| !ended)
    }

    /// Later states are kept. An ended revocation voids nothing here, because its time precedes all
    /// claims.
    fn revoke(&mut self, person: PersonLetter, number: i64, ended: bool) -> &'static str {
        let known = self.revoked.get(&person).copied();
        let further = known.filter(|(id, has_ended)| *id > number || (*id == number && *has_ended));
        let (number, ended) = further.unwrap_or((number, ended));
        let before = self.revoked.insert(person, (number, ended));
        count(&mut self.expected_revoked, i64::from(before.is_none()));
        let names_drop = self
            .claimants
            .get(&person)
            .is_some_and(|(drop, _)| *drop == DROP);
        if ended {
            if names_drop && !self.users.contains_key(&person) && self.meta.is_some() {
                self.forget_claimant(person);
            }
            return "ended";
        }
        self.waiting.retain(|(_, waits)| *waits != person);
        if names_drop {
            self.forget_claimant(person);
        }
        let Some(slot) = self.users.remove(&person) else {
            return "open";
        };
        let last = self.quantity().unwrap_or(0).min(self.count.unwrap_or(0));
        if !self.is_held(slot) && (1..=last).contains(&slot) {
            self.free.insert(slot);
        }
        "open"
    }

    fn give(&mut self, person: PersonLetter, slot: i64) {
        self.free.remove(&slot);
        self.count = self.count.max(Some(slot));
        self.users.insert(person, slot);
        if self.once_per_coupon() {
            let before = self.claimants.insert(person, (DROP, slot));
            count(&mut self.expected_claimants, i64::from(before.is_none()));
        }
    }

    fn forget_claimant(&mut self, person: PersonLetter) {
        let before = self.claimants.remove(&person);
        count(&mut self.expected_claimants, -i64::from(before.is_some()));
    }

    fn claim(&mut self, person: PersonLetter) -> Admission {
        let Some((quantity, paused)) = self.meta else {
            return Admission::Unloaded(DropId(DROP));
        };
        if self.is_banned(person) {
            return Admission::Revoked;
        }
        if let Some(slot) = self.users.get(&person) {
            let was_given = *slot >= 1 && Some(*slot) <= self.count && *slot <= quantity;
            let holders = self.users.values().filter(|held| *held == slot);
            if !was_given || holders.count() > 1 || self.free.contains(slot) {
                return Admission::Unverified;
            }
            return Admission::Already(DropId(DROP), narrow(*slot));
        }
        let elsewhere = self
            .claimants
            .get(&person)
            .filter(|_| self.once_per_coupon());
        if let Some((drop, slot)) = elsewhere {
            // A claimant of this drop would be in `users`.
            if *drop == DROP {
                return Admission::Unverified;
            }
            return Admission::Already(DropId(*drop), narrow(*slot));
        }
        if paused {
            return Admission::Paused;
        }
        if !self.adds_up() {
            return Admission::Unverified;
        }
        let known = |size: Option<i64>| size.filter(|size| *size >= 0);
        let further = known(self.expected_revoked).map_or(0, |size| len(&self.revoked) - size);
        if further < 0 {
            return Admission::Unverified;
        }
        let claimants = known(self.expected_claimants).unwrap_or(0) - further;
        if self.once_per_coupon() && len(&self.claimants) < claimants.max(len(&self.users)) {
            return Admission::Unverified;
        }
        if self.waiting.is_empty() && self.has_free_above_count() {
            return Admission::Unverified;
        }
        if let Some(slot) = self.next(quantity).filter(|_| self.waiting.is_empty()) {
            if self.is_held(slot) {
                return Admission::Unverified;
            }
            self.give(person, slot);
            return Admission::Accepted(narrow(slot));
        }
        let place = self.waiting.iter().position(|(_, waits)| *waits == person);
        // The list accepts at least as many waiting users as there are slots left.
        if place.is_none() && self.waiting() >= i64::from(self.start.waiting_list).max(self.left())
        {
            return Admission::SoldOut;
        }
        let place = place.unwrap_or_else(|| {
            self.waiting.push((None, person));
            self.waiting.len() - 1
        });
        Admission::Waiting(u32::try_from(place).unwrap() + 1)
    }

    /// Whether the lowest free slot is above the counter: such a slot was never given, so it cannot
    /// have been returned.
    fn has_free_above_count(&self) -> bool {
        self.free
            .first()
            .is_some_and(|lowest| Some(*lowest) > self.count)
    }

    /// Returns the lowest free slot, or the next new slot if there is none.
    fn next(&self, quantity: i64) -> Option<i64> {
        let next = self.count.unwrap_or(0) + 1;
        Some(self.free.first().copied().unwrap_or(next)).filter(|slot| *slot <= quantity)
    }

    fn load(&mut self, revision: u64) -> Done<bool> {
        if self.meta.is_some() {
            return Done::Applied(false);
        }
        if revision < self.revision {
            return Done::Changed;
        }
        self.revision = revision;
        self.meta = Some((i64::from(self.start.quantity), false));
        self.count.get_or_insert(0);
        Done::Applied(true)
    }

    fn write_meta(&mut self, revision: u64, quantity: u32, paused: bool) -> Done<()> {
        if revision < self.revision {
            return Done::Changed;
        }
        self.revision = revision;
        let Some(meta) = &mut self.meta else {
            return Done::Stale;
        };
        *meta = (i64::from(quantity), paused);
        Done::Applied(())
    }

    fn lower(&mut self, revision: u64, quantity: i64) -> Lowered {
        if revision < self.revision {
            return Lowered::Outdated;
        }
        let (Some(meta), Some(count)) = (&mut self.meta, self.count) else {
            return Lowered::Unloaded;
        };
        if quantity < count {
            return Lowered::GivenOut(narrow(count));
        }
        self.revision = revision;
        meta.0 = meta.0.min(quantity);
        Lowered::Yes
    }

    fn put_back(
        &mut self,
        person: PersonLetter,
        seen: Option<i64>,
        slot: u32,
        has_row: bool,
    ) -> String {
        let slot = i64::from(slot);
        let before = self.users.get(&person).copied();
        if before.is_some() && before != seen && before != Some(slot) {
            return "Changed".into();
        }
        // The test passes a time only for claims with a row.
        let is_doubtful = self.revoked.contains_key(&person) && !has_row && before != Some(slot);
        if self.is_banned(person) || is_doubtful {
            return "Revoked".into();
        }
        let claim = self
            .claimants
            .get(&person)
            .filter(|_| self.once_per_coupon());
        if before == Some(slot) {
            if !self.once_per_coupon() || claim == Some(&(DROP, slot)) {
                return "Same".into();
            }
        } else if !has_row {
            if self.is_held(slot) {
                return "Taken".into();
            }
            if claim.is_some_and(|(drop, _)| *drop != DROP) {
                return "Changed".into();
            }
        }
        // The previous slot stays reserved until the counter is repaired.
        self.give(person, slot);
        format!("Applied(Some({slot}))")
    }

    fn repair_count(&mut self) -> Done<u64> {
        let Some((quantity, _)) = self.meta else {
            return Done::Stale;
        };
        let highest = self.users.values().copied().max().unwrap_or(0);
        let free: BTreeSet<i64> = (1..=highest.min(quantity))
            .filter(|slot| !self.is_held(*slot))
            .collect();
        let freed = free.difference(&self.free).count() as u64;
        self.free = free;
        self.count = Some(highest);
        if self.adds_up() {
            Done::Applied(freed)
        } else {
            Done::Changed
        }
    }

    fn move_person(
        &mut self,
        person: PersonLetter,
        from: Option<i64>,
        planned: Option<i64>,
    ) -> String {
        let (Some((quantity, _)), Some(count)) = (self.meta, self.count) else {
            return "Changed".into();
        };
        let elsewhere =
            from.is_none() && self.once_per_coupon() && self.claimants.contains_key(&person);
        let other_quantity = planned.is_some_and(|planned| planned != quantity);
        let moved = self.users.get(&person).copied() != from;
        if moved || elsewhere || other_quantity || self.is_banned(person) {
            return "Changed".into();
        }
        let mut slots = self.free.iter().copied().chain(count.max(0) + 1..=quantity);
        let Some(slot) = slots.find(|slot| *slot <= quantity && !self.is_held(*slot)) else {
            return "Full".into();
        };
        self.waiting.retain(|(_, waits)| *waits != person);
        self.give(person, slot);
        format!("Applied(Some({slot}))")
    }

    fn leave(&mut self, person: PersonLetter, from: Option<i64>, front: Option<i64>) -> String {
        if self.users.get(&person).copied() != from {
            let is_promised = from.is_none() && front.is_some();
            return if is_promised { "Same" } else { "Changed" }.into();
        }
        let claim = self.claimants.get(&person).copied();
        if let Some(slot) = from {
            self.users.remove(&person);
            if claim == Some((DROP, slot)) {
                self.forget_claimant(person);
            }
        } else if front.is_some() {
            if self.once_per_coupon() && claim.is_some() {
                return "Same".into();
            }
            if self.is_banned(person) {
                return "Revoked".into();
            }
        } else if claim.is_some_and(|(drop, _)| drop == DROP) {
            self.forget_claimant(person);
        }
        if let Some(slot) = front {
            self.bring_to_front(person, slot);
        }
        "Applied(None)".into()
    }

    fn bring_to_front(&mut self, person: PersonLetter, promised: i64) {
        self.waiting.retain(|(_, waits)| *waits != person);
        let earlier = |(slot, waits): &(Option<i64>, PersonLetter)| {
            slot.is_some_and(|slot| (slot, *waits) < (promised, person))
        };
        self.waiting.insert(
            self.waiting.partition_point(earlier),
            (Some(promised), person),
        );
    }

    fn holds(&self, person: PersonLetter) -> bool {
        self.users.contains_key(&person)
            || (self.once_per_coupon() && self.claimants.contains_key(&person))
    }

    fn promote(&mut self, limit: u32) -> Done<Vec<(UserId, u32)>> {
        let Some((quantity, paused)) = self.meta.filter(|_| self.adds_up()) else {
            return Done::Stale;
        };
        let limit = if paused { 0 } else { limit };
        let mut promoted = Vec::new();
        while promoted.len() < limit as usize {
            let Some((_, person)) = self.waiting.first().copied() else {
                break;
            };
            if !self.holds(person) && !self.is_banned(person) {
                // As in admission, a held slot is never given, regardless of the counter.
                let next = self
                    .next(quantity)
                    .filter(|slot| !self.is_held(*slot) && !self.has_free_above_count());
                let Some(slot) = next else { break };
                self.give(person, slot);
                promoted.push((person.to_string().parse().unwrap(), narrow(slot)));
            }
            self.waiting.remove(0);
        }
        Done::Applied(promoted)
    }

    fn tamper(&mut self, tamper: &Tamper) {
        match tamper {
            Tamper::DropMeta => self.meta = None,
            Tamper::DropCount => self.count = None,
            Tamper::DropUsers => self.users.clear(),
            Tamper::DropFree => self.free.clear(),
            Tamper::DropWaiting => self.waiting.clear(),
            Tamper::SetCount(count) => self.count = Some(*count),
            Tamper::AddUser(person, slot) => _ = self.users.insert(*person, *slot),
            Tamper::RemoveUser(person) => _ = self.users.remove(person),
            Tamper::AddFree(slot) => _ = self.free.insert(*slot),
            Tamper::ClaimedElsewhere(person) => _ = self.claimants.insert(*person, (99, 3)),
            Tamper::LoseClaimant(person) => _ = self.claimants.remove(person),
            Tamper::LoseRevocation(person) => _ = self.revoked.remove(person),
            Tamper::DropSizes => {
                self.expected_claimants = None;
                self.expected_revoked = None;
            }
            Tamper::Empty => {
                *self = Self {
                    meta: None,
                    count: None,
                    revision: 0,
                    ..Self::new(&self.start, self.era)
                };
            }
        }
    }
}
