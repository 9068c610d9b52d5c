//! The driver of passes: finds what one coupon needs, and does it, at an open gate or at one that
//! the pass has closed.
//!
//! | Seen | At an open gate | At a closed gate |
//! |---|---|---|
//! | a revision above MySQL's, a revocation that MySQL lacks | adopted | adopted |
//! | another server or era, a key of another type | *needs closing* | the key is deleted |
//! | revocations | finished, missing ones written, others removed | written, others removed |
//! | settings and allow list differ | written again | written before it opens |
//! | a promise without a row, a dead letter | a row, if it is due | a row, until no more are due |
//! | any other difference of a drop | *needs closing*, or held back | projected, or held back |
//! | a drop that was made ahead | loaded | loaded |
//! | a claimant is missing | *needs closing* | written |
//! | users who wait, a drop that is over | promoted, compared once more, sealed | left to the sweep |
//!
//! The sweep drives the coupons that it finds open. The urgent lane ([`crate::urgent`]) closes those
//! that need it, drives them at the closed gate and opens them. docs/ARCHITECTURE.md ("What closes
//! admission") lists who sees each cause.

mod drop;

use std::collections::HashMap;

use chrono::Utc;
use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::model::OwedUser;
use firstcome_shared::redis::gate::{Fence, Gate};
use futures_util::future::OptionFuture;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::sync::Semaphore;

use crate::context::{PassContext, PassError, Step, drain, fenced};
use crate::gate::{self, Closed};
use crate::ledger::{CouponLook, Ledger};
use crate::pass::unworkable;
use crate::read::{self, CouponSeen, DropPass, Observed};
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome};
use crate::{claimants, limit, project, revoke, rows, settings};

use drop::{DropDone, GateMode};

/// Coupons reconciled at the same time. A pass over thousands of small ones mostly waits for
/// answers.
const AT_ONCE: usize = 16;

const PAGES_AT_ONCE: usize = 3;

/// Coupons with more slots that are reconciled at the same time: each keeps pages in memory.
const LARGE_AT_ONCE: usize = 8;

const LARGE: u64 = 5_000;

/// Coupons whose numbers, and the rows of small drops, are read in bulk.
const PAGE: usize = 200;

/// Coupons for the urgent lane, each with the gate at which it was found to need a closed one. It
/// is closed, in the next era, only if it still has that gate.
pub(crate) type Wanted = HashMap<CouponId, Gate>;

/// The state of a coupon after a look at it.
enum Reconciled {
    Done,
    /// The rest needs a closed gate. This is the gate at which that was found.
    NeedsClosing(Gate),
}

/// A look at a coupon. Even if an error ends it, it has what was done.
struct Looked {
    look: CouponLook,
    next: Step<Reconciled>,
}

/// Reconciles coupons, several at once: those in `closed` at the gate that this pass has closed,
/// the others at their open gate. Returns those that need closing. Bad data of one coupon, or a
/// query about it that takes too long, is reported, and stops no other.
pub(crate) async fn coupons(
    ctx: &PassContext,
    mut all: Vec<CouponSeen>,
    closed: &HashMap<CouponId, Closed>,
    looks: &mut Vec<CouponLook>,
) -> Step<Wanted> {
    // Closed ones that users may be trying now, then small ones: a coupon with millions of claims
    // must not delay the others.
    let now = Utc::now();
    all.sort_by_key(|seen| {
        let is_open = seen.drops.iter().any(|own| own.drop.is_open_at(now));
        let is_tried = is_open && closed.contains_key(&seen.coupon.id);
        (!is_tried, seen.quantity())
    });
    let pages: Vec<Vec<CouponSeen>> = all.chunks(PAGE).map(<[CouponSeen]>::to_vec).collect();
    let large = &Semaphore::new(LARGE_AT_ONCE);
    let pages = stream::iter(pages)
        .map(move |page| Box::pin(reconcile_page(ctx, page, closed, large).flatten_stream()));
    let reconciled = pages.flatten_unordered(PAGES_AT_ONCE);
    let mut wanted = Wanted::new();
    let ended = drain(&ctx.stop, reconciled, |Looked { look, next }| {
        let coupon = look.coupon;
        looks.push(look);
        if let Reconciled::NeedsClosing(gate) = next? {
            wanted.insert(coupon, gate);
        }
        Ok(())
    });
    ended.await?;
    Ok(wanted)
}

