//! Creates daily drops two days ahead, and drops whose rows MySQL has lost. The reconciler's daemon
//! does this every 20 seconds, the API when a coupon is changed. The schema allows one drop per
//! local date, so concurrent attempts create no duplicates.

use chrono::{DateTime, Utc};

use redis::RedisResult;

use crate::coupon::{Coupon, Drop};
use crate::domain::CouponId;
use crate::model::is_missing;
use crate::mysql::{Db, DbResult};
use crate::redis::Redis;
use crate::redis::gate::Fence;
use crate::redis::keys::DropMeta;
use crate::schedule::{PlannedDrop, Schedule};

/// Returns the drops that a coupon's schedule requires and that are missing from `drops`, which
/// must contain every drop whose window has not ended at `now`; for a coupon that opens once, its
/// drop in any case. A drop whose row MySQL has lost is missing, too.
pub fn missing(coupon: &Coupon, drops: &[Drop], now: DateTime<Utc>) -> Vec<PlannedDrop> {
    let Some(schedule) = &coupon.schedule else {
        return Vec::new();
    };
    if matches!(schedule, Schedule::Once { .. }) && !drops.is_empty() {
        return Vec::new();
    }
    let mut missing = schedule.drops_from(now);
    missing.retain(|planned| is_missing(planned, drops, now));
    missing
}

/// Creates the [`missing`] drops of a coupon in MySQL, a lost one under its own id, loads them into
/// Redis, and returns how many it created. The reconciler loads those that Redis does not take: if
/// it has lost the coupon's era, for example, the coupon's holders have to be restored first.
///
/// # Errors
/// [`DbError`](crate::mysql::DbError): no drop was created, and the next round tries again.
pub async fn make_ahead(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    missing: Vec<PlannedDrop>,
) -> DbResult<usize> {
    if missing.is_empty() {
        return Ok(0);
    }
    // Read the fence first. If Redis loses data afterwards, loading finds another era and does
    // nothing.
    let fence = fence(redis, coupon.id).await;
    let Some((coupon, made)) = db.make_drops(coupon.id, missing).await? else {
        return Ok(0);
    };
    let loaded = match fence {
        Ok(Some(fence)) => load(redis, &fence, &coupon, &made).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = loaded {
        let what = "drops that were created are not in Redis yet";
        tracing::warn!(coupon_id = coupon.id.0, %error, "{what}");
    }
    Ok(made.len())
}

async fn fence(redis: &Redis, coupon: CouponId) -> RedisResult<Option<Fence>> {
    let servers = redis.servers().await?;
    let gates = redis.gates(&[coupon]).await?;
    let gate = gates.first().and_then(Option::as_ref);
    Ok(gate.and_then(|gate| gate.fence(servers.holding(coupon))))
}

/// Loads drops, unless the coupon's revision or era has changed since.
async fn load(redis: &Redis, fence: &Fence, coupon: &Coupon, made: &[Drop]) -> RedisResult<()> {
    for drop in made {
        let keys = redis.keys(coupon.id, drop.id);
        let meta = DropMeta::new(coupon, drop);
        redis.load(&keys, fence, coupon.revision, &meta).await?;
    }
    Ok(())
}
