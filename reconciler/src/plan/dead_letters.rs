//! Plans the repairs for the dead letters of a page.

use firstcome_shared::coupon::ClaimFault;
use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::mysql::dead_letters::UNPUBLISHED;
use firstcome_shared::redis::repair::{SeenSlot, SlotChange};

use super::desired::DesiredSlots;
use super::{Action, LetterChange, LetterEnd, Planner, RowChange};
use crate::collect::snapshot::{DeadLetter, SlotRange};
use crate::report::{FindingCase, Kind};

impl Planner<'_> {
    pub(super) fn dead_letters(&mut self, page: &SlotRange, desired: &DesiredSlots) {
        for letter in &page.dead_letters {
            match &letter.user {
                None => self.leave(letter, FindingCase::NamesNobody, "it names no user"),
                Some(user) if page.revoked.voids_at(user, letter.claimed_at) => {
                    let detail = format!("{}: its claim was given back or revoked", name(letter));
                    self.end(letter, user, LetterEnd::Revoked, detail);
                }
                Some(user) if self.people_of_dead_letters.contains(user) => {
                    let detail = format!(
                        "{}: another failed claim of its user is resolved",
                        name(letter)
                    );
                    self.duplicate(letter, user, detail);
                }
                Some(user) if desired.restores_elsewhere(user, letter.slot) => {
                    let detail = format!("{}: its user gets another slot", name(letter));
                    self.duplicate(letter, user, detail);
                }
                Some(user) => self.dead_letter(page, desired, letter, user),
            }
        }
    }

    fn dead_letter(
        &mut self,
        page: &SlotRange,
        desired: &DesiredSlots,
        letter: &DeadLetter,
        user: &UserId,
    ) {
        let before = self.items.len();
        self.decide(page, desired, letter, user);
        // The planner adds an item without an action for a dead letter that stays unresolved, or no
        // item if it only counts it.
        let planned = &self.items[before..];
        if !planned.is_empty() && planned.iter().all(|item| item.action.is_some()) {
            self.people_of_dead_letters.insert(user.clone());
        }
    }

    /// Plans the repair of one dead letter. Its user gets the slot that Redis has for them.
    /// Otherwise, the user gets the slot that the dead letter names, if the desired state gives it
    /// to them.
    fn decide(
        &mut self,
        page: &SlotRange,
        desired: &DesiredSlots,
        letter: &DeadLetter,
        user: &UserId,
    ) {
        let own = letter
            .slot
            .filter(|slot| desired.owner(*slot) == Some(user))
            .and_then(|slot| self.facts.slot(slot));
        if self.holds_a_row(page, user) {
            let detail = format!("{}: its user already holds one", name(letter));
            self.duplicate(letter, user, detail);
        } else if let Some(admitted) = page.admitted(user) {
            let has_row_of_another = desired.row(admitted).is_some_and(|row| row.user != *user);
            if let Some(slot) = self.facts.slot(admitted).filter(|_| !has_row_of_another) {
                self.issue_letter(letter, slot, user, false);
            } else {
                // Another repair moves the user and inserts the row.
                let detail = format!("{}: its user moves to another slot", name(letter));
                self.duplicate(letter, user, detail);
            }
        } else if let Some(fault) = self.fault(letter) {
            self.leave(letter, FindingCase::Plain, not_of_drop(fault));
        } else if let Some(slot) = own {
            if self.facts.is_lost() {
                self.rebuild_with(page, user, slot, letter);
            }
            self.issue_letter(letter, slot, user, true);
        } else if letter
            .slot
            .is_some_and(|slot| self.facts.slot(slot).is_none())
        {
            self.leave(
                letter,
                FindingCase::NoSuchSlot,
                "the drop has no such slot, and Redis does not know its user",
            );
        } else if self.has_room() {
            let detail = format!("{}: another user has its slot", name(letter));
            self.slots_for_letters += 1;
            let claimed_at = letter.claimed_at;
            self.end(letter, user, LetterEnd::Readmitted { claimed_at }, detail);
        } else {
            self.leave(
                letter,
                FindingCase::NoSlotLeft,
                "another user has its slot and no slot is left",
            );
        }
    }

    fn issue_letter(&mut self, letter: &DeadLetter, slot: Slot, user: &UserId, put_back: bool) {
        let action = Action::Row(RowChange {
            claim: self.claim(slot, user, letter.claimed_at),
            letter: Some(letter.id),
            put_back,
        });
        self.push_dead_letter(letter, Some(i64::from(slot)), action, name(letter));
    }

    /// Returns why the claim is invalid for this drop, even if a slot is free.
    pub(super) fn fault(&self, letter: &DeadLetter) -> Option<ClaimFault> {
        let window = self.facts.drop.window();
        window
            .fault(letter.claimed_at)
            .filter(|_| letter.is_of_message)
    }

    /// Restores the user of a dead letter into a lost drop, since the dead letter may be the only
    /// copy of the promise. Without its user, the rebuilt drop would give the slot to another user.
    /// Users with a message are already restored from it.
    fn rebuild_with(&mut self, page: &SlotRange, user: &UserId, slot: Slot, letter: &DeadLetter) {
        if page.in_flight.iter().all(|message| message.user != *user) {
            // Must be the same time as in the user's row.
            let claimed_at_ms = letter
                .claimed_at
                .map_or(self.facts.read_at_ms, |at| at.timestamp_millis());
            // Redis may have the user on a slot that was revoked.
            let on = page.now_on_slot.get(user);
            self.rebuild.push(SlotChange {
                seen: on.map(|slot| SeenSlot {
                    slot: *slot,
                    at_ms: None,
                }),
                ..SlotChange::put_back(user.clone(), slot, Some(claimed_at_ms))
            });
        }
    }

    /// Adds one finding for all dead letters that are not listed individually. Some of them need an
    /// operator. Others were not read because too many name the same slot, or a slot that the drop
    /// does not have.
    pub(super) fn dead_letters_left(&mut self) {
        let mut summaries = self.left.summaries();
        let mut number = self.left.number();
        let unread = self.facts.failed_claims.saturating_sub(self.letters);
        if unread > 0 && self.letters > 0 {
            number += unread;
            summaries.push(format!(
                "{unread} wait until those on the same slots are resolved"
            ));
        }
        if !summaries.is_empty() {
            let detail = format!(
                "more failed claims are left for a person: {}",
                summaries.join("; ")
            );
            self.push(Kind::FailedClaim, None, None, None, detail);
            self.last_is(FindingCase::MoreLeft(number));
        }
    }

    fn duplicate(&mut self, letter: &DeadLetter, user: &UserId, detail: String) {
        self.end(letter, user, LetterEnd::Duplicate, detail);
    }

    fn end(&mut self, letter: &DeadLetter, user: &UserId, end: LetterEnd, detail: String) {
        let change = LetterChange {
            id: letter.id,
            user: user.clone(),
            end,
        };
        self.push_dead_letter(letter, letter.slot, Action::Letter(change), detail);
    }

    /// Whether a slot is left in addition to those that other dead letters need.
    fn has_room(&self) -> bool {
        let any = self.facts.free > 0
            || self.facts.count.unwrap_or(0) < i64::from(self.facts.drop.quantity);
        any && self.slots_for_letters < self.left()
    }

    fn leave(&mut self, letter: &DeadLetter, case: FindingCase, why: &'static str) {
        if self.left.is_full(why, letter.id) {
            return;
        }
        let detail = format!("{}: {why}", name(letter));
        self.push_dead_letter(letter, letter.slot, None, detail);
        self.last_is(case);
    }
}

fn not_of_drop(fault: ClaimFault) -> &'static str {
    match fault {
        ClaimFault::SealedDrop => "the drop is sealed, and Redis does not know its user",
        ClaimFault::OutsideWindow => {
            "the drop was not open when it was claimed, and Redis does not know its user"
        }
    }
}

/// Returns the name of a dead letter in mails and runs. A reason that was entered manually may
/// contain a user ID, so the reason is shown only if it matches the pattern of Firstcome's own
/// reasons.
pub(super) fn name(letter: &DeadLetter) -> String {
    let DeadLetter { id, reason, .. } = letter;
    let is_word = reason.len() > 3
        && reason
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let is_user = letter
        .user
        .as_ref()
        .is_some_and(|user| user.as_str() == reason);
    match reason.as_str() {
        UNPUBLISHED => {
            format!("failed claim {id} ({UNPUBLISHED}: Kafka did not acknowledge it in time)")
        }
        word if is_word && !is_user => format!("failed claim {id} ({word})"),
        _ => format!("failed claim {id} (its page has the reason)"),
    }
}
