//! The urgent lane: the only one that projects, and that opens a coupon again. It takes coupons
//! that a sweep or the watch found closed, for whatever reason, or in need of closing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use firstcome_shared::domain::CouponId;

use crate::context::{PassContext, Step};
use crate::gate::{self, Closed};
use crate::ledger::CouponLook;
use crate::read;
use crate::reconcile::{self, Wanted, left_closed};
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome};

/// Closes coupons whose gates are still those at which they were found to need it, reconciles them,
/// and opens them. Leaves everything that an open gate allows to the sweep, so that the lane is free
/// for the next coupon. Returns the coupons whose gates another process has changed.
pub(crate) async fn reopen(
    ctx: &PassContext,
    wanted: Wanted,
    looks: &mut Vec<CouponLook>,
) -> Step<Vec<CouponId>> {
    let before = looks.len();
    let closed = gate::close(ctx, &wanted, looks).await?;
    let failed: HashSet<CouponId> = looks[before..].iter().map(|look| look.coupon).collect();
    if !closed.is_empty() {
        reconcile_closed(ctx, &closed, looks).await?;
    }
    let mut others: Vec<CouponId> = wanted.into_keys().collect();
    others.retain(|id| !closed.contains_key(id) && !failed.contains(id));
    Ok(others)
}

/// Reconciles coupons at their closed gates, once they may be judged.
async fn reconcile_closed(
    ctx: &PassContext,
    closed: &HashMap<CouponId, Closed>,
    looks: &mut Vec<CouponLook>,
) -> Step<()> {
    let coupons = closed.len();
    tracing::warn!(coupons, "coupons are closed until they are verified");
    match gate::wait(ctx, closed).await {
        Ok(read) => ctx.judged_gates.note(closed, read),
        Err(error) => {
            let why = error.about_data()?;
            looks.extend(closed.keys().map(|id| left_closed(ctx, *id, &why)));
            return Ok(());
        }
    }
    // Read under the closed gates: nobody is admitted now.
    let ids = closed.keys().copied().collect();
    let all = read::catalogue(ctx, Some(ids), None).await?;
    reconcile::coupons(ctx, all, closed, looks).await?;
    Ok(())
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
    let pause = if done.is_held_back() {
        AFTER_BRAKE
    } else {
        AFTER_FAILURE
    };
    done.is_left_closed().then_some(pause)
}
