//! Closes coupons, and waits until they may be judged.
//!
//! A gate is `SERVER ERA open|closed`. Closing is a compare-and-set to a closed gate of the next
//! era, on Redis alone: MySQL may hang, and the era in the gate is adopted there afterwards. The
//! text of a gate therefore never repeats, every fenced writer of the previous era is stale at
//! once, and a suspended reconciler that wakes up can neither write nor open. The urgent lane
//! begins eras; the watch begins one if a counter went back, and the API begins a new coupon's
//! first.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::gate::{Fence, Gate};
use firstcome_shared::redis::servers::Servers;
use firstcome_shared::redis::{Redis, RedisError};
use firstcome_shared::sql;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use crate::barrier::{self, BarrierError};
use crate::context::{PassContext, PassError, Step, millis};
use crate::read::CouponSeen;

/// Eras above this were written by hand. They are close to the highest that the scripts parse.
const HIGHEST_SEEN: u64 = 1_000_000_000_000;

/// Maximum number of coupons that begin an era at the same time.
const AT_ONCE: usize = 8;

/// Attempts to begin an era above MySQL's.
const ATTEMPTS: usize = 5;

/// Whether the coupon's gate is open on its server, in MySQL's era.
pub(crate) fn is_open(ctx: &PassContext, seen: &CouponSeen) -> bool {
    let server = ctx.servers.holding(seen.coupon.id);
    let era = seen.coupon.era;
    era <= HIGHEST_SEEN && seen.state.gate.is_open(server, era)
}

/// If an open coupon has a higher era than MySQL, MySQL has lost that era: writes it there, except
/// in a dry run. Also raises `seen` to that era, so that the rest of the pass uses it.
pub(crate) async fn adopt_lost_era(ctx: &PassContext, seen: &mut CouponSeen) -> Step<()> {
    let before = seen.coupon.era;
    let Some(era) = seen.state.gate.era().filter(|era| *era > before) else {
        return Ok(());
    };
    seen.coupon.era = era;
    if !is_open(ctx, seen) {
        seen.coupon.era = before;
    } else if !ctx.dry_run {
        let id = seen.coupon.id;
        adopt_era(&ctx.stores.db, id, era).await?;
        tracing::warn!(
            coupon_id = id.0,
            era,
            "MySQL has lost an era that Redis has"
        );
    }
    Ok(())
}

/// The gate of a coupon that this pass has closed.
#[derive(Debug, Clone)]
pub(crate) struct Closed {
    pub fence: Fence,
    /// Nobody was admitted after this.
    pub since: Instant,
    pub was_open: bool,
}

/// Closes coupons: begins the next era of each whose gate is still the one that was read. Leaves
/// out coupons whose gate has changed, which another process works on, and those that cannot begin
/// an era now, for example because their row is locked.
pub(crate) async fn close(
    ctx: &PassContext,
    coupons: Vec<(CouponSeen, bool)>,
) -> Step<HashMap<CouponId, Closed>> {
    stream::iter(coupons)
        .map(|(seen, was_open)| close_coupon(ctx, seen, was_open))
        .buffer_unordered(AT_ONCE)
        .try_filter_map(|closed| std::future::ready(Ok(closed)))
        .try_collect()
        .await
}

async fn close_coupon(
    ctx: &PassContext,
    seen: CouponSeen,
    was_open: bool,
) -> Step<Option<(CouponId, Closed)>> {
    let coupon = seen.coupon.id;
    let mut era = seen.coupon.era;
    let mut seen = seen.state.gate;
    for _ in 0..ATTEMPTS {
        let begun = close_in_redis(&ctx.stores.redis, &ctx.servers, coupon, &seen, era).await?;
        let Some(fence) = begun else {
            return Ok(None);
        };
        crash_point(Point::EraBegun);
        let since = Instant::now();
        let adopted = adopt_era(&ctx.stores.db, coupon, fence.era()).await;
        match adopted.map_err(PassError::from) {
            // An error about this coupon alone, usually a locked row. The coupon stays closed, and
            // the next run of the urgent lane begins its next era.
            Err(error) => {
                let why = error.about_data()?;
                tracing::warn!(coupon_id = coupon.0, why, "a coupon begins no era yet");
                return Ok(None);
            }
            Ok(None) => return Ok(None),
            Ok(Some(before)) if before < fence.era() => {
                let closed = Closed {
                    fence,
                    since,
                    was_open,
                };
                return Ok(Some((coupon, closed)));
            }
            // MySQL has this era or a later one. Only raising its era stops earlier writers of
            // rows, so the next turn begins one above it.
            Ok(Some(later)) => era = later,
        }
        seen = Gate::closed(&fence);
    }
    Ok(None)
}

