//! Plans the repairs that concern a drop as a whole, after its last page.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use firstcome_shared::domain::UserId;
use firstcome_shared::redis::repair::{SlotChange, Wanted};

use super::{
    Action, DropRepair, LetterChange, LetterEnd, Phase, Plan, Planned, Planner, RowChange,
};
use crate::report::{ActionKind, FindingCase, Kind, Numbers};

impl Planner<'_> {
    pub fn finish(mut self) -> Plan {
        self.numbers = Numbers {
            count: self.facts.count.unwrap_or(0),
            users: self.facts.users,
            free: self.facts.free,
            waiting: self.facts.waiting,
            failed_claims: self.facts.failed_claims,
            broken_promises: self.facts.promises.open,
            ..self.numbers
        };
        self.examined.failed_claims = self.facts.failed_claims;
        self.dead_letters_left();
        if self.facts.is_lost() {
            self.lost();
        } else {
            self.revocations();
            self.meta();
            self.counter();
            self.promises();
            self.unfilled();
        }
        self.letters_of_the_moved();
        let waits = !self.facts.tail_known && self.wait_for_the_topic();
        if self.absent > 0 {
            self.items.retain(|item| !needs_counter(item));
        }
        self.items.sort_by_key(Planned::order);
        let gaps = usize::try_from(self.gaps).unwrap_or(usize::MAX);
        let mut repairs = self.beyond.weight;
        let mut fingerprint = self.beyond.fingerprint;
        let mut counted = HashSet::new();
        for item in &self.items {
            let weight = weight(item, gaps, self.facts.gate_closed);
            let mut hash = fingerprint_of(item, weight);
            if hash != 0 && matches!(item.action, Some(Action::Drop(DropRepair::Count))) {
                hash = hash.wrapping_add(self.gaps_hash);
            }
            repairs += weight;
            fingerprint = fingerprint.wrapping_add(hash);
            if hash != 0 {
                counted.insert(hash);
            }
        }
        let quantity = self.facts.drop.quantity as usize;
        let limit = (quantity * self.policy.repair_limit_percent as usize / 100)
            .max(self.policy.repair_limit_at_least);
        let exact = self.exact() && !waits;
        Plan {
            sealable: exact && self.sealable(),
            exact,
            left: self.promotable(),
            counter_waits: self.absent > 0 || !self.facts.tail_known,
            repairs,
            fingerprint,
            counted,
            over_limit: repairs > limit,
            items: self.items,
            beyond: self.beyond,
            numbers: self.numbers,
            examined: self.examined,
            young: self.young,
        }
    }

    /// Marks the dead letters of users who will be moved as duplicates, because a `Move` also
    /// inserts the row. This is impossible page by page: the user's slot can be on another page
    /// than the dead letter.
    fn letters_of_the_moved(&mut self) {
        let moved = self.items.iter().filter(|item| item.moves());
        let moved: HashSet<UserId> = moved.filter_map(|item| item.user.clone()).collect();
        for item in &mut self.items {
            if let Some(Action::Row(RowChange {
                claim,
                letter: Some(id),
                ..
            })) = &item.action
                && moved.contains(&claim.user_id)
            {
                item.action = Some(Action::Letter(LetterChange {
                    id: *id,
                    user: claim.user_id.clone(),
                    end: LetterEnd::Duplicate,
                }));
                item.detail.push_str(": its user moves to another slot");
            }
        }
    }

    fn lost(&mut self) {
        let holdings = std::mem::take(&mut self.rebuild);
        let before = self.rebuilt;
        let known = self.rebuilt + holdings.len();
        let never_opened = !self.facts.has_opened() && known == 0;
        let detail = if never_opened {
            "Redis does not have this drop, which has not opened yet".to_owned()
        } else {
            format!(
                "Redis does not have this drop; {known} people are known from rows, messages and failed claims"
            )
        };
        self.push(
            Kind::RedisLost,
            None,
            None,
            Action::Drop(DropRepair::Everything { holdings, before }),
            detail,
        );
    }

    /// Postpones repairs while the tail of the topic could not be read, because an unread message
    /// may promise any slot to any user. No slot is given to a user who does not already hold it,
    /// and a lost drop is not rebuilt. Otherwise, slots that only messages prove could go to other
    /// users. Returns whether a repair has to wait.
    fn wait_for_the_topic(&mut self) -> bool {
        let lost = self.facts.is_lost();
        let opened = self.facts.has_opened();
        let mut without_row = HashSet::new();
        let mut waits = false;
        for item in &mut self.items {
            let Some(action) = &item.action else { continue };
            let must_wait = match action {
                Action::Slot(change) => match change.wanted {
                    Wanted::Front(_) => false,
                    Wanted::Slot { .. } => lost,
                    Wanted::Any | Wanted::Nothing => true,
                },
                // In a lost drop no row is inserted. Duplicates also wait, because the repair that
                // they depend on may not be in memory.
                Action::Row(_) => lost,
                Action::Letter(letter) => match letter.end {
                    LetterEnd::Revoked => false,
                    LetterEnd::Duplicate => lost,
                    LetterEnd::Readmitted { .. } => true,
                },
                Action::Drop(change) => match change {
                    DropRepair::AllowList | DropRepair::Revocation(_) => false,
                    DropRepair::Settings => lost,
                    DropRepair::Everything { .. } => opened,
                    DropRepair::Count | DropRepair::Line(_) => true,
                },
            };
            if must_wait {
                // A user who loses a slot because they hold another slot already has a row.
                let has_row = matches!(
                    action,
                    Action::Slot(SlotChange {
                        seen: Some(_),
                        wanted: Wanted::Nothing,
                        ..
                    })
                );
                without_row.extend(item.user.clone().filter(|_| !has_row));
                wait(item);
            }
            waits |= must_wait;
        }
        // Duplicates wait for the row of their user to be inserted.
        for item in &mut self.items {
            if matches!(&item.action, Some(Action::Letter(LetterChange { user, end: LetterEnd::Duplicate, .. })) if without_row.contains(user))
            {
                wait(item);
            }
        }
        waits
    }

    fn meta(&mut self) {
        if self.facts.meta_matches == Some(false) {
            let detail = "quantity, window or pause in Redis differ from MySQL".to_owned();
            self.push(
                Kind::CountMismatch,
                None,
                None,
                Action::Drop(DropRepair::Settings),
                detail,
            );
            self.last_is(FindingCase::SettingsDiffer);
        }
        if self.facts.allow_list_differs {
            let detail =
                "the coupon's allow list in Redis is another than MySQL's, or gone".to_owned();
            self.push(
                Kind::CountMismatch,
                None,
                None,
                Action::Drop(DropRepair::AllowList),
                detail,
            );
            self.last_is(FindingCase::AllowListDiffers);
        }
    }

    fn revocations(&mut self) {
        self.young += self.facts.revocations.young;
        for half in &self.facts.revocations.half {
            let slot = half.admitted.or(half.revocation.slot.map(i64::from));
            let (kind, detail) = match half {
                half if half.has_row => (Kind::RevokedRow, "it is revoked, and its row is there"),
                half if half.admitted.is_some() => (
                    Kind::RevokedAdmission,
                    "it is revoked, and Redis still has it",
                ),
                half if half.is_named => (
                    Kind::RevokedAdmission,
                    "it is revoked, and the coupon's list of claimants still has it",
                ),
                half if half.revocation.is_to_be_ended() => (
                    Kind::RevokedAdmission,
                    "it is revoked, and its person can't claim again yet, though they may",
                ),
                _ => (
                    Kind::RevokedAdmission,
                    "it is revoked, and Redis does not know that",
                ),
            };
            self.push(
                kind,
                slot,
                Some(&half.user),
                Action::Drop(DropRepair::Revocation(Box::new(half.clone()))),
                detail.to_owned(),
            );
        }
    }

    fn counter(&mut self) {
        let count = self.facts.count.unwrap_or(0);
        let now = i64::try_from(self.facts.users + self.facts.free).unwrap_or(i64::MAX);
        let settled = now + self.change_of_settled;
        // In an empty drop, `max` would hide a negative counter.
        if count < 0 || count.max(self.highest_returning) != settled || self.gaps > 0 {
            let detail = if count != self.highest {
                format!("the counter is {count} and should be {}", self.highest)
            } else if self.gaps > 0 {
                format!(
                    "slots up to {count} are neither held nor free, or both: {} of them",
                    self.gaps
                )
            } else {
                let held = self.facts.users;
                let free = self.facts.free;
                format!(
                    "{held} slots are held and {free} free, which are not the {count} of the counter"
                )
            };
            self.push(
                Kind::CountMismatch,
                None,
                None,
                Action::Drop(DropRepair::Count),
                detail,
            );
        }
    }

    /// Moves users with a broken promise to the head of the waiting list. In a lost drop, the
    /// rebuild does this.
    fn promises(&mut self) {
        for (user, slot) in &self.facts.promises.out_of_line {
            let detail =
                "was promised a coupon and has no row; `broken_promises` or the head of the waiting list lacks them"
                    .to_owned();
            self.push(
                Kind::OverAdmitted,
                *slot,
                Some(user),
                Action::Slot(SlotChange {
                    user: user.clone(),
                    seen: None,
                    wanted: Wanted::Front(*slot),
                }),
                detail,
            );
        }
    }

    /// Number of slots without a holder after the other repairs.
    pub(super) fn left(&self) -> u64 {
        let held = i64::try_from(self.facts.users).unwrap_or(i64::MAX) + self.change_of_held;
        u64::try_from(i64::from(self.facts.drop.quantity) - held).unwrap_or(0)
    }

    fn unfilled(&mut self) {
        let left = self.left();
        if left == 0 {
            return;
        }
        if self.facts.waiting > 0 && !self.is_cut_off() {
            if self.facts.coupon.paused && self.facts.is_closed() {
                let detail = format!(
                    "closed while paused, with {left} slots left and {} people waiting: they get them once it is no \
                     longer paused",
                    self.facts.waiting
                );
                self.push(Kind::Unfilled, None, None, None, detail);
            } else if !self.facts.coupon.paused {
                let people = self
                    .facts
                    .first_waiting
                    .iter()
                    .take(usize::try_from(self.promotable()).unwrap_or(usize::MAX));
                for user in people.cloned().collect::<Vec<_>>() {
                    let detail = format!(
                        "{left} slots are left and {} people wait",
                        self.facts.waiting
                    );
                    let action = Action::Drop(DropRepair::Line(user.clone()));
                    self.push(Kind::Unfilled, None, Some(&user), action, detail);
                }
            }
        } else if self.facts.is_closed()
            && self.items.is_empty()
            && self.people_without_row == 0
            && self.numbers.in_flight == 0
        {
            let quantity = self.facts.drop.quantity;
            let detail = match self.facts.waiting {
                0 => format!("closed with {left} of {quantity} slots left, and nobody waits"),
                waiting => format!(
                    "closed by an operator with {left} of {quantity} slots left; {waiting} people who waited get none"
                ),
            };
            self.items.push(Planned {
                kind: Kind::Unfilled,
                slot: None,
                user: None,
                dead_letter: None,
                trace: None,
                detail,
                action: None,
                needs_person: false,
                case: FindingCase::Plain,
            });
        }
    }

    /// Whether an operator closed the drop early and no user on its waiting list has a broken
    /// promise.
    fn is_cut_off(&self) -> bool {
        self.facts.drop.closed_early && self.facts.is_closed() && self.facts.promises.open == 0
    }

    /// Number of users on the waiting list who get a free slot.
    pub(super) fn promotable(&self) -> u64 {
        let cut = self.facts.drop.closed_early && self.facts.is_closed();
        self.left().min(if cut {
            self.facts.promises.open
        } else {
            u64::MAX
        })
    }

    fn only_reports(&self) -> bool {
        self.items.iter().all(|item| item.action.is_none())
    }

    fn exact(&self) -> bool {
        self.only_reports()
            && self.facts.promises.open == 0
            && self.people_without_row == 0
            && self.facts.revocations.young == 0
            && self.numbers.rows == self.numbers.users
    }

    fn sealable(&self) -> bool {
        self.facts.is_closed()
            && self.facts.tail_known
            && self.numbers.in_flight == 0
            && self.numbers.failed_claims == 0
            && !(self.facts.waiting > 0 && self.promotable() > 0)
    }
}

