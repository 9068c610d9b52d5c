//! The first repair: every valid claim without a row becomes a row. Idempotent, closes nothing, and
//! is never held back by the repair limit. The schema refuses a taken slot, a second row and a slot
//! above the quantity. The next look then decides whether the user is owed another slot: a user
//! with a row is not.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::dsl::DuplicatedKeys;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::claim::{Claim, IssuedBy};
use firstcome_shared::columns::inserted;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::model::OwedUser;
use firstcome_shared::mysql::issued::{InsertOutcome, has_later_era, insert};
use firstcome_shared::mysql::sealed::rows_changed;
use firstcome_shared::mysql::{DataRefusal, DbError};
use firstcome_shared::schema::broken_promises;

use crate::context::{PassError, Step};
use crate::judge::{DueRow, Letter, LetterEnd};
use crate::queries::dead_letters::{Resolution, lock_judged, resolve};
use crate::read::DropPass;
use crate::report::Outcome;
use crate::settings;

/// How a due row ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowEnd {
    /// The row is there.
    Issued,
    /// The slot is another user's or above the quantity, the user has another row, the claim was
    /// given back or revoked meanwhile, or an operator has corrected or discarded its dead letter.
    Overtaken,
    /// The coupon has begun a later era: another reconciler works on it.
    Stale,
    /// MySQL's reason.
    Refused(String),
}

/// Rows inserted by one transaction.
const AT_ONCE: usize = 500;

/// Maximum number of transactions that are repeated because another one was in their way.
const REPEATS: u32 = 5;