/// Reads coupons in bulk, and reconciles them.
async fn reconcile_page<'c>(
    ctx: &'c PassContext,
    page: Vec<CouponSeen>,
    closed: &'c HashMap<CouponId, Closed>,
    large: &'c Semaphore,
) -> impl Stream<Item = Step<Looked>> {
    let (observed, ended) = match read_page(ctx, page).await {
        Ok(observed) => (observed, None),
        Err(error) => (Observed::default(), Some(Err(error))),
    };
    let reported = stream::iter(observed.unread).map(async |(seen, error)| {
        ctx.must_go_on()?;
        let look = CouponLook::new(seen.coupon.id);
        let closed = closed.get(&seen.coupon.id);
        Ok(report_error(ctx, &seen, closed, error.into(), look).await)
    });
    let reconciled = stream::iter(observed.read)
        .map(move |seen| reconcile_or_report(ctx, seen, closed, large))
        .buffer_unordered(AT_ONCE);
    stream::iter(ended)
        .chain(reported.buffer_unordered(AT_ONCE))
        .chain(reconciled)
}

/// Reads coupons in bulk.
async fn read_page(ctx: &PassContext, page: Vec<CouponSeen>) -> Step<Observed> {
    ctx.must_go_on()?;
    let mut observed = read::observe(ctx, page).await?;
    if let Some((_, error)) = observed.unread.first() {
        let refusing = ctx.stores.redis.refusing_writes().await?;
        // Nothing is left to compare, so the pass may be tried again as a whole.
        if refusing.are_all() {
            return Err(error.clone().into());
        }
    }
    observed.read = read::few_rows(ctx, observed.read).await;
    Ok(observed)
}

async fn reconcile_or_report(
    ctx: &PassContext,
    seen: CouponSeen,
    closed: &HashMap<CouponId, Closed>,
    large: &Semaphore,
) -> Step<Looked> {
    let permit = (size(&seen) > LARGE).then(|| large.acquire());
    let _permit = OptionFuture::from(permit).await;
    ctx.must_go_on()?;
    let closed = closed.get(&seen.coupon.id);
    let mut look = CouponLook::new(seen.coupon.id);
    let mut ledger = Ledger::default();
    let next = reconcile(ctx, seen.clone(), closed, &mut look, &mut ledger).await;
    if next.is_err() {
        ledger = ledger.applied();
    }
    look.findings
        .extend(ledger.findings(Some(look.coupon), None));
    Ok(match next {
        Ok(next) => Looked {
            look,
            next: Ok(next),
        },
        Err(error) => report_error(ctx, &seen, closed, error, look).await,
    })
}

fn size(seen: &CouponSeen) -> u64 {
    seen.drops
        .iter()
        .map(|own| own.state.users + u64::from(own.highest_row))
        .sum()
}

/// Reports in its look a coupon that cannot be reconciled, with the error if it does not concern this
/// coupon alone.
async fn report_error(
    ctx: &PassContext,
    seen: &CouponSeen,
    closed: Option<&Closed>,
    error: PassError,
    mut look: CouponLook,
) -> Looked {
    let is_expected = matches!(error, PassError::Stale | PassError::StaysClosed(_));
    let id = seen.coupon.id;
    let is_of_redis = error.is_of_redis();
    let why = match ctx.about_coupon(id, error).await {
        Ok(why) => why,
        Err(error) => {
            look.is_interrupted = true;
            let next = Err(error);
            return Looked { look, next };
        }
    };
    if is_of_redis {
        look.redis_error = Some(why.clone());
    } else if closed.is_none() || !is_expected {
        let mut others = unworkable(ctx, seen, &why);
        let sealed: Vec<DropId> = look.drops.iter().map(|drop| drop.drop_id).collect();
        others.retain(|drop| !sealed.contains(&drop.drop_id));
        look.drops.extend(others);
    }
    let next = if let Some(closed) = closed {
        look.findings.push(stays_closed(ctx, id, &why));
        Reconciled::NeedsClosing(Gate::closed(&closed.fence))
    } else {
        let coupon_id = id.0;
        tracing::error!(coupon_id, why, "a coupon cannot be reconciled");
        Reconciled::Done
    };
    let next = Ok(next);
    Looked { look, next }
}

