//! Completes revocations that an API began and did not finish, gives free slots to the waiting
//! list, owed users first, and writes the rows of those who got one.

use std::collections::HashSet;
use std::time::Duration;

use diesel::prelude::*;
use firstcome_shared::columns::seconds_from_now;
use firstcome_shared::coupon::Coupon;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::model::Revocation;
use firstcome_shared::mysql::DbError;
use firstcome_shared::redis::admission::LEASE;
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::project::{ClaimOfSlot, Fenced};
use firstcome_shared::schema::revoked_coupons;
use tokio::time::{Instant, sleep};

use crate::context::{PassContext, Step};
use crate::judge::DueRow;
use crate::ledger::Ledger;
use crate::queries;
use crate::queries::promises::OpenPromise;
use crate::read::{CouponSeen, DropPass, DropSeen};
use crate::report::{ActionKind, Finding, Kind, Outcome};
use crate::rows::{self, RowEnd};

/// Carries out the steps of a revocation (docs/decisions/0013-revoking.md) in the drop of the
/// claim: the revocation may name another one, in which its user waited before. Each step is
/// idempotent.
pub(crate) async fn complete(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: DropId,
    revocation: &Revocation,
) -> Step<()> {
    let db = &ctx.stores.db;
    let redis = &ctx.stores.redis;
    let keys = &redis.keys(coupon.id, drop);
    db.take_out_row(revocation.id).await?;
    let until = redis.revoke(keys, coupon.once_per, revocation).await?;
    if revocation.is_to_be_ended() {
        let ended = db.end_revocation(revocation, until).await?;
        redis.revoke(keys, coupon.once_per, &ended).await?;
    }
    Ok(())
}

/// Completes the coupon's revocations that have not ended although their users may claim again.
/// Leaves out those of the last second, which their API may be about to complete.
pub(crate) async fn finish_revocations(
    ctx: &PassContext,
    seen: &CouponSeen,
    ledger: &mut Ledger,
) -> Step<()> {
    if seen.banned.users == 0 {
        return Ok(());
    }
    for revocation in unended(ctx, seen).await? {
        if !ctx.dry_run {
            let drop = DropId(revocation.drop_id);
            complete(ctx, &seen.coupon, drop, &revocation).await?;
        }
        let kind = Kind::SettingsMismatch;
        let action = ActionKind::Revoke;
        let detail = "a claim was revoked, and its API did not finish";
        let user = UserId::from_store(revocation.user_id);
        let found = Finding::new(kind, action, ctx.outcome(), detail);
        ledger.add(found.naming(None, Some(&user)));
    }
    Ok(())
}

async fn unended(ctx: &PassContext, seen: &CouponSeen) -> Result<Vec<Revocation>, DbError> {
    let scopes: Vec<i64> = match seen.coupon.once_per {
        OncePer::Coupon => vec![0],
        OncePer::Drop => seen.drops.iter().map(|own| own.drop.id.0).collect(),
    };
    let unended = revoked_coupons::table
        .filter(revoked_coupons::coupon_id.eq(seen.coupon.id))
        .filter(revoked_coupons::person_scope.eq_any(scopes))
        .filter(revoked_coupons::may_claim_again)
        .filter(revoked_coupons::again_from.is_null())
        .filter(revoked_coupons::revoked_at.lt(seconds_from_now(-1)))
        .limit(1_000)
        .select(Revocation::as_select());
    ctx.stores.db.rows("unended revocations", unended).await
}

/// Reads a drop's open broken promises. Closes those whose users have a row, except in a dry run,
/// and returns the others.
pub(crate) async fn open_promises(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: DropId,
) -> Step<Vec<ClaimOfSlot>> {
    let db = &ctx.stores.db;
    let mut open = Vec::new();
    let mut after = String::new();
    loop {
        let page = queries::promises::open_promises(db, drop, after).await?;
        let Some(last) = page.last() else {
            return Ok(open);
        };
        after = last.user.to_string();
        let users: Vec<UserId> = page.iter().map(|promise| promise.user.clone()).collect();
        let rows = queries::rows::rows_of_users(db, coupon.id, &users).await?;
        let whole_coupon = coupon.once_per == OncePer::Coupon;
        let rows = rows
            .into_iter()
            .filter(|row| whole_coupon || row.drop_id == drop.0);
        let with_row: HashSet<String> = rows.map(|row| row.user_id).collect();
        let mut kept = Vec::new();
        for OpenPromise { user, slot } in page {
            if with_row.contains(user.as_str()) {
                kept.push(user);
            } else {
                let slot = slot
                    .and_then(|slot| Slot::try_from(slot).ok())
                    .unwrap_or(Slot::MAX);
                let at_ms = None;
                open.push(ClaimOfSlot { slot, user, at_ms });
            }
        }
        if !ctx.dry_run && !kept.is_empty() {
            let drop_id = drop.0;
            let users = kept.len();
            tracing::info!(drop_id, users, "broken promises are kept");
            queries::promises::mend_broken_promises(db, drop, &kept).await?;
        }
    }
}

