//! Seals drops that are over and exact, and ends the dead letters of sealed drops by MySQL alone.
//! Nothing unseals a drop.

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::dead_letters::{DeadLetterRow, Resolution};
use firstcome_shared::mysql::revoked::Revocations;
use firstcome_shared::mysql::schema::{drops, failed_claims};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schedule::Schedule;

use crate::context::{PassContext, PassError};
use crate::judge::DueRow;
use crate::ledger::Ledger;
use crate::pass::Compared;
use crate::read::{CouponSeen, DropSeen};
use crate::report::{ActionKind, Finding, Kind, Outcome};
use crate::rows::{self, RowEnd};

/// Whether the drop has been closed for longer than any claim takes, by Redis's clock and by this
/// host's: if either is wrong, users may still be admitted.
fn is_over(ctx: &PassContext, drop: &DropSeen) -> bool {
    let now = ctx.clock_ms.min(Utc::now().timestamp_millis());
    let closed = drop.drop.closes_at.map(|at| at.timestamp_millis());
    closed.is_some_and(|at| at.saturating_add(ctx.in_flight_ms) < now)
}

/// Seals a drop if it is over, exact, and has no open dead letter. Counts its rows and revocations
/// once more under its lock. Users who are still owed a slot stay listed.
pub(crate) async fn seal(
    ctx: &PassContext,
    seen: &CouponSeen,
    drop: &DropSeen,
    last: &Compared,
    ledger: &mut Ledger,
) -> Result<bool, PassError> {
    let (db, redis) = (&ctx.stores.db, &ctx.stores.redis);
    let numbers = &last.numbers;
    let is_exact = last.is_clean() && numbers.users == numbers.rows && numbers.in_flight == 0;
    let has_letters = !db.count_dead_letters(vec![drop.drop.id]).await?.is_empty();
    if ctx.dry_run || !is_over(ctx, drop) || !is_exact || has_letters {
        return Ok(false);
    }
    let (id, closes_at, quantity) = (drop.drop.id, drop.drop.closes_at, drop.drop.quantity);
    let left = u64::from(quantity).saturating_sub(numbers.rows);
    if left > 0 && numbers.waiting > 0 && !drop.drop.closed_early {
        // Promotion comes before sealing, but not in a paused coupon.
        if seen.coupon.paused {
            ledger.add(closed_while_paused(left, numbers.waiting));
        }
        return Ok(false);
    }
    let revocations = db.count_revocations(vec![id]).await?;
    let revocations = revocations.get(&id).copied().unwrap_or(0);
    let rows = u32::try_from(numbers.rows).unwrap_or(u32::MAX);
    if !db
        .seal_drop(id, closes_at, quantity, rows, revocations)
        .await?
    {
        return Ok(false);
    }
    tracing::info!(
        coupon_id = seen.coupon.id.0,
        drop_id = id.0,
        rows,
        "the drop is exact, and sealed"
    );
    redis
        .expire_sealed(std::slice::from_ref(&drop.keys))
        .await?;
    if is_coupon_over(db, seen.coupon.id).await? {
        redis.expire_coupons(&[seen.coupon.id]).await?;
    }
    if left > 0 {
        let detail = match numbers.waiting {
            0 => format!("closed with {left} of {quantity} slots left, and nobody waits"),
            waiting => format!(
                "closed by an operator with {left} of {quantity} slots left; {waiting} people who waited get none"
            ),
        };
        ledger.add(Finding {
            needs_person: false,
            ..Finding::report(Kind::Unfilled, detail)
        });
    }
    Ok(true)
}

fn closed_while_paused(left: u64, waiting: u64) -> Finding {
    let detail = format!(
        "closed while paused, with {left} slots left and {waiting} people waiting: they get them once it is no longer paused"
    );
    Finding::report(Kind::Unfilled, detail)
}

/// Whether all drops of a coupon are sealed and its schedule has no more of them.
pub(crate) async fn is_coupon_over(db: &Db, coupon: CouponId) -> Result<bool, DbError> {
    let Some((coupon, drops)) = db.coupon(coupon).await? else {
        return Ok(false);
    };
    let goes_on = match &coupon.schedule {
        Some(schedule @ Schedule::Daily { .. }) => !schedule.drops_from(Utc::now()).is_empty(),
        Some(Schedule::Once { .. }) | None => false,
    };
    Ok(!goes_on && drops.iter().all(|drop| drop.sealed_at.is_some()))
}

/// Letters of sealed drops that one pass ends.
const LETTERS_AT_MOST: i64 = 500;

/// Ends dead letters of sealed drops: its user has a row, or gets it on a slot without one.
pub(crate) async fn end_letters(
    ctx: &PassContext,
    coupon: Option<CouponId>,
    ledger: &mut Ledger,
) -> Result<(), PassError> {
    let letters = letters_of_sealed(&ctx.stores.db, coupon).await?;
    for (letter, drop, quantity) in letters {
        end_letter(ctx, letter, drop, quantity, ledger).await?;
    }
    Ok(())
}

