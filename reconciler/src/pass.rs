//! One drop: compares it page by page, inserts the rows that are due, ends dead letters, and counts
//! what only a projection repairs.

use std::ops::AddAssign;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::UserId;
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::gate::Gate;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::context::{PassContext, PassError};
use crate::judge::{self, Dirt, DueRow, Holder, Judgement, LetterEnd, Moment, WholeDrop};
use crate::ledger::{Found, Ledger};
use crate::read::{self, CouponSeen, DropSeen, ReadPage};
use crate::report::{ActionKind, DropReport, Examined, FindingCase, Kind, Numbers, Outcome};
use crate::rows::{self, RowEnd};

/// The gate at which a drop is compared.
#[derive(Debug, Clone)]
pub struct CompareAt {
    /// Pages with another gate are of another server or era, and prove nothing.
    pub gate: Gate,
    /// The era of the rows.
    pub era: u64,
    /// Closed, and every claim from before the closing has arrived.
    pub is_closed: bool,
}

/// Whose slots a projection would take, as one number and one hash: what an operator confirms.
#[derive(Debug, Clone, Default)]
pub struct Takes {
    pub number: u64,
    hash: Sha256,
}

impl Takes {
    fn add(&mut self, slot: Option<i64>, user: &UserId) {
        self.number += 1;
        self.hash
            .update(format!("{} {user}\n", slot.unwrap_or_default()));
    }

    /// Returns the first bytes of the hash, as a number.
    pub fn fingerprint(&self) -> u64 {
        let hash = self.hash.clone().finalize();
        u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
    }
}

/// The result of comparing a drop.
#[derive(Debug, Default)]
pub struct Compared {
    pub ledger: Ledger,
    pub examined: Examined,
    pub numbers: Numbers,
    /// Only a projection repairs it; the first reason.
    pub dirty: Option<(Kind, &'static str)>,
    pub takes: Takes,
    /// Users whose slot has a row of somebody else, and who have none.
    pub owed: Vec<Holder>,
    /// Rows were inserted, letters ended or revocations completed.
    pub repaired: u64,
    /// A claim could not become a row although nobody else has its slot: the projection would
    /// forget it.
    pub refused: u64,
    /// The gate, the revision or the drop changed while it was read.
    pub is_unsettled: bool,
    /// The drop is sealed by now.
    pub is_gone: bool,
    /// The drop is to be loaded for the first time.
    pub is_new: bool,
}

impl Compared {
    pub fn is_clean(&self) -> bool {
        self.dirty.is_none() && self.refused == 0 && self.repaired == 0 && !self.is_unsettled
    }

    fn dirty(&mut self, dirt: &Dirt, result: Outcome) {
        self.dirty.get_or_insert((dirt.kind, dirt.detail));
        if let Some(user) = dirt.user.as_ref().filter(|_| dirt.takes) {
            self.takes.add(dirt.slot, user);
            if let Some(slot) = dirt.slot.filter(|_| dirt.owes) {
                self.owed.push(Holder {
                    slot,
                    user: user.clone(),
                    at_ms: None,
                });
            }
        }
        let found = Found::new(dirt.kind, ActionKind::Project, result, dirt.detail);
        self.ledger.add(found.of(dirt.slot, dirt.user.clone()));
    }

