//! The steps of a pass over our own coupons, and of the urgent lane.
//!
//! At most one process in the whole system holds the lock of a lane: *sweep* compares at open gates
//! what was asked for, *urgent* closes, projects and opens again, and *promote* gives out the slots
//! that are left while users wait or are owed one. Correctness does not depend on the locks: every
//! repair is idempotent, checks its precondition, and is fenced by the coupon's era.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::held_back::Asked;
use firstcome_shared::mysql::processes::{PassLock, Work};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::barrier::{self, BarrierError, ReadState};
use crate::context::{
    PassContext, PassError, PassRequest, PassSettings, RowsLeft, Step, Stores, millis,
};
use crate::jobs::{self, Notes};
use crate::ledger::{self, CouponLook};
use crate::reconcile::{self, Wanted};
use crate::record::failure;
use crate::report::{FailureCause, Run, Trigger};
use crate::{judged, owing, read, sealed_letters, urgent};

/// Has what every pass needs: the stores, the settings, and what earlier passes and jobs noted.
#[derive(Clone)]
pub struct Reconciler {
    pub stores: Stores,
    settings: Arc<PassSettings>,
    /// What the jobs have found, for the next run.
    pub notes: Notes,
    /// When the last sweep that keeps the pace of rows began.
    paced_at: Arc<Mutex<Option<Instant>>>,
}

/// Maximum wait for the lock of the urgent lane.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum wait for the consumer to read what was on the topic when a pass began. If it takes
/// longer, the pass issues claims that may have an unread message only if they are overdue.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A sweep that keeps the pace of rows inserts at most the rows of this time.
const PACED: Duration = Duration::from_secs(30);

/// Why a pass over a cluster was not complete.
const SERVER_AWAY: &str = "a server of the Redis Cluster does not answer as a master: its coupons \
    are closed, and were left out";

/// Margin in addition to the publishing deadline, before young claims are judged again.
const MARGIN: Duration = Duration::from_millis(250);

impl Reconciler {
    pub fn new(stores: Stores, settings: PassSettings) -> Self {
        Self {
            stores,
            settings: Arc::new(settings),
            notes: Notes::default(),
            paced_at: Arc::default(),
        }
    }

