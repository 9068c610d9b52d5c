//! Snapshots: the data that `collect` reads about a drop and that `plan` decides on. They contain
//! facts only, no connections.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::{DeadLetterRow, UNREADABLE};
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::revoked::{Revocation, Revocations};
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::trace::TraceContext;

use crate::topic::{InFlight, Tail};

/// Data that a pass reads before the drops and that all drops share.
#[derive(Debug, Clone, Default)]
pub struct PassContext {
    /// The fencing token of each coupon's era, read before the topic. If Redis is emptied later, it
    /// is not rebuilt from an older tail.
    pub fences: HashMap<CouponId, Fence>,
    /// Redis's clock just before the topic was read, Unix milliseconds.
    pub read_at_ms: i64,
    /// The later of Redis's clock and this host's at that time.
    pub latest_ms: i64,
    /// The tail, or `None` if Kafka could not be reached.
    pub tail: Option<Arc<Tail>>,
    /// Coupons that are not verified on the current Redis servers, which may have lost some of
    /// their promises.
    pub unverified: HashSet<CouponId>,
    /// Drops that Redis had already lost before the pass waited for claims in flight.
    pub lost: HashSet<DropId>,
    /// Coupons that may have claimants who are missing from `users`. All their claimants are looked
    /// up.
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

/// The facts about a drop as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropFacts {
    /// The coupon, read from MySQL.
    pub coupon: Coupon,
    /// The drop, read from MySQL. Its quantity is the current one.
    pub drop: Drop,
    /// Whether Redis's `meta` agrees with MySQL. `None` if there is no readable `meta`.
    pub meta_matches: Option<bool>,
    /// Whether Redis lacks the coupon's allow list, or its list differs from MySQL's. Set for only
    /// one drop of the coupon.
    pub allow_list_differs: bool,
    /// The counter, or `None` if the key is missing or not a number.
    pub count: Option<i64>,
    pub users: u64,
    pub free: u64,
    /// Number of users on the waiting list.
    pub waiting: u64,
    /// The first users on the waiting list, in order: at most 1,000, and only if slots may be left
    /// for them.
    pub first_waiting: Vec<UserId>,
    /// Number of unresolved dead letters that name this drop.
    pub failed_claims: u64,
    /// Redis's clock just before the topic was read, Unix milliseconds. Every age is relative to
    /// it.
    pub read_at_ms: i64,
    /// The later of Redis's clock and this host's at that time.
    pub latest_ms: i64,
    /// Whether the topic's unread tail is known. Otherwise, any admission may have an unread
    /// message. If Redis lost the drop after the pass had waited, this is false, because messages
    /// may still arrive.
    pub tail_known: bool,
    pub promises: Promises,
    pub revocations: DropRevocations,
    /// Whether the coupon is closed. Redis may then have lost some of its promises, so messages
    /// also prove slots above the counter.
    pub gate_closed: bool,
}

/// A drop's broken promises that are not recorded as resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Promises {
    /// Number of promises whose users have no row.
    pub open: u64,
    /// Users who now have a row, or whose claim is revoked.
    pub kept: Vec<UserId>,
    /// Users of open promises who neither hold a slot nor are at the head of the waiting list, with
    /// the promised slot.
    pub out_of_line: Vec<(UserId, i64)>,
}

/// A drop's revocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropRevocations {
    pub number: u64,
    /// Number of revocations that are too recent to judge, because an API may be completing them.
    pub young: u64,
    /// Revocations with a missing step.
    pub half: Vec<HalfRevoked>,
}

/// A revocation that is missing from Redis, or whose claim still exists in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HalfRevoked {
    pub revocation: Revocation,
    pub user: UserId,
    /// The slot of the void claim in Redis, if Redis still has it.
    pub admitted: Option<i64>,
    /// Whether the void claim still has a row.
    pub has_row: bool,
    /// Whether the coupon's claimants contain the user although the user is on no slot of the drop.
    pub is_named: bool,
}

impl DropFacts {
    /// Builds a claim of this drop to insert as a row. Its time comes from Redis's clock.
    pub fn claim(&self, slot: Slot, user: &UserId, claimed_at: Option<DateTime<Utc>>) -> Claim {
        Claim {
            coupon_id: self.coupon.id,
            drop_id: self.drop.id,
            slot,
            user_id: user.clone(),
            claimed_at,
            trace: None,
        }
    }

    /// Whether Redis has lost this drop or never had it, so that admission cannot use its keys.
    pub fn is_lost(&self) -> bool {
        self.meta_matches.is_none()
            || self.count.is_none()
            || self.users == 0
                && self
                    .count
                    .is_some_and(|count| count > i64::try_from(self.free).unwrap_or(i64::MAX))
    }

    /// Whether the drop has closed, by Redis's clock.
    pub fn is_closed(&self) -> bool {
        self.drop
            .closes_at
            .is_some_and(|at| at.timestamp_millis() <= self.read_at_ms)
    }

    /// Whether the drop may have opened. By a clock of Redis that is behind, it may not have.
    pub fn has_opened(&self) -> bool {
        self.drop.opens_at.timestamp_millis() <= self.latest_ms
    }

    /// The scope in which each user may hold one coupon.
    pub fn once_per(&self) -> OncePer {
        self.coupon.once_per
    }

