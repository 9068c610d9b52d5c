//! Decides what a page of slots needs. Pure: the reads are done before, the repairs afterwards.
//!
//! A page is read in this order: M, the rows and open dead letters in MySQL; R, one transaction in
//! Redis; M', again in MySQL whatever concerns the slots and users that differ; R', those slots
//! once more in Redis. Every healthy change follows a fixed order: an admission reaches Redis
//! before its row, a return or revocation removes the row before the user leaves Redis, a raised
//! quantity and a seal are in MySQL first. A row that M and M' both show was therefore never
//! without its user while R was read, and a difference between them and R is drift. A difference
//! that M' does not confirm is none. So no pause and no second comparison is needed, however long
//! MySQL takes.

mod dead_letters;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

/// A row of the drop. The time of admission distinguishes two claims of one slot.
pub use firstcome_shared::domain::ClaimOfSlot as Row;
use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::model::{Revocation, Revocations};
use firstcome_shared::redis::reads::LoadedDrop;

/// A user whom Redis has on a slot. The time of admission is known only in R'.
pub use firstcome_shared::redis::reads::SlotHolder as Holder;

/// R: some slots in Redis, at one moment. The last page has no end.
pub use firstcome_shared::redis::reads::SlotPage as RedisPage;

use crate::report::Kind;
pub use dead_letters::{Letter, LetterEnd};

/// M: the page in MySQL.
#[derive(Debug, Clone, Default)]
pub struct MysqlPage {
    /// In order of slot.
    pub rows: Vec<Row>,
    pub letters: Vec<Letter>,
}

/// The slots and users on which M and R differ, and those of the dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubts {
    pub slots: BTreeSet<Slot>,
    pub users: BTreeSet<UserId>,
}

/// M' and R': what concerns the doubts, read again.
#[derive(Debug, Clone, Default)]
pub struct Recheck {
    /// The drop's quantity.
    pub quantity: Slot,
    /// The rows on the slots.
    pub rows: Vec<Row>,
    /// The users' rows that rule out another one: in the drop, or in the coupon if one coupon is
    /// allowed in total.
    pub rows_of_users: HashMap<UserId, Vec<(DropId, Row)>>,
    pub revocations: Revocations,
    /// The IDs of those dead letters of M that are still open.
    pub open_letters: HashSet<i64>,
    /// R': the users on the slots.
    pub holders: Vec<Holder>,
}

/// Facts about the drop and about the moment of the pass.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub drop: DropId,
    /// Nobody is admitted, and every claim from before the closing is in MySQL or never will be.
    pub is_closed: bool,
    /// Redis's clock, read before the end offsets.
    pub clock_ms: i64,
    /// The consumer has read the topic up to the end offsets.
    pub is_read: bool,
    /// Time after which an admission is on the topic or never will be.
    pub deadline_ms: i64,
    /// Time after which a row is written even if its message may still be unread, if nobody attends
    /// to the unread messages.
    pub overdue_ms: i64,
    /// No consumer has attended to unread messages for that time, or the topic cannot be read.
    pub is_unattended: bool,
}

impl Moment {
    /// Whether a claim without a row gets it now. At a closed gate the age does not matter: a clock
    /// that was set back leaves times in the future. At an open gate, a claim that waits too long
    /// gets its row although its message is unread, if no consumer attends to it. A pass at a
    /// closed gate waits for unread messages instead: after a loss, one of them may name the slot
    /// for another user.
    fn is_due(&self, admitted_at_ms: Option<i64>) -> bool {
        let age = self.clock_ms.saturating_sub(admitted_at_ms.unwrap_or(0));
        let is_read = self.is_read && age > self.deadline_ms;
        let is_overdue = self.is_unattended && age > self.overdue_ms;
        self.is_closed || is_read || is_overdue
    }
}

/// A row to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRow {
    pub slot: Slot,
    pub user: UserId,
    pub at_ms: Option<i64>,
    /// The dead letter that it resolves.
    pub letter: Option<i64>,
}

/// A difference that only a projection repairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirt {
    pub kind: Kind,
    pub slot: Option<i64>,
    pub user: Option<UserId>,
    /// The user would lose the slot that Redis shows.
    pub takes: bool,
    /// The user would have nothing then, and is owed another slot.
    pub owes: bool,
    pub detail: &'static str,
}

impl Dirt {
    pub(crate) fn new(kind: Kind, slot: Option<i64>, detail: &'static str) -> Self {
        Self {
            kind,
            slot,
            user: None,
            takes: false,
            owes: false,
            detail,
        }
    }