async fn letters_of_sealed(
    db: &Db,
    coupon: Option<CouponId>,
) -> Result<Vec<(DeadLetterRow, (CouponId, DropId), Slot)>, DbError> {
    let read = db.run("dead letters of sealed drops", async move |conn| {
        let mut query = failed_claims::table
            .inner_join(drops::table.on(failed_claims::drop_id.eq(drops::id.nullable())))
            .filter(
                failed_claims::resolved_at
                    .is_null()
                    .and(drops::sealed_at.is_not_null()),
            )
            .filter(failed_claims::user_id.is_not_null())
            .filter(
                failed_claims::coupon_id
                    .is_null()
                    .or(failed_claims::coupon_id.eq(drops::coupon_id.nullable())),
            )
            .limit(LETTERS_AT_MOST)
            .select((
                DeadLetterRow::as_select(),
                (drops::coupon_id, drops::id),
                drops::quantity,
            ))
            .into_boxed();
        if let Some(coupon) = coupon {
            query = query.filter(drops::coupon_id.eq(coupon.0));
        }
        query.load::<(DeadLetterRow, (i64, i64), Slot)>(conn).await
    });
    let found = read.await?.into_iter();
    Ok(found
        .map(|(row, (coupon, drop), quantity)| (row, (CouponId(coupon), DropId(drop)), quantity))
        .collect())
}

async fn end_letter(
    ctx: &PassContext,
    letter: DeadLetterRow,
    (coupon, drop): (CouponId, DropId),
    quantity: Slot,
    ledger: &mut Ledger,
) -> Result<(), PassError> {
    let db = &ctx.stores.db;
    let Some((coupon, _)) = db.coupon(coupon).await? else {
        return Ok(());
    };
    let user = UserId::from_store(letter.user_id.clone().unwrap_or_default());
    let users = std::slice::from_ref(&user);
    let rows = db.rows_of_people(coupon.id, users).await?;
    let whole_coupon = coupon.once_per == OncePer::Coupon;
    let has_row = rows.iter().any(|row| whole_coupon || row.drop_id == drop.0);
    let revocations = db.revocations_of_people(coupon.id, users).await?;
    let revocations = Revocations::new(revocations, coupon.once_per, drop);
    let claimed_at = letter.claimed_at.map(|at| at.and_utc());
    let slot = letter.slot.and_then(|slot| Slot::try_from(slot).ok());
    let slot = slot.filter(|slot| (1..=quantity).contains(slot));
    let is_left = |detail: &str| {
        let detail = format!("failed claim {} of a sealed drop: {detail}", letter.id);
        Finding {
            coupon_id: Some(coupon.id),
            drop_id: Some(drop),
            dead_letter: Some(letter.id),
            ..Finding::report(Kind::FailedClaim, detail).of(letter.slot, Some(&user))
        }
    };
    let ends_as = if has_row {
        Some(("duplicate", "its user holds a row"))
    } else if revocations.voids_at(&user, claimed_at) {
        Some(("revoked", "its claim was given back or revoked"))
    } else {
        None
    };
    if let Some((how, detail)) = ends_as {
        let resolution = Resolution {
            id: letter.id,
            how,
            detail: detail.to_owned(),
        };
        if !ctx.dry_run {
            db.resolve_dead_letters(vec![resolution], &ctx.run_id)
                .await?;
        }
        return Ok(());
    }
    if !UserId::has_form(user.as_str()) {
        ledger.add(is_left("it names no user"));
        return Ok(());
    }
    let Some(slot) = slot else {
        ledger.add(is_left("the drop has no such slot"));
        return Ok(());
    };
    // Only a claim that an API or an operator wrote gets a row in a drop that was verified.
    if letter.is_of_message() || db.row_on_slot(drop, slot).await?.is_some() {
        ledger.add(is_left(
            "another user has its slot, or only a message says so",
        ));
        return Ok(());
    }
    let at_ms = claimed_at.map(|at| at.timestamp_millis());
    let due = DueRow {
        slot,
        user: user.clone(),
        at_ms,
        letter: Some(letter.id),
    };
    let mut result = ctx.outcome();
    if !ctx.dry_run {
        let ends = rows::insert_rows(ctx, &coupon, drop, coupon.era, &[due]).await?;
        if !matches!(ends[..], [RowEnd::Inserted | RowEnd::AlreadyThere]) {
            result = Outcome::Failed;
        }
    }
    let detail = format!("failed claim {} of a sealed drop", letter.id);
    let found = Finding::new(Kind::FailedClaim, ActionKind::Issue, result, detail);
    ledger.add(Finding {
        coupon_id: Some(coupon.id),
        drop_id: Some(drop),
        dead_letter: Some(letter.id),
        ..found.of(Some(slot.into()), Some(&user))
    });
    Ok(())
}

fn loose_letter(letter: DeadLetterRow, why: &str) -> Finding {
    let detail = format!("failed claim {} names {why}", letter.id);
    let user = letter.user_id.map(UserId::from_store);
    Finding {
        coupon_id: letter.coupon_id.map(CouponId),
        drop_id: letter.drop_id.map(DropId),
        dead_letter: Some(letter.id),
        ..Finding::report(Kind::FailedClaim, detail).of(letter.slot, user.as_ref())
    }
}

/// Reports dead letters that name no drop in which a pass could issue them, and nobody.
pub(crate) async fn report_loose(
    ctx: &PassContext,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
    ledger: &mut Ledger,
) -> Result<u64, PassError> {
    let mut number = 0;
    for loose in ctx.stores.db.loose_dead_letters(coupon, drop).await? {
        number += loose.number;
        // Those with a user were judged one by one.
        if loose.why == "a drop that is sealed"
            && loose.examples.iter().all(|it| it.user_id.is_some())
        {
            continue;
        }
        // Few are named one by one.
        if loose.number <= loose.examples.len() as u64 {
            for letter in loose.examples {
                ledger.add(loose_letter(letter, &loose.why));
            }
            continue;
        }
        let first: Vec<String> = loose
            .examples
            .iter()
            .map(|it| it.id.to_string())
            .take(3)
            .collect();
        let detail = format!(
            "{} failed claims name {}: {}",
            loose.number,
            loose.why,
            first.join(", ")
        );
        ledger.add(Finding::report(Kind::FailedClaim, detail));
    }
    Ok(number)
}
