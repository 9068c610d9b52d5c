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
use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::kafka::Logs;
use firstcome_shared::mysql::{Db, DbError, json};
use firstcome_shared::redis::gate::{Fence, Gate};
use firstcome_shared::redis::servers::Servers;
use firstcome_shared::redis::{Redis, RedisError};
use firstcome_shared::schema::coupons;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::barrier::{self, BarrierError, ReadState};
use crate::context::{PassContext, PassError, Step, millis, sleep};
use crate::ledger::CouponLook;
use crate::read::CouponSeen;
use crate::reconcile::{Wanted, left_closed};

/// Maximum number of coupons that are closed in Redis at the same time.
const AT_ONCE: usize = 200;

/// Maximum number of eras that one transaction raises.
const ADOPTED_AT_ONCE: usize = 500;

/// Maximum number of transactions that wait for locked coupons at the same time.
const WAITING_AT_ONCE: usize = 8;

/// Whether the coupon's gate is open on its server, in MySQL's era.
pub(crate) fn is_open(ctx: &PassContext, seen: &CouponSeen) -> bool {
    let server = ctx.servers.holding(seen.coupon.id);
    seen.state.gate.is_open(server, seen.coupon.era)
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
        raise_eras(&ctx.stores.db, vec![(id, era)], true).await?;
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
    /// What was read before an earlier attempt judged the coupon and left it closed.
    pub read: Option<Arc<Logs>>,
}

/// The gates of coupons that stay closed for another reason than the wait for claims, and what the
/// consumer had read: while a gate is still this one, nobody has been admitted, and while MySQL has
/// not gone back, the next attempt need not wait again. Otherwise each attempt would suspend the
/// pace of rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct JudgedGates(Arc<Mutex<HashMap<CouponId, JudgedGate>>>);

#[derive(Debug)]
struct JudgedGate {
    gate: Gate,
    read: Arc<Logs>,
    closed_at: Instant,
}

/// A gate is forgotten after this time: another process may have opened the coupon.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

impl JudgedGates {
    fn read_at(&self, coupon: CouponId, gate: &Gate) -> Option<Arc<Logs>> {
        let gates = self.0.lock();
        let judged = gates.get(&coupon).filter(|judged| judged.gate == *gate);
        judged.map(|judged| Arc::clone(&judged.read))
    }

    /// Notes that these coupons may be judged, and what the consumer had read.
    pub(crate) fn note(&self, closed: &HashMap<CouponId, Closed>, read: Logs) {
        let read = Arc::new(read);
        let mut gates = self.0.lock();
        gates.retain(|_, judged| judged.closed_at.elapsed() < FORGOTTEN_AFTER);
        gates.extend(closed.iter().map(|(id, closed)| {
            let judged = JudgedGate {
                gate: Gate::closed(&closed.fence),
                read: Arc::clone(&read),
                closed_at: closed.since,
            };
            (*id, judged)
        }));
    }

    pub(crate) fn forget(&self, coupon: CouponId) {
        self.0.lock().remove(&coupon);
    }
}

/// Closes coupons: begins the next era of each whose gate is still the one at which it was found.
/// Leaves out coupons whose gate has changed, which another process works on, and those that cannot
/// begin an era now, for example because their row is locked: these stay closed, and are reported.
pub(crate) async fn close(
    ctx: &PassContext,
    wanted: &Wanted,
    looks: &mut Vec<CouponLook>,
) -> Step<HashMap<CouponId, Closed>> {
    let db = &ctx.stores.db;
    let eras = eras(db, wanted.keys().copied().collect()).await?;
    let begun = begin_eras(ctx, wanted, &eras, looks).await?;
    let known = adopt_eras(ctx, &begun, looks).await?;
    let mut closed = HashMap::new();
    for Begun { id, fence, since } in begun {
        // Only raising MySQL's era stops earlier writers of rows. If MySQL has this era or a later
        // one, the next look begins another.
        if known.get(&id).is_some_and(|before| *before < fence.era()) {
            let gate = &wanted[&id];
            let server = ctx.servers.holding(id);
            let era = gate.era().max(eras.get(&id).copied());
            let now_closed = Closed {
                fence,
                since,
                was_open: era.is_some_and(|era| gate.is_open(server, era)),
                read: ctx.judged_gates.read_at(id, gate),
            };
            closed.insert(id, now_closed);
        }
    }
    Ok(closed)
}

