//! Determines who should hold each slot of a page, from rows, Redis, messages and dead letters.

use std::collections::{BTreeMap, HashMap, HashSet};

use firstcome_shared::domain::{OncePer, UserId};

use super::Planner;
use crate::collect::snapshot::{RowFacts, SlotRange};
use crate::topic::InFlight;

/// The desired state of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) enum DesiredSlot<'p> {
    Owner(&'p UserId, OwnerProof<'p>),
    /// No user holds it, and it can be given away again.
    Free,
    /// No user holds it, but it was given away recently, so the claim may be in flight.
    Held,
}

/// Evidence that a slot was promised to a user, strongest first.
#[derive(Debug, Clone, Copy)]
pub(super) enum OwnerProof<'p> {
    Row(&'p RowFacts),
    /// Redis has the user on the slot. This overrides the message of another user, who may have
    /// been moved to another slot while the consumer lags behind.
    Redis,
    Message(&'p InFlight),
    DeadLetter,
    Claimants,
}

/// The desired state of the slots of a page. A slot without an entry is free in Redis, or becomes
/// free once the users on it are moved.
#[derive(Debug, Default)]
pub(super) struct DesiredSlots<'p> {
    slots: BTreeMap<i64, DesiredSlot<'p>>,
    /// Users without a row who own a slot but are not on it in Redis.
    restored: HashSet<&'p UserId>,
}

impl<'p> DesiredSlots<'p> {
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, DesiredSlot<'p>)> {
        self.slots.iter().map(|(slot, desired)| (*slot, *desired))
    }

    pub(super) fn owner(&self, slot: i64) -> Option<&'p UserId> {
        match self.slots.get(&slot)? {
            DesiredSlot::Owner(user, _) => Some(user),
            DesiredSlot::Free | DesiredSlot::Held => None,
        }
    }

    pub(super) fn row(&self, slot: i64) -> Option<&'p RowFacts> {
        match self.slots.get(&slot)? {
            DesiredSlot::Owner(_, OwnerProof::Row(row)) => Some(row),
            _ => None,
        }
    }

    /// Whether a user without a row is to be restored to a slot of this page other than `slot`.
    pub(super) fn restores_elsewhere(&self, user: &UserId, slot: Option<i64>) -> bool {
        self.restored.contains(user) && slot.and_then(|slot| self.owner(slot)) != Some(user)
    }

    fn restore(&mut self, slot: i64, user: &'p UserId, proof: OwnerProof<'p>) {
        if !self.slots.contains_key(&slot) && self.restored.insert(user) {
            self.slots.insert(slot, DesiredSlot::Owner(user, proof));
        }
    }
}

/// A page indexed by slot.
pub(super) struct Sorted<'p> {
    pub(super) owners: BTreeMap<i64, Vec<&'p UserId>>,
    in_flight: HashMap<i64, Vec<&'p InFlight>>,
    failed: HashSet<(i64, &'p UserId)>,
    with_letters: HashSet<i64>,
    page: &'p SlotRange,
}

impl<'p> Sorted<'p> {
    pub(super) fn new(page: &'p SlotRange) -> Self {
        let mut owners: BTreeMap<i64, Vec<&UserId>> = BTreeMap::new();
        for (slot, user) in &page.users {
            owners.entry(*slot).or_default().push(user);
        }
        let mut in_flight: HashMap<i64, Vec<&InFlight>> = HashMap::new();
        for message in &page.in_flight {
            let slot = i64::from(message.slot);
            in_flight.entry(slot).or_default().push(message);
        }
        let letters = page.dead_letters.iter();
        let failed: HashSet<_> = letters
            .filter_map(|letter| Some((letter.slot?, letter.user.as_ref()?)))
            .collect();
        Self {
            owners,
            in_flight,
            with_letters: failed.iter().map(|(slot, _)| *slot).collect(),
            failed,
            page,
        }
    }

    pub(super) fn owners(&self, slot: i64) -> &[&'p UserId] {
        self.owners.get(&slot).map_or(&[], Vec::as_slice)
    }

    pub(super) fn messages(&self, slot: i64) -> &[&'p InFlight] {
        self.in_flight.get(&slot).map_or(&[], Vec::as_slice)
    }

    pub(super) fn message(&self, slot: i64, user: &UserId) -> Option<&'p InFlight> {
        let mut messages = self.messages(slot).iter().copied();
        messages.find(|message| message.user == *user)
    }

    pub(super) fn has_letter(&self, slot: i64, user: &UserId) -> bool {
        self.failed.contains(&(slot, user))
    }

    /// Returns the users on a slot whose claims are not revoked. Revoked claims can reappear when
    /// Redis starts from an old copy. A name that is no user ID, which somebody wrote manually,
    /// does not take the slot from a user with a message or dead letter for it.
    pub(super) fn valid_owners(&self, slot: i64) -> impl Iterator<Item = &'p UserId> + Clone {
        let is_promised = self.in_flight.contains_key(&slot) || self.with_letters.contains(&slot);
        let owners = self.owners(slot).iter().copied();
        owners.filter(move |user| {
            !self.page.is_void(slot, user) && (!is_promised || UserId::has_form(user.as_str()))
        })
    }
}

