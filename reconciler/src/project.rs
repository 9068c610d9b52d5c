//! The second repair: Redis := rows.
//!
//! A coupon's gate is closed, so nobody reads half a drop: no staging keys and no rename are needed.
//! The order carries the argument. Rows come first ([`crate::pass::compare`]); users who lose their
//! slot are listed in MySQL before the first key goes; then, fenced by the closed gate of this era:
//! revocations, the counter, slots page by page (those of void users are free), claimants, owed users
//! at the head of the waiting list, settings at a new revision. A crash anywhere leaves the gate
//! closed and everything in MySQL, and the next era repeats it.

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{DropId, OncePer, Slot};
use firstcome_shared::redis::gate::{Fence, Opened};
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::project::{Fenced, Written};

use crate::context::{PassContext, PassError};
use crate::ledger::Ledger;
use crate::read::{self, CouponSeen};
use crate::revoke_promote;
use crate::settings::{self, Claimants};

/// Slots written by one script.
const PAGE: Slot = 1_000;

/// The outcome of a step that another era may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Step {
    Done,
    /// Another reconciler has begun a later era. It does the rest.
    Stale,
}

impl<T> From<Fenced<T>> for Step {
    fn from(fenced: Fenced<T>) -> Self {
        match fenced {
            Fenced::Done(_) => Self::Done,
            Fenced::Stale => Self::Stale,
        }
    }
}

macro_rules! or_stale {
    ($step:expr) => {
        if Step::from($step) == Step::Stale {
            return Ok(Step::Stale);
        }
    };
}

/// Writes these drops of a closed coupon to Redis from their rows.
pub(crate) async fn drops(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    dirty: &[DropId],
) -> Result<Step, PassError> {
    for own in seen.drops.iter().filter(|own| dirty.contains(&own.drop.id)) {
        tracing::warn!(
            coupon_id = seen.coupon.id.0,
            drop_id = own.drop.id.0,
            rows_up_to = own.highest_row,
            "a drop is written to Redis again from its rows"
        );
        or_stale!(project_drop(ctx, &seen.coupon, &own.drop, &own.keys, fence).await?);
    }
    Ok(Step::Done)
}

async fn project_drop(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: &Drop,
    keys: &DropKeys,
    fence: &Fence,
) -> Result<Step, PassError> {
    let (db, redis) = (&ctx.stores.db, &ctx.stores.redis);
    let highest = db.highest_slots(vec![drop.id]).await?;
    let count = highest.get(&drop.id).copied().unwrap_or(0);
    or_stale!(redis.project_begin(keys, fence, count).await?);
    crash_point(Point::DropLoaded);
    let mut from = 1;
    while from <= count {
        ctx.must_go_on()?;
        let to = from.saturating_add(PAGE - 1).min(count);
        let rows = read::rows_in_era(ctx, coupon.id, fence.era(), drop.id, from..=to);
        let Some(rows) = rows.await? else {
            return Ok(Step::Stale);
        };
        let page = redis.project_slots(keys, fence, coupon.once_per, from..=to, &rows);
        or_stale!(page.await?);
        from = to.saturating_add(1);
    }
    crash_point(Point::PeopleRebuilt);
    Ok(Step::Done)
}

/// Writes what a coupon needs beside its drops before it opens. Returns why it must stay closed.
pub(crate) async fn surroundings(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    dirty: &[DropId],
    ledger: &mut Ledger,
) -> Result<Result<Step, String>, PassError> {
    let (db, redis, id) = (&ctx.stores.db, &ctx.stores.redis, seen.coupon.id);
    let Some((coupon, all)) = db.coupon(id).await? else {
        return Ok(Ok(Step::Stale));
    };
    // Keys of sealed drops that an older Redis brought back.
    let sealed = all.iter().filter(|drop| drop.sealed_at.is_some());
    let sealed: Vec<DropKeys> = sealed.map(|drop| redis.keys(id, drop.id)).collect();
    let closed_keys = redis.have_keys(&sealed).await?;
    let lost: Vec<DropKeys> = sealed
        .into_iter()
        .zip(closed_keys)
        .filter(|(_, is)| *is)
        .map(|(keys, _)| keys)
        .collect();
    redis.unlink_drops(&lost).await?;
    if coupon.once_per == OncePer::Coupon
        && claimants(ctx, &coupon, &all, fence, !dirty.is_empty()).await? == Step::Stale
    {
        return Ok(Ok(Step::Stale));
    }
    for own in &seen.drops {
        let owed = revoke_promote::open_promises(ctx, seen, own.drop.id).await?;
        let step = redis.write_owed(&own.keys, fence, coupon.once_per, &owed);
        if !owed.is_empty() && Step::from(step.await?) == Step::Stale {
            return Ok(Ok(Step::Stale));
        }
    }
    if settings::has_list(&coupon)
        && let Some(why) = settings::write_list(ctx, id, ledger).await?
    {
        return Ok(Err(why));
    }
    settings_under_gate(ctx, seen, fence).await
}

