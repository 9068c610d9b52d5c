//! Settings, allow list and revocations in Redis. MySQL has them first (except a lowered quantity),
//! at a revision that is their fence. Differences are written again, and close no coupon. A
//! revision in Redis above MySQL's, and a revocation that MySQL does not know, are ones that MySQL
//! has lost, and are adopted before anything is judged.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::allow_list::{Followed, follow};
use firstcome_shared::coupon::{Allow, Coupon};
use firstcome_shared::domain::CouponId;
use firstcome_shared::recover::recover;
use firstcome_shared::redis::gate::Fence;
use firstcome_shared::redis::keys::{DropMeta, NOT_IN_REDIS};
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::revoking::RevokedField;
use firstcome_shared::redis::settings::Written;

use crate::context::{PassContext, PassError, Step, Stores, fenced};
use crate::ledger::Ledger;
use crate::queries;
use crate::read::{self, CouponSeen, DropPass};
use crate::report::{ActionKind, Cause, Finding, Kind, Outcome};

fn found(cause: Cause, result: Outcome, detail: impl Into<String>) -> Finding {
    let write = ActionKind::WriteSettings;
    Finding {
        cause,
        ..Finding::new(Kind::SettingsMismatch, write, result, detail)
    }
}

/// Reports keys of a coupon that are lost or have another type.
pub(crate) fn lost_keys(names: &[&str], result: Outcome) -> Finding {
    let detail = format!("Redis has lost keys of this coupon: {}", names.join(", "));
    Finding {
        cause: Cause::LostKeys,
        ..Finding::new(Kind::RedisLost, ActionKind::Project, result, detail)
    }
}

/// Writes settings that MySQL has lost back to MySQL. A dry run uses them without writing.
pub(crate) async fn adopt(
    ctx: &PassContext,
    seen: &mut CouponSeen,
    ledger: &mut Ledger,
) -> Step<()> {
    if seen.state.revision <= seen.coupon.revision {
        return Ok(());
    }
    let db = &ctx.stores.db;
    let redis = &ctx.stores.redis;
    let id = seen.coupon.id;
    let now = match recover(db, redis, id, ctx.dry_run).await? {
        Some(lost) => {
            let revision = lost.coupon.revision;
            let changes = lost.changes;
            let detail = format!(
                "MySQL has lost changes of this coupon up to revision {revision}, which Redis \
                has, but for {NOT_IN_REDIS}: {changes}"
            );
            let what = "MySQL has lost settings of a coupon";
            tracing::warn!(coupon_id = id.0, detail, "{what}");
            let cause = Cause::LostSettings { revision };
            ledger.add(found(cause, ctx.outcome(), detail));
            Some((lost.coupon, lost.drops))
        }
        // An operator may just have changed the coupon.
        None => db.coupon(id).await?,
    };
    let Some((coupon, drops)) = now else {
        return Ok(());
    };
    for own in &mut seen.drops {
        if let Some(now) = drops.iter().find(|drop| drop.id == own.drop.id) {
            own.drop.clone_from(now);
        }
    }
    seen.coupon = coupon;
    Ok(())
}

/// Loads a drop that was made ahead, at an open gate. Nobody holds a slot in it.
pub(crate) async fn load_new(drop: DropPass<'_>, fence: &Fence) -> Step<()> {
    let coupon = drop.coupon();
    let meta = DropMeta::new(coupon, &drop.own.drop);
    let load = drop
        .redis()
        .load(&drop.own.keys, fence, coupon.revision, &meta);
    if load.await? == Written::Yes {
        let coupon_id = coupon.id.0;
        let drop_id = drop.id().0;
        tracing::info!(coupon_id, drop_id, "a new drop was loaded");
    }
    Ok(())
}