impl Planner<'_> {
    pub(super) fn desired<'p>(&self, page: &'p SlotRange, sorted: &Sorted<'p>) -> DesiredSlots<'p> {
        let mut desired = DesiredSlots::default();
        for row in &page.rows {
            let owner = DesiredSlot::Owner(&row.user, OwnerProof::Row(row));
            desired.slots.insert(i64::from(row.slot), owner);
        }
        for slot in sorted.owners.keys() {
            if let Some(user) = self.keeper(page, sorted, *slot) {
                let owner = DesiredSlot::Owner(user, OwnerProof::Redis);
                desired.slots.entry(*slot).or_insert(owner);
            }
        }
        self.owners_by_messages(page, sorted, &mut desired);
        self.owners_by_letters(page, sorted, &mut desired);
        self.owners_by_claimants(page, sorted, &mut desired);
        self.vacant(page, sorted, &mut desired);
        desired
    }

    /// Returns the user who keeps a slot that has no row: the first user with a message or a dead
    /// letter for it, otherwise the first user.
    fn keeper<'p>(&self, page: &SlotRange, sorted: &Sorted<'p>, slot: i64) -> Option<&'p UserId> {
        self.facts.slot(slot)?;
        let owners = sorted.valid_owners(slot);
        let mut users = owners.filter(|user| !self.has_other_row(page, slot, user));
        let first = users.clone().next();
        users
            .find(|user| sorted.message(slot, user).is_some() || sorted.has_letter(slot, user))
            .or(first)
    }

    /// Adds users of messages as owners, if Redis has no user on the slot and has therefore lost
    /// the admission.
    fn owners_by_messages<'p>(
        &self,
        page: &'p SlotRange,
        sorted: &Sorted<'p>,
        desired: &mut DesiredSlots<'p>,
    ) {
        let all_given = self.facts.is_lost() || self.facts.gate_closed;
        // A message that contradicts its drop proves nothing.
        let window = self.facts.drop.window();
        for message in &page.in_flight {
            let slot = i64::from(message.slot);
            let user = &message.user;
            let is_likely = window.fault(Some(message.claimed_at)).is_none()
                && self.facts.slot(slot).is_some()
                && (all_given || slot <= page.count);
            let is_elsewhere =
                page.now_on_slot.contains_key(user) || page.has_row.contains_key(user);
            let is_held = sorted.valid_owners(slot).next().is_some();
            if is_likely && !is_elsewhere && !is_held {
                desired.restore(slot, user, OwnerProof::Message(message));
            }
        }
    }

    fn owners_by_letters<'p>(
        &self,
        page: &'p SlotRange,
        sorted: &Sorted<'p>,
        desired: &mut DesiredSlots<'p>,
    ) {
        for letter in &page.dead_letters {
            let (Some(slot), Some(user)) = (letter.slot, &letter.user) else {
                continue;
            };
            let is_elsewhere = self.holds_a_row(page, user)
                || page.admitted(user).is_some()
                || self.people_of_dead_letters.contains(user);
            let is_held = sorted.valid_owners(slot).next().is_some()
                || self.facts.is_lost() && sorted.messages(slot).iter().any(|m| m.user != *user);
            let is_likely = self.facts.slot(slot).is_some()
                && self.fault(letter).is_none()
                && !page.revoked.voids_at(user, letter.claimed_at);
            if is_likely && !is_elsewhere && !is_held {
                desired.restore(slot, user, OwnerProof::DeadLetter);
            }
        }
    }

    /// Adds claimants as owners, if Redis has no user on the claimant's slot and has therefore lost
    /// the other half of the admission.
    fn owners_by_claimants<'p>(
        &self,
        page: &'p SlotRange,
        sorted: &Sorted<'p>,
        desired: &mut DesiredSlots<'p>,
    ) {
        for (slot, user) in &page.claimants_on_gaps {
            let is_elsewhere =
                page.now_on_slot.contains_key(user) || page.has_row.contains_key(user);
            let is_likely = self.facts.slot(*slot).is_some()
                && UserId::has_form(user.as_str())
                && sorted.messages(*slot).is_empty();
            if is_likely && !is_elsewhere {
                desired.restore(*slot, user, OwnerProof::Claimants);
            }
        }
    }

    /// Adds the slots up to the counter that are neither held nor free.
    fn vacant<'p>(&self, page: &'p SlotRange, sorted: &Sorted<'p>, desired: &mut DesiredSlots<'p>) {
        let free: HashSet<i64> = page.free.iter().copied().collect();
        // Stop at the quantity: if the counter is far too high, this loop would not end in
        // practice.
        let last = page
            .to
            .unwrap_or(i64::MAX)
            .min(page.count)
            .min(i64::from(self.facts.drop.quantity));
        for slot in page.from.max(1)..=last {
            if free.contains(&slot) || sorted.owners.contains_key(&slot) {
                continue;
            }
            let given = page.admitted_at_ms.get(&slot);
            let is_young =
                given.is_some_and(|at| self.is_young(*at, page, self.policy.in_flight_ms));
            let state = if is_young {
                DesiredSlot::Held
            } else {
                DesiredSlot::Free
            };
            desired.slots.entry(slot).or_insert(state);
        }
    }

    /// Whether the user has a row that rules out a second one.
    pub(super) fn holds_a_row(&self, page: &SlotRange, user: &UserId) -> bool {
        let is_of_coupon = self.facts.once_per() == OncePer::Coupon;
        let row = page.has_row.get(user);
        row.is_some_and(|(drop, _)| is_of_coupon || *drop == self.facts.drop.id)
    }

    /// Whether the user has a row that is not on this slot.
    fn has_other_row(&self, page: &SlotRange, slot: i64, user: &UserId) -> bool {
        let row = page.has_row.get(user);
        row.is_some_and(|(drop, at)| *drop != self.facts.drop.id || i64::from(*at) != slot)
    }
}