    /// Returns the report of a drop. `after` is the second look, if there was one.
    pub fn report(self, coupon: &Coupon, drop: &DropSeen, after: Option<&Self>) -> DropReport {
        let last = after.unwrap_or(&self);
        let left = after.is_some_and(|after| after.dirty.is_some() || after.refused > 0);
        let exact = last.dirty.is_none()
            && last.refused == 0
            && !left
            && !last.is_unsettled
            && last.numbers.users == last.numbers.rows
            && last.numbers.broken_promises == 0
            && !(last.numbers.waiting > 0 && last.numbers.rows < u64::from(drop.drop.quantity));
        let numbers = last.numbers;
        DropReport {
            coupon_name: coupon.name.clone(),
            exact,
            before: self.numbers,
            after: numbers,
            examined: self.examined,
            findings: self.ledger.findings(Some(coupon.id), Some(drop.drop.id)),
            ..DropReport::begun(coupon.id, drop.drop.id, drop.drop.quantity)
        }
    }
}

impl AddAssign<&ReadPage> for Compared {
    fn add_assign(&mut self, page: &ReadPage) {
        let (users, rows) = (page.redis.users.len() as u64, page.mysql.rows.len() as u64);
        self.numbers.users += users;
        self.numbers.rows += rows;
        self.numbers.free += page.redis.free.len() as u64;
        self.numbers.count = page.redis.count;
        self.examined.users += users;
        self.examined.rows += rows;
        self.examined.failed_claims += page.mysql.letters.len() as u64;
    }
}

/// Compares a drop. Inserts rows and ends letters, unless `may_write` is false.
pub async fn compare(
    ctx: &PassContext,
    seen: &CouponSeen,
    drop: &DropSeen,
    at: &CompareAt,
    may_write: bool,
) -> Result<Compared, PassError> {
    let mut compared = Compared::default();
    compared.numbers.failed_claims = drop.letters;
    compared.numbers.waiting = drop.state.waiting;
    let planned = if may_write {
        Outcome::Failed
    } else {
        Outcome::Planned
    };
    match judge::judge_whole(&drop.numbers(), drop.is_new(ctx.clock_ms)) {
        WholeDrop::NotLoaded => {
            compared.is_new = true;
            return Ok(compared);
        }
        // Its users, as far as Redis has them, become rows all the same.
        WholeDrop::Dirty(dirt) => compared.dirty(&dirt, planned),
        WholeDrop::Whole => {}
    }
    let is_lost = compared
        .dirty
        .is_some_and(|(kind, _)| kind == Kind::RedisLost);
    let moment = Moment {
        drop: drop.drop.id,
        once_per: seen.coupon.once_per,
        is_closed: at.is_closed,
        clock_ms: ctx.clock_ms,
        is_read: ctx.is_read,
        deadline_ms: ctx.publish_ms,
        overdue_ms: ctx.settings.overdue_ms,
    };
    let mut pages = std::pin::pin!(read::pages(ctx, &seen.coupon, drop));
    while let Some(page) = pages.try_next().await? {
        ctx.must_go_on()?;
        compared += &page;
        let examined = page.mysql.rows.len() + page.redis.users.len();
        ctx.memory
            .progress
            .compared
            .fetch_add(examined as u64, Relaxed);
        if page.seen.gate != at.gate
            || page.seen.revision > seen.coupon.revision.max(seen.state.revision)
        {
            compared.is_unsettled = true;
            continue;
        }
        if judge::is_clean(&page.mysql, &page.redis) {
            continue;
        }
        let doubts = judge::doubts(&page.mysql, &page.redis);
        let again = read::again(ctx, &seen.coupon, drop, &page, &doubts).await?;
        if !again.is_unsealed {
            compared.is_gone = true;
            return Ok(compared);
        }
        let mut judged = judge::judge(&moment, &page.mysql, &page.redis, &again.recheck);
        if is_lost {
            // One finding for the drop, not one for each row.
            judged.dirt.retain(|dirt| dirt.takes);
        }
        carry_out(ctx, seen, drop, at, judged, may_write, &mut compared).await?;
    }
    Ok(compared)
}

/// Inserts the rows of a page, ends its letters, and completes its revocations.
async fn carry_out(
    ctx: &PassContext,
    seen: &CouponSeen,
    drop: &DropSeen,
    at: &CompareAt,
    judged: Judgement,
    may_write: bool,
    compared: &mut Compared,
) -> Result<(), PassError> {
    let coupon = &seen.coupon;
    let Judgement {
        rows: due,
        letters,
        revoked,
        dirt,
        in_flight,
    } = judged;
    compared.numbers.in_flight += in_flight;
    let planned = if may_write {
        Outcome::Failed
    } else {
        Outcome::Planned
    };
    for dirt in &dirt {
        compared.dirty(dirt, planned);
    }
    for (id, end) in &letters {
        note_letter(*id, end, may_write, compared);
    }
    if !may_write {
        for due in &due {
            compared.ledger.add(of_row(due, Outcome::Planned, ""));
        }
        compared.repaired += due.len() as u64;
        for (user, _) in revoked {
            let found = Found::new(
                Kind::SettingsMismatch,
                ActionKind::Revoke,
                Outcome::Planned,
                REVOKED,
            );
            compared.ledger.add(found.of(None, Some(user)));
        }
        return Ok(());
    }
    rows::end_letters(ctx, coupon, drop.drop.id, &letters).await?;
    let ends = rows::insert_rows(ctx, coupon, drop.drop.id, at.era, &due).await?;
    for (due, end) in due.iter().zip(ends) {
        note_row(due, end, compared);
    }
    for (user, revocation) in revoked {
        release(ctx, seen, drop, user, &revocation, compared).await?;
    }
    Ok(())
}

const REVOKED: &str = "a claim that was given back or revoked is still in a store";

async fn release(
    ctx: &PassContext,
    seen: &CouponSeen,
    drop: &DropSeen,
    user: UserId,
    revocation: &Revocation,
    compared: &mut Compared,
) -> Result<(), PassError> {
    crate::revoke_promote::complete(ctx, &seen.coupon, &drop.keys, revocation).await?;
    compared.repaired += 1;
    let found = Found::new(
        Kind::SettingsMismatch,
        ActionKind::Revoke,
        Outcome::Applied,
        REVOKED,
    );
    compared.ledger.add(found.of(None, Some(user)));
    Ok(())
}

fn of_row(due: &DueRow, result: Outcome, more: &str) -> Found {
    let (kind, detail) = match due.letter {
        None => (Kind::Unissued, "admitted, and no row came".to_owned()),
        Some(id) => (Kind::FailedClaim, format!("failed claim {id}")),
    };
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(": {more}")
    };
    let found = Found::new(kind, ActionKind::Issue, result, format!("{detail}{more}"));
    Found {
        dead_letter: due.letter,
        ..found.of(Some(due.slot.into()), Some(due.user.clone()))
    }
}

