//! The urgent lane: the only one that projects, and that opens a coupon again. It takes coupons
//! that are closed, for whatever reason, and open ones that a sweep or the watch found to need
//! closing.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::domain::CouponId;

use crate::context::{PassContext, Step};
use crate::gate::{self, Closed};
use crate::ledger::CouponLook;
use crate::read;
use crate::reconcile::{self, Wanted, stays_closed};
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome};

/// Reopens coupons. Open ones are closed only if their gate is still the one at which they were
/// found dirty.
pub(crate) async fn reopen(
    ctx: &PassContext,
    wanted: Wanted,
    looks: &mut Vec<CouponLook>,
) -> Step<()> {
    let mut ids: Vec<CouponId> = wanted.keys().copied().collect();
    ids.sort_unstable();
    let mut to_close = Vec::new();
    for mut seen in read::coupons(ctx, Some(ids.clone()), None).await? {
        gate::adopt_lost_era(ctx, &mut seen).await?;
        let was_open = gate::is_open(ctx, &seen);
        let is_dirty = wanted.get(&seen.coupon.id) == Some(&Some(seen.state.gate.clone()));
        if !was_open || is_dirty {
            to_close.push((seen, was_open));
        }
    }
    let closed = gate::close(ctx, to_close).await?;
    let left_closed = reconcile_closed(ctx, &closed, looks).await?;
    // Do what a sweep does: promote, seal, and report what is left. This includes coupons that this
    // run did not close, for example because another process has reopened them.
    ids.retain(|id| !left_closed.contains_key(id));
    let all = read::coupons(ctx, Some(ids), None).await?;
    let left = reconcile::coupons(ctx, all, &HashMap::new(), looks).await?;
    looks.extend(left.into_keys().map(|id| {
        if !closed.contains_key(&id) {
            return of_others(id);
        }
        let why = "still differs after it was written again; the next pass tries again";
        let failed = Finding {
            coupon_id: Some(id),
            needs_person: true,
            cause: Cause::StillDiffers,
            ..Finding::new(Kind::RedisLost, ActionKind::Project, Outcome::Failed, why)
        };
        CouponLook::at_whole(id, failed)
    }));
    Ok(())
}

/// Reconciles coupons at their closed gates, once they may be judged. Returns those that stay
/// closed.
async fn reconcile_closed(
    ctx: &PassContext,
    closed: &HashMap<CouponId, Closed>,
    looks: &mut Vec<CouponLook>,
) -> Step<Wanted> {
    let Some(last) = closed.values().map(|closed| closed.since).max() else {
        return Ok(Wanted::new());
    };
    let coupons = closed.len();
    tracing::warn!(coupons, "coupons are closed until they are verified");
    if let Err(error) = gate::wait(ctx, last).await {
        let why = error.about_data()?;
        let stay = closed.keys().map(|id| (*id, stays_closed(*id, &why)));
        looks.extend(stay.map(|(id, found)| CouponLook::at_whole(id, found)));
        return Ok(closed.keys().map(|id| (*id, None)).collect());
    }
    // Read under the closed gates: nobody is admitted now.
    let ids = closed.keys().copied().collect();
    let all = read::coupons(ctx, Some(ids), None).await?;
    reconcile::coupons(ctx, all, closed, looks).await
}

/// Reports that another process works on a coupon.
pub(crate) fn of_others(coupon: CouponId) -> CouponLook {
    let why =
        "another process works on this coupon, or its row is locked; the next pass looks again";
    let skipped = Finding {
        coupon_id: Some(coupon),
        cause: Cause::LeftToOthers,
        ..Finding::new(Kind::RedisLost, ActionKind::Open, Outcome::Skipped, why)
    };
    CouponLook::at_whole(coupon, skipped)
}

/// The pause of the watch after an attempt that left a coupon closed.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The same if a plan was held back: the pass that confirms it needs the lock of the lane.
const AFTER_BRAKE: Duration = Duration::from_secs(60);

/// Returns the pause of the watch if a coupon is still closed after this result, or another process
/// works on it.
pub(crate) fn pause_after(done: &CouponLook) -> Option<Duration> {
    let mut drops = done.drops.iter().flat_map(|drop| &drop.findings);
    let is_held_back = drops.any(|it| it.result == Outcome::Planned);
    let pause = if is_held_back {
        AFTER_BRAKE
    } else {
        AFTER_FAILURE
    };
    let is_left_closed = done
        .findings
        .iter()
        .any(|it: &Finding| it.action == ActionKind::Open && it.result != Outcome::Applied);
    is_left_closed.then_some(pause)
}