    fn with_user(self, user: &UserId) -> Self {
        let user = Some(user.clone());
        Self { user, ..self }
    }

    /// Notes that the user loses the slot and, if `owes`, is owed another one.
    fn takes(self, owes: bool) -> Self {
        Self {
            takes: true,
            owes,
            ..self
        }
    }
}

/// What a page needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    pub rows: Vec<DueRow>,
    pub letters: Vec<(Letter, LetterEnd)>,
    /// Claims that a revocation voids and that Redis or a row still has.
    pub revoked: Vec<(UserId, Revocation)>,
    pub dirt: Vec<Dirt>,
    /// Rows above the quantity, written while MySQL did not check foreign keys. An operator decides
    /// about them; Redis gets nothing of them.
    pub surplus: Vec<Row>,
    /// Users without a row who are not due yet.
    pub in_flight: u64,
}

/// The repair that a drop needs as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WholeDrop {
    /// Nothing was given out and Redis does not have it yet: it is loaded at an open gate, too.
    NotLoaded,
    Dirty(Dirt),
    /// Its pages decide.
    Whole,
}

/// Decides from a drop's numbers. `is_new` means that its window has not begun, and that it has no
/// row and no dead letter.
pub fn judge_whole(seen: &LoadedDrop, is_new: bool) -> WholeDrop {
    let dirt = |kind, detail| WholeDrop::Dirty(Dirt::new(kind, None, detail));
    let held = i64::try_from(seen.users + seen.free).unwrap_or(i64::MAX);
    match seen.count {
        _ if !seen.has_keys && is_new => WholeDrop::NotLoaded,
        _ if !seen.has_keys => dirt(Kind::RedisLost, "Redis has lost the drop"),
        _ if !seen.unreadable.is_empty() => {
            dirt(Kind::CountMismatch, "a key in Redis cannot be read")
        }
        _ if seen.meta.is_none() => dirt(Kind::RedisLost, "Redis has lost the drop's settings"),
        None => dirt(Kind::RedisLost, "Redis has lost the drop's counter"),
        Some(count) if seen.users == 0 && count > held => {
            dirt(Kind::RedisLost, "Redis has lost the drop's users")
        }
        Some(count) if count != held => dirt(
            Kind::CountMismatch,
            "the counter is not the number of held and free slots",
        ),
        Some(_) => WholeDrop::Whole,
    }
}

/// Whether each row has its user on its slot, none is above the quantity, every other slot up to
/// the counter is free, and there is nothing else, such as a dead letter. This is the usual case,
/// so it allocates nothing.
pub fn is_clean(mysql: &MysqlPage, redis: &RedisPage, quantity: Slot) -> bool {
    let users = redis.users.iter().map(|holder| (holder.slot, &holder.user));
    let rows = mysql
        .rows
        .iter()
        .map(|row| (i64::from(row.slot), &row.user));
    let has_surplus = mysql.rows.last().is_some_and(|row| row.slot > quantity);
    if redis.odd > 0 || has_surplus || !mysql.letters.is_empty() || !users.clone().eq(rows) {
        return false;
    }
    let mut users = users.map(|(slot, _)| slot).peekable();
    let mut free = redis.free.iter().copied().peekable();
    for slot in slots_up_to_count(redis) {
        let is_held = users.next_if_eq(&slot).is_some();
        let is_free = free.next_if_eq(&slot).is_some();
        if is_held == is_free {
            return false;
        }
    }
    users.next().is_none() && free.next().is_none()
}

fn slots_up_to_count(redis: &RedisPage) -> RangeInclusive<i64> {
    let last = redis.to.unwrap_or(i64::MAX);
    redis.from.max(1)..=last.min(redis.count.unwrap_or(0))
}