/// Reports that a coupon stays closed. A daemon's watch, or the next pass, tries again.
pub(crate) fn left_closed(ctx: &PassContext, coupon: CouponId, why: &str) -> CouponLook {
    CouponLook::at_whole(coupon, stays_closed(ctx, coupon, why))
}

fn stays_closed(ctx: &PassContext, coupon: CouponId, why: &str) -> Finding {
    tracing::warn!(coupon_id = coupon.0, why, "a coupon stays closed");
    let then = ctx.confirms.if_not_made();
    let detail = format!("the coupon stays closed: {why}{then}");
    Finding {
        coupon_id: Some(coupon),
        needs_person: true,
        cause: Cause::Closed,
        ..Finding::new(Kind::RedisLost, ActionKind::Open, Outcome::Failed, detail)
    }
}

/// Reconciles one coupon at its open gate or, if this pass has `closed` it, at its closed gate, and
/// then opens it. Even if an error ends it, `look` and `ledger` have what was done.
async fn reconcile(
    ctx: &PassContext,
    mut seen: CouponSeen,
    closed: Option<&Closed>,
    look: &mut CouponLook,
    ledger: &mut Ledger,
) -> Step<Reconciled> {
    settings::adopt(ctx, &mut seen, ledger).await?;
    if let Some(Closed { fence, .. }) = closed {
        seen.state.gate = Gate::closed(fence);
        seen.coupon.era = fence.era();
        seen.is_closed = true;
    } else {
        gate::adopt_lost_era(ctx, &mut seen).await?;
        seen.is_closed = !gate::is_open(ctx, &seen);
        let is_judged_later = seen.is_closed || !seen.state.unreadable.is_empty();
        if is_judged_later && !ctx.dry_run {
            return Ok(Reconciled::NeedsClosing(seen.state.gate));
        }
    }
    let at = match closed {
        Some(closed) => prepare_closed(ctx, &seen, &closed.fence).await?,
        None => prepare_open(ctx, &seen, ledger).await?,
    };
    let begun = |own| DropDone::begun(DropPass::new(ctx, &seen, own));
    let mut drops: Vec<_> = seen.drops.iter().map(begun).collect();
    let next = reconcile_drops(ctx, &seen, closed, at, &mut drops, ledger).await;
    // The look at the closed gate compares again, and reports what it writes.
    let is_left = closed.is_none() && drops.iter().any(is_projected);
    for done in drops {
        match &next {
            Ok(_) => look.drops.extend(done.report(is_left)),
            Err(_) => done.interrupted(look),
        }
    }
    next
}

