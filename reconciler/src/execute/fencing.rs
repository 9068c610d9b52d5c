//! What Redis loses together with its data or its process, and a pass puts in place: each coupon's
//! generation (a fencing token), the canary, and the admission gate (`claim.lua` in the script
//! cache).

use std::collections::{BTreeSet, HashMap};

use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::fencing::Generation;
use firstcome_shared::redis::safety::ServerFacts;
use firstcome_shared::redis::{Connection, Redis, RedisError};

/// One server process of Redis. A pass verifies against this process and opens the gate on the same
/// connection, so that it can't open another one's.
pub struct RedisProcess {
    conn: Connection,
    facts: ServerFacts,
    /// Whether the gate was open when the pass began.
    pub gate_was_open: bool,
}

impl RedisProcess {
    /// The process that answers now.
    pub async fn connect(redis: &Redis) -> Result<Self, RedisError> {
        let mut conn = redis.dedicated().await?;
        let facts = redis.facts(&mut conn).await?;
        let gate_was_open = redis.gate_is_open_on(&mut conn).await?;
        Ok(Self { conn, facts, gate_was_open })
    }
}

/// Opens the gate, unless the shared connection leads to another process by now; `false` then.
pub(crate) async fn open_gate(process: &mut RedisProcess, redis: &Redis) -> Result<bool, RedisError> {
    crash_point(Point::GateDue);
    let now = redis.facts(&mut redis.connection()).await?;
    let here = redis.facts(&mut process.conn).await?;
    let is_same = now == process.facts && here == process.facts && here.is_master;
    if is_same {
        redis.open_gate(&mut process.conn).await?;
    }
    crash_point(Point::GateOpened);
    Ok(is_same)
}

/// Sets the canary; whether it was missing.
pub(crate) async fn set_canary(redis: &Redis) -> Result<bool, RedisError> {
    redis.set_canary().await
}

/// Removes the canary again after a pass that failed: what it was missing for is not repaired.
pub(crate) async fn remove_canary(redis: &Redis) {
    if let Err(error) = redis.remove_canary().await {
        tracing::debug!(%error, "the canary stays; the next scheduled pass looks at everything anyway");
    }
}

/// The generation of each coupon of these drops; made where there is none, but for a dry run.
pub(crate) async fn generations(
    redis: &Redis,
    drops: &[(Coupon, Drop)],
    dry_run: bool,
) -> Result<HashMap<CouponId, Generation>, RedisError> {
    let coupons: Vec<CouponId> =
        drops.iter().map(|(coupon, _)| coupon.id).collect::<BTreeSet<_>>().into_iter().collect();
    let mut found = redis.generations(&coupons).await?;
    if !dry_run && found.contains(&None) {
        found = redis.ensure_generations(&coupons).await?;
    }
    Ok(coupons.into_iter().zip(found).filter_map(|(coupon, generation)| Some((coupon, generation?))).collect())
}