/// Finds the slots and users on which a page differs, which are above the quantity, or which a dead
/// letter names.
pub fn doubts(mysql: &MysqlPage, redis: &RedisPage, quantity: Slot) -> Doubts {
    let mut doubts = Doubts::default();
    let on_slots = users_by_slot(&redis.users);
    let free: HashSet<i64> = redis.free.iter().copied().collect();
    let rows: HashMap<i64, &Row> = mysql
        .rows
        .iter()
        .map(|row| (row.slot.into(), row))
        .collect();
    for row in &mysql.rows {
        let slot = i64::from(row.slot);
        let is_held = on_slots
            .get(&slot)
            .is_some_and(|users| *users == [&row.user]);
        if !is_held || free.contains(&slot) || row.slot > quantity {
            doubts.slots.insert(row.slot);
            doubts.users.insert(row.user.clone());
        }
    }
    for holder in &redis.users {
        let row = rows.get(&holder.slot);
        if row.is_none_or(|row| row.user != holder.user) {
            doubts.users.insert(holder.user.clone());
            doubts.slots.extend(Slot::try_from(holder.slot).ok());
        }
    }
    for letter in &mysql.letters {
        doubts.users.extend(letter.user.clone());
        doubts
            .slots
            .extend(letter.slot.and_then(|slot| Slot::try_from(slot).ok()));
    }
    doubts
}

fn users_by_slot(holders: &[Holder]) -> BTreeMap<i64, Vec<&UserId>> {
    let mut users: BTreeMap<i64, Vec<&UserId>> = BTreeMap::new();
    for holder in holders {
        users.entry(holder.slot).or_default().push(&holder.user);
    }
    users
}

/// Decides what a page needs.
pub fn judge(moment: &Moment, mysql: &MysqlPage, redis: &RedisPage, again: &Recheck) -> Judgement {
    let mut judged = Judgement::default();
    let page = Page::new(moment, mysql, redis, again);
    sums(redis, &mut judged);
    for row in &mysql.rows {
        judge_row(&page, row, &mut judged);
    }
    let mut given = Given::default();
    dead_letters::judge_letters(&page, &mut given, &mut judged);
    for holder in &again.holders {
        judge_holder(&page, holder, &mut given, &mut judged);
    }
    judged
}

/// The page, indexed.
struct Page<'p> {
    moment: &'p Moment,
    mysql: &'p MysqlPage,
    again: &'p Recheck,
    /// R by slot.
    on_slots: BTreeMap<i64, Vec<&'p UserId>>,
    /// R by user.
    of_users: HashMap<&'p UserId, i64>,
    /// M' by slot.
    rows_again: HashMap<Slot, &'p Row>,
    /// R' by user.
    held_again: HashMap<&'p UserId, &'p Holder>,
}

/// The slots and users that get a row.
#[derive(Default)]
struct Given {
    slots: HashSet<Slot>,
    users: HashSet<UserId>,
}

impl Given {
    fn has(&self, slot: Slot, user: &UserId) -> bool {
        self.slots.contains(&slot) || self.users.contains(user)
    }

    fn give(&mut self, due: DueRow, judged: &mut Judgement) {
        self.slots.insert(due.slot);
        self.users.insert(due.user.clone());
        judged.rows.push(due);
    }
}

impl<'p> Page<'p> {
    fn new(
        moment: &'p Moment,
        mysql: &'p MysqlPage,
        redis: &'p RedisPage,
        again: &'p Recheck,
    ) -> Self {
        Self {
            moment,
            mysql,
            again,
            on_slots: users_by_slot(&redis.users),
            of_users: redis.users.iter().map(|it| (&it.user, it.slot)).collect(),
            rows_again: again.rows.iter().map(|row| (row.slot, row)).collect(),
            held_again: again.holders.iter().map(|it| (&it.user, it)).collect(),
        }
    }

    /// Whether M and M' show the same row: it was there the whole time.
    fn is_lasting(&self, row: &Row) -> bool {
        self.rows_again.get(&row.slot) == Some(&row)
    }

    fn is_without_row(&self, user: &UserId) -> bool {
        self.again.rows_of_users.get(user).is_none_or(Vec::is_empty)
    }

    /// Returns the drop and row that rule out a row of this user on this slot.
    fn other_row(&self, user: &UserId, slot: i64) -> Option<&'p (DropId, Row)> {
        let rows = self.again.rows_of_users.get(user)?;
        rows.iter()
            .find(|(drop, row)| *drop != self.moment.drop || i64::from(row.slot) != slot)
    }
}