/// Inserts rows, each with the dead letter that it resolves, and notes how each one ended, as soon
/// as it has. A refused batch is halved until the refused row is alone.
pub(crate) async fn insert_rows(
    drop: DropPass<'_>,
    due: &[DueRow],
    mut note: impl FnMut(&DueRow, RowEnd),
) -> Step<()> {
    let mut todo: Vec<&[DueRow]> = due.chunks(AT_ONCE).rev().collect();
    let mut repeats = 0;
    crash_point(Point::RepairBegun);
    while let Some(some) = todo.pop() {
        drop.ctx.must_go_on()?;
        match (insert_fenced(drop, some).await, some) {
            (Ok(ends), _) => std::iter::zip(some, ends).for_each(|(due, end)| note(due, end)),
            (Err(error), _) if is_passing(&error) && repeats < REPEATS => {
                repeats += 1;
                todo.push(some);
            }
            (Err(error), [one]) if error.refusal().is_some() => note(one, end_of_refused(&error)),
            (Err(error), _) if error.refusal().is_some() => {
                let (first, second) = some.split_at(some.len() / 2);
                todo.extend([second, first]);
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    crash_point(Point::RowReissued);
    Ok(())
}

/// Whether an operator is lowering the quantity, so that the limit that the rows name has just
/// moved, or another transaction, such as a return of one of these users, is in the way.
fn is_passing(error: &DbError) -> bool {
    error.refusal() == Some(DataRefusal::UnknownDrop) || error.is_deadlock()
}

/// Inserts rows and resolves their dead letters, atomically, unless the coupon has begun an era
/// above the one that the pass knows. The transaction holds the era's lock, so that a new era, and
/// whatever is read in it, waits for these rows.
async fn insert_fenced(drop: DropPass<'_>, due: &[DueRow]) -> Result<Vec<RowEnd>, DbError> {
    let coupon = drop.coupon().id;
    let era = drop.coupon().era;
    let id = drop.id();
    let run_id = drop.ctx.run_id.clone();
    let key = drop.db().code_key().await?;
    let claims: Vec<Claim> = due.iter().map(|due| claim(drop, due)).collect();
    let letters: Vec<Option<Resolution>> = due.iter().map(issued).collect();
    let db = drop.db().of_primary();
    db.transaction("issue rows", async move |conn| {
        if has_later_era(conn, coupon, era).await? {
            return Ok(vec![RowEnd::Stale; claims.len()]);
        }
        let judged: Vec<&Resolution> = letters.iter().flatten().collect();
        let open = lock_judged(conn, id, &judged).await?;
        let mut due: Vec<usize> = (0..claims.len()).collect();
        due.retain(|at| letters[*at].as_ref().is_none_or(|it| open.contains(&it.id)));
        let now: Vec<&Claim> = due.iter().map(|at| &claims[*at]).collect();
        let outcomes = insert(conn, &now, &key, IssuedBy::Reconciler).await?;
        let mut ends = vec![RowEnd::Overtaken; claims.len()];
        let mut issued = Vec::new();
        for (at, outcome) in std::iter::zip(due, outcomes) {
            if outcome == InsertOutcome::Issued {
                ends[at] = RowEnd::Issued;
                issued.push(at);
            }
        }
        let number = i64::try_from(issued.len()).unwrap_or(i64::MAX);
        rows_changed(conn, id.0, number).await?;
        let issued = issued
            .into_iter()
            .filter_map(|at: usize| letters[at].as_ref());
        resolve(conn, &issued.collect::<Vec<_>>(), &run_id).await?;
        Ok(ends)
    })
    .await
}

fn claim(drop: DropPass<'_>, due: &DueRow) -> Claim {
    Claim {
        coupon_id: drop.coupon().id,
        drop_id: drop.id(),
        slot: due.slot,
        user_id: due.user.clone(),
        claimed_at: due.at_ms.and_then(DateTime::from_timestamp_millis),
    }
}

fn issued(due: &DueRow) -> Option<Resolution> {
    Some(Resolution {
        id: due.letter?,
        slot: Some(due.slot.into()),
        user: Some(due.user.clone()),
        how: "issued",
        detail: format!("issued in slot {}", due.slot),
    })
}

/// Distinguishes a row that another row or the quantity rules out from one that MySQL refuses for
/// another reason.
fn end_of_refused(error: &DbError) -> RowEnd {
    match error.refusal() {
        Some(DataRefusal::Duplicate | DataRefusal::SlotOutOfRange) => RowEnd::Overtaken,
        Some(DataRefusal::UnknownDrop | DataRefusal::BadData) | None => {
            RowEnd::Refused(error.why_refused().unwrap_or_else(|| error.to_string()))
        }
    }
}

/// Dead letters or owed users per transaction.
const ENDED_AT_ONCE: usize = 1_000;

/// Ends dead letters without inserting a row: duplicates, revoked ones, and those whose users are
/// owed a slot. An owed user is listed in the transaction that closes the letter. Notes how each
/// one ended, as soon as it has.
pub(crate) async fn end_letters(
    drop: DropPass<'_>,
    ends: &[(Letter, LetterEnd)],
    mut note: impl FnMut(&Letter, &LetterEnd, Outcome),
) -> Step<()> {
    if ends.iter().any(|(_, end)| end.owed().is_some()) {
        knows_every_return(drop).await?;
    }
    for some in ends.chunks(ENDED_AT_ONCE) {
        let resolved = some.iter().filter_map(|(letter, end)| {
            let resolution = resolution(letter, end)?;
            Some((end.owed(), Some(resolution)))
        });
        let ended = list_owed(drop, resolved, "failed_claim").await?;
        for (letter, end) in some {
            let result = if ended.contains(&letter.id) {
                Outcome::Applied
            } else {
                Outcome::Skipped
            };
            note(letter, end, result);
        }
    }
    Ok(())
}

fn resolution(letter: &Letter, end: &LetterEnd) -> Option<Resolution> {
    let (how, why) = end.says();
    Some(Resolution {
        id: letter.id,
        slot: letter.slot,
        user: letter.user.clone(),
        how: how?,
        detail: why.to_owned(),
    })
}

/// Lists users who lose their slots before anything else forgets them, and notes each one. Safe to
/// repeat.
pub(crate) async fn owe(
    drop: DropPass<'_>,
    owed: &[OwedUser],
    mut note: impl FnMut(&OwedUser),
) -> Step<()> {
    if owed.is_empty() {
        return Ok(());
    }
    knows_every_return(drop).await?;
    for some in owed.chunks(ENDED_AT_ONCE) {
        let lost = some.iter().map(|owed| (Some(owed), None));
        list_owed(drop, lost, "slot_lost").await?;
        some.iter().for_each(&mut note);
    }
    Ok(())
}

/// A return that MySQL has lost in a failover brings its row back, and the slot's next user would
/// be owed one: nobody is, until MySQL has every return that Redis has.
async fn knows_every_return(drop: DropPass<'_>) -> Step<()> {
    match settings::adopt_revocations(drop.ctx, drop.seen).await? {
        0 => Ok(()),
        lost => Err(PassError::StaysClosed(format!(
            "MySQL had lost {lost} returns, which Redis has; the next look compares again"
        ))),
    }
}

/// Lists owed users and resolves dead letters, in one transaction: without the letters that are no
/// longer as they were judged, and their users. Returns the letters that it has resolved.
async fn list_owed<'u>(
    drop: DropPass<'_>,
    ends: impl Iterator<Item = (Option<&'u OwedUser>, Option<Resolution>)>,
    reason: &'static str,
) -> Step<HashSet<i64>> {
    let run_id = drop.ctx.run_id.clone();
    let coupon = drop.coupon().id;
    let id = drop.id();
    let mut ends: Vec<_> = ends.map(|(owed, letter)| (owed.cloned(), letter)).collect();
    let listed = drop.db().transaction("list owed users", async move |conn| {
        let judged: Vec<&Resolution> = ends.iter().filter_map(|(_, it)| it.as_ref()).collect();
        let open = lock_judged(conn, id, &judged).await?;
        ends.retain(|(_, letter)| letter.as_ref().is_none_or(|it| open.contains(&it.id)));
        let owed = ends.iter().filter_map(|(owed, _)| owed.clone());
        let rows: Vec<_> = owed
            .map(|owed| {
                (
                    owed,
                    broken_promises::drop_id.eq(id),
                    broken_promises::coupon_id.eq(coupon),
                    broken_promises::reason.eq(reason),
                    broken_promises::run_id.eq(run_id.clone()),
                )
            })
            .collect();
        diesel::insert_into(broken_promises::table)
            .values(rows)
            .on_conflict(DuplicatedKeys)
            .do_update()
            .set((
                broken_promises::mended_at.eq(None::<DateTime<Utc>>),
                broken_promises::slot.eq(inserted(broken_promises::slot)),
            ))
            .execute(conn)
            .await?;
        let resolutions: Vec<_> = ends.iter().filter_map(|(_, it)| it.as_ref()).collect();
        resolve(conn, &resolutions, &run_id).await?;
        Ok(open)
    });
    let ended = listed.await?;
    crash_point(Point::BrokenListed);
    Ok(ended)
}