/// Returns the slot of an open promise, unless it is unknown.
pub(crate) fn known_slot(promise: &ClaimOfSlot) -> Option<i64> {
    Some(promise.slot)
        .filter(|slot| *slot != Slot::MAX)
        .map(i64::from)
}

/// Maximum number of users promoted by one call.
const AT_ONCE: u32 = 1_000;

/// Reports, in a dry run, that slots are left for users who wait.
pub(crate) fn plan(drop: &DropSeen, ledger: &mut Ledger) {
    let left = u64::from(drop.drop.quantity).saturating_sub(drop.state.users);
    let waiting = drop.state.waiting;
    if left > 0 && waiting > 0 && !drop.drop.closed_early {
        let detail = format!("{left} slots are left and {waiting} people wait");
        let kind = Kind::Unfilled;
        let action = ActionKind::Promote;
        ledger.add(Finding::new(kind, action, Outcome::Planned, detail));
    }
}

/// Gives the slots that are left to the first users of the waiting list, and writes their rows.
/// Returns how many users got a slot. Ends after `turn`, if given, so that a long list does not
/// delay other drops: the rest of it gets its slots in a later call.
pub(crate) async fn promote(
    drop: DropPass<'_>,
    fence: &Fence,
    turn: Option<Duration>,
    ledger: &mut Ledger,
) -> Step<u64> {
    let DropPass { ctx, seen, own } = drop;
    let redis = drop.redis();
    let began = Instant::now();
    let mut promoted = 0;
    if own.state.waiting == 0 && !own.has_broken_promises {
        return Ok(0);
    }
    if own.has_broken_promises {
        let owed = open_promises(ctx, &seen.coupon, drop.id()).await?;
        let write = redis.write_owed(&own.keys, fence, seen.coupon.once_per, &owed);
        if !owed.is_empty() && matches!(write.await?, Fenced::Stale) {
            return Ok(0);
        }
    }
    while turn.is_none_or(|turn| began.elapsed() < turn) {
        ctx.must_go_on()?;
        let given = redis.promote_waiting(&own.keys, fence, AT_ONCE).await?;
        let Fenced::Done(promotion) = given else {
            break;
        };
        if promotion.is_leased {
            sleep(LEASE).await;
            continue;
        }
        if promotion.given.is_empty() {
            // One call removes a limited number of users who get no slot. Others may come after
            // them.
            if promotion.left_without == 0 {
                break;
            }
            continue;
        }
        crash_point(Point::PersonPromoted);
        let due: Vec<DueRow> = promotion.given.into_iter().map(due_row).collect();
        let ends = rows::insert_rows(drop, &due).await?;
        promoted += due.len() as u64;
        for (due, end) in due.into_iter().zip(ends) {
            // Without a row, the next pass finds the claim unissued.
            let result = match end {
                RowEnd::Issued => Outcome::Applied,
                RowEnd::Overtaken | RowEnd::Stale | RowEnd::Refused(_) => Outcome::Skipped,
            };
            let kind = Kind::Unfilled;
            let action = ActionKind::Promote;
            let found = Finding::new(kind, action, result, "a slot was left");
            ledger.add(found.naming(Some(due.slot.into()), Some(&due.user)));
        }
    }
    Ok(promoted)
}

fn due_row(ClaimOfSlot { slot, user, at_ms }: ClaimOfSlot) -> DueRow {
    DueRow {
        slot,
        user,
        at_ms,
        letter: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_of_a_promise_is_returned_unless_it_is_unknown() {
        let promise = |slot| ClaimOfSlot {
            slot,
            user: UserId::from_store("u-1".to_owned()),
            at_ms: None,
        };
        assert_eq!(known_slot(&promise(5)), Some(5));
        assert_eq!(known_slot(&promise(Slot::MAX)), None);
    }
}
