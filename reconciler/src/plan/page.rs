//! Plans one page of slots.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{OncePer, Slot, UserId};
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::repair::{SeenSlot, SlotChange, Wanted};

use super::{Action, DropRepair, Planner, RowChange};
use crate::collect::snapshot::{HalfRevoked, RowFacts, SlotRange};
use crate::report::{FindingCase, Kind};
use crate::topic::InFlight;

/// An admission that is later than its reading, by more than clocks are corrected in small steps,
/// was made by a clock that has been set back since. Without this bound it would be too young to
/// judge until the clock has caught up.
const CLOCK_AHEAD_MS: i64 = 5 * 1_000;

/// A page indexed by slot.
pub(super) struct Sorted<'p> {
    owners: HashMap<i64, Vec<&'p UserId>>,
    pub(super) rows: HashMap<i64, &'p RowFacts>,
    pub(super) in_flight: HashMap<i64, Vec<&'p InFlight>>,
    failed: HashSet<(i64, &'p UserId)>,
    page: &'p SlotRange,
}

impl<'p> Sorted<'p> {
    fn new(page: &'p SlotRange) -> Self {
        let mut owners: HashMap<i64, Vec<&UserId>> = HashMap::with_capacity(page.users.len());
        for (slot, user) in &page.users {
            owners.entry(*slot).or_default().push(user);
        }
        let mut in_flight: HashMap<i64, Vec<&InFlight>> = HashMap::new();
        for message in &page.in_flight {
            in_flight
                .entry(i64::from(message.slot))
                .or_default()
                .push(message);
        }
        Self {
            owners,
            rows: page
                .rows
                .iter()
                .map(|row| (i64::from(row.slot), row))
                .collect(),
            in_flight,
            failed: page
                .dead_letters
                .iter()
                .filter_map(|f| Some((f.slot?, f.user.as_ref()?)))
                .collect(),
            page,
        }
    }

    pub(super) fn owners(&self, slot: i64) -> &[&'p UserId] {
        self.owners.get(&slot).map_or(&[], Vec::as_slice)
    }

    fn message(&self, slot: i64, user: &UserId) -> Option<&'p InFlight> {
        self.in_flight
            .get(&slot)?
            .iter()
            .copied()
            .find(|m| m.user == *user)
    }

    /// The owners whose claim is not revoked. The others may come from an old copy of Redis.
    pub(super) fn valid_owners(&self, slot: i64) -> impl Iterator<Item = &'p UserId> + Clone {
        self.owners(slot)
            .iter()
            .copied()
            .filter(move |user| !self.page.is_void(slot, user))
    }

    /// If several users are on a slot without a row, the first with a message or a dead letter
    /// keeps it; otherwise the first.
    fn keeper(&self, slot: i64) -> Option<&'p UserId> {
        let mut owners = self.valid_owners(slot);
        let first = owners.clone().next();
        owners
            .find(|user| self.message(slot, user).is_some() || self.failed.contains(&(slot, *user)))
            .or(first)
    }
}

