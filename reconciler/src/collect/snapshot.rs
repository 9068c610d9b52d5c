//! Snapshots: the data that `collect` reads of a drop, and on which `plan` decides. Facts only, no
//! connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::dead_letters::{DeadLetterRow, UNREADABLE};
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::revoked::{Revocation, Revocations};
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::trace::TraceContext;

use crate::topic::{InFlight, Tail};

/// Data that a pass reads before the drops, and that all of them share.
#[derive(Debug, Clone, Default)]
pub struct PassContext {
    /// Each coupon's era, read before the topic: a Redis emptied later on is not rebuilt
    /// from a tail that is older.
    pub fences: HashMap<CouponId, Fence>,
    /// Redis's clock just before the topic was read, Unix milliseconds.
    pub read_at_ms: i64,
    /// The tail; `None` where Kafka could not be reached.
    pub tail: Option<Arc<Tail>>,
    /// Coupons not verified in this life of Redis, which may have lost some of its promises.
    pub unverified: HashSet<CouponId>,
    /// Drops that were seen to be lost before the pass waited for what may be on its way.
    pub lost: HashSet<DropId>,
    /// Coupons that may have claimants who are missing in `users`: each of them is looked up.
    pub claimants_in_doubt: HashSet<CouponId>,
}

impl PassContext {
    /// Whether every unread message is known.
    pub fn knows_the_tail(&self) -> bool {
        self.tail
            .as_ref()
            .is_some_and(|tail| tail.unreadable.is_empty())
    }
}

/// A drop as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropFacts {
    /// The coupon, as MySQL has it.
    pub coupon: Coupon,
    /// The drop, as MySQL has it: its quantity is the one in force.
    pub drop: Drop,
    /// Whether Redis's `meta` agrees with MySQL. `None` if there is no readable `meta`.
    pub meta_matches: Option<bool>,
    /// Redis has another allow list of the coupon than MySQL, or none. Said of one drop of it.
    pub allow_list_differs: bool,
    /// The counter; `None` if the key is missing or not a number.
    pub count: Option<i64>,
    pub users: u64,
    pub free: u64,
    /// People on the waiting list.
    pub waiting: u64,
    /// The first of them, in order, if slots may be left for them; a thousand at most.
    pub first_waiting: Vec<UserId>,
    /// Unresolved dead letters that name this drop.
    pub failed_claims: u64,
    /// Redis's clock just before the topic was read, Unix milliseconds. Every age is measured by
    /// it.
    pub read_at_ms: i64,
    /// Whether the topic's unread tail is known; otherwise a message may still exist for every
    /// admission. For a drop lost after the pass waited, one may still arrive.
    pub tail_known: bool,
    pub promises: Promises,
    pub revocations: DropRevocations,
    /// The gate is closed: Redis may have lost some of its promises, so messages prove slots above
    /// its counter, too.
    pub gate_closed: bool,
}

/// A drop's broken promises that are not recorded as resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promises {
    /// Promises whose users have no row.
    pub open: u64,
    /// People who have their row by now, or whose claim is revoked.
    pub kept: Vec<UserId>,
    /// Among the open ones: users who neither hold a slot nor are at the head of the waiting list,
    /// with the promised slot.
    pub out_of_line: Vec<(UserId, i64)>,
}

/// A drop's revocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropRevocations {
    pub number: u64,
    /// Those that an API may be about to finish.
    pub young: u64,
    /// Revocations with a missing step.
    pub half: Vec<HalfRevoked>,
}

/// A revocation whose claim still exists somewhere, or which Redis does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfRevoked {
    pub revocation: Revocation,
    pub user: UserId,
    /// Redis: the slot that the void claim is on.
    pub admitted: Option<i64>,
    /// The row of the void claim is there.
    pub has_row: bool,
    /// The coupon's claimants contain its user, who is on no slot of the drop.
    pub is_named: bool,
}

impl DropFacts {
    /// Redis lost this drop, or never had it: admission could not work with its keys.
    pub fn is_lost(&self) -> bool {
        self.meta_matches.is_none()
            || self.count.is_none()
            || self.users == 0
                && self
                    .count
                    .is_some_and(|count| count > i64::try_from(self.free).unwrap_or(i64::MAX))
    }

    /// Its window is over by Redis's clock.
    pub fn is_closed(&self) -> bool {
        self.drop
            .closes_at
            .is_some_and(|at| at.timestamp_millis() <= self.read_at_ms)
    }

    /// Its window has begun by Redis's clock.
    pub fn has_opened(&self) -> bool {
        self.drop.opens_at.timestamp_millis() <= self.read_at_ms
    }

    /// The scope in which one person may hold one.
    pub fn once_per(&self) -> OncePer {
        self.coupon.once_per
    }

