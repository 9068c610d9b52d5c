//! Seals drops that are over and exact, and lets their keys expire. Nothing unseals a drop.

use chrono::Utc;
use firstcome_shared::StoreError;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::expiry::sealed_for;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::project::Fenced;

use crate::context::{PassContext, Step, Stores};
use crate::ledger::Ledger;
use crate::pass::Compared;
use crate::queries;
use crate::queries::drops::DropCount;
use crate::read::{DropPass, DropSeen};
use crate::report::{Finding, Kind};
use crate::settings;

/// Whether the drop has been closed for longer than any claim takes, by Redis's clock and by this
/// host's: if either is wrong, users may still be admitted.
fn is_over(ctx: &PassContext, drop: &DropSeen) -> bool {
    let now = ctx
        .clock_ms(drop.drop.coupon_id)
        .min(Utc::now().timestamp_millis());
    let closed = drop.drop.closes_at.map(|at| at.timestamp_millis());
    closed.is_some_and(|at| at.saturating_add(ctx.in_flight_ms) < now)
}

/// Seals a drop if it is over and exact, no dead letter is open, and no user who may still get one
/// waits for a slot that is left. Counts its rows and revocations once more under its lock. If no
/// slot is left, users who are owed one stay listed. Returns whether it was sealed.
pub(crate) async fn seal(drop: DropPass<'_>, last: &Compared, ledger: &mut Ledger) -> Step<bool> {
    let DropPass { ctx, seen, own } = drop;
    let db = drop.db();
    let coupon = seen.coupon.id;
    let numbers = &last.numbers;
    let waiting = last.numbers.waiting;
    let is_exact = last.is_clean() && numbers.users == numbers.rows && numbers.in_flight == 0;
    if ctx.dry_run || !is_exact || !is_over(ctx, own) {
        return Ok(false);
    }
    let id = drop.id();
    let closes_at = own.drop.closes_at;
    let quantity = own.drop.quantity;
    let letters = queries::drops::count(db, DropCount::DeadLetters, &[id]).await?;
    if !letters.is_empty() {
        return Ok(false);
    }
    let left = u64::from(quantity).saturating_sub(numbers.rows);
    let of = |people: u64| format!("{left} of {quantity} slots left and {people} people waiting");
    // After an early close, only users who are owed a slot still get one.
    let owed = numbers.broken_promises;
    let served = if own.drop.closed_early {
        owed
    } else {
        owed.max(waiting)
    };
    if left > 0 && served > 0 {
        // Users are promoted before a drop is sealed, but nobody is promoted in a paused coupon.
        if seen.coupon.paused {
            let of = of(served);
            let detail = format!("closed while paused, with {of}: resume it, and they get them");
            ledger.add(Finding::report(Kind::Unfilled, detail));
        }
        return Ok(false);
    }
    // Note this first: a Redis that lacks the note of a sealed drop then has lost data, or is an
    // older state.
    let Some(fence) = seen.state.gate.fence(ctx.servers.holding(coupon)) else {
        return Ok(false);
    };
    let noted = drop.redis().note_seal(coupon, &fence, id).await?;
    if noted == Fenced::Stale {
        return Ok(false);
    }
    let rows = u32::try_from(numbers.rows).unwrap_or(u32::MAX);
    // The revocations of before the comparison: a later return has changed what was compared.
    let sealed = db.seal_drop(id, closes_at, quantity, rows, own.revocations);
    if !sealed.await? {
        return Ok(false);
    }
    let coupon_id = coupon.0;
    let drop_id = id.0;
    tracing::info!(coupon_id, drop_id, rows, "the drop is exact, and sealed");
    // An error fails no pass: the drop is sealed, which the pass must report, and the next sealing
    // or a job at the coupon's end lets the keys expire.
    if let Err(error) = expire_sealed(&ctx.stores, coupon).await {
        tracing::warn!(coupon_id, drop_id, %error, "its keys do not expire yet");
    }
    if let Err(error) = settings::forget_over(ctx, coupon, &fence).await {
        let what = "its revocations stay in Redis until the next pass";
        tracing::warn!(coupon_id, drop_id, %error, "{what}");
    }
    if left > 0 {
        ledger.add(Finding {
            needs_person: false,
            ..Finding::report(Kind::Unfilled, format!("closed with {}", of(waiting)))
        });
    }
    Ok(true)
}

/// Lets the keys of a coupon's sealed drops expire, also those that an earlier call did not reach,
/// and the coupon's own if it is over.
pub(crate) async fn expire_sealed(stores: &Stores, coupon: CouponId) -> Result<(), StoreError> {
    let Some((coupon, drops)) = stores.db.coupon(coupon).await? else {
        return Ok(());
    };
    let redis = &stores.redis;
    let keys = sealed_keys(redis, &drops);
    redis.expire_drops(&keys, sealed_for()).await?;
    if coupon.is_over_for_good(&drops, Utc::now()) {
        redis.expire_coupon(coupon.id).await?;
    }
    Ok(())
}

/// Returns the keys of the sealed drops among these.
pub(crate) fn sealed_keys(redis: &Redis, drops: &[Drop]) -> Vec<DropKeys> {
    let sealed = drops.iter().filter(|it| it.sealed_at.is_some());
    sealed.map(|it| redis.keys(it.coupon_id, it.id)).collect()
}
