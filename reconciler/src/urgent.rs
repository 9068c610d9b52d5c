//! The urgent lane: the only one that projects, and that opens a coupon again. It takes coupons
//! that are closed, for whatever reason, and open ones that a sweep found dirty.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::gate::{Fence, Gate};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::context::{PassContext, PassError, Step, fenced};
use crate::gate::{self, Closed};
use crate::pass::{Compared, compare, unworkable};
use crate::project;
use crate::read::{self, CouponSeen, DropPass, DropSeen};
use crate::record::Ledger;
use crate::report::{ActionKind, Finding, Kind, Outcome};
use crate::sweep::{self, CouponDone};
use crate::{claimants, limit, rows, settings};

/// Coupons for the urgent lane, each with the gate at which it was found dirty, if it is open.
pub(crate) type Wanted = HashMap<CouponId, Option<Gate>>;

/// The results of the urgent lane.
pub(crate) type Reopened = Step<BTreeMap<CouponId, CouponDone>>;

/// Coupons reopened at the same time.
const AT_ONCE: usize = 8;

/// Comparisons of a drop, each after the rows of the one before.
const LOOKS: usize = 5;

/// Reopens coupons. Open ones are closed only if their gate is still the one at which they were
/// found dirty.
pub(crate) async fn reopen(ctx: &PassContext, wanted: Wanted) -> Reopened {
    let mut ids: Vec<CouponId> = wanted.keys().copied().collect();
    ids.sort_unstable();
    let mut to_close = Vec::new();
    for mut seen in read::coupons(ctx, Some(ids.clone()), None).await? {
        let was_open = gate::is_open(ctx, &mut seen).await?;
        let is_dirty = wanted.get(&seen.coupon.id) == Some(&Some(seen.state.gate.clone()));
        if !was_open || is_dirty {
            to_close.push((seen, was_open));
        }
    }
    let mut results = all_closed(ctx, gate::close(ctx, to_close).await?).await?;
    // As a sweep does: promote, seal, and report what is left. Also those that another process has
    // reopened, or for which an operator's change asks.
    ids.retain(|id| !results.get(id).is_some_and(is_left_closed));
    let all = read::coupons(ctx, Some(ids), None).await?;
    let mut swept = BTreeMap::new();
    sweep::coupons(ctx, all, &mut swept).await?;
    for (id, mut again) in swept {
        if again.urgent.take().is_some() {
            let reported = if results.contains_key(&id) {
                let why = "still differs after it was written again; the next pass tries again";
                of_coupon(id, ActionKind::Project, Outcome::Failed, why)
            } else {
                of_others(id)
            };
            again.findings.extend(reported.findings);
        }
        sweep::add(&mut results, id, again, false);
    }
    Ok(results)
}

/// Reopens coupons that were closed, once they may be judged.
async fn all_closed(ctx: &PassContext, closed: Vec<Closed>) -> Reopened {
    let Some(last) = closed.iter().map(|closed| closed.since).max() else {
        return Ok(BTreeMap::new());
    };
    let coupons = closed.len();
    tracing::warn!(coupons, "coupons are closed until they are verified");
    if let Err(error) = gate::wait(ctx, last).await {
        let why = error.about_data()?;
        return Ok(closed
            .into_iter()
            .map(|it: Closed| (it.coupon, stays_closed(it.coupon, &why)))
            .collect());
    }
    // Read under the closed gates: nobody is admitted now.
    let ids = closed.iter().map(|closed| closed.coupon).collect();
    let mut all = read::coupons(ctx, Some(ids), None).await?;
    // Those that people may be trying now first, then small ones.
    all.sort_by_key(|seen| {
        let is_open_now = seen.drops.iter().any(|own| own.drop.is_open_at(Utc::now()));
        (
            !is_open_now,
            seen.drops
                .iter()
                .map(|own: &DropSeen| own.state.users + u64::from(own.highest_row))
                .sum::<u64>(),
        )
    });
    let all = stream::iter(all).map(async |seen: CouponSeen| {
        let id = seen.coupon.id;
        let done = match closed.iter().find(|closed| closed.coupon == id) {
            Some(closed) => coupon(ctx, seen, &closed.fence, closed.was_open).await?,
            None => CouponDone::default(),
        };
        Ok((id, done))
    });
    all.buffer_unordered(AT_ONCE).try_collect().await
}

/// Reports that a coupon stays closed. The next attempt follows within seconds.
fn stays_closed(coupon: CouponId, why: &str) -> CouponDone {
    tracing::warn!(coupon_id = coupon.0, why, "a coupon stays closed");
    let detail = format!("the coupon stays closed: {why}");
    of_coupon(coupon, ActionKind::Open, Outcome::Failed, &detail)
}