async fn reconcile_drops(
    ctx: &PassContext,
    seen: &CouponSeen,
    closed: Option<&Closed>,
    at: GateMode,
    drops: &mut [DropDone<'_>],
    ledger: &mut Ledger,
) -> Step<Reconciled> {
    for done in &mut *drops {
        done.reconcile(at).await?;
    }
    match closed {
        Some(closed) => open_again(ctx, seen, closed, drops, ledger).await,
        None => finish_open(ctx, seen, drops, ledger).await,
    }
}

fn is_projected(done: &DropDone<'_>) -> bool {
    done.is_projected
}

/// Writes, at an open gate, what a coupon needs in addition to its drops.
async fn prepare_open(ctx: &PassContext, seen: &CouponSeen, ledger: &mut Ledger) -> Step<GateMode> {
    let unreadable = &seen.state.unreadable;
    if !unreadable.is_empty() {
        ledger.add(settings::lost_keys(unreadable, Outcome::Planned));
    }
    settings::adopt_returns(ctx, seen, ledger).await?;
    revoke::finish_revocations(ctx, seen, ledger).await?;
    settings::write_again(ctx, seen, ledger).await?;
    Ok(GateMode::Open)
}

/// Prepares a coupon at a closed gate: deletes the keys that cannot be read, and writes the
/// revocations.
async fn prepare_closed(ctx: &PassContext, seen: &CouponSeen, fence: &Fence) -> Step<GateMode> {
    for (at, own) in seen.drops.iter().enumerate() {
        // One call for the keys of the coupon, and one for each drop with a key of another type.
        let of_coupon = at == 0 && !seen.state.unreadable.is_empty();
        if of_coupon || !own.state.unreadable.is_empty() {
            fenced(ctx.stores.redis.unlink_unreadable(&own.keys, fence).await?)?;
        }
    }
    let has_revocations = seen.state.revoked > 0 || seen.banned.with_young > 0;
    let knows_returns = !has_revocations || settings::project_revocations(ctx, seen, fence).await?;
    Ok(GateMode::Closed { knows_returns })
}

/// Loads new drops at an open gate, and returns whether the coupon needs closing.
async fn finish_open(
    ctx: &PassContext,
    seen: &CouponSeen,
    drops: &[DropDone<'_>],
    ledger: &mut Ledger,
) -> Step<Reconciled> {
    let gate = &seen.state.gate;
    let fence = gate.fence(ctx.servers.holding(seen.coupon.id));
    if let Some(fence) = fence.filter(|_| !ctx.dry_run) {
        for done in drops.iter().filter(|done| done.compared.is_new) {
            settings::load_new(done.drop, &fence).await?;
        }
    }
    if drops.iter().any(is_projected) {
        return Ok(Reconciled::NeedsClosing(gate.clone()));
    }
    let is_unsettled = drops.iter().any(|done| done.compared.is_unsettled);
    if is_unsettled || !claimants::lacks_claimants(ctx, seen).await? {
        return Ok(Reconciled::Done);
    }
    if ctx.dry_run {
        ledger.add(claimants::lost_claimants(Outcome::Planned));
        return Ok(Reconciled::Done);
    }
    Ok(Reconciled::NeedsClosing(gate.clone()))
}

/// The text that is recorded when a coupon is open again.
const REOPENED: &str = "the coupon was closed, because Redis may have lost data; it is verified \
    and open again";

/// Writes at the closed gate what differs, and opens the coupon.
async fn open_again(
    ctx: &PassContext,
    seen: &CouponSeen,
    closed: &Closed,
    drops: &mut [DropDone<'_>],
    ledger: &mut Ledger,
) -> Step<Reconciled> {
    let was_open = closed.was_open;
    let clock_ms = ctx.clock_ms(seen.coupon.id);
    let lacks_claimants = was_open && claimants::lacks_claimants(ctx, seen).await?;
    let written = match why_not_opened(drops, was_open) {
        Some(why) => Err(PassError::StaysClosed(why)),
        None => write_and_open(ctx, seen, &closed.fence, drops, ledger).await,
    };
    if written.is_ok() {
        ctx.judged_gates.forget(seen.coupon.id);
    }
    if let Err(error) = written {
        let why = ctx.about_coupon(seen.coupon.id, error).await?;
        ledger.add(stays_closed(ctx, seen.coupon.id, &why));
        return Ok(Reconciled::NeedsClosing(seen.state.gate.clone()));
    }
    if was_open && !seen.state.unreadable.is_empty() {
        let keys = &seen.state.unreadable;
        ledger.add(settings::lost_keys(keys, Outcome::Applied));
    } else if lacks_claimants {
        ledger.add(claimants::lost_claimants(Outcome::Applied));
    } else if seen.drops.iter().any(|own| own.has_begun(clock_ms)) && !was_open {
        // If the coupon was open, the reports of its drops say what was wrong.
        let lost = Kind::RedisLost;
        let open = ActionKind::Open;
        ledger.add(Finding {
            cause: Cause::Reopened,
            ..Finding::new(lost, open, Outcome::Applied, REOPENED)
        });
    }
    Ok(Reconciled::Done)
}

/// Returns why a coupon stays closed, if it does. If the plan for a drop is held back, no slot of
/// that drop moves, and a coupon that was open until this pass opens again.
fn why_not_opened(drops: &[DropDone<'_>], was_open: bool) -> Option<String> {
    let unfinished = drops.iter().find_map(DropDone::why_unfinished);
    let held_back = drops.iter().find_map(|done| done.held_back.as_ref());
    unfinished.or(held_back.filter(|_| !was_open).map(limit::says))
}

async fn write_and_open(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
    drops: &mut [DropDone<'_>],
    ledger: &mut Ledger,
) -> Step<()> {
    let mut dirty = Vec::new();
    // Users who lose their slot and have nothing else are listed before the first key goes.
    for done in drops.iter().filter(|done| done.is_projected) {
        let id = done.drop.id();
        dirty.push(id);
        let note = |user: &OwedUser| ledger.add(slot_lost(id, user));
        rows::owe(done.drop, &done.compared.owed, note).await?;
    }
    let knows_sealed = dirty.is_empty() && claimants::knows_last_seal(ctx, seen).await?;
    let plan = project::Plan {
        dirty: &dirty,
        knows_sealed,
        has_claimants: knows_sealed && claimants::has_all_claimants(ctx, seen).await?,
    };
    if !is_whole(seen, drops, &plan) {
        project::begin(ctx, seen, fence, &plan).await?;
        for done in drops.iter_mut().filter(|done| done.is_projected) {
            project::project_drop(done.drop, fence).await?;
            done.is_written = true;
        }
        project::surroundings(ctx, seen, fence, &plan, ledger).await?;
    }
    project::open(ctx, seen, fence).await
}

/// Whether Redis already has all of the coupon. So a restart of Redis that has lost nothing costs a
/// coupon few calls. Equal settings of the same revision are no older ones: MySQL has each revision
/// first.
fn is_whole(seen: &CouponSeen, drops: &[DropDone<'_>], plan: &project::Plan<'_>) -> bool {
    let knows_claimants = seen.coupon.once_per == OncePer::Drop || plan.has_claimants;
    let owes = drops.iter().any(|done| {
        let own = done.drop.own;
        own.has_broken_promises || own.state.owed > 0 || done.compared.has_repaired()
    });
    plan.knows_sealed
        && knows_claimants
        && !owes
        && !settings::has_list(&seen.coupon)
        && seen.state.revision == seen.coupon.revision
        && !settings::differ(seen)
}

/// Reports a user who loses the slot and is owed one.
fn slot_lost(drop: DropId, user: &OwedUser) -> Finding {
    let detail = "promised a slot that the user cannot have";
    let found = Finding::new(
        Kind::BrokenPromise,
        ActionKind::Owe,
        Outcome::Applied,
        detail,
    );
    Finding {
        drop_id: Some(drop),
        ..found.naming(user.slot, Some(&user.user))
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::UserId;

    use super::*;

    #[test]
    fn finding_about_a_user_who_loses_a_slot_names_the_drop() {
        let user = OwedUser {
            user: UserId::from_store("u-1".to_owned()),
            slot: Some(3),
        };
        let mut ledger = Ledger::default();
        ledger.add(slot_lost(DropId(7), &user));
        let found = ledger.findings(Some(CouponId(1)), None);
        let place = (found[0].coupon_id, found[0].drop_id);
        assert_eq!(place, (Some(CouponId(1)), Some(DropId(7))));
    }
}