/// Checks that the slots up to the counter are all held or free, and no others.
fn sums(redis: &RedisPage, judged: &mut Judgement) {
    let mut dirty = |slot, detail| {
        let dirt = Dirt::new(Kind::CountMismatch, slot, detail);
        judged.dirt.push(dirt);
    };
    if redis.odd > 0 {
        dirty(None, "Redis has entries that are no slots or name no user");
    }
    let held = redis.users.iter().map(|holder| holder.slot);
    let known: BTreeSet<i64> = held.chain(redis.free.iter().copied()).collect();
    let mut wanted = slots_up_to_count(redis);
    let number = usize::try_from(wanted.end() - wanted.start() + 1).unwrap_or(0);
    let count = redis.count.unwrap_or(0);
    let outside = known.iter().find(|slot| **slot < 1 || **slot > count);
    if let Some(slot) = outside {
        dirty(Some(*slot), "the slot is above the counter");
    } else if known.len() < number {
        let gap = wanted.find(|slot| !known.contains(slot));
        dirty(gap, "the slot is neither held nor free");
    } else if known.len() < redis.users.len() + redis.free.len() {
        let held: HashSet<i64> = redis.users.iter().map(|it| it.slot).collect();
        if let Some(slot) = redis.free.iter().find(|slot| held.contains(slot)) {
            dirty(Some(*slot), "the slot is held and free");
        }
    }
}

/// Judges a row: Redis must have its user, and nobody else, on its slot.
fn judge_row(page: &Page<'_>, row: &Row, judged: &mut Judgement) {
    let slot = i64::from(row.slot);
    let users = page.on_slots.get(&slot).map_or(&[][..], Vec::as_slice);
    let is_surplus = row.slot > page.again.quantity;
    if users == [&row.user] && !is_surplus || !page.is_lasting(row) {
        return;
    }
    if let Some(revocation) = page.again.revocations.voiding(&row.user, row.at_ms) {
        judged.revoked.push((row.user.clone(), revocation.clone()));
        return;
    }
    if is_surplus {
        judged.surplus.push(row.clone());
        return;
    }
    if !users.contains(&&row.user) {
        // The user may be on another slot, which the projection then takes.
        let is_elsewhere = page.of_users.contains_key(&row.user);
        let kind = if users.is_empty() {
            Kind::MissingAdmission
        } else {
            Kind::SlotConflict
        };
        let detail = "the row's user is not on this slot in Redis";
        let dirt = Dirt::new(kind, Some(slot), detail).with_user(&row.user);
        let dirt = if is_elsewhere {
            dirt.takes(false)
        } else {
            dirt
        };
        judged.dirt.push(dirt);
    }
    for other in users.iter().filter(|user| **user != &row.user) {
        let detail = "Redis has this user on a slot whose row is another's";
        let dirt = Dirt::new(Kind::SlotConflict, Some(slot), detail).with_user(other);
        judged.dirt.push(dirt.takes(page.is_without_row(other)));
    }
}

/// Judges a user whom R and R' have on a slot for which the user has no row.
fn judge_holder(page: &Page<'_>, holder: &Holder, given: &mut Given, judged: &mut Judgement) {
    let Holder { slot, user, at_ms } = holder;
    let number = Slot::try_from(*slot).ok();
    let was_there = page.of_users.get(user) == Some(slot);
    let row = number.and_then(|slot| page.rows_again.get(&slot));
    if !was_there || row.is_some_and(|row| row.user == *user) {
        return;
    }
    if let Some(revocation) = page.again.revocations.voiding(user, *at_ms) {
        judged.revoked.push((user.clone(), revocation.clone()));
        return;
    }
    let dirt = |kind, detail| {
        let dirt = Dirt::new(kind, Some(*slot), detail).with_user(user);
        dirt.takes(page.is_without_row(user))
    };
    let Some(number) = number.filter(|slot| (1..=page.again.quantity).contains(slot)) else {
        let detail = "the slot is above the quantity";
        return judged.dirt.push(dirt(Kind::OverAdmitted, detail));
    };
    if let Some((drop, _)) = page.other_row(user, *slot) {
        // In the same drop, the row's own slot lacks its user and is judged with its page.
        if *drop != page.moment.drop {
            let detail = "the user holds a row in another drop of this coupon";
            judged.dirt.push(dirt(Kind::OverAdmitted, detail));
        }
        return;
    }
    // The row of another user was judged by `judge_row`, or has just come or gone.
    if row.is_some() {
        return;
    }
    // If several users hold the slot, the first keeps it.
    if page.on_slots.get(slot).and_then(|users| users.first()) != Some(&user) {
        let detail = "two users hold this slot in Redis";
        return judged.dirt.push(dirt(Kind::SlotConflict, detail));
    }
    if given.has(number, user) {
        return;
    }
    if page.moment.is_due(*at_ms) {
        let due = DueRow {
            slot: number,
            user: user.clone(),
            at_ms: *at_ms,
            letter: None,
        };
        given.give(due, judged);
    } else {
        judged.in_flight += 1;
    }
}
