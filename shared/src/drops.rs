//! Creates daily drops two days ahead, and drops whose rows MySQL has lost. The reconciler's daemon
//! does this every 20 seconds, the API when a coupon is changed. The schema allows one drop per
//! local date, so concurrent attempts create no duplicates.

use chrono::{DateTime, Utc};

use crate::StoreError;
use crate::coupon::{Coupon, Drop};
use crate::model::is_missing;
use crate::mysql::Db;
use crate::redis::Redis;
use crate::redis::keys::DropMeta;
use crate::schedule::Schedule;

/// Creates the drops that a coupon's schedule requires and that are missing from `drops`, loads
/// them into Redis, and returns how many it created. `drops` must contain every drop whose window
/// has not ended at `now`; for a coupon that opens once, its drop in any case.
/// A drop whose row MySQL has lost is missing too, and is created again under its own id.
/// If Redis has lost the coupon's era, the holders of the coupon are unknown: the new drops are not
/// loaded here, but by the reconciler after it has restored the holders.
///
/// # Errors
/// [`StoreError`]. Either no drop was created, and the next round tries again; or all were created,
/// and the reconciler loads those that are not in Redis.
pub async fn make_ahead(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    drops: &[Drop],
    now: DateTime<Utc>,
) -> Result<usize, StoreError> {
    let Some(schedule) = &coupon.schedule else {
        return Ok(0);
    };
    if matches!(schedule, Schedule::Once { .. }) && !drops.is_empty() {
        return Ok(0);
    }
    let mut missing = schedule.drops_from(now);
    missing.retain(|planned| is_missing(planned, drops, now));
    if missing.is_empty() {
        return Ok(0);
    }
    // Read the fence first. If Redis loses data afterwards, loading finds another era and does
    // nothing.
    let servers = redis.servers().await?;
    let gate = redis.gates(&[coupon.id]).await?;
    let fence = gate
        .first()
        .and_then(|gate| gate.fence(servers.holding(coupon.id)));
    let Some((coupon, made)) = db.make_drops(coupon.id, missing).await? else {
        return Ok(0);
    };
    if let Some(fence) = fence {
        for drop in &made {
            // Redis refuses this if the coupon's revision or era has changed since; the reconciler
            // then loads the drop.
            let keys = redis.keys(coupon.id, drop.id);
            let meta = DropMeta::new(&coupon, drop);
            redis.load(&keys, &fence, coupon.revision, &meta).await?;
        }
    }
    Ok(made.len())
}