/// Reports that another process works on a coupon.
pub(crate) fn of_others(coupon: CouponId) -> CouponDone {
    let why = "another process works on this coupon; the next pass looks again";
    of_coupon(coupon, ActionKind::Open, Outcome::Skipped, why)
}

/// Reports a coupon as a whole.
fn of_coupon(coupon: CouponId, action: ActionKind, result: Outcome, detail: &str) -> CouponDone {
    let found = Finding {
        coupon_id: Some(coupon),
        needs_person: result == Outcome::Failed,
        ..Finding::new(Kind::RedisLost, action, result, detail)
    };
    CouponDone {
        findings: vec![found],
        ..CouponDone::default()
    }
}

/// Reopens one coupon. Bad data of it is reported, and keeps no other closed.
async fn coupon(
    ctx: &PassContext,
    seen: CouponSeen,
    fence: &Fence,
    was_open: bool,
) -> Step<CouponDone> {
    let error = match reopen_coupon(ctx, seen.clone(), fence, was_open).await {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    let is_bad_data = !matches!(error, PassError::Stale | PassError::StaysClosed(_));
    let why = ctx.about_coupon(error).await?;
    let mut done = stays_closed(seen.coupon.id, &why);
    if is_bad_data {
        done.drops = unworkable(ctx, &seen, &why);
    }
    Ok(done)
}

async fn reopen_coupon(
    ctx: &PassContext,
    mut seen: CouponSeen,
    fence: &Fence,
    was_open: bool,
) -> Step<CouponDone> {
    let mut done = CouponDone::default();
    let mut ledger = Ledger::default();
    let id = seen.coupon.id;
    settings::adopt(ctx, &mut seen, &mut ledger).await?;
    seen.state.gate = Gate::closed(fence);
    seen.coupon.era = fence.era();
    seen.is_closed = true;
    for (at, own) in seen.drops.iter().enumerate() {
        // Once for the keys of the coupon, and for each drop with a key of another type.
        if at == 0 || !own.state.unreadable.is_empty() {
            fenced(ctx.stores.redis.unlink_unreadable(&own.keys, fence).await?)?;
        }
    }
    let knows_returns = settings::project_revocations(ctx, &seen, fence).await?;
    let lacks_claimants = was_open && claimants::lacks_claimants(ctx, &seen).await?;
    // Rows first: whatever Redis still names and MySQL lacks becomes a row.
    let mut found: Vec<(DropSeen, Compared)> = Vec::new();
    for own in &seen.drops {
        let drop = DropPass::new(ctx, &seen, own);
        found.push((own.clone(), compare_closed(drop).await?));
    }
    let closed = ClosedRedis {
        was_open,
        knows_returns,
    };
    let planned = plan(ctx, &seen, closed, &mut found).await?;
    let dirty = planned.as_deref().unwrap_or_default();
    let outcome = match &planned {
        Ok(dirty) => write_and_open(ctx, &seen, fence, dirty, &found, &mut ledger).await,
        Err(why) => Err(PassError::StaysClosed(why.clone())),
    };
    let opened = outcome.is_ok();
    if let Err(error) = outcome {
        done = stays_closed(id, &ctx.about_coupon(error).await?);
    } else if was_open && !seen.state.unreadable.is_empty() {
        let keys = &seen.state.unreadable;
        ledger.add(settings::lost_keys(keys, Outcome::Applied));
    } else if lacks_claimants {
        ledger.add(claimants::lost_claimants(Outcome::Applied));
    } else if has_begun(&seen, ctx.clock_ms) && !was_open {
        // What was wrong with an open coupon is in the reports of its drops.
        let lost = Kind::RedisLost;
        let open = ActionKind::Open;
        ledger.add(Finding::new(lost, open, Outcome::Applied, REOPENED));
    }
    for (own, mut compared) in found {
        if opened && dirty.contains(&own.drop.id) {
            compared.projections.settle(Outcome::Applied, None);
        }
        if !compared.is_gone {
            let drop = DropPass::new(ctx, &seen, &own);
            done.drops.push(compared.report(drop, None));
        }
    }
    done.findings.extend(ledger.findings(Some(id), None));
    Ok(done)
}

/// What is known of a coupon's data in Redis before its drops are judged.
struct ClosedRedis {
    /// The coupon was open until this pass closed it.
    was_open: bool,
    /// Redis had the last state of every return.
    knows_returns: bool,
}

/// Returns the drops that are written again, or why the coupon stays closed.
async fn plan(
    ctx: &PassContext,
    seen: &CouponSeen,
    ClosedRedis {
        was_open,
        knows_returns,
    }: ClosedRedis,
    found: &mut [(DropSeen, Compared)],
) -> Step<Result<Vec<DropId>, String>> {
    let mut dirty = Vec::new();
    let mut why_closed = None;
    for (own, compared) in found {
        let id = own.drop.id;
        if compared.refused > 0 {
            let refused = compared.refused;
            why_closed = Some(format!("MySQL refuses {refused} rows of drop {id}"));
        } else if compared.is_unsettled || compared.repaired > 0 {
            why_closed = Some(format!("drop {id} changed while it was read"));
        }
        let has_all_keys = own.state.has_keys && own.state.meta.is_some() && !compared.is_new;
        let drop = DropPass::new(ctx, seen, own);
        // An older Redis may have another time of a claim that was given back and made again: a
        // late revocation would take it. One that knows every return is not that old.
        let may_be_older = drop.has_returns() && !knows_returns;
        let is_whole = compared.dirty.is_none() && has_all_keys && !may_be_older;
        if compared.is_gone || is_whole {
            continue;
        }
        let Some(why) = limit::brake(drop, &compared.takes).await? else {
            dirty.push(own.drop.id);
            continue;
        };
        // Nothing moves. A coupon that was open opens again as it was.
        compared.projections.settle(Outcome::Planned, Some(&why));
        why_closed = why_closed.or((!was_open).then_some(why));
    }
    Ok(why_closed.map_or(Ok(dirty), Err))
}

/// What is recorded when a coupon is open again.
const REOPENED: &str =
    "Redis was restarted, replaced or emptied; the coupon is verified and open again";

/// Whether any of these drops may have been open when the gate was found closed.
fn has_begun(seen: &CouponSeen, clock_ms: i64) -> bool {
    let now = clock_ms.max(Utc::now().timestamp_millis());
    seen.drops
        .iter()
        .any(|own: &DropSeen| own.drop.opens_at.timestamp_millis() <= now)
}

/// Compares a drop under the closed gate until it needs no more rows.
async fn compare_closed(drop: DropPass<'_>) -> Step<Compared> {
    let mut compared = compare(drop, true).await?;
    for _ in 1..LOOKS {
        if compared.repaired == 0 {
            break;
        }
        // With these rows, the differences are others.
        let own = drop.again().await?;
        let again = compare(DropPass { own: &own, ..drop }, true).await?;
        compared = compared.followed_by(again);
    }
    Ok(compared)
}

/// Writes what differs, and opens the coupon.
async fn write_and_open(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    dirty: &[DropId],
    found: &[(DropSeen, Compared)],
    ledger: &mut Ledger,
) -> Step<()> {
    // Users who lose their slot and have nothing else are listed before the first key goes.
    for (own, Compared { owed, .. }) in found
        .iter()
        .filter(|(own, _): &&(DropSeen, Compared)| dirty.contains(&own.drop.id))
    {
        if !owed.is_empty() {
            let drop = DropPass::new(ctx, seen, own);
            rows::owe(drop, owed.clone(), "slot_lost", Vec::new()).await?;
        }
        for user in owed {
            let detail = "promised a slot that belongs to another user";
            let kind = Kind::BrokenPromise;
            let applied = Outcome::Applied;
            let found = Finding::new(kind, ActionKind::Owe, applied, detail);
            ledger.add(found.naming(Some(user.slot), Some(&user.user)));
        }
    }
    let knows_sealed = dirty.is_empty() && claimants::knows_last_seal(ctx, seen).await?;
    let plan = project::Plan {
        dirty,
        knows_sealed,
        has_claimants: knows_sealed && claimants::has_all_claimants(ctx, seen).await?,
    };
    project::drops(ctx, seen, fence, &plan).await?;
    project::surroundings(ctx, seen, fence, &plan, ledger).await?;
    project::open(ctx, seen, fence).await
}

/// The pause of the watch after an attempt that left a coupon closed.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The same if a plan was held back: its confirmation needs the lanes.
const AFTER_BRAKE: Duration = Duration::from_secs(60);

/// Returns the pause of the watch if a coupon is still closed after this result, or another process
/// works on it.
pub(crate) fn pause_after(done: &CouponDone) -> Option<Duration> {
    let mut drops = done.drops.iter().flat_map(|drop| &drop.findings);
    let is_held_back = drops.any(|it| it.result == Outcome::Planned);
    let pause = if is_held_back {
        AFTER_BRAKE
    } else {
        AFTER_FAILURE
    };
    is_left_closed(done).then_some(pause)
}

fn is_left_closed(done: &CouponDone) -> bool {
    done.findings
        .iter()
        .any(|it: &Finding| it.action == ActionKind::Open && it.result != Outcome::Applied)
}
