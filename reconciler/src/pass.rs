//! One drop: compares it page by page, inserts the rows that are due, ends dead letters, and counts
//! what only a projection repairs.

use firstcome_shared::domain::{DropId, Slot, UserId};
use firstcome_shared::hash::finish64;
use firstcome_shared::model::OwedUser;
use firstcome_shared::schedule::{Schedule, Tz};
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::barrier::OVERDUE;
use crate::context::{PassContext, Step};
use crate::judge::{self, Dirt, DueRow, Judgement, Letter, LetterEnd, Moment, WholeDrop};
use crate::ledger::Ledger;
use crate::read::{self, CouponSeen, DropPass, ReadPage};
use crate::report::{
    ActionKind, Cause, DropReport, Examined, Finding, Fingerprint, Kind, Numbers, Outcome,
};
use crate::revoke;
use crate::rows::{self, RowEnd};

/// The users who would lose their slots in a projection, as a number and a hash.
#[derive(Debug, Clone, Default)]
pub struct Takes {
    pub number: u64,
    hash: Sha256,
}

impl Takes {
    fn add(&mut self, slot: Option<i64>, user: &UserId) {
        self.number += 1;
        let line = format!("{} {user}\n", slot.unwrap_or_default());
        self.hash.update(line);
    }

    /// Returns what an operator confirms: a hash of the drop, the slots and the users.
    pub fn fingerprint(&self, drop: DropId) -> Fingerprint {
        let hash = self.hash.clone().chain_update(drop.0.to_be_bytes());
        Fingerprint(finish64(hash))
    }
}

/// The result of comparing a drop.
#[derive(Debug, Default)]
pub struct Compared {
    pub ledger: Ledger,
    /// Differences that only a projection repairs. Their outcome is known at the end of the look.
    pub projections: Ledger,
    /// Number of dead letters that were read.
    pub letters: u64,
    pub numbers: Numbers,
    /// The numbers before the first repairs, if there was an earlier look.
    before: Option<Numbers>,
    /// The highest slot with a row.
    pub highest_row: Slot,
    /// The first difference that only a projection repairs.
    pub dirty: Option<(Kind, &'static str)>,
    pub takes: Takes,
    /// Users who would lose the slot that Redis shows, and have no row.
    pub owed: Vec<OwedUser>,
    /// Number of rows that were inserted, planned or overtaken, of letters that ended, and of
    /// revocations that were completed.
    pub repaired: u64,
    /// Number of rows above the quantity.
    pub surplus: u64,
    /// Number of claims that could not become rows although nobody else has their slots: a
    /// projection would forget them.
    pub refused: u64,
    /// The gate or the revision changed while the drop was read, or the drop could not be compared.
    pub is_unsettled: bool,
    /// The drop was sealed or deleted meanwhile.
    pub is_gone: bool,
    /// The drop is to be loaded for the first time.
    pub is_new: bool,
}

impl Compared {
    pub fn is_clean(&self) -> bool {
        self.repaired == 0 && self.is_without_faults()
    }

    fn is_without_faults(&self) -> bool {
        self.dirty.is_none() && self.refused == 0 && self.surplus == 0 && !self.is_unsettled
    }

    /// Whether any look has repaired something.
    pub fn has_repaired(&self) -> bool {
        self.repaired > 0 || self.before.is_some()
    }

    /// Combines two looks, of which the second came after the repairs of the first. Keeps what both
    /// have done, and what is left now.
    #[must_use]
    pub fn followed_by(self, second: Self) -> Self {
        let mut ledger = self.ledger.applied();
        ledger.append(second.ledger);
        Self {
            ledger,
            before: self.before.or(Some(self.numbers)),
            letters: self.letters,
            ..second
        }
    }

    /// Returns what Redis has once the drop was written again from its rows.
    #[must_use]
    pub fn projected(&self) -> Self {
        let count = self.highest_row.into();
        let free = u64::from(self.highest_row).saturating_sub(self.numbers.rows);
        let numbers = Numbers {
            count,
            users: self.numbers.rows,
            free,
            broken_promises: self.owed.len() as u64,
            ..self.numbers
        };
        Self {
            numbers,
            surplus: self.surplus,
            ..Self::default()
        }
    }

    fn count(&mut self, page: &ReadPage) {
        self.numbers.users += page.redis.users.len() as u64;
        self.numbers.rows += page.mysql.rows.len() as u64;
        self.numbers.free += page.redis.free.len() as u64;
        self.numbers.count = page.redis.count.unwrap_or(0);
        let last = page.mysql.rows.last().map_or(0, |row| row.slot);
        self.highest_row = self.highest_row.max(last);
        self.letters += page.mysql.letters.len() as u64;
    }