/// Postpones a repair until the claims in flight are known.
fn wait(item: &mut Planned) {
    item.action = None;
    item.detail
        .push_str("; it waits until what is on its way is known");
}

/// Whether a repair sets the counter, gives away slots by using it, or depends on a repair that
/// does either.
fn needs_counter(item: &Planned) -> bool {
    matches!(
        item.phase(),
        Phase::Counter | Phase::Moves | Phase::Readmissions | Phase::LetterEnds | Phase::Line
    ) && item.action_kind() != ActionKind::Revoke
}

/// Returns how much a repair counts towards the repair limit. Repairs count 0 if they cannot harm
/// and users wait for them: those that only add what was promised, add a holder to the claimants,
/// or give a free slot to the waiting list. Revocations also count 0, because they are recorded
/// separately. A repair of the counter counts the number of slots that it frees, because a wrong
/// counter would give each of them to a second user.
///
/// While the gate is closed, only repairs that take a slot from a user count, because no user is
/// admitted and Redis may have lost some promises.
pub(super) fn weight(item: &Planned, gaps: usize, gate_closed: bool) -> usize {
    let Some(action) = &item.action else { return 0 };
    match (item.kind, action) {
        (_, action) if gate_closed => usize::from(action.takes()),
        (_, Action::Slot(change)) if change.is_kept() => 0,
        (Kind::Unissued | Kind::FailedClaim | Kind::RedisLost | Kind::Stalled, _)
        | (_, Action::Drop(DropRepair::Revocation(_) | DropRepair::Line(_))) => 0,
        (_, Action::Drop(DropRepair::Count)) => gaps.max(1),
        _ => 1,
    }
}

/// Returns the hash of a repair, or 0 if it does not count towards the limit. The sum of the hashes
/// identifies a plan regardless of the order of its repairs.
pub(super) fn fingerprint_of(item: &Planned, weight: usize) -> u64 {
    if weight == 0 {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    let what = (item.kind.as_str(), item.action_kind().as_str(), weight);
    (what, item.slot, item.user.as_ref().map(UserId::as_str)).hash(&mut hasher);
    hasher.finish()
}
