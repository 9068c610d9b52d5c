//! The second repair: Redis := rows.
//!
//! A coupon's gate is closed, so nobody reads half a drop: no staging keys and no rename are
//! needed. The order carries the argument. Rows come first ([`crate::pass::compare`]); users who
//! lose their slot and have no row are listed in MySQL before the first key goes; then, fenced by
//! the closed gate of this era: revocations, the counter, slots page by page (those of void users
//! are free), claimants, owed users at the head of the waiting list, settings at a new revision. A
//! crash anywhere leaves the gate closed and everything in MySQL, and the next era repeats it.

use std::ops::RangeInclusive;
use std::time::Duration;

use firstcome_shared::coupon::Drop;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{ClaimOfSlot, CouponId, DropId, OncePer, Slot};
use firstcome_shared::redis::gate::{Fence, Opened};
use firstcome_shared::redis::keys::DropKeys;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use crate::context::{PassContext, PassError, Step, fenced};
use crate::ledger::Ledger;
use crate::queries;
use crate::read::{CouponSeen, DropPass};
use crate::{owing, seal, settings};

/// Slots written by one script.
const PAGE: Slot = 2_000;

/// Rows read per statement.
const ROWS_AT_ONCE: Slot = 4_000;

/// Statements that read rows while the rows of an earlier one are written.
const AHEAD: usize = 2;

/// What a projection has to write: the drops that differ from their rows, and whether Redis's data
/// about sealed drops is correct.
pub(crate) struct Plan<'p> {
    pub dirty: &'p [DropId],
    /// No drop differs, and Redis knows of the last sealing.
    pub knows_sealed: bool,
    /// In addition, `claimants` is correct ([`crate::claimants::has_all_claimants`]).
    pub has_claimants: bool,
}

/// If claimants may be wrong, deletes all of them: those of drops that are not written again are
/// missing until [`surroundings`] writes them.
pub(crate) async fn begin(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    plan: &Plan<'_>,
) -> Step<()> {
    if seen.coupon.once_per == OncePer::Coupon && !plan.has_claimants {
        let clear = ctx.stores.redis.clear_claimants(seen.coupon.id, fence);
        fenced(clear.await?)?;
    }
    Ok(())
}

/// Writes a drop that differs to Redis from its rows.
pub(crate) async fn project_drop(
    DropPass { ctx, seen, own }: DropPass<'_>,
    fence: &Fence,
) -> Step<()> {
    let db = &ctx.stores.db;
    let redis = &ctx.stores.redis;
    let coupon = &seen.coupon;
    let drop = own.drop.id;
    let keys = &own.keys;
    tracing::warn!(
        coupon_id = coupon.id.0,
        drop_id = drop.0,
        rows_up_to = own.highest_row,
        "a drop is written to Redis again from its rows"
    );
    // A row above the quantity is left to an operator.
    let highest_slots = queries::drops::highest_slots(db, &[drop]).await?;
    let highest = highest_slots.get(&drop).copied().unwrap_or(0);
    let count = highest.min(own.drop.quantity);
    fenced(redis.project_begin(keys, fence, count).await?)?;
    crash_point(Point::DropLoaded);
    let mut read = std::pin::pin!(rows_of(ctx, coupon.id, fence, drop, count));
    while let Some((slots, rows)) = read.try_next().await? {
        let mut rows = rows.as_slice();
        for from in slots.clone().step_by(PAGE as usize) {
            let to = from.saturating_add(PAGE - 1).min(*slots.end());
            let (page, others) = rows.split_at(rows.partition_point(|row| row.slot <= to));
            let write = redis.project_slots(keys, fence, coupon.once_per, from..=to, page);
            fenced(write.await?)?;
            if coupon.once_per == OncePer::Coupon {
                let write = redis.write_claimants(coupon.id, fence, drop, page);
                fenced(write.await?)?;
            }
            rows = others;
        }
    }
    crash_point(Point::PeopleRebuilt);
    Ok(())
}