/// At an open gate, writes the settings, the allow list and the revocations to Redis, if they
/// differ.
pub(crate) async fn write_again(
    ctx: &PassContext,
    seen: &CouponSeen,
    ledger: &mut Ledger,
) -> Step<()> {
    if differ(seen) {
        settings(ctx, seen, ledger).await?;
    }
    if has_list(&seen.coupon) && !seen.state.list.is(seen.coupon.allow_list) {
        allow_list(ctx, seen, ledger).await?;
    }
    if revocations_may_differ(ctx, seen) {
        revocations(ctx, seen, ledger).await?;
    }
    Ok(())
}

/// Their numbers do not show an end that Redis lacks, nor a missing one beside one that is over:
/// the contents are compared for an hour after an end, and in deep passes.
fn revocations_may_differ(ctx: &PassContext, seen: &CouponSeen) -> bool {
    let banned = seen.banned;
    let in_redis = seen.state.revoked;
    let has_other_number = in_redis < banned.users || in_redis > banned.with_young;
    has_other_number || banned.has_ended_lately || ctx.deep && banned.users > 0
}

/// Gives MySQL the revocations that only Redis has, because an asynchronous failover or a restore
/// has lost them. Their users' rows are back, too: without this, the next user of such a slot would
/// lose it. Returns how many there are, also in a dry run, which writes none.
pub(crate) async fn adopt_revocations(ctx: &PassContext, seen: &CouponSeen) -> Step<u64> {
    let Stores { db, redis, .. } = &ctx.stores;
    let id = seen.coupon.id;
    let once_per = seen.coupon.once_per;
    let of_redis = redis
        .revoked(id)
        .await?
        .into_iter()
        .filter_map(|field| field.parsed(once_per));
    let mut lost = 0;
    for known in db.lost_revocations(of_redis.collect()).await? {
        // If the coupon allows one claim in total, Redis does not have the drop.
        let mut drops = seen.drops.iter().map(|own| own.drop.id);
        let Some(drop) = drops.find(|drop| known.drop.is_none_or(|own| own == *drop)) else {
            continue;
        };
        let revocation = known.id;
        if ctx.dry_run || db.adopt_revocation(id, drop, once_per, known).await? {
            let what = "MySQL has lost a revocation that Redis has";
            tracing::warn!(coupon_id = id.0, drop_id = drop.0, revocation, "{what}");
            lost += 1;
        }
    }
    Ok(lost)
}

/// At an open gate, adopts the revocations that MySQL has lost if Redis has more of them than
/// MySQL.
pub(crate) async fn adopt_returns(
    ctx: &PassContext,
    seen: &CouponSeen,
    ledger: &mut Ledger,
) -> Step<()> {
    if seen.state.revoked <= seen.banned.with_young {
        return Ok(());
    }
    let lost = adopt_revocations(ctx, seen).await?;
    if lost > 0 {
        let detail = format!("MySQL has lost {lost} returns or revocations, which Redis has");
        let cause = Cause::LostRevocations(lost);
        ledger.add(found(cause, ctx.outcome(), detail));
    }
    Ok(())
}

/// Removes the revocations that are over from Redis, and writes the missing ones and the missing
/// ends.
async fn revocations(ctx: &PassContext, seen: &CouponSeen, ledger: &mut Ledger) -> Step<()> {
    let mut missing = seen.banned.users.saturating_sub(seen.state.revoked);
    if !ctx.dry_run {
        let id = seen.coupon.id;
        let Some(fence) = seen.state.gate.fence(ctx.servers.holding(id)) else {
            return Ok(());
        };
        forget_over(ctx, id, &fence).await?;
        missing = write_revocations(ctx, seen).await?.0;
    }
    if missing > 0 {
        let detail = format!("{missing} revocations, or their ends, were not in Redis");
        ledger.add(found(Cause::Revocations(missing), ctx.outcome(), detail));
    }
    Ok(())
}