    fn dirty(&mut self, dirt: &Dirt) {
        self.dirty.get_or_insert((dirt.kind, dirt.detail));
        if let Some(user) = dirt.user.as_ref().filter(|_| dirt.takes) {
            self.takes.add(dirt.slot, user);
            if dirt.slot.is_some() && dirt.owes {
                let user = user.clone();
                let slot = dirt.slot;
                self.owed.push(OwedUser { user, slot });
            }
        }
        let planned = Outcome::Planned;
        let found = Finding::new(dirt.kind, ActionKind::Project, planned, dirt.detail);
        self.projections
            .add(found.naming(dirt.slot, dirt.user.as_ref()));
    }

    /// Returns the report of a drop. `after` is the second look, if there was one.
    pub fn report(self, drop: DropPass<'_>, after: Option<&Self>) -> DropReport {
        let last = after.unwrap_or(&self);
        let numbers = last.numbers;
        let is_unfilled = numbers.waiting > 0 && numbers.rows < u64::from(drop.own.drop.quantity);
        let exact = last.is_without_faults()
            && numbers.users == numbers.rows
            && numbers.broken_promises == 0
            && !is_unfilled;
        let schedule = drop.coupon().schedule.as_ref();
        let zone = schedule.and_then(Schedule::time_zone);
        let opens = zone.unwrap_or_else(Tz::utc).local(drop.own.drop.opens_at);
        let before = self.before.unwrap_or(self.numbers);
        DropReport {
            coupon_name: drop.coupon().name.clone(),
            day: Some(opens.date_naive()),
            exact,
            before,
            after: numbers,
            examined: Examined {
                users: before.users,
                rows: before.rows,
                failed_claims: self.letters,
            },
            findings: self
                .ledger
                .findings(Some(drop.coupon().id), Some(drop.id())),
            ..DropReport::begun(drop.coupon().id, drop.id(), drop.own.drop.quantity)
        }
    }
}

/// Compares a drop. If `may_write`, also inserts rows, ends letters and completes revocations: even
/// if an error ends it, `compared` has what was done.
pub async fn compare(drop: DropPass<'_>, may_write: bool, compared: &mut Compared) -> Step<()> {
    let DropPass { ctx, seen, own } = drop;
    compared.numbers.failed_claims = own.letters;
    compared.numbers.waiting = own.state.waiting;
    match judge::judge_whole(&own.state, own.is_new(ctx.clock_ms(seen.coupon.id))) {
        WholeDrop::NotLoaded => {
            compared.is_new = true;
            return Ok(());
        }
        // The users that Redis still has get rows nevertheless.
        WholeDrop::Dirty(dirt) => compared.dirty(&dirt),
        WholeDrop::Whole => {}
    }
    let is_lost = matches!(compared.dirty, Some((Kind::RedisLost, _)));
    let moment = moment(drop);
    let mut pages = std::pin::pin!(read::pages(drop));
    while let Some(page) = pages.try_next().await? {
        ctx.must_go_on()?;
        compared.count(&page);
        // A page that was read at another gate or a later revision proves no difference.
        let revision = seen.coupon.revision.max(seen.state.revision);
        if page.redis.gate != seen.state.gate || page.redis.revision > revision {
            compared.is_unsettled = true;
            continue;
        }
        let quantity = own.drop.quantity;
        let has_surplus = page
            .mysql
            .rows
            .last()
            .is_some_and(|row| row.slot > quantity);
        let is_empty = page.redis.users.is_empty()
            && page.redis.free.is_empty()
            && page.redis.odd == 0
            && page.mysql.letters.is_empty()
            && !has_surplus;
        let is_clean = judge::is_clean(&page.mysql, &page.redis, quantity);
        if is_clean || is_lost && is_empty && !drop.has_returns() {
            continue;
        }
        let Some(again) = read::again(drop, &page, false).await? else {
            compared.is_gone = true;
            return Ok(());
        };
        let mut judged = judge::judge(&moment, &page.mysql, &page.redis, &again);
        if is_lost {
            // One finding for the drop replaces those of its rows, except of users who would lose a
            // slot.
            judged.dirt.retain(|dirt| dirt.takes);
        }
        let room = ctx.rows_left.take(judged.rows.len(), may_write);
        judged.in_flight += judged.rows.drain(room..).len() as u64;
        carry_out(drop, &judged, may_write, compared).await?;
    }
    Ok(())
}

/// Returns what is known about a drop and the moment of the pass.
pub(crate) fn moment(drop: DropPass<'_>) -> Moment {
    let DropPass { ctx, seen, .. } = drop;
    Moment {
        drop: drop.id(),
        is_closed: seen.is_closed,
        clock_ms: ctx.clock_ms(seen.coupon.id),
        is_read: ctx.is_read,
        deadline_ms: ctx.publish_ms,
        overdue_ms: i64::try_from(OVERDUE.as_millis()).unwrap_or(i64::MAX),
        is_unattended: ctx.is_unattended,
    }
}

/// Carries out what a page needs, or only reports it unless `may_write`. Notes each repair as soon
/// as it is made.
pub(crate) async fn carry_out(
    drop: DropPass<'_>,
    judged: &Judgement,
    may_write: bool,
    compared: &mut Compared,
) -> Step<()> {
    end_claims(drop, judged, may_write, compared).await?;
    if may_write {
        let note = |due: &_, end| note_row(due, Some(end), compared);
        return rows::insert_rows(drop, &judged.rows, note).await;
    }
    for due in &judged.rows {
        note_row(due, None, compared);
    }
    Ok(())
}

/// Ends the letters of a page and completes its revocations. Counts what only a projection repairs.
async fn end_claims(
    drop: DropPass<'_>,
    judged: &Judgement,
    may_write: bool,
    compared: &mut Compared,
) -> Step<()> {
    let done = if may_write {
        Outcome::Applied
    } else {
        Outcome::Planned
    };
    compared.numbers.in_flight += judged.in_flight;
    for dirt in &judged.dirt {
        compared.dirty(dirt);
    }
    for row in &judged.surplus {
        compared.surplus += 1;
        let found = Finding::report(Kind::OverIssued, "its slot is above the quantity");
        let row = found.naming(Some(row.slot.into()), Some(&row.user));
        compared.ledger.add(row);
    }
    for (user, revocation) in &judged.revoked {
        if !drop.seen.is_closed && revocation.is_young() {
            // Its API may be about to complete it.
            compared.numbers.in_flight += 1;
            continue;
        }
        if may_write {
            revoke::complete(drop.ctx, drop.coupon(), drop.id(), revocation).await?;
            compared.repaired += 1;
        }
        let detail = "a claim that was given back or revoked is still in a store";
        let found = Finding::new(Kind::SettingsMismatch, ActionKind::Revoke, done, detail);
        compared.ledger.add(found.naming(None, Some(user)));
    }
    if may_write {
        let note = |letter: &_, end: &_, result| note_letter(letter, end, result, compared);
        return rows::end_letters(drop, &judged.letters, note).await;
    }
    for (letter, end) in &judged.letters {
        note_letter(letter, end, done, compared);
    }
    Ok(())
}

/// Reports the end of a row. One without an end is planned.
fn note_row(due: &DueRow, end: Option<RowEnd>, compared: &mut Compared) {
    let (result, more) = match end {
        None => (Outcome::Planned, String::new()),
        Some(RowEnd::Issued) => (Outcome::Applied, String::new()),
        // The next look finds the other row, and what that means for this user.
        Some(RowEnd::Overtaken) => {
            let why = ": another row has come meanwhile, or the claim was given back, corrected or \
                discarded";
            (Outcome::Skipped, why.to_owned())
        }
        Some(RowEnd::Stale) => {
            compared.is_unsettled = true;
            return;
        }
        Some(RowEnd::Refused(why)) => (Outcome::Failed, format!(": MySQL refuses the row: {why}")),
    };
    let is_refused = result == Outcome::Failed;
    compared.repaired += u64::from(!is_refused);
    compared.refused += u64::from(is_refused);
    let (kind, detail) = match due.letter {
        None => (Kind::Unissued, format!("admitted, and has no row{more}")),
        Some(_) => (Kind::FailedClaim, format!("promised, and has no row{more}")),
    };
    let mut found = Finding::new(kind, ActionKind::Issue, result, detail);
    found.dead_letter = due.letter;
    if is_refused {
        found.needs_person = true;
        found.cause = Cause::RowRefused;
    }
    let place = found.naming(Some(due.slot.into()), Some(&due.user));
    compared.ledger.add(place);
}

/// Reports how a letter ends, or why it stays open.
fn note_letter(letter: &Letter, end: &LetterEnd, done: Outcome, compared: &mut Compared) {
    let (how, why) = end.says();
    let (action, result) = match end {
        LetterEnd::Owed(_) => (ActionKind::Owe, done),
        _ if how.is_some() => (ActionKind::Resolve, done),
        _ => (ActionKind::Report, Outcome::Skipped),
    };
    // The next look finds what an operator has made of a letter meanwhile.
    compared.repaired += u64::from(how.is_some() && result != Outcome::Planned);
    let found = Finding {
        dead_letter: Some(letter.id),
        needs_person: matches!(end, LetterEnd::Left(_)),
        ..Finding::new(Kind::FailedClaim, action, result, why)
    };
    let of_letter = found.naming(letter.slot, letter.user.as_ref());
    compared.ledger.add(of_letter);
}

/// Reports the drops of a coupon that cannot be compared, with the reason.
pub fn unworkable(ctx: &PassContext, seen: &CouponSeen, why: &str) -> Vec<DropReport> {
    let reports = seen.drops.iter().map(|own| {
        let mut compared = Compared {
            is_unsettled: true,
            ..Compared::default()
        };
        let detail = format!("this drop cannot be compared: {why}");
        let mut found = Finding::report(Kind::CountMismatch, detail);
        found.result = Outcome::Failed;
        found.cause = Cause::NotCompared;
        compared.ledger.add(found);
        compared.report(DropPass::new(ctx, seen, own), None)
    });
    reports.collect()
}