impl Planner<'_> {
    /// Reads one page.
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
        let mut restored = HashSet::new();
        for row in &page.rows {
            self.row(page, &sorted, row, &mut restored);
        }
        let mut seen = None;
        for (slot, _) in &page.users {
            if seen.replace(*slot) != Some(*slot) {
                self.people_on(page, &sorted, *slot);
            }
        }
        if self.facts.is_lost() || self.facts.gate_closed || page.count > 0 {
            self.unheld_messages(page, &sorted, &mut restored);
        }
        self.dead_letters(page, &sorted, &mut restored);
        self.claimants(page, &sorted, &mut restored);
        self.claimants_astray(page, &sorted);
        self.free_and_gaps(page, &sorted, &restored);
    }

    /// A row decides: Redis must have its user on its slot.
    fn row(
        &mut self,
        page: &SlotRange,
        sorted: &Sorted,
        row: &RowFacts,
        restored: &mut HashSet<i64>,
    ) {
        let slot = i64::from(row.slot);
        self.highest = self.highest.max(slot);
        restored.insert(slot);
        if sorted.owners(slot).contains(&&row.user)
            || page.now_on_slot.get(&row.user) == Some(&slot)
        {
            return;
        }
        let elsewhere = page.now_on_slot.get(&row.user);
        if elsewhere.is_none() {
            self.returning += 1;
            self.people_returning += 1;
        }
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

    /// Its user is restored on a slot. A message, a dead letter and the claimants may all ask for
    /// that. A slot that a revoked claim still holds is counted already.
    pub(super) fn comes_back(&mut self, slot: i64, sorted: &Sorted, restored: &mut HashSet<i64>) {
        if restored.insert(slot) && sorted.owners(slot).is_empty() {
            self.returning += 1;
            self.people_returning += 1;
        }
        self.highest = self.highest.max(slot);
        self.highest_returning = self.highest_returning.max(slot);
    }

    fn put_back(&mut self, change: SlotChange, why: &str) {
        let slot = change.wanted_slot();
        self.highest_returning = self.highest_returning.max(slot.unwrap_or(0));
        if self.facts.is_lost() {
            self.rebuild.push(change);
        } else {
            let detail = format!("{why}, but Redis does not have them on this slot");
            let user = change.user.clone();
            let action = Action::Slot(change);
            self.push(Kind::MissingAdmission, slot, Some(&user), action, detail);
        }
    }

    /// The users that Redis has on a slot.
    fn people_on(&mut self, page: &SlotRange, sorted: &Sorted, slot: i64) {
        self.account_for(page, sorted, slot);
        let row_owner = sorted.rows.get(&slot).map(|row| &row.user);
        let keeper = row_owner.or_else(|| sorted.keeper(slot));
        for user in sorted.owners(slot) {
            if row_owner == Some(user) {
                continue;
            }
            if let Some(revocation) = page.voiding(slot, user) {
                self.people_without_row += 1;
                self.revoked_elsewhere(slot, user, revocation);
                continue;
            }
            match page.has_row.get(*user) {
                // Their row is on another slot of this drop and decides: its page moves them there.
                Some((drop, _)) if *drop == self.facts.drop.id => {}
                Some((drop, other)) if self.facts.once_per() == OncePer::Coupon => {
                    let detail = format!(
                        "holds slot {other} of drop {drop} already; one each for the whole coupon"
                    );
                    let action = change_from(page, slot, user, Wanted::Nothing);
                    self.push(Kind::OverAdmitted, slot, Some(user), action, detail);
                }
                _ if self.facts.slot(slot).is_none() => {
                    let detail =
                        format!("the drop has slots 1 to {} only", self.facts.drop.quantity);
                    self.move_from(page, Kind::OverAdmitted, slot, user, detail);
                }
                _ if keeper != Some(*user) => {
                    let detail = "another person holds this slot".to_owned();
                    self.move_from(page, Kind::SlotConflict, slot, user, detail);
                }
                _ => self.without_row(page, sorted, slot, user),
            }
        }
    }

    /// A revocation in this drop is found on its own, unless it is under way. But one in another
    /// drop may void a claim in this one: its user claimed before Redis knew of it.
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
        // A name that is not a valid user id was never promised anything.
        let wanted = if UserId::has_form(user.as_str()) {
            Wanted::Any
        } else {
            Wanted::Nothing
        };
        let action = change_from(page, slot, user, wanted);
        self.push(kind, slot, Some(user), action, detail);
        if let Some(item) = self.items.last_mut() {
            // The consumer could not write their row, and the dead letter knows the trace.
            item.trace = page
                .dead_letters
                .iter()
                .find(|of| of.user.as_ref() == Some(user))
                .and_then(|of| of.trace);
        }
    }

    /// Adds a slot to the counter's equation (see [`Planner`]).
    fn account_for(&mut self, page: &SlotRange, sorted: &Sorted, slot: i64) {
        let count = self.facts.count.unwrap_or(0);
        let leave = |user: &&&UserId| {
            page.has_row
                .get(**user)
                .is_some_and(|(d, at)| *d == self.facts.drop.id && i64::from(*at) != slot)
        };
        let owners = sorted.owners(slot);
        let stay =
            i64::try_from(owners.len() - owners.iter().filter(leave).count()).unwrap_or(i64::MAX);
        let row_comes = sorted
            .rows
            .get(&slot)
            .is_some_and(|row| !owners.contains(&&row.user));
        let beyond = self.facts.slot(slot).is_none() && (slot > count || slot < 1);
        if beyond || row_comes {
            self.leaving += stay;
        } else if stay > 0 {
            self.leaving += stay - 1;
        } else if (1..=count).contains(&slot) {
            // Everybody on the slot moves to the slot of their row, which frees it.
            self.returning += 1;
        }
    }

    /// The rightful holder of a slot has no row: the claim is in flight, too young to judge, a dead
    /// letter, or lost.
    fn without_row(&mut self, page: &SlotRange, sorted: &Sorted, slot: i64, user: &UserId) {
        self.people_without_row += 1;
        self.highest = self.highest.max(slot);
        if sorted.failed.contains(&(slot, user)) {
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

    /// Admitted too recently to judge.
    fn is_young(&self, at: i64, page: &SlotRange, patience: i64) -> bool {
        // Many users were admitted after the pass read the clock, which may have been long ago.
        let latest = page.read_until_ms.max(self.facts.read_at_ms) + CLOCK_AHEAD_MS;
        self.facts.read_at_ms.saturating_sub(at) < patience && at <= latest
    }

    /// Nobody can claim with such a name, so nobody was promised the slot.
    fn no_user_id(&mut self, slot: i64, name: &UserId) {
        let detail = "the name on this slot in Redis is no user id, so nobody waits for a coupon";
        self.push(Kind::Unissued, slot, Some(name), None, detail.to_owned());
        self.last_is(FindingCase::NoUserId);
    }

    /// A message for a slot without a valid holder, of a user whom Redis does not have: Redis lost
    /// the admission.
    fn unheld_messages(&mut self, page: &SlotRange, sorted: &Sorted, restored: &mut HashSet<i64>) {
        let elsewhere =
            |user: &UserId| page.now_on_slot.contains_key(user) || page.has_row.contains_key(user);
        // A message that contradicts its drop proves nothing.
        let window = self.facts.drop.window();
        for message in &page.in_flight {
            let slot = i64::from(message.slot);
            let held =
                sorted.valid_owners(slot).next().is_some() || sorted.rows.contains_key(&slot);
            let known_to_be_given =
                self.facts.is_lost() || self.facts.gate_closed || slot <= page.count;
            let on_slot = sorted.in_flight.get(&slot).into_iter().flatten();
            let mut likely =
                on_slot.filter(|message| window.fault(Some(message.claimed_at)).is_none());
            let first = likely
                .find(|message| !elsewhere(&message.user))
                .map(|message| &message.user);
            if !held
                && first == Some(&message.user)
                && known_to_be_given
                && self.facts.slot(slot).is_some()
            {
                self.comes_back(slot, sorted, restored);
                let at_ms = Some(message.claimed_at.timestamp_millis());
                let change = SlotChange::put_back(message.user.clone(), message.slot, at_ms);
                self.put_back(change, "has a message on the topic");
            }
        }
    }

    /// The claimants must contain everyone who holds a slot. A claimant whose slot has no holder
    /// was promised it: Redis lost the other half of that admission.
    fn claimants(&mut self, page: &SlotRange, sorted: &Sorted, restored: &mut HashSet<i64>) {
        for user in &page.claimants_wrong {
            let Some((slot, _)) = page.users.iter().find(|(_, on)| on == user) else {
                continue;
            };
            let rightful = sorted.rows.get(slot).is_none_or(|row| row.user == *user)
                && page.has_row.get(user).is_none_or(|(drop, at)| {
                    *drop == self.facts.drop.id && i64::from(*at) == *slot
                })
                && sorted.keeper(*slot) == Some(user);
            if let (true, Some(number)) = (rightful, self.facts.slot(*slot)) {
                let detail =
                    "the coupon's list of claimants does not have them on this slot".to_owned();
                let action = Action::Slot(SlotChange {
                    seen: Some(SeenSlot {
                        slot: *slot,
                        at_ms: None,
                    }),
                    ..SlotChange::put_back(user.clone(), number, None)
                });
                self.push(Kind::MissingAdmission, *slot, Some(user), action, detail);
            }
        }
        for (slot, user) in &page.claimants_on_gaps {
            let has_message = sorted.in_flight.contains_key(slot);
            if has_message || page.now_on_slot.contains_key(user) || page.has_row.contains_key(user)
            {
                continue;
            }
            if !UserId::has_form(user.as_str()) {
                self.no_user_id(*slot, user);
                continue;
            }
            if let Some(number) = self.facts.slot(*slot) {
                self.comes_back(*slot, sorted, restored);
                let change = SlotChange::put_back(user.clone(), number, None);
                self.put_back(change, "is in the coupon's list of claimants");
                let action = self.issue(number, user, None);
                self.push(
                    Kind::Unissued,
                    *slot,
                    Some(user),
                    action,
                    "promised, and no row came".to_owned(),
                );
            }
        }
    }

    /// Claimants of the drop who are missing in `users`, on slots that are free or held by others.
    /// A user who was promised a slot has a row, a message or a dead letter besides.
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

    /// Counts gaps: slots up to the counter that are neither held nor free, and free slots that are
    /// held; and the absent among the former.
    fn free_and_gaps(&mut self, page: &SlotRange, sorted: &Sorted, restored: &HashSet<i64>) {
        for slot in &page.free {
            if sorted.owners.contains_key(slot) || self.facts.slot(*slot).is_none() {
                self.gaps += 1;
            } else if restored.contains(slot) {
                // Its user is restored onto it: one free slot less, one held slot more.
                self.returning -= 1;
            } else {
                self.highest = self.highest.max(*slot);
            }
        }
        let free: HashSet<i64> = page.free.iter().copied().collect();
        let known = |slot: &i64| {
            sorted.owners.contains_key(slot) || free.contains(slot) || restored.contains(slot)
        };
        // Never beyond the quantity: with a counter far too high this would otherwise take forever.
        let last = page
            .to
            .unwrap_or(i64::MAX)
            .min(page.count)
            .min(i64::from(self.facts.drop.quantity));
        for slot in (page.from.max(1)..=last).filter(|slot| !known(slot)) {
            let given = page.admitted_at_ms.get(&slot);
            if given.is_some_and(|at| self.is_young(*at, page, self.policy.in_flight_ms)) {
                self.absent += 1;
                self.young += 1;
                self.people_without_row += 1;
                self.people_returning += 1;
            } else {
                self.gaps += 1;
            }
        }
    }
}

/// A change of the slot that Redis has for a user.
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
