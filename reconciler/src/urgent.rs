//! The urgent lane: the only one that begins eras, projects and opens. It takes coupons that are
//! closed, for whatever reason, and open ones that a sweep found dirty.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::gate::{Fence, Gate};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::context::{PassContext, PassError};
use crate::gate::{self, Closed};
use crate::judge::Holder;
use crate::ledger::Ledger;
use crate::pass::{CompareAt, Compared, compare, unworkable};
use crate::project::{self, Step};
use crate::read::{self, CouponSeen, DropSeen};
use crate::report::{ActionKind, Finding, Kind, Outcome};
use crate::sweep::{self, CouponDone};
use crate::{barrier, limit, rows, settings};

/// Coupons reopened at the same time.
const AT_ONCE: usize = 8;

/// Reopens coupons. Open ones are closed only if their gate is still the one at which they were
/// found dirty. Returns the results by coupon; those that another process works on are left out.
pub(crate) async fn reopen(
    ctx: &PassContext,
    wanted: &HashMap<CouponId, Option<Gate>>,
) -> Result<HashMap<CouponId, CouponDone>, PassError> {
    let db = &ctx.stores.db;
    let mut ids: Vec<CouponId> = wanted.keys().copied().collect();
    ids.sort_unstable();
    let catalogue = db.coupons_by_id(ids).await?;
    let all = read::coupons(ctx, catalogue, None).await?;
    let mut found_open = HashMap::new();
    let mut to_close = Vec::new();
    let mut still_open = Vec::new();
    for seen in &all {
        let id = seen.coupon.id;
        let is_open = seen.state.gate.is_open(ctx.servers.of(id), seen.coupon.era);
        let is_dirty = wanted
            .get(&id)
            .cloned()
            .flatten()
            .is_some_and(|gate| gate == seen.state.gate);
        if is_open && !is_dirty {
            still_open.push(seen.clone());
            continue;
        }
        found_open.insert(id, is_open);
        to_close.push((id, seen.state.gate.clone(), seen.coupon.era));
    }
    // Somebody has reopened these, or an operator's change asks for them.
    let mut results: HashMap<CouponId, CouponDone> =
        sweep::coupons(ctx, still_open).await?.into_iter().collect();
    let closed = gate::close(ctx, to_close).await?;
    let Some(last) = closed.iter().map(|closed| closed.since).max() else {
        return Ok(results);
    };
    tracing::warn!(
        coupons = closed.len(),
        "coupons are closed until they are verified"
    );
    let not_yet = barrier::wait(ctx, last).await?;
    let by_id: HashMap<CouponId, Closed> = closed.into_iter().map(|it| (it.coupon, it)).collect();
    if let Some(why) = not_yet {
        let late = |id: &CouponId| (*id, stays_closed(*id, &why));
        results.extend(by_id.keys().map(late));
        return Ok(results);
    }
    // Read again under the closed gates: nobody is admitted any more.
    let ids: Vec<CouponId> = by_id.keys().copied().collect();
    let mut all = read::coupons(ctx, db.coupons_by_id(ids).await?, None).await?;
    // Those that people may be trying now first, then small ones.
    all.sort_by_key(|seen| {
        let users = seen
            .drops
            .iter()
            .map(|own| own.state.users + u64::from(own.highest_row));
        (!is_open_now(seen), users.sum::<u64>())
    });
    let reopened: Vec<(CouponId, CouponDone)> = stream::iter(all)
        .map(|seen| {
            let id = seen.coupon.id;
            let closed = by_id.get(&id).cloned();
            let was_open = found_open.get(&id).copied().unwrap_or(false);
            async move {
                let Some(Closed { fence, .. }) = closed else {
                    return Ok((id, CouponDone::default()));
                };
                coupon(ctx, seen, &fence, was_open)
                    .await
                    .map(|done| (id, done))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    results.extend(reopened);
    Ok(results)
}

fn is_open_now(seen: &CouponSeen) -> bool {
    seen.drops.iter().any(|own| own.drop.is_open_at(Utc::now()))
}

/// Reports that a coupon stays closed. The next attempt follows within seconds.
fn stays_closed(coupon: CouponId, why: &str) -> CouponDone {
    let detail = format!("the coupon stays closed: {why}");
    tracing::warn!(coupon_id = coupon.0, why, "a coupon stays closed");
    let found = Finding {
        coupon_id: Some(coupon),
        needs_person: true,
        ..Finding::new(Kind::RedisLost, ActionKind::Open, Outcome::Failed, detail)
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
) -> Result<CouponDone, PassError> {
    let (coupon, drops) = (seen.coupon.clone(), seen.drops.clone());
    match reopen_coupon(ctx, seen, fence, was_open).await {
        Ok(done) => Ok(done),
        Err(error) => {
            let why = error.about_data()?;
            let mut done = stays_closed(coupon.id, &why);
            done.drops = drops
                .iter()
                .map(|drop| unworkable(&coupon, drop, &why))
                .collect();
            Ok(done)
        }
    }
}

async fn reopen_coupon(
    ctx: &PassContext,
    mut seen: CouponSeen,
    fence: &Fence,
    was_open: bool,
) -> Result<CouponDone, PassError> {
    let mut done = CouponDone::default();
    let mut ledger = Ledger::default();
    let id = seen.coupon.id;
    let redis = &ctx.stores.redis;
    settings::adopt(ctx, &mut seen, &mut ledger).await?;
    for (at, own) in seen.drops.iter().enumerate() {
        // Once for the keys of the coupon, and for each drop with a key of another type.
        if at > 0 && own.state.unreadable.is_empty() {
            continue;
        }
        let unlinked = redis.unlink_unreadable(&own.keys, fence).await?;
        if Step::from(unlinked) == Step::Stale {
            return Ok(stays_closed(id, "another process works on it"));
        }
    }
    settings::revocations(ctx, &seen.coupon).await?;
    let at = CompareAt {
        gate: Gate::closed(fence),
        era: fence.era(),
        is_closed: true,
    };
    // Rows first: whatever Redis still names and MySQL lacks becomes a row.
    let mut found: Vec<(DropSeen, Compared)> = Vec::new();
    for own in &seen.drops {
        let mut compared = compare(ctx, &seen, own, &at, true).await?;
        if compared.repaired > 0 {
            // With these rows, the differences are others.
            let again = read::again_drop(ctx, &seen, own).await?;
            let second = compare(ctx, &seen, &again, &at, true).await?;
            compared = joined(compared, second);
        }
        found.push((own.clone(), compared));
    }
    let mut dirty = Vec::new();
    let mut why_closed = None;
    for (own, compared) in &mut found {
        if compared.refused > 0 || compared.is_unsettled {
            why_closed = Some(refusal(own, compared));
        }
        let needs_keys = compared.is_new || !own.state.has_keys || own.state.meta.is_none();
        if compared.dirty.is_none() && !needs_keys {
            continue;
        }
        // A plan of an open coupon was held against the limit before the coupon was closed.
        if !was_open && let Some(why) = limit::brake(ctx, &own.drop, &compared.takes).await? {
            compared.ledger.settle_projections(Outcome::Planned, &why);
            why_closed = Some(why);
            continue;
        }
        dirty.push(own.drop.id);
    }
    let outcome = match why_closed {
        Some(why) => Err(why),
        None => write_and_open(ctx, &seen, fence, &dirty, &found, &mut ledger).await?,
    };
    let has_begun = sweep::has_begun(&seen, ctx.clock_ms);
    let opened = outcome.is_ok();
    if let Err(why) = outcome {
        done.findings.extend(stays_closed(id, &why).findings);
    } else if was_open && !seen.state.unreadable.is_empty() {
        let keys = &seen.state.unreadable;
        ledger.add(settings::lost_keys(keys, Outcome::Applied));
    } else if has_begun && !was_open {
        // What was wrong with an open coupon is in the reports of its drops.
        let detail =
            "Redis was restarted, replaced or emptied; the coupon is verified and open again";
        let applied = Outcome::Applied;
        ledger.add(Finding::new(
            Kind::RedisLost,
            ActionKind::Open,
            applied,
            detail,
        ));
    }
    for (own, mut compared) in found {
        if opened && dirty.contains(&own.drop.id) {
            compared.ledger.settle_projections(Outcome::Applied, "");
        }
        if !compared.is_gone {
            done.drops.push(compared.report(&seen.coupon, &own, None));
        }
    }
    done.findings.extend(ledger.findings(Some(id), None));
    if opened {
        done.extend(look_again(ctx, id).await?);
    }
    Ok(done)
}

/// Writes what differs, and opens the coupon. Returns why it stays closed.
async fn write_and_open(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    dirty: &[DropId],
    found: &[(DropSeen, Compared)],
    ledger: &mut Ledger,
) -> Result<Result<(), String>, PassError> {
    let stale = || Ok(Err("another process works on it".to_owned()));
    for (own, compared) in found.iter().filter(|(own, _)| dirty.contains(&own.drop.id)) {
        list_owed(ctx, &seen.coupon, &own.drop, &compared.owed, ledger).await?;
    }
    if project::drops(ctx, seen, fence, dirty).await? == Step::Stale {
        return stale();
    }
    match project::surroundings(ctx, seen, fence, dirty, ledger).await? {
        Ok(Step::Done) => {}
        Ok(Step::Stale) => return stale(),
        Err(why) => return Ok(Err(why)),
    }
    project::open(ctx, seen, fence).await
}

/// Lists users who lose their slot and have nothing else, before the first key goes.
async fn list_owed(
    ctx: &PassContext,
    coupon: &Coupon,
    drop: &Drop,
    owed: &[Holder],
    ledger: &mut Ledger,
) -> Result<(), PassError> {
    if owed.is_empty() {
        return Ok(());
    }
    rows::owe(ctx, coupon, drop.id, owed.to_vec(), "slot_lost", Vec::new()).await?;
    for user in owed {
        let detail = "promised a slot that belongs to another user";
        let applied = Outcome::Applied;
        let found = Finding::new(Kind::BrokenPromise, ActionKind::Owe, applied, detail);
        ledger.add(found.of(Some(user.slot), Some(&user.user)));
    }
    Ok(())
}

fn refusal(own: &DropSeen, compared: &Compared) -> String {
    let drop = own.drop.id;
    if compared.refused > 0 {
        format!("MySQL refuses {} rows of drop {drop}", compared.refused)
    } else {
        format!("drop {drop} changed while it was read")
    }
}

/// Joins two comparisons of a drop: the findings of both, the numbers of the first, and what is
/// left of the second.
fn joined(first: Compared, mut second: Compared) -> Compared {
    // The second look repeats what only a projection repairs.
    let numbers = first.numbers;
    let mut ledger = first.ledger.without(ActionKind::Project);
    ledger.extend(std::mem::take(&mut second.ledger));
    Compared {
        ledger,
        numbers,
        examined: first.examined,
        ..second
    }
}

/// Reconciles an opened coupon as a sweep does: promotes, seals, and reports what is left.
async fn look_again(ctx: &PassContext, id: CouponId) -> Result<CouponDone, PassError> {
    let catalogue = ctx.stores.db.coupons_by_id(vec![id]).await?;
    let all = read::coupons(ctx, catalogue, None).await?;
    let mut done = CouponDone::default();
    for (coupon, mut one) in sweep::coupons(ctx, all).await? {
        if one.urgent.take().is_some() {
            one.findings.push(left_dirty(coupon));
        }
        done.extend(one);
    }
    Ok(done)
}

fn left_dirty(coupon: CouponId) -> Finding {
    let detail = "still differs after it was written again; the next pass tries again";
    Finding {
        coupon_id: Some(coupon),
        needs_person: true,
        ..Finding::new(
            Kind::RedisLost,
            ActionKind::Project,
            Outcome::Failed,
            detail,
        )
    }
}

/// The pause of the watch after an attempt that left a coupon closed.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Whether a coupon is still closed after this result.
pub(crate) fn is_left_closed(done: &CouponDone) -> bool {
    let is_left = |it: &Finding| it.action == ActionKind::Open && it.result == Outcome::Failed;
    done.findings.iter().any(is_left)
}