/// Closes a coupon without MySQL, if its gate is still `seen`. Returns `None` if the gate or the
/// server has changed, if no server is known that holds the coupon, or if the era is garbage.
pub(crate) async fn close_in_redis(
    redis: &Redis,
    servers: &Servers,
    coupon: CouponId,
    seen: &Gate,
    era: u64,
) -> Result<Option<Fence>, RedisError> {
    let Some(server) = servers.holding(coupon) else {
        return Ok(None);
    };
    if era > HIGHEST_SEEN {
        tracing::error!(coupon_id = coupon.0, era, "the era in MySQL is garbage");
        return Ok(None);
    }
    let seen_era = seen.era().filter(|era| *era <= HIGHEST_SEEN).unwrap_or(0);
    let next = seen_era.max(era) + 1;
    redis.begin_era_on(coupon, server, seen, next).await
}

/// Raises a coupon's era in MySQL to `era`, if it is lower. Returns MySQL's era before, or `None`
/// if the coupon does not exist. Waits for transactions that insert rows in an earlier era.
pub(crate) async fn adopt_era(db: &Db, coupon: CouponId, era: u64) -> Result<Option<u64>, DbError> {
    db.transaction("adopt era", async move |conn| {
        let lock = sql!("SELECT era FROM coupons WHERE id = ? FOR UPDATE", coupon);
        let known: Option<u64> = lock.first(conn).await?;
        if known.is_some_and(|known| known < era) {
            tracing::debug!(coupon_id = coupon.0, known, era, "a coupon begins an era");
            let raise = sql!("UPDATE coupons SET era = ? WHERE id = ?", era, coupon);
            raise.run(conn).await?;
        }
        Ok(known)
    })
    .await
}

/// Margin in addition to the deadlines, for the inaccuracy of timers.
const MARGIN: Duration = Duration::from_millis(250);

/// Maximum wait for the consumer in one run of the urgent lane. The next run begins another era.
const PATIENCE: Duration = Duration::from_secs(30);

/// Interval at which the pace of rows is suspended again.
const SUSPEND_EVERY: Duration = Duration::from_secs(1);

/// Waits until no claim from before the closing can be in flight, then until the consumer has read
/// the topic. Meanwhile the pace of rows is suspended: with it, the backlog of one coupon could
/// keep all closed coupons waiting.
///
/// # Errors
/// [`PassError::StaysClosed`] if the coupons cannot be judged yet.
pub(crate) async fn wait(ctx: &PassContext, closed_at: Instant) -> Step<()> {
    tokio::select! {
        waited = wait_for_barrier(ctx, closed_at) => waited,
        never = suspend_pace(&ctx.stores.db) => match never {},
    }
}

/// Suspends the pace of rows until this future is dropped.
async fn suspend_pace(db: &Db) -> Infallible {
    loop {
        if let Err(error) = db.suspend_pace().await {
            tracing::debug!(%error, "the pace of rows is not suspended");
        }
        tokio::time::sleep(SUSPEND_EVERY).await;
    }
}

async fn wait_for_barrier(ctx: &PassContext, closed_at: Instant) -> Step<()> {
    // Read after the coupons were closed: an API may just have announced longer ones.
    let deadlines = barrier::deadlines(&ctx.stores.db, ctx.settings.deadlines).await?;
    let left = (millis(deadlines.in_flight_ms) + MARGIN).saturating_sub(closed_at.elapsed());
    if !left.is_zero() {
        tracing::info!(wait = ?left, "waiting for claims that may be on their way");
        ctx.sleep(left).await?;
    }
    // Nobody has been admitted since the closing, so the ends that are read now are behind every
    // claim.
    let read = barrier::wait(&ctx.stores, true, PATIENCE, &ctx.stop).await;
    ctx.must_go_on()?;
    Err(PassError::StaysClosed(match read {
        Ok(now) if now.is_reached => return Ok(()),
        Ok(now) => {
            let unread = now.unread_messages();
            format!("the consumer has {unread} messages to read first")
        }
        Err(BarrierError::Mysql(error)) => return Err(error.into()),
        Err(error @ BarrierError::Kafka(_)) => error.to_string(),
    }))
}