/// An era that has begun in Redis, and when nobody was admitted any more.
struct Begun {
    id: CouponId,
    fence: Fence,
    since: Instant,
}

/// Closes coupons in Redis. Leaves out those whose gate has changed.
async fn begin_eras(
    ctx: &PassContext,
    wanted: &Wanted,
    eras: &HashMap<CouponId, u64>,
    looks: &mut Vec<CouponLook>,
) -> Step<Vec<Begun>> {
    let closing = stream::iter(wanted.clone()).map(async |(id, gate)| {
        let Some(era) = eras.get(&id) else {
            return Step::Ok(Ok(None));
        };
        let redis = &ctx.stores.redis;
        let begun = close_in_redis(redis, &ctx.servers, id, &gate, *era).await;
        let since = Instant::now();
        crash_point(Point::EraBegun);
        match begun {
            Ok(fence) => Ok(Ok(fence.map(|fence| Begun { id, fence, since }))),
            Err(error) => {
                let why = ctx.about_coupon(id, error.into()).await?;
                Ok(Err(left_closed(ctx, id, &why)))
            }
        }
    });
    let mut closing = std::pin::pin!(closing.buffer_unordered(AT_ONCE));
    let mut all = Vec::new();
    while let Some(begun) = closing.try_next().await? {
        match begun {
            Ok(begun) => all.extend(begun),
            Err(look) => looks.push(look),
        }
    }
    Ok(all)
}

async fn eras(db: &Db, coupons: Vec<CouponId>) -> Result<HashMap<CouponId, u64>, DbError> {
    let eras = coupons::table
        .filter(coupons::id.eq_any(coupons))
        .select((coupons::id, coupons::era));
    let eras: Vec<(CouponId, u64)> = db.rows("read eras", eras).await?;
    Ok(eras.into_iter().collect())
}

/// Raises the eras of coupons in MySQL, those of many coupons in one transaction. Returns MySQL's
/// eras before, of the coupons that exist and whose rows were not locked for long.
async fn adopt_eras(
    ctx: &PassContext,
    begun: &[Begun],
    looks: &mut Vec<CouponLook>,
) -> Step<HashMap<CouponId, u64>> {
    let db = &ctx.stores.db;
    let mut known = HashMap::new();
    let era = |begun: &Begun| (begun.id, begun.fence.era());
    for some in begun.chunks(ADOPTED_AT_ONCE) {
        let raise = raise_eras(db, some.iter().map(era).collect(), false);
        match raise.await.map_err(PassError::from) {
            Ok(before) => known.extend(before),
            Err(error) => {
                let why = error.about_data()?;
                tracing::debug!(why, "eras are raised one by one");
            }
        }
    }
    // A transaction that writes rows of the coupon locks it for a moment.
    let locked: Vec<(CouponId, u64)> = begun
        .iter()
        .filter(|begun| !known.contains_key(&begun.id))
        .map(era)
        .collect();
    let waiting = stream::iter(locked).map(async |(id, era)| {
        let raise = raise_eras(db, vec![(id, era)], true);
        match raise.await.map_err(PassError::from) {
            Ok(before) => Step::Ok(Ok(before)),
            Err(error) => Ok(Err(left_closed(ctx, id, &error.about_data()?))),
        }
    });
    let mut waiting = std::pin::pin!(waiting.buffer_unordered(WAITING_AT_ONCE));
    while let Some(adopted) = waiting.try_next().await? {
        match adopted {
            Ok(before) => known.extend(before),
            Err(look) => looks.push(look),
        }
    }
    Ok(known)
}

/// Raises the eras of coupons in MySQL to these, where they are lower. Returns MySQL's eras before,
/// of the coupons that exist. Waits for transactions that insert rows in an earlier era, or skips
/// coupons whose rows they lock.
async fn raise_eras(
    db: &Db,
    eras: Vec<(CouponId, u64)>,
    waits: bool,
) -> Result<Vec<(CouponId, u64)>, DbError> {
    let ids: Vec<CouponId> = eras.iter().map(|(id, _)| *id).collect();
    db.transaction("adopt eras", async move |conn| {
        let rows = coupons::table
            .filter(coupons::id.eq_any(ids))
            .select((coupons::id, coupons::era))
            .for_update();
        let known: Vec<(CouponId, u64)> = if waits {
            rows.load(conn).await?
        } else {
            rows.skip_locked().load(conn).await?
        };
        let before: HashMap<CouponId, u64> = known.iter().copied().collect();
        let behind = eras
            .iter()
            .filter(|(id, era)| before.get(id).is_some_and(|at| at < era));
        let lower: Vec<_> = behind.copied().collect();
        if !lower.is_empty() {
            // Without the index, MySQL reads and locks a small table as a whole.
            sql_query(
                "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$[0]', \
                     era BIGINT UNSIGNED PATH '$[1]')) j \
                 STRAIGHT_JOIN coupons c FORCE INDEX (PRIMARY) ON c.id = j.id \
                 SET c.era = j.era",
            )
            .bind::<Text, _>(json(&lower))
            .execute(conn)
            .await?;
        }
        Ok(known)
    })
    .await
}

