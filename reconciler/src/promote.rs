//! The lane that gives slots that are left to users who wait or are owed one. It compares nothing:
//! like a claim, `promote.lua` checks the gate, the sum and the keys that name users. So a freed
//! slot waits for no comparison, however large its coupon or another one is.
//!
//! It needs no lock: two processes that promote in one drop give each slot once, and each writes the
//! rows of the users that it has given slots.

use std::time::Duration;

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::redis::keys::DropKeys;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::context::{PassContext, Step};
use crate::ledger::{CouponLook, Ledger};
use crate::read::{CouponSeen, DropPass, DropSeen};
use crate::revoke_promote;

/// A drop in which users wait or are owed a slot, and slots are left.
#[derive(Debug, Clone)]
pub(crate) struct DropWithSlots {
    pub coupon: Coupon,
    pub drop: Drop,
    pub keys: DropKeys,
    /// MySQL has a broken promise of the drop.
    pub is_owed: bool,
}

/// Drops that give slots at the same time: most wait for answers, or for the end of a lease.
const AT_ONCE: usize = 64;

/// Time for one drop. A longer waiting list goes on at the next look.
const TURN: Duration = Duration::from_millis(400);

/// Gives slots in these drops. An error about one coupon stops no other.
pub(crate) async fn promote(
    ctx: &PassContext,
    mut drops: Vec<DropWithSlots>,
    looks: &mut Vec<CouponLook>,
) -> Step<()> {
    drops.retain(|found| !ctx.servers.lack_server_of(found.coupon.id));
    let promoted = stream::iter(drops).map(async |found| {
        let mut look = CouponLook::new(found.coupon.id);
        if let Err(error) = promote_in_drop(ctx, found, &mut look).await {
            let why = ctx.about_coupon(look.coupon, error).await?;
            tracing::warn!(coupon_id = look.coupon.0, why, "no slot could be given");
        }
        Step::Ok(look)
    });
    let mut promoted = std::pin::pin!(promoted.buffer_unordered(AT_ONCE));
    while let Some(look) = promoted.try_next().await? {
        looks.push(look);
    }
    Ok(())
}

async fn promote_in_drop(
    ctx: &PassContext,
    found: DropWithSlots,
    look: &mut CouponLook,
) -> Step<()> {
    let mut states = ctx.stores.redis.drop_states([&found.keys]).await?;
    let state = states.pop().unwrap_or_default();
    let gate = state.gate.clone();
    let holding = ctx.servers.holding(found.coupon.id);
    let Some(fence) = gate.fence(holding) else {
        return Ok(());
    };
    let own = DropSeen {
        // Owed users who are on the waiting list are at its head.
        has_broken_promises: found.is_owed && state.owed == 0,
        state,
        ..DropSeen::bare(found.drop, found.keys)
    };
    let mut seen = CouponSeen::bare(found.coupon, vec![own]);
    seen.state.gate = gate;
    // The catalogue may be a second old, and the era may have gone on since.
    seen.coupon.era = fence.era();
    let mut ledger = Ledger::default();
    let drop = DropPass::new(ctx, &seen, &seen.drops[0]);
    let ended = revoke_promote::promote(drop, &fence, Some(TURN), &mut ledger).await;
    look.findings = ledger.findings(Some(seen.coupon.id), Some(drop.id()));
    ended.map(|_| ())
}