/// Whether the settings in Redis differ from MySQL's.
pub(crate) fn differ(seen: &CouponSeen) -> bool {
    // Without its revision, Redis would accept an outdated write.
    let is_lost = seen.state.revision == 0;
    seen.drops.iter().any(|own| {
        let meta = own.state.meta.as_ref();
        meta.is_some_and(|meta| is_lost || *meta != DropMeta::new(&seen.coupon, &own.drop))
    })
}

/// Writes the settings at a new revision. Reads both stores again first: the difference may be an
/// operator's change on its way to Redis, which would then be outdated.
async fn settings(ctx: &PassContext, seen: &CouponSeen, ledger: &mut Ledger) -> Step<()> {
    let again = read::coupons(ctx, Some(vec![seen.coupon.id]), None).await?;
    let Some(now) = again.into_iter().next() else {
        return Ok(());
    };
    if !differ(&now) || now.state.revision > now.coupon.revision {
        return Ok(());
    }
    if ctx.dry_run || write_all(ctx, &now, now.state.revision, None).await? {
        let detail = "the settings in Redis differ";
        ledger.add(found(Cause::Settings, ctx.outcome(), detail));
    }
    Ok(())
}

/// Writes the settings of a coupon's unsealed drops at a new revision, unless it has changed since
/// the revision `known`. `fence` is that of the closed gate, and `None` at an open gate. Returns
/// whether all were written.
pub(crate) async fn write_all(
    ctx: &PassContext,
    seen: &CouponSeen,
    known: u64,
    fence: Option<&Fence>,
) -> Step<bool> {
    let db = &ctx.stores.db;
    let redis = &ctx.stores.redis;
    let Some((coupon, drops)) = db.take_revision(seen.coupon.id, known, None).await? else {
        return Ok(false);
    };
    let revision = coupon.revision;
    let all: Vec<_> = seen
        .drops
        .iter()
        .filter_map(|own| {
            let drop = drops.iter().find(|drop| drop.id == own.drop.id)?;
            Some((&own.keys, DropMeta::new(&coupon, drop)))
        })
        .collect();
    let Some(fence) = fence else {
        let written = redis.write_settings(revision, &all).await?;
        return Ok(written != Written::Outdated);
    };
    for (keys, meta) in &all {
        match redis.load(keys, fence, revision, meta).await? {
            Written::Yes => {}
            Written::Outdated => return Ok(false),
            _ => return Err(PassError::Stale),
        }
    }
    Ok(true)
}

/// Whether Redis must have the coupon's list, even if the list is not in effect yet.
pub(crate) fn has_list(coupon: &Coupon) -> bool {
    coupon.allow == Some(Allow::List) || coupon.allow_list.revision > 0
}

/// Grace period for an API that has changed a list in MySQL and is about to update Redis.
const UNDER_WAY: TimeDelta = TimeDelta::seconds(2);

async fn allow_list(ctx: &PassContext, seen: &CouponSeen, ledger: &mut Ledger) -> Step<()> {
    let id = seen.coupon.id;
    let now = ctx.stores.db.allow_lists(vec![id]).await?;
    let is_settled = now.first().is_some_and(|now| {
        now.age().is_none_or(|age| age >= UNDER_WAY) && !seen.state.list.is(now.list)
    });
    if !is_settled {
        return Ok(());
    }
    let unwritten = Cause::AllowList { users: None };
    if ctx.dry_run {
        let detail = "the allow list in Redis differs";
        ledger.add(found(unwritten, Outcome::Planned, detail));
    } else if let Some(why) = write_list(ctx, id, ledger).await? {
        ledger.add(Finding {
            needs_person: true,
            ..found(unwritten, Outcome::Failed, why)
        });
    }
    Ok(())
}

