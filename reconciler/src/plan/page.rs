//! Plans the repairs of one page of slots, by comparing the desired state with the stores.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{OncePer, Slot, UserId};
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::repair::{SeenSlot, SlotChange, Wanted};

use super::desired::{DesiredSlot, DesiredSlots, OwnerProof, Sorted};
use super::{Action, DropRepair, Planner, RowChange};
use crate::collect::snapshot::{HalfRevoked, RowFacts, SlotRange};
use crate::report::{FindingCase, Kind};

/// If an admission is later than the time of reading by more than this, Redis's clock has been set
/// back since. Small corrections of the clock stay below it. Without this limit, the admission
/// would count as too recent to judge until the clock has caught up.
const CLOCK_AHEAD_MS: i64 = 5 * 1_000;

impl Planner<'_> {
    /// Plans the single-page repairs of a page.
    pub fn page(&mut self, page: &SlotRange) {
        self.page_whole(page);
        self.keep_some();
    }

    pub(super) fn page_whole(&mut self, page: &SlotRange) {
        self.count_in(page);
        if page.is_in_order(i64::from(self.facts.drop.quantity)) && !self.facts.is_lost() {
            // Nothing to decide, so no index is needed.
            self.highest = self
                .highest
                .max(page.rows.last().map_or(0, |row| i64::from(row.slot)));
        } else {
            self.decide_on(page);
        }
    }

    fn count_in(&mut self, page: &SlotRange) {
        self.examined.users += page.users.len() as u64;
        self.examined.rows += page.rows.len() as u64;
        self.letters += page.dead_letters.len() as u64;
        self.numbers.rows += page.rows.len() as u64;
        self.numbers.in_flight += page.in_flight.len() as u64;
    }

    pub(super) fn decide_on(&mut self, page: &SlotRange) {
        if page.revoked.is_empty() {
            self.decide_on_valid(page);
        } else {
            self.decide_on_valid(&page.without_void());
        }
    }

    fn decide_on_valid(&mut self, page: &SlotRange) {
        let sorted = Sorted::new(page);
        let desired = self.desired(page, &sorted);
        for (slot, state) in desired.iter() {
            if let DesiredSlot::Owner(user, proof) = state {
                self.owner(page, &sorted, slot, user, proof);
            }
        }
        for (slot, users) in &sorted.owners {
            let owner = desired.owner(*slot);
            for user in users.iter().filter(|user| Some(**user) != owner) {
                self.misplaced(page, *slot, user, owner.is_some());
            }
        }
        self.dead_letters(page, &desired);
        self.claimants_without_form(page, &sorted);
        self.claimants_astray(page, &sorted);
        self.count_slots(page, &sorted, &desired);
    }

    /// Plans the repairs if the owner of a slot is missing from Redis, from the coupon's claimants
    /// or from MySQL.
    fn owner(
        &mut self,
        page: &SlotRange,
        sorted: &Sorted,
        slot: i64,
        user: &UserId,
        proof: OwnerProof,
    ) {
        self.highest = self.highest.max(slot);
        let is_on_slot = sorted.owners(slot).contains(&user);
        if is_on_slot && page.claimants_wrong.contains(user) {
            self.missing_claimant(slot, user);
        }
        match proof {
            OwnerProof::Redis => self.without_row(page, sorted, slot, user),
            OwnerProof::Row(_) if is_on_slot || page.now_on_slot.get(user) == Some(&slot) => {}
            OwnerProof::Row(row) => {
                self.highest_returning = self.highest_returning.max(slot);
                self.row_without_admission(page, row);
            }
            OwnerProof::Message(message) => {
                self.highest_returning = self.highest_returning.max(slot);
                let at_ms = Some(message.claimed_at.timestamp_millis());
                let change = SlotChange::put_back(user.clone(), message.slot, at_ms);
                self.put_back(change, "has a message on the topic");
            }
            // The repair of the dead letter restores its user.
            OwnerProof::DeadLetter => self.highest_returning = self.highest_returning.max(slot),
            OwnerProof::Claimants => {
                self.highest_returning = self.highest_returning.max(slot);
                let Some(number) = self.facts.slot(slot) else {
                    return;
                };
                let change = SlotChange::put_back(user.clone(), number, None);
                self.put_back(change, "is in the coupon's list of claimants");
                let action = self.issue(number, user, None);
                let detail = "promised, and no row came".to_owned();
                self.push(Kind::Unissued, slot, Some(user), action, detail);
            }
        }
    }

    fn row_without_admission(&mut self, page: &SlotRange, row: &RowFacts) {
        let elsewhere = page.now_on_slot.get(&row.user);
        let was = elsewhere.map(|on| format!(", Redis has them on slot {on}"));
        let change = SlotChange {
            user: row.user.clone(),
            seen: elsewhere.map(|slot| SeenSlot {
                slot: *slot,
                at_ms: None,
            }),
            wanted: Wanted::Slot {
                slot: row.slot,
                at_ms: Some(row.claimed_at.timestamp_millis()),
                has_row: true,
            },
        };
        self.put_back(change, &format!("has a row{}", was.unwrap_or_default()));
    }

    fn gap(&mut self, slot: i64) {
        let mut hasher = DefaultHasher::new();
        slot.hash(&mut hasher);
        self.gaps += 1;
        self.gaps_hash = self.gaps_hash.wrapping_add(hasher.finish());
    }

    fn put_back(&mut self, change: SlotChange, why: &str) {
        if self.facts.is_lost() {
            self.rebuild.push(change);
        } else {
            let detail = format!("{why}, but Redis does not have them on this slot");
            let slot = change.wanted_slot();
            let user = change.user.clone();
            let action = Action::Slot(change);
            self.push(Kind::MissingAdmission, slot, Some(&user), action, detail);
        }
    }

    /// Adds the holder of a slot to the coupon's claimants, which must contain all holders.
    fn missing_claimant(&mut self, slot: i64, user: &UserId) {
        if let Some(number) = self.facts.slot(slot) {
            let detail =
                "the coupon's list of claimants does not have them on this slot".to_owned();
            let action = Action::Slot(SlotChange {
                seen: Some(SeenSlot { slot, at_ms: None }),
                ..SlotChange::put_back(user.clone(), number, None)
            });
            self.push(Kind::MissingAdmission, slot, Some(user), action, detail);
        }
    }

    /// Plans the repair for a user on a slot that belongs to another user or does not exist.
    fn misplaced(&mut self, page: &SlotRange, slot: i64, user: &UserId, has_owner: bool) {
        if let Some(revocation) = page.voiding(slot, user) {
            self.people_without_row += 1;
            self.revoked_elsewhere(slot, user, revocation);
            return;
        }
        match page.has_row.get(user) {
            // The user's row is on another slot of this drop. The page of that slot moves the user
            // there.
            Some((drop, _)) if *drop == self.facts.drop.id => {}
            Some((drop, other)) if self.facts.once_per() == OncePer::Coupon => {
                let detail = format!(
                    "holds slot {other} of drop {drop} already; one each for the whole coupon"
                );
                let action = change_from(page, slot, user, Wanted::Nothing);
                self.push(Kind::OverAdmitted, slot, Some(user), action, detail);
            }
            _ if has_owner => {
                let detail = "another person holds this slot".to_owned();
                self.move_from(page, Kind::SlotConflict, slot, user, detail);
            }
            _ => {
                let detail = format!("the drop has slots 1 to {} only", self.facts.drop.quantity);
                self.move_from(page, Kind::OverAdmitted, slot, user, detail);
            }
        }
    }

    /// Completes a revocation in another drop that voids a claim in this one. This happens if the
    /// user claimed before the revocation reached Redis. Revocations in this drop are planned with
    /// the drop as a whole.
    fn revoked_elsewhere(&mut self, slot: i64, user: &UserId, revocation: &Revocation) {
        if revocation.drop_id == self.facts.drop.id.0 {
            return;
        }
        let user = user.clone();
        let revocation = revocation.clone();
        let half = HalfRevoked {
            revocation,
            user,
            admitted: Some(slot),
            has_row: false,
            is_named: false,
        };
        let detail = format!(
            "it is revoked with drop {}, and Redis still has it",
            half.revocation.drop_id
        );
        let holder = half.user.clone();
        self.push(
            Kind::RevokedAdmission,
            slot,
            Some(&holder),
            Action::Drop(DropRepair::Revocation(Box::new(half))),
            detail,
        );
    }

    fn move_from(
        &mut self,
        page: &SlotRange,
        kind: Kind,
        slot: i64,
        user: &UserId,
        detail: String,
    ) {
        // A name that is not a valid user ID was never promised a coupon.
        let wanted = if UserId::has_form(user.as_str()) {
            Wanted::Any
        } else {
            Wanted::Nothing
        };
        let action = change_from(page, slot, user, wanted);
        self.push(kind, slot, Some(user), action, detail);
        if let Some(item) = self.items.last_mut() {
            // The consumer could not insert their row, so the trace is in the dead letter.
            item.trace = page
                .dead_letters
                .iter()
                .find(|of| of.user.as_ref() == Some(user))
                .and_then(|of| of.trace);
        }
    }

    /// Plans the row of a slot's owner, unless the claim is in flight, is too recent to judge, or
    /// has a dead letter.
    fn without_row(&mut self, page: &SlotRange, sorted: &Sorted, slot: i64, user: &UserId) {
        if page.has_row.contains_key(user) {
            // The row was inserted after the rows of the page were read.
            return;
        }
        self.people_without_row += 1;
        if sorted.has_letter(slot, user) {
            return;
        }
        let admitted = page.admitted_at_ms.get(&slot).copied();
        let message = sorted.message(slot, user);
        let at = admitted.or_else(|| message.map(|m| m.claimed_at.timestamp_millis()));
        let age = at.map(|at| self.facts.read_at_ms.saturating_sub(at));
        let patience = if message.is_some() || !self.facts.tail_known {
            self.policy.overdue_ms
        } else {
            self.policy.publish_deadline_ms
        };
        if at.is_some_and(|at| self.is_young(at, page, patience)) {
            if message.is_none() {
                self.young += 1;
            }
            return;
        }
        if !UserId::has_form(user.as_str()) {
            self.no_user_id(slot, user);
            return;
        }
        let Some(number) = self.facts.slot(slot) else {
            return;
        };
        let claimed_at = message
            .map(|m| m.claimed_at)
            .or_else(|| admitted.and_then(DateTime::from_timestamp_millis));
        let detail = match (message.is_some(), age) {
            (_, Some(age)) if age < 0 => {
                format!(
                    "admitted {} s ahead of Redis's clock, which has been set back since, and no row",
                    -age / 1_000
                )
            }
            (true, Some(age)) => format!("its message has waited for {} s", age / 1_000),
            (_, Some(age)) => format!(
                "admitted {} s ago, no row, and no message waits",
                age / 1_000
            ),
            (_, None) => {
                "no row, and no message waits; when it was admitted is not known".to_owned()
            }
        };
        let action = self.issue(number, user, claimed_at);
        self.push(Kind::Unissued, slot, Some(user), action, detail);
    }

    fn issue(&self, slot: Slot, user: &UserId, claimed_at: Option<DateTime<Utc>>) -> Action {
        Action::Row(RowChange {
            claim: self.claim(slot, user, claimed_at),
            letter: None,
            put_back: false,
        })
    }

    /// Whether the admission is too recent to judge.
    pub(super) fn is_young(&self, at: i64, page: &SlotRange, patience: i64) -> bool {
        // A pass can take long, so users may have been admitted well after it read the clock.
        let latest = page.read_until_ms.max(self.facts.read_at_ms) + CLOCK_AHEAD_MS;
        self.facts.read_at_ms.saturating_sub(at) < patience && at <= latest
    }

    /// Reports a name that is not a valid user ID. No user can claim with it, so the slot was not
    /// promised to anyone.
    fn no_user_id(&mut self, slot: i64, name: &UserId) {
        let detail = "the name on this slot in Redis is no user id, so nobody waits for a coupon";
        self.push(Kind::Unissued, slot, Some(name), None, detail.to_owned());
        self.last_is(FindingCase::NoUserId);
    }

    fn claimants_without_form(&mut self, page: &SlotRange, sorted: &Sorted) {
        for (slot, user) in &page.claimants_on_gaps {
            let is_known = !sorted.messages(*slot).is_empty()
                || page.now_on_slot.contains_key(user)
                || page.has_row.contains_key(user);
            if !is_known && !UserId::has_form(user.as_str()) {
                self.no_user_id(*slot, user);
            }
        }
    }

    /// Removes claimants who are missing from `users` and whose slot is free or held by another
    /// user, unless a row, a message or a dead letter shows that they were promised a slot.
    fn claimants_astray(&mut self, page: &SlotRange, sorted: &Sorted) {
        for (slot, user) in &page.claimants_astray {
            let has_letter = page
                .dead_letters
                .iter()
                .any(|letter| letter.user.as_ref() == Some(user));
            let is_known = has_letter
                || page.now_on_slot.contains_key(user)
                || page.has_row.contains_key(user)
                || sorted.message(*slot, user).is_some()
                || page.claimants_on_gaps.iter().any(|(_, on)| on == user);
            if is_known {
                continue;
            }
            let detail = "the coupon's list of claimants has them on this slot, which is not theirs: no other store says that it was promised to them";
            let action = Action::Slot(SlotChange {
                user: user.clone(),
                seen: None,
                wanted: Wanted::Nothing,
            });
            self.push(
                Kind::CountMismatch,
                *slot,
                Some(user),
                action,
                detail.to_owned(),
            );
        }
    }

    /// Adds the slots of a page to the counter's equation (see [`Planner`]).
    fn count_slots(&mut self, page: &SlotRange, sorted: &Sorted, desired: &DesiredSlots) {
        let mut held: usize = 0;
        let mut settled: usize = 0;
        for (slot, state) in desired.iter() {
            match state {
                DesiredSlot::Owner(user, OwnerProof::Row(_))
                    if slot > page.count
                        && page.now_on_slot.get(user) == Some(&slot)
                        && !sorted.owners(slot).contains(&user) =>
                {
                    // Admitted since the page's part in Redis was read, so `facts` lacks it.
                }
                DesiredSlot::Owner(..) => {
                    held += 1;
                    settled += 1;
                }
                DesiredSlot::Held => {
                    held += 1;
                    settled += 1;
                    self.absent += 1;
                    self.young += 1;
                    self.people_without_row += 1;
                }
                DesiredSlot::Free => self.gap(slot),
            }
        }
        let counted = 1..=self.facts.count.unwrap_or(0);
        let ownerless = |slot: &i64| desired.owner(*slot).is_none();
        for (slot, users) in sorted.owners.iter().filter(|(slot, _)| ownerless(slot)) {
            // Whether the user stays on the slot. Other users move to the slot of their row in this
            // drop.
            let stays = |user: &&UserId| {
                let row = page.has_row.get(*user);
                row.is_none_or(|(drop, _)| *drop != self.facts.drop.id)
            };
            let has_users = users.iter().any(stays)
                && (counted.contains(slot) || self.facts.slot(*slot).is_some());
            held += usize::from(has_users);
            // A slot that all users leave becomes free.
            settled += usize::from(has_users || counted.contains(slot));
        }
        for slot in &page.free {
            if sorted.owners.contains_key(slot) || self.facts.slot(*slot).is_none() {
                self.gap(*slot);
                settled += 1;
            } else if desired.owner(*slot).is_none() {
                settled += 1;
                self.highest = self.highest.max(*slot);
            }
        }
        let number = |of: usize| i64::try_from(of).unwrap_or(i64::MAX);
        self.change_of_held += number(held) - number(page.users.len());
        self.change_of_settled += number(settled) - number(page.users.len() + page.free.len());
    }
}

/// Builds a change of the slot that Redis has for a user.
fn change_from(page: &SlotRange, slot: i64, user: &UserId, wanted: Wanted) -> Action {
    let at_ms = page.admitted_at_ms.get(&slot).copied();
    Action::Slot(SlotChange {
        user: user.clone(),
        seen: Some(SeenSlot { slot, at_ms }),
        wanted,
    })
}

#[cfg(test)]
mod tests;
