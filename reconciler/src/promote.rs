//! Gives slots that are left to the waiting list, owed users first, and writes the rows of those who
//! got one.
//!
//! The lane that does it as soon as the watch finds such slots compares nothing: like a claim,
//! `promote.lua` checks the gate, the sum and the keys that name users. So a freed slot waits for no
//! comparison, however large its coupon or another one is. It needs no lock: two processes that
//! promote in one drop give each slot once, and each writes the rows of the users that it has given
//! slots.

use std::time::Duration;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::ClaimOfSlot;
use firstcome_shared::redis::admission::LEASE;
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::project::Fenced;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};

use crate::context::{PassContext, Step, drain};
use crate::judge::DueRow;
use crate::ledger::{CouponLook, Ledger};
use crate::owing;
use crate::read::{CouponSeen, DropPass, DropSeen};
use crate::report::{ActionKind, Finding, Kind, Outcome};
use crate::rows::{self, RowEnd};

/// A drop in which users wait or are owed a slot, and slots are left.
#[derive(Debug, Clone)]
pub(crate) struct DropWithSlots {
    pub coupon: Coupon,
    pub drop: Drop,
    /// MySQL has a broken promise of the drop.
    pub is_owed: bool,
}

/// Drops that give slots at the same time: most wait for answers, or for the end of a lease.
const AT_ONCE: usize = 64;

/// Time for one drop. A longer waiting list goes on at the next look.
const TURN: Duration = Duration::from_millis(400);

/// Gives slots in these drops. An error about one coupon stops no other.
pub(crate) async fn in_drops(
    ctx: &PassContext,
    mut drops: Vec<DropWithSlots>,
    looks: &mut Vec<CouponLook>,
) -> Step<()> {
    drops.retain(|found| !ctx.servers.lack_server_of(found.coupon.id));
    let give = async |found: DropWithSlots| {
        let mut look = CouponLook::new(found.coupon.id);
        let mut ended = in_drop(ctx, found, &mut look).await;
        if let Err(error) = ended {
            let why = ctx.about_coupon(look.coupon, error).await;
            ended = why.map(|why| {
                tracing::warn!(coupon_id = look.coupon.0, why, "no slot could be given");
            });
        }
        Ok((look, ended))
    };
    let promoted = stream::iter(drops).map(give).buffer_unordered(AT_ONCE);
    let ended = drain(&ctx.stop, promoted, |(look, ended)| {
        looks.push(look);
        ended
    });
    ended.await
}

async fn in_drop(ctx: &PassContext, found: DropWithSlots, look: &mut CouponLook) -> Step<()> {
    let redis = &ctx.stores.redis;
    let mut own = DropSeen::bare(redis, found.drop);
    own.state = redis.drop_state(&own.keys).await?;
    // Owed users who are on the waiting list are at its head.
    own.has_broken_promises = found.is_owed && own.state.owed == 0;
    let gate = own.state.gate.clone();
    let holding = ctx.servers.holding(found.coupon.id);
    let Some(fence) = gate.fence(holding) else {
        return Ok(());
    };
    let mut seen = CouponSeen::bare(found.coupon, vec![own]);
    seen.state.gate = gate;
    // The catalogue may be a second old, and the era may have gone on since.
    seen.coupon.era = fence.era();
    let mut ledger = Ledger::default();
    let drop = DropPass::new(ctx, &seen, &seen.drops[0]);
    let ended = give_slots(drop, &fence, Some(TURN), &mut ledger).await;
    look.findings = ledger.findings(Some(seen.coupon.id), Some(drop.id()));
    ended.map(|_| ())
}

/// Maximum number of users promoted by one call.
const USERS_AT_ONCE: u32 = 1_000;

/// Reports, in a dry run, that slots are left for users who wait.
pub(crate) fn plan(DropPass { seen, own, .. }: DropPass<'_>, ledger: &mut Ledger) {
    let left = u64::from(own.drop.quantity).saturating_sub(own.state.users);
    let waiting = own.state.waiting;
    if left > 0 && waiting > 0 && !own.drop.closed_early && !seen.coupon.paused {
        let detail = format!("{left} slots are left and {waiting} people wait");
        let kind = Kind::Unfilled;
        let action = ActionKind::Promote;
        ledger.add(Finding::new(kind, action, Outcome::Planned, detail));
    }
}

/// Gives the slots that are left to the first users of the waiting list, and writes their rows.
/// Returns how many users got a slot. Ends after `turn`, if given, so that a long list does not
/// delay other drops: the rest of it gets its slots in a later call.
pub(crate) async fn give_slots(
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
        let owed = owing::open_promises(ctx, &seen.coupon, drop.id()).await?;
        let write = redis.write_owed(&own.keys, fence, seen.coupon.once_per, &owed);
        if !owed.is_empty() && matches!(write.await?, Fenced::Stale) {
            return Ok(0);
        }
    }
    while turn.is_none_or(|turn| began.elapsed() < turn) {
        ctx.must_go_on()?;
        let given = redis
            .promote_waiting(&own.keys, fence, USERS_AT_ONCE)
            .await?;
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
        let inserted = rows::insert_rows(drop, &due, |due, end| {
            // Without a row, the next pass finds the claim unissued.
            let result = match end {
                RowEnd::Issued => Outcome::Applied,
                RowEnd::Overtaken | RowEnd::Stale | RowEnd::Refused(_) => Outcome::Skipped,
            };
            let kind = Kind::Unfilled;
            let action = ActionKind::Promote;
            let found = Finding::new(kind, action, result, "a slot was left");
            ledger.add(found.naming(Some(due.slot.into()), Some(&due.user)));
        });
        inserted.await?;
        promoted += due.len() as u64;
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