fn note_row(due: &DueRow, end: RowEnd, compared: &mut Compared) {
    let found = match end {
        RowEnd::Inserted | RowEnd::AlreadyThere => {
            compared.repaired += 1;
            of_row(due, Outcome::Applied, "")
        }
        // The next look finds the row of the other user, and what that means for this one.
        RowEnd::SlotTaken | RowEnd::HasRow | RowEnd::Void => {
            compared.repaired += 1;
            of_row(
                due,
                Outcome::Skipped,
                "another row has come meanwhile, or the claim was given back",
            )
        }
        RowEnd::Stale => {
            compared.is_unsettled = true;
            return;
        }
        RowEnd::Refused(why) => {
            compared.refused += 1;
            Found {
                needs_person: true,
                case: FindingCase::RowRefused,
                ..of_row(
                    due,
                    Outcome::Failed,
                    &format!("MySQL refuses the row: {why}"),
                )
            }
        }
    };
    compared.ledger.add(found);
}

fn note_letter(id: i64, end: &LetterEnd, may_write: bool, compared: &mut Compared) {
    let done = if may_write {
        Outcome::Applied
    } else {
        Outcome::Planned
    };
    let (action, result, detail, who) = match end {
        LetterEnd::Duplicate => (
            ActionKind::Resolve,
            done,
            "its user already holds a row",
            None,
        ),
        LetterEnd::Revoked => (
            ActionKind::Resolve,
            done,
            "its claim was given back or revoked",
            None,
        ),
        LetterEnd::Owed { user, slot } => (
            ActionKind::Owe,
            done,
            "another user has its slot",
            Some((*slot, user.clone())),
        ),
        LetterEnd::Waits => (
            ActionKind::Report,
            Outcome::Skipped,
            "the claim that Redis has comes first",
            None,
        ),
        LetterEnd::Left(why) => (ActionKind::Report, Outcome::Skipped, *why, None),
    };
    if done == Outcome::Applied && action != ActionKind::Report {
        compared.repaired += 1;
    }
    let found = Found::new(
        Kind::FailedClaim,
        action,
        result,
        format!("failed claim {id}: {detail}"),
    );
    let (slot, user) = who.unzip();
    compared.ledger.add(Found {
        dead_letter: Some(id),
        needs_person: matches!(end, LetterEnd::Left(_)),
        ..found.of(slot, user)
    });
}

/// Reports a drop that cannot be compared because a store has unreadable data or refuses a write.
pub fn unworkable(coupon: &Coupon, drop: &DropSeen, why: &str) -> DropReport {
    let detail = format!("this drop cannot be compared: {why}");
    let found = Found {
        needs_person: true,
        ..Found::new(
            Kind::CountMismatch,
            ActionKind::Report,
            Outcome::Failed,
            detail,
        )
    };
    let mut compared = Compared::default();
    compared.ledger.add(found);
    compared.is_unsettled = true;
    compared.report(coupon, drop, None)
}

/// The numbers of a drop that was found clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanDrop {
    numbers: (Gate, u64, i64, u64, u64, u64),
    rows: u64,
    letters: u64,
    revocations: u64,
    pub since: Instant,
}

/// A drop that nobody uses is read again after this time.
const LOOKED_AT_FOR: Duration = Duration::from_secs(3_600);

impl CleanDrop {
    /// Describes a drop with this many rows.
    pub fn of(drop: &DropSeen, rows: u64, since: Instant) -> Self {
        let state = &drop.state;
        let count = state.count.unwrap_or(-1);
        Self {
            numbers: (
                state.gate.clone(),
                state.revision,
                count,
                state.users,
                state.free,
                state.waiting,
            ),
            rows,
            letters: drop.letters,
            revocations: drop.revocations,
            since,
        }
    }

    /// Whether the drop is unchanged since it was found clean.
    pub fn is_still(&self, now: &Self) -> bool {
        let same_time = Self {
            since: self.since,
            ..now.clone()
        };
        *self == same_time && now.since - self.since < LOOKED_AT_FOR
    }
}