/// Writes what a coupon needs in addition to its drops before it opens.
pub(crate) async fn surroundings(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    plan: &Plan<'_>,
    ledger: &mut Ledger,
) -> Step<()> {
    let db = &ctx.stores.db;
    let redis = &ctx.stores.redis;
    let id = seen.coupon.id;
    let lacks_claimants = seen.coupon.once_per == OncePer::Coupon && !plan.has_claimants;
    // Read all sealed drops only if Redis's data about them may be wrong.
    let found = if plan.knows_sealed && !lacks_claimants {
        db.coupons_by_id(vec![id]).await?.pop()
    } else {
        db.coupon(id).await?
    };
    let (coupon, all) = found.ok_or(PassError::Stale)?;
    if !plan.knows_sealed {
        // An older state of Redis may have brought back keys of sealed drops.
        let sealed = seal::sealed_keys(redis, &all);
        redis.expire_drops(&sealed, Duration::ZERO).await?;
    }
    if lacks_claimants {
        let others = all.iter().filter(|drop| !plan.dirty.contains(&drop.id));
        claimants(ctx, id, others, fence).await?;
    }
    if !plan.knows_sealed
        && let Some(last) = queries::drops::last_sealed(db, id).await?
    {
        fenced(redis.note_seal(id, fence, last).await?)?;
    }
    for own in &seen.drops {
        let owed = owing::open_promises(ctx, &seen.coupon, own.drop.id).await?;
        if !owed.is_empty() {
            let write = redis.write_owed(&own.keys, fence, coupon.once_per, &owed);
            fenced(write.await?)?;
        }
    }
    if settings::has_list(&coupon)
        && let Some(why) = settings::write_list(ctx, id, ledger).await?
    {
        return Err(PassError::StaysClosed(why));
    }
    // At a new revision: a write from before the loss could otherwise overwrite them, and one that
    // came while the drop had no settings is read here.
    let known = redis.coupon_state(id).await?.revision;
    if settings::write_all(ctx, seen, known, Some(fence)).await? {
        return Ok(());
    }
    let why = "its settings have changed; it opens at the next attempt";
    Err(PassError::StaysClosed(why.to_owned()))
}

/// Writes the claimants of a closed coupon from the rows of these drops. Skips users whose claim is
/// void: a row may have been read before its user gave it back.
async fn claimants<'d>(
    ctx: &PassContext,
    coupon: CouponId,
    drops: impl Iterator<Item = &'d Drop>,
    fence: &Fence,
) -> Step<()> {
    let redis = &ctx.stores.redis;
    let quantities: Vec<(DropId, Slot)> = drops.map(|drop| (drop.id, drop.quantity)).collect();
    let ids: Vec<DropId> = quantities.iter().map(|(drop, _)| *drop).collect();
    // A drop with a large quantity may have few rows.
    let highest = queries::drops::highest_slots(&ctx.stores.db, &ids).await?;
    for (drop, quantity) in quantities {
        let highest = highest.get(&drop).copied().unwrap_or(0).min(quantity);
        let mut read = std::pin::pin!(rows_of(ctx, coupon, fence, drop, highest));
        while let Some((_, rows)) = read.try_next().await? {
            let write = redis.write_claimants(coupon, fence, drop, &rows);
            fenced(write.await?)?;
        }
    }
    Ok(())
}

/// Reads the rows of a drop's slots up to `highest`, in order, in the era of the fence.
fn rows_of<'c>(
    ctx: &'c PassContext,
    coupon: CouponId,
    fence: &'c Fence,
    drop: DropId,
    highest: Slot,
) -> impl Stream<Item = Step<(RangeInclusive<Slot>, Vec<ClaimOfSlot>)>> + 'c {
    let ranges = (1..=highest).step_by(ROWS_AT_ONCE as usize);
    stream::iter(ranges)
        .map(move |from| async move {
            ctx.must_go_on()?;
            let slots = from..=from.saturating_add(ROWS_AT_ONCE - 1).min(highest);
            let db = &ctx.stores.db;
            let at = (coupon, fence.era());
            let rows = queries::rows::rows_in_era(db, at, drop, slots.clone()).await?;
            Ok((slots, rows.ok_or(PassError::Stale)?))
        })
        .buffered(AHEAD)
}

/// Opens a coupon if every unsealed drop adds up.
pub(crate) async fn open(ctx: &PassContext, seen: &CouponSeen, fence: &Fence) -> Step<()> {
    let id = seen.coupon.id;
    let keys: Vec<DropKeys> = seen.drops.iter().map(|own| own.keys.clone()).collect();
    crash_point(Point::GateDue);
    let opened = ctx.stores.redis.open(id, fence, &keys).await?;
    crash_point(Point::GateOpened);
    match opened {
        Opened::Yes => {}
        Opened::Stale => return Err(PassError::Stale),
        Opened::NotWhole(drop) => {
            let why = format!("the numbers of drop {drop} do not add up");
            return Err(PassError::StaysClosed(why));
        }
    }
    tracing::info!(coupon_id = id.0, "the coupon is verified and open");
    Ok(())
}
