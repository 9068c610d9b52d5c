//! The admission gate, and the fencing tokens that Redis loses together with its data or its
//! process.

use std::collections::{BTreeSet, HashMap};

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::gate::{CouponFence, GateReading, Generation};
use firstcome_shared::redis::life::Life;
use firstcome_shared::redis::wrong_key::is_about_data;
use firstcome_shared::redis::{Redis, RedisError};
use futures_util::future::join_all;

/// Begins a life of Redis after a loss. `None`: the server is another by now.
pub(crate) async fn begin_life(
    redis: &Redis,
    seen: &GateReading,
) -> Result<Option<Life>, RedisError> {
    redis.begin_life(seen).await
}

/// Opens verified coupons. `false`: Redis lost data since.
pub(crate) async fn open_coupons(
    redis: &Redis,
    coupons: &[(CouponId, Generation)],
    life: &Life,
) -> Result<bool, RedisError> {
    redis.open_coupons(coupons, life).await
}

/// Opens the gate to the coupons that are verified, on these servers of the life. `false`: Redis
/// lost data since.
pub(crate) async fn open_gate(
    redis: &Redis,
    life: &Life,
    servers: &BTreeSet<usize>,
) -> Result<bool, RedisError> {
    crash_point(Point::GateDue);
    let is_open = redis.open_gate(life, servers).await?;
    crash_point(Point::GateOpened);
    Ok(is_open)
}

/// The fences of coupons; a generation is made where there is none, but for a dry run.
pub(crate) async fn fences(
    redis: &Redis,
    coupons: &[CouponId],
    dry_run: bool,
) -> Result<HashMap<CouponId, CouponFence>, RedisError> {
    let mut fences: HashMap<_, _> = coupons
        .iter()
        .copied()
        .zip(redis.coupon_fences(coupons).await?)
        .collect();
    let is_missing = |coupon: &&CouponId| fences[*coupon].generation.is_none() && !dry_run;
    let missing: Vec<CouponId> = coupons.iter().filter(is_missing).copied().collect();
    for some in missing.chunks(FENCES_AT_ONCE) {
        let made = join_all(some.iter().map(|coupon| redis.ensure_generation(*coupon))).await;
        for (coupon, made) in some.iter().zip(made) {
            let generation = match made {
                Ok(generation) => Some(generation),
                // A key of another type by that name: nothing of this coupon can be repaired.
                Err(error) if is_about_data(&error) => None,
                Err(error) => return Err(error),
            };
            fences.entry(*coupon).or_default().generation = generation;
        }
    }
    Ok(fences)
}

/// Coupons asked for at the same time.
const FENCES_AT_ONCE: usize = 500;