    /// The number as a slot, if it is one of this drop's.
    pub fn slot(&self, number: i64) -> Option<Slot> {
        Slot::try_from(number)
            .ok()
            .filter(|slot| (1..=self.drop.quantity).contains(slot))
    }
}

/// The relevant part of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFacts {
    pub slot: Slot,
    pub user: UserId,
    /// When the user was admitted.
    pub claimed_at: DateTime<Utc>,
}

/// An unresolved dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: i64,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    /// The slot it asks for, even if invalid.
    pub slot: Option<i64>,
    /// Whose it is, where the id has the form of one.
    pub user: Option<UserId>,
    /// When the user was admitted, if known.
    pub claimed_at: Option<DateTime<Utc>>,
    /// Why it is there.
    pub reason: String,
    /// For messages that no client could read: their position, and why.
    pub unreadable: Option<String>,
    /// Only a message says so ([`DeadLetterRow::is_of_message`]).
    pub is_of_message: bool,
    /// The span of the claim, if it has a trace.
    pub trace: Option<TraceContext>,
}

impl From<DeadLetterRow> for DeadLetter {
    fn from(row: DeadLetterRow) -> Self {
        Self {
            is_of_message: row.is_of_message(),
            id: row.id,
            coupon: row.coupon_id.map(CouponId),
            drop: row.drop_id.map(DropId),
            slot: row.slot,
            user: row.user_id.and_then(|text| text.parse().ok()),
            claimed_at: row.claimed_at.map(|at| at.and_utc()),
            unreadable: row.error.filter(|_| row.reason == UNREADABLE),
            reason: row.reason,
            trace: row
                .traceparent
                .and_then(|text| TraceContext::parse(text.as_bytes())),
        }
    }
}

/// A range of slots: Redis at one moment, then MySQL, then a second read of every user about whom
/// the two differ.
#[derive(Debug, Clone, Default)]
pub struct SlotRange {
    /// First slot of the range.
    pub from: i64,
    /// Last slot; `None` for the last page, which has no end.
    pub to: Option<i64>,
    /// Redis: highest slot given out, at the same moment as `users` and `free`.
    pub count: i64,
    /// Redis: slot and user.
    pub users: Vec<(i64, UserId)>,
    pub free: Vec<i64>,
    pub rows: Vec<RowFacts>,
    /// The topic: unread messages of these slots.
    pub in_flight: Vec<InFlight>,
    pub dead_letters: Vec<DeadLetter>,
    /// Second read of Redis: the slots of people with a row, message or dead letter who were not on
    /// that slot at first.
    pub now_on_slot: HashMap<UserId, i64>,
    /// Second read of MySQL: the rows of users whose slot has no row of theirs, in any drop of the
    /// coupon; if one per drop is allowed, in this drop.
    pub has_row: HashMap<UserId, (DropId, Slot)>,
    /// Slots without the row of their holder: when they were given out, Unix milliseconds.
    pub admitted_at_ms: HashMap<i64, i64>,
    /// Redis's clock after those were read: users admitted during the pass were admitted before
    /// this.
    pub read_until_ms: i64,
    /// People of this page whom the coupon's claimants lack, or have on another slot.
    pub claimants_wrong: Vec<UserId>,
    /// Users whom the claimants have on slots that nobody holds.
    pub claimants_on_gaps: Vec<(i64, UserId)>,
    /// Claimants of the drop on slots of this page whom `users` does not have on any, and whose
    /// slot is no gap.
    pub claimants_astray: Vec<(i64, UserId)>,
    /// Third read of MySQL: the revocations of all these users.
    pub revoked: Revocations,
}

/// The differences between the stores on a page: `collect` reads these again before anything is
/// decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// With a row, message or dead letter, but not on that slot in Redis: on which are they now?
    pub ask_redis: Vec<UserId>,
    /// On a slot without a row of theirs, or with a dead letter: do they have any row?
    pub ask_mysql: Vec<UserId>,
    /// Slots whose admission time decides.
    pub ask_times: Vec<i64>,
    /// Given slots that nobody holds.
    pub gaps: Vec<i64>,
}

impl SlotRange {
    /// The page without rows, messages and claimants of void claims. Users in Redis stay, because
    /// the numbers include them.
    #[must_use]
    pub fn without_void(&self) -> Self {
        let mut page = self.clone();
        let revoked = &self.revoked;
        page.rows
            .retain(|row| !revoked.voids_at(&row.user, Some(row.claimed_at)));
        page.in_flight
            .retain(|message| !revoked.voids_at(&message.user, Some(message.claimed_at)));
        page.claimants_wrong
            .retain(|user| !revoked.voids(user, None));
        // Claimants do not distinguish a claim from an earlier one. A promised claim has a row, a
        // message or a dead letter besides.
        page.claimants_on_gaps
            .retain(|(_, user)| !revoked.name(user));
        // The revocation removes them from the claimants.
        page.claimants_astray
            .retain(|(_, user)| !revoked.name(user));
        page
    }