/// Writes a coupon's list if it differs. Returns why it could not be written, or `None`.
pub(crate) async fn write_list(
    ctx: &PassContext,
    id: CouponId,
    ledger: &mut Ledger,
) -> Step<Option<String>> {
    let followed = follow(&ctx.stores.db, &ctx.stores.redis, id).await;
    Ok(match followed {
        Ok(Followed::Same) => None,
        Ok(Followed::Written(people)) => {
            let detail = format!("the allow list in Redis differed; {people} users are on it");
            let cause = Cause::AllowList {
                users: Some(people.into()),
            };
            ledger.add(found(cause, Outcome::Applied, detail));
            None
        }
        Ok(Followed::Kept(why)) => Some(why),
        Err(error) => {
            let why = PassError::from(error).about_data()?;
            Some(format!("the allow list could not be written: {why}"))
        }
    })
}

/// Adopts the revocations of a closed coupon that MySQL has lost, writes those that are in force,
/// and removes the others: those that ended with a sealed drop, and what is no revocation. Redis is
/// read first, so that one that an API records meanwhile stays. Returns whether Redis had the last
/// state of all: then it knows every return.
pub(crate) async fn project_revocations(
    ctx: &PassContext,
    seen: &CouponSeen,
    fence: &Fence,
) -> Step<bool> {
    let redis = &ctx.stores.redis;
    let id = seen.coupon.id;
    adopt_revocations(ctx, seen).await?;
    let mut others = redis.revoked(id).await?;
    let (new, known) = write_revocations(ctx, seen).await?;
    others.retain(|one| one.id.is_none_or(|id| !known.contains(&id)));
    if !others.is_empty() {
        tracing::info!(
            coupon_id = id.0,
            number = others.len(),
            "revocations that are not in force in MySQL are removed from Redis"
        );
    }
    fenced(redis.forget_revoked(id, fence, &others).await?)?;
    Ok(new == 0)
}

/// Writes the revocations of a coupon that are in force; at an open gate, without those that their
/// API may be about to write. Returns how many were new to Redis, and the ids of all.
async fn write_revocations(ctx: &PassContext, seen: &CouponSeen) -> Step<(u64, HashSet<i64>)> {
    let Stores { db, redis, .. } = &ctx.stores;
    let coupon = &seen.coupon;
    let mut new = 0;
    let mut ids = HashSet::new();
    let now = redis_time(ctx, coupon.id);
    let drops = seen.drops.iter().map(|own| Some(own.drop.id));
    for which in drops.chain([None]) {
        let mut after = 0;
        loop {
            let mut page =
                queries::revocations::revocations_after(db, coupon.id, which, now, after).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.id;
            page.retain(|revocation| seen.is_closed || !revocation.is_young());
            ids.extend(page.iter().map(|revocation| revocation.id));
            new += redis
                .write_revoked(coupon.id, coupon.once_per, &page)
                .await?;
        }
    }
    Ok((new, ids))
}

/// Redis's time at the beginning of the pass.
fn redis_time(ctx: &PassContext, coupon: CouponId) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ctx.clock_ms(coupon)).unwrap_or_default()
}

/// Revocations looked up per statement.
const LOOKED_UP_AT_ONCE: usize = 1_000;

/// Removes the revocations that are over from Redis, except those whose end is ahead because
/// Redis's clock was wrong at the claim: a claim before that end would be accepted, and then be
/// void. At an open gate, a revocation that MySQL does not know stays, too.
pub(crate) async fn forget_over(ctx: &PassContext, coupon: CouponId, fence: &Fence) -> Step<()> {
    let Stores { db, redis, .. } = &ctx.stores;
    let now = redis_time(ctx, coupon);
    for some in redis.revoked(coupon).await?.chunks(LOOKED_UP_AT_ONCE) {
        let ids = some.iter().filter_map(|one| one.id).collect();
        let over = queries::revocations::revocations_over(db, ids, now).await?;
        let over: Vec<RevokedField> = some
            .iter()
            .filter(|one| one.id.is_some_and(|id| over.contains(&id)))
            .cloned()
            .collect();
        if redis.forget_revoked(coupon, fence, &over).await? == Fenced::Stale {
            // Another process works on the coupon.
            return Ok(());
        }
    }
    Ok(())
}