/// Closes a coupon without MySQL, if its gate is still `seen`. Returns `None` if the gate or the
/// server has changed, or if no server is known that holds the coupon.
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
    let next = seen.era().unwrap_or(0).max(era).saturating_add(1);
    redis.begin_era_on(coupon, server, seen, next).await
}

/// Margin in addition to the deadlines, for the inaccuracy of timers.
const MARGIN: Duration = Duration::from_millis(250);

/// Maximum wait for the consumer in one run of the urgent lane. The next run begins another era.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time in which a consumer without a backlog reads what has just been published.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Interval at which the pace of rows is suspended again.
const SUSPEND_EVERY: Duration = Duration::from_secs(1);

/// Suspends the pace of rows until this future is dropped.
async fn suspend_pace(db: &Db) -> Infallible {
    loop {
        if let Err(error) = db.suspend_pace().await {
            tracing::debug!(%error, "the pace of rows is not suspended");
        }
        tokio::time::sleep(SUSPEND_EVERY).await;
    }
}

/// Waits until no claim from before the closing can be in flight, then until the consumer has read
/// the topic. Does not wait if an earlier attempt has, unless MySQL went back since. Returns what
/// the consumer has read.
///
/// # Errors
/// [`PassError::StaysClosed`] if the coupons cannot be judged yet.
pub(crate) async fn wait(ctx: &PassContext, closed: &HashMap<CouponId, Closed>) -> Step<Logs> {
    let PassContext { stores, .. } = ctx;
    if let Some(noted) = all_noted(closed) {
        let now = barrier::read_state(&stores.db, &stores.topic).await;
        if let Ok(now) = now
            && noted.iter().all(|read| now.has_read(read))
        {
            return Ok(now.read());
        }
    }
    let closed_at = closed
        .values()
        .map(|closed| closed.since)
        .max()
        .unwrap_or_else(Instant::now);
    // Read after the coupons were closed: an API may just have announced longer ones.
    let deadlines = barrier::deadlines(&stores.db, ctx.settings.deadlines).await?;
    let left = (millis(deadlines.in_flight_ms) + MARGIN).saturating_sub(closed_at.elapsed());
    if !left.is_zero() {
        tracing::info!(wait = ?left, "waiting for claims that may be on their way");
        sleep(left, &ctx.stop).await?;
    }
    // Nobody has been admitted since the closing, so the ends that are read now are behind every
    // claim.
    let read = wait_for_barrier(ctx).await;
    ctx.must_go_on()?;
    Err(PassError::StaysClosed(match read {
        Ok(now) if now.is_reached => return Ok(now.read()),
        Ok(now) => {
            let unread = now.unread_messages();
            format!("the consumer has {unread} messages to read first")
        }
        Err(BarrierError::Mysql(error)) => return Err(error.into()),
        Err(error @ BarrierError::Kafka(_)) => error.to_string(),
    }))
}

/// Returns what was read before the earlier attempts, if there was one at each of these coupons.
fn all_noted(closed: &HashMap<CouponId, Closed>) -> Option<Vec<&Logs>> {
    closed
        .values()
        .map(|closed| closed.read.as_deref())
        .collect()
}

/// Waits until the consumer has read the topic. If that takes longer than a moment, the pace of rows
/// is suspended: with it, the backlog of one coupon could keep all closed coupons waiting.
async fn wait_for_barrier(ctx: &PassContext) -> Result<ReadState, BarrierError> {
    let PassContext { stores, stop, .. } = ctx;
    let at_once = barrier::wait(stores, CATCH_UP, stop).await?;
    if at_once.is_reached {
        return Ok(at_once);
    }
    tokio::select! {
        read = barrier::wait(stores, PATIENCE, stop) => read,
        never = suspend_pace(&stores.db) => match never {},
    }
}