    /// Notes the rows that users of the page have. A row on a slot of the page belongs to the page,
    /// even if it was written after the page's rows were read.
    pub fn note_rows_of_people(&mut self, drop: DropId, once_per: OncePer, rows: Vec<IssuedRow>) {
        let mut known: HashSet<Slot> = self.rows.iter().map(|row| row.slot).collect();
        for row in rows {
            let is_of_drop = row.drop_id == drop.0;
            if !is_of_drop && once_per == OncePer::Drop {
                continue;
            }
            let user = UserId::from_store(row.user_id);
            let slot = i64::from(row.slot);
            let is_within = slot >= self.from && self.to.is_none_or(|to| slot <= to);
            if is_of_drop && is_within && known.insert(row.slot) {
                self.rows.push(RowFacts {
                    slot: row.slot,
                    user: user.clone(),
                    claimed_at: row.claimed_at.and_utc(),
                });
            }
            self.has_row.insert(user, (DropId(row.drop_id), row.slot));
        }
        self.rows.sort_by_key(|row| row.slot);
    }

    /// Whether a user's slot in Redis is void.
    pub fn is_void(&self, slot: i64, user: &UserId) -> bool {
        self.voiding(slot, user).is_some()
    }

    /// The slot that Redis has for a user of this page's rows, messages or dead letters. A revoked
    /// one comes from an old copy of Redis and is no promise.
    pub fn admitted(&self, user: &UserId) -> Option<i64> {
        let slot = self.now_on_slot.get(user).copied();
        slot.filter(|slot| !self.is_void(*slot, user))
    }

    /// The revocation that voids it.
    pub fn voiding(&self, slot: i64, user: &UserId) -> Option<&Revocation> {
        self.revoked
            .voiding(user, self.admitted_at_ms.get(&slot).copied())
    }

    /// Whether every given slot has the same user in Redis and in MySQL, and there is nothing else.
    /// Nearly every page is like that, and one walk over both shows it.
    pub fn is_in_order(&self, quantity: i64) -> bool {
        let first = self.from.max(1);
        let last = self.to.unwrap_or(i64::MAX).min(self.count).min(quantity);
        let same = |(slot, ((on, user), row)): (i64, (&(i64, UserId), &RowFacts))| {
            *on == slot && i64::from(row.slot) == slot && *user == row.user
        };
        i64::try_from(self.users.len()).is_ok_and(|people| first + people == last + 1)
            && self.users.len() == self.rows.len()
            && self.free.is_empty()
            && self.in_flight.is_empty()
            && self.dead_letters.is_empty()
            && self.claimants_wrong.is_empty()
            && self.claimants_on_gaps.is_empty()
            && self.claimants_astray.is_empty()
            && (first..).zip(self.users.iter().zip(&self.rows)).all(same)
    }

    /// The data that must be read again.
    pub fn questions(&self, quantity: i64) -> Questions {
        if self.is_in_order(quantity) {
            return Questions::default();
        }
        let rows: HashMap<i64, &UserId> = self
            .rows
            .iter()
            .map(|row| (i64::from(row.slot), &row.user))
            .collect();
        let mut owners: HashMap<i64, Vec<&UserId>> = HashMap::with_capacity(self.users.len());
        for (slot, user) in &self.users {
            owners.entry(*slot).or_default().push(user);
        }
        let owns =
            |slot: i64, user: &UserId| owners.get(&slot).is_some_and(|on| on.contains(&user));
        let mut questions = Questions::default();
        for (slot, user) in &self.users {
            if rows.get(slot) != Some(&user) {
                questions.ask_mysql.push(user.clone());
                questions.ask_times.push(*slot);
            }
        }
        let evidence = self.rows.iter().map(|row| (row.slot, &row.user)).chain(
            self.in_flight
                .iter()
                .map(|message| (message.slot, &message.user)),
        );
        for (slot, user) in evidence {
            if !owns(i64::from(slot), user) {
                questions.ask_redis.push(user.clone());
            }
        }
        for message in &self.in_flight {
            if rows.get(&i64::from(message.slot)) != Some(&&message.user) {
                questions.ask_mysql.push(message.user.clone());
            }
        }
        for user in self
            .dead_letters
            .iter()
            .filter_map(|letter| letter.user.as_ref())
        {
            questions.ask_redis.push(user.clone());
            questions.ask_mysql.push(user.clone());
        }
        let taken: std::collections::HashSet<i64> = self
            .users
            .iter()
            .map(|(slot, _)| *slot)
            .chain(self.free.iter().copied())
            .chain(rows.keys().copied())
            .collect();
        let last = self.to.unwrap_or(i64::MAX).min(self.count).min(quantity);
        questions.gaps = (self.from.max(1)..=last)
            .filter(|slot| !taken.contains(slot))
            .collect();
        questions.ask_times.extend(&questions.gaps);
        questions
    }
}