    /// Returns the number as a slot, or `None` if the drop has no such slot.
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
    /// The slot that it names, even if invalid.
    pub slot: Option<i64>,
    /// The user, or `None` if the ID is missing or malformed.
    pub user: Option<UserId>,
    /// When the user was admitted, if known.
    pub claimed_at: Option<DateTime<Utc>>,
    /// Why the claim became a dead letter.
    pub reason: String,
    /// For a message that no client can read: its position, and the error.
    pub unreadable: Option<String>,
    /// Whether the only evidence is a message ([`DeadLetterRow::is_of_message`]).
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

/// A page of slots: read from Redis at one moment, then from MySQL. Users on whom the two stores
/// differ are read again.
#[derive(Debug, Clone, Default)]
pub struct SlotRange {
    /// First slot of the range.
    pub from: i64,
    /// Last slot, or `None` for the last page, which has no end.
    pub to: Option<i64>,
    /// Redis: the counter, read at the same moment as `users` and `free`.
    pub count: i64,
    /// Redis: slots and their users.
    pub users: Vec<(i64, UserId)>,
    pub free: Vec<i64>,
    pub rows: Vec<RowFacts>,
    /// The topic: unread messages of these slots.
    pub in_flight: Vec<InFlight>,
    pub dead_letters: Vec<DeadLetter>,
    /// Second read of Redis: the slots of users who have a row, message or dead letter for a slot
    /// on which the first read did not find them.
    pub now_on_slot: HashMap<UserId, i64>,
    /// Second read of MySQL: the rows of users who have no row on their slot. Contains rows of any
    /// drop of the coupon or, if users may have one per drop, of this drop only.
    pub has_row: HashMap<UserId, (DropId, Slot)>,
    /// Admission times of slots whose holder has no row, in Unix milliseconds.
    pub admitted_at_ms: HashMap<i64, i64>,
    /// Redis's clock after `admitted_at_ms` was read. All admissions in it are older than this,
    /// including those made during the pass.
    pub read_until_ms: i64,
    /// Users of this page who are missing from the coupon's claimants, or have another slot there.
    pub claimants_wrong: Vec<UserId>,
    /// Claimants on slots without a holder.
    pub claimants_on_gaps: Vec<(i64, UserId)>,
    /// Claimants on slots of this page who are missing from `users` and are not in
    /// `claimants_on_gaps`.
    pub claimants_astray: Vec<(i64, UserId)>,
    /// Third read of MySQL: the revocations of all these users.
    pub revoked: Revocations,
}

/// The differences between the stores on a page. `collect` reads them again before the planner
/// decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// Users with a row, message or dead letter for a slot on which Redis does not have them. Redis
    /// returns their current slots.
    pub ask_redis: Vec<UserId>,
    /// Users with a dead letter, or on a slot without a row of theirs. MySQL returns all their
    /// rows.
    pub ask_mysql: Vec<UserId>,
    /// Slots whose time of admission affects the decision.
    pub ask_times: Vec<i64>,
    /// Slots up to the counter that have no user and no row and are not free.
    pub gaps: Vec<i64>,
}

impl SlotRange {
    /// Returns the page without the rows, messages and claimants of void claims. Keeps the users in
    /// Redis, because the counts include them.
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
        // The claimants do not show whether a claim is the revoked one or a later one. If it is a
        // later one, it also has a row, a message or a dead letter.
        page.claimants_on_gaps
            .retain(|(_, user)| !revoked.name(user));
        // The repair of the revocation removes these from the claimants.
        page.claimants_astray
            .retain(|(_, user)| !revoked.name(user));
        page
    }

    /// Adds the rows of users of the page. A row on a slot of the page belongs to the page, even if
    /// it was inserted after the page's rows were read.
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

    /// Returns the slot that Redis has for a user of this page's rows, messages or dead letters.
    /// Ignores a revoked claim, which comes from an old copy of Redis and is no promise.
    pub fn admitted(&self, user: &UserId) -> Option<i64> {
        let slot = self.now_on_slot.get(user).copied();
        slot.filter(|slot| !self.is_void(*slot, user))
    }

    /// Returns the revocation that voids a user's slot in Redis.
    pub fn voiding(&self, slot: i64, user: &UserId) -> Option<&Revocation> {
        self.revoked
            .voiding(user, self.admitted_at_ms.get(&slot).copied())
    }

    /// Whether every slot up to the counter has the same user in Redis and in MySQL, and there is
    /// nothing else on the page. This is true for nearly every page, and takes one pass over both
    /// lists.
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

    /// Returns the data that must be read again.
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

/// Returns a coupon and its only drop for tests, both with this ID.
#[cfg(test)]
pub(crate) fn sample(id: i64, quantity: Slot) -> (Coupon, Drop) {
    let coupon = Coupon {
        id: CouponId(id),
        name: String::new(),
        quantity,
        once_per: OncePer::Coupon,
        waiting_list: 0,
        paused: false,
        revision: 1,
        era: 0,
        schedule: None,
        allow: None,
        allow_list: firstcome_shared::coupon::AllowList::default(),
    };
    let drop = Drop {
        id: DropId(id),
        coupon_id: coupon.id,
        local_date: None,
        opens_at: DateTime::UNIX_EPOCH,
        closes_at: None,
        quantity,
        closed_early: false,
        sealed_at: None,
    };
    (coupon, drop)
}