/// Writes the claimants of a closed coupon from the rows of all its drops. What an older Redis has
/// beyond them goes.
async fn claimants(
    ctx: &PassContext,
    coupon: &Coupon,
    drops: &[Drop],
    fence: &Fence,
    has_projected: bool,
) -> Result<Step, PassError> {
    let redis = &ctx.stores.redis;
    let write = async |which| {
        for drop in drops {
            let written = settings::write_claimants(ctx, coupon, fence, drop, which);
            if written.await?.is_none() {
                return Ok::<_, PassError>(Step::Stale);
            }
        }
        Ok(Step::Done)
    };
    if !has_projected {
        if write(Claimants::Different).await? == Step::Stale {
            return Ok(Step::Stale);
        }
        let rows = ctx
            .stores
            .db
            .rows_by_drop(drops.iter().map(|drop| drop.id).collect());
        let rows = rows.await?.values().sum();
        let now = redis.coupon_states(&[coupon.id]).await?;
        // Nobody is admitted, so the numbers cannot be one step apart.
        if now
            .first()
            .is_some_and(|now| i64::try_from(now.claimants) == Ok(rows))
        {
            return Ok(Step::Done);
        }
    }
    if Step::from(redis.clear_claimants(coupon.id, fence).await?) == Step::Stale {
        return Ok(Step::Stale);
    }
    write(Claimants::All).await
}

/// Writes the settings at a new revision: a write from before the loss could overwrite them, and
/// one that came while the drop had no settings is read here.
async fn settings_under_gate(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
) -> Result<Result<Step, String>, PassError> {
    let (db, redis, id) = (&ctx.stores.db, &ctx.stores.redis, seen.coupon.id);
    let known = redis.revision(id).await?;
    let Some((coupon, drops)) = db.take_revision(id, known).await? else {
        return Ok(Err(
            "its settings have changed; it opens at the next attempt".to_owned(),
        ));
    };
    let is_seen = |drop: &Drop| seen.drops.iter().any(|own| own.drop.id == drop.id);
    for drop in drops
        .iter()
        .filter(|drop| drop.sealed_at.is_none() && is_seen(drop))
    {
        let keys = redis.keys(id, drop.id);
        let meta = DropMeta::of(&coupon, drop);
        match redis
            .project_settings(&keys, fence, coupon.revision, &meta)
            .await?
        {
            Written::Yes => {}
            Written::Outdated | Written::Unloaded => {
                return Ok(Err(
                    "its settings have changed; it opens at the next attempt".to_owned(),
                ));
            }
            Written::Stale => return Ok(Ok(Step::Stale)),
        }
    }
    Ok(Ok(Step::Done))
}

/// Opens a coupon once every unsealed drop adds up. Returns why it stays closed.
pub(crate) async fn open(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
) -> Result<Result<(), String>, PassError> {
    let keys: Vec<DropKeys> = seen.drops.iter().map(|own| own.keys.clone()).collect();
    crash_point(Point::GateDue);
    let opened = ctx.stores.redis.open(seen.coupon.id, fence, &keys).await?;
    crash_point(Point::GateOpened);
    Ok(match opened {
        Opened::Yes => {
            tracing::info!(
                coupon_id = seen.coupon.id.0,
                "the coupon is verified and open"
            );
            ctx.memory.closed_since.lock().remove(&seen.coupon.id);
            Ok(())
        }
        Opened::Stale => Err("another process works on it".to_owned()),
        Opened::NotWhole(drop) => Err(format!("the numbers of drop {drop} do not add up")),
    })
}