    /// Returns how many rows a sweep that nobody asked for may insert: those of the time since the
    /// last one, but of half a minute at most. It leaves the rest to the next sweep instead of
    /// sleeping.
    fn rows_at_pace(&self) -> RowsLeft {
        let Some(limit) = self.settings.rows_per_second else {
            return RowsLeft::default();
        };
        let now = Instant::now();
        let last = self.paced_at.lock().replace(now);
        let since = last.map_or(PACED, |last| PACED.min(now - last));
        let rows = u64::from(limit) * u64::try_from(since.as_millis()).unwrap_or(0) / 1_000;
        RowsLeft::new(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    /// Compares, at open gates, everything that the request asks for, and reopens what is closed or
    /// dirty under the lock of the urgent lane. If an operator asked for the pass, coupons with
    /// claims that were too young are compared once more when these are old enough.
    pub(crate) async fn sweep(
        &self,
        request: &PassRequest,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Step<()> {
        let mut looks: Vec<CouponLook> = Vec::new();
        let compared = self.coupons(request, &run.run_id, stop, &mut looks).await;
        if let Ok(ctx) = &compared {
            let missing = ctx.servers.are_in_part().then(|| SERVER_AWAY.to_owned());
            // Redis may have begun to refuse since the pass began.
            let hindered = looks.iter().find_map(|look| look.redis_error.clone());
            let errors = [
                (FailureCause::Kafka, &ctx.topic_error),
                (
                    FailureCause::Redis,
                    ctx.redis_error
                        .as_ref()
                        .map_or(&hindered, |_| &ctx.redis_error),
                ),
                (FailureCause::Redis, &missing),
            ];
            for (cause, error) in errors {
                if let Some(why) = error {
                    run.findings.push(failure(cause, why.clone()));
                    run.error = Some(why.clone());
                }
            }
            if request.covers_everything() {
                run.findings.extend(self.notes.all());
            }
        }
        // Do this even if the pass fails, because some of it was done.
        let looks = ledger::sum(looks, request.dry_run);
        let judged = judged::by_pass(request, &looks);
        for look in looks.into_values() {
            run.findings.extend(look.findings);
            run.drops.extend(look.drops);
        }
        let ctx = compared?;
        if request.deep {
            let which = (request.coupon, request.drop);
            jobs::count_sealed(&self.stores.db, which, run).await?;
            run.findings
                .extend(jobs::stray_uses(&self.stores.db, which).await?);
        }
        owing::report_owing(&ctx, (request.coupon, request.drop), run).await?;
        let (letters, found) =
            sealed_letters::judge_letters(&ctx, request.coupon, request.drop).await?;
        run.unlisted.examined.failed_claims += letters;
        run.findings.extend(found);
        run.partial = !request.covers_everything();
        if run.error.is_none() {
            run.judged = judged;
        }
        Ok(())
    }

    /// Compares the coupons, reopens those that need it, and adds what was found and done to
    /// `looks`, also if an error stops the pass.
    async fn coupons(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<PassContext> {
        let is_awaited = matches!(request.trigger, Trigger::Endpoint | Trigger::Cli);
        let rows_left = if is_awaited {
            RowsLeft::default()
        } else {
            self.rows_at_pace()
        };
        let mut which = request.coupon.map(|coupon| vec![coupon]);
        loop {
            let before = looks.len();
            let ctx = PassContext {
                rows_left: rows_left.clone(),
                ..self.context(request, run_id, CATCH_UP, stop).await?
            };
            let all = read::coupons(&ctx, which, request.drop).await?;
            let wanted = reconcile::coupons(&ctx, all, &HashMap::new(), looks).await?;
            if ctx.stores.redis.servers().await? != ctx.servers {
                return Err(PassError::Replaced);
            }
            if !wanted.is_empty() {
                self.urgent(wanted, &ctx.run_id, ctx.asked, &ctx.stop, looks)
                    .await?;
            }
            let young: BTreeSet<CouponId> = looks[before..]
                .iter()
                .filter(|look: &&CouponLook| look.in_flight > 0)
                .map(|look| look.coupon)
                .collect();
            let is_second = before > 0;
            if !is_awaited || young.is_empty() || is_second {
                return Ok(ctx);
            }
            which = Some(young.into_iter().collect());
            ctx.sleep(millis(ctx.publish_ms) + MARGIN).await?;
        }
    }

    /// Reopens coupons under the lock of the urgent lane: for a run, which may be confirmed, or for
    /// the watch. Adds what was found and done to `looks`, also if an error stops it.
    pub(crate) async fn urgent(
        &self,
        wanted: Wanted,
        run_id: &str,
        asked: Asked,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<()> {
        let db = &self.stores.db_settings;
        let Some(lock) = PassLock::take(db, Work::Reopening, PATIENCE, stop).await? else {
            looks.extend(wanted.into_keys().map(urgent::of_others));
            return Ok(());
        };
        let request = PassRequest {
            confirm: asked.confirm,
            shown_by: asked.shown_by,
            ..PassRequest::new(Trigger::Watch)
        };
        let ctx = self.context(&request, run_id, CATCH_UP, lock.working());
        let ended = match ctx.await {
            Ok(ctx) => urgent::reopen(&ctx, wanted, looks).await,
            Err(error) => Err(error),
        };
        lock.release().await;
        ended.map_err(|error| error.or_lock_lost(stop))
    }

    /// Compares coupons at their open gates, and gives the slots that are left, unless another
    /// process holds the lock of this lane. Claims with unread messages are in flight and do not
    /// matter for that, so it does not wait for the consumer. The sweep finds what needs closing.
    pub(crate) async fn promote(
        &self,
        coupons: Vec<CouponId>,
        run_id: &str,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<()> {
        let db = &self.stores.db_settings;
        let lock = PassLock::take(db, Work::Promoting, Duration::ZERO, stop).await?;
        let Some(lock) = lock else {
            return Ok(());
        };
        let request = PassRequest::new(Trigger::Watch);
        let ctx = self.context(&request, run_id, Duration::ZERO, lock.working());
        let ended = match ctx.await {
            Ok(ctx) => promote(&ctx, coupons, looks).await,
            Err(error) => Err(error),
        };
        lock.release().await;
        ended.map_err(|error| error.or_lock_lost(stop))
    }

    /// Reads the moment of a pass: Redis's clock, then the end offsets, then the positions. Waits
    /// for at most `patience` until the positions have reached the end offsets.
    async fn context(
        &self,
        request: &PassRequest,
        run_id: &str,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Step<PassContext> {
        let stores = self.stores.pinned().await?;
        let servers = stores.redis.servers().await?;
        let clocks = stores.redis.clocks().await?;
        let state = match barrier::wait(&stores, !request.dry_run, patience, stop).await {
            Ok(state) => Ok(state),
            Err(BarrierError::Mysql(error)) => return Err(error.into()),
            Err(why @ BarrierError::Kafka(_)) => Err(why.to_string()),
        };
        let refused = stores.redis.check_writes().await.err();
        let deadlines = barrier::deadlines(&stores.db, self.settings.deadlines).await?;
        Ok(PassContext {
            stores,
            settings: self.settings.clone(),
            run_id: run_id.to_owned(),
            dry_run: request.dry_run,
            deep: request.deep,
            asked: request.asked(),
            servers,
            clocks,
            is_read: state.as_ref().is_ok_and(|state| state.is_reached),
            is_unattended: state.as_ref().map_or(true, ReadState::is_unattended),
            rows_left: RowsLeft::default(),
            topic_error: state.err(),
            redis_error: refused.map(|error| PassError::Redis(error).to_string()),
            publish_ms: deadlines.publish_ms,
            in_flight_ms: deadlines.in_flight_ms,
            stop: stop.clone(),
        })
    }
}

async fn promote(
    ctx: &PassContext,
    coupons: Vec<CouponId>,
    looks: &mut Vec<CouponLook>,
) -> Step<()> {
    let all = read::coupons(ctx, Some(coupons), None).await?;
    reconcile::coupons(ctx, all, &HashMap::new(), looks).await?;
    Ok(())
}
