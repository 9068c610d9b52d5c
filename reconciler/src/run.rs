//! The steps of a pass over our own coupons, and of the urgent lane.
//!
//! At most one process in the whole system holds the lock of a lane: *sweep* compares at open gates
//! what was asked for, and *urgent* closes, projects and opens again. *promote* gives out the slots
//! that are left while users wait or are owed one, without a lock. Correctness does not depend on
//! the locks: every repair is idempotent, checks its precondition, and is fenced by the coupon's
//! era.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use firstcome_shared::columns::now;
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::schema::reconciler_state;
use tokio_util::sync::CancellationToken;

use crate::barrier::{self, BarrierError, ReadState};
use crate::context::{
    Confirmation, PassContext, PassError, PassRequest, PassSettings, RowsLeft, Step, Stores, millis,
};
use crate::gate::JudgedGates;
use crate::jobs::{self, Notes};
use crate::ledger::{self, CouponLook};
use crate::promote::DropWithSlots;
use crate::reconcile::{self, Wanted};
use crate::record::failure;
use crate::report::{FailureCause, Run, Trigger};
use crate::{judged, owing, promote, read, sealed_letters, urgent};

/// Has what every pass needs: the stores, the settings, and what earlier passes and jobs noted.
#[derive(Clone)]
pub struct Reconciler {
    pub stores: Stores,
    settings: Arc<PassSettings>,
    /// What the jobs have found, for the next run.
    pub notes: Notes,
    judged_gates: JudgedGates,
}

/// Maximum wait for the lock of the urgent lane.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum wait for the consumer to read what was on the topic when a pass began. If it takes
/// longer, the pass issues claims that may have an unread message only if they are overdue.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A sweep that keeps the pace of rows inserts at most the rows of this time.
const PACED: Duration = Duration::from_secs(30);

/// Name in `reconciler_state` of the time at which the last such sweep began.
const PACED_SWEEP: &str = "rows_paced";

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
            judged_gates: JudgedGates::default(),
        }
    }

    /// Returns how many rows a sweep that nobody asked for may insert: those of the time since the
    /// last one of any process, but of half a minute at most. It leaves the rest to the next sweep
    /// instead of sleeping.
    async fn rows_at_pace(&self) -> Result<RowsLeft, DbError> {
        let Some(limit) = self.settings.rows_per_second else {
            return Ok(RowsLeft::default());
        };
        let db = &self.stores.db;
        let since = reconciler_state::table
            .find(PACED_SWEEP)
            .select((reconciler_state::updated_at, now()));
        let since: Option<(DateTime<Utc>, DateTime<Utc>)> =
            db.row("time of the last paced sweep", since).await?;
        db.set_state(PACED_SWEEP, String::new()).await?;
        let since = since.map_or(PACED, |(last, now)| {
            (now - last).to_std().unwrap_or_default().min(PACED)
        });
        let rows = u64::from(limit) * u64::try_from(since.as_millis()).unwrap_or(0) / 1_000;
        Ok(RowsLeft::new(usize::try_from(rows).unwrap_or(usize::MAX)))
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
                (FailureCause::Redis, &hindered),
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
            self.rows_at_pace().await?
        };
        let mut which = request.coupon.map(|coupon| vec![coupon]);
        let mut is_second = false;
        loop {
            let before = looks.len();
            let ctx = PassContext {
                rows_left: rows_left.clone(),
                ..self.context(request, run_id, CATCH_UP, stop).await?
            };
            let all = read::catalogue(&ctx, which, request.drop).await?;
            let wanted = reconcile::coupons(&ctx, all, &HashMap::new(), looks).await?;
            if ctx.stores.redis.servers().await? != ctx.servers {
                return Err(PassError::Replaced);
            }
            let mut again: BTreeSet<CouponId> = BTreeSet::new();
            if !wanted.is_empty() {
                let ids: Vec<CouponId> = wanted.keys().copied().collect();
                let confirms = ctx.confirms.clone();
                let reopening = self.urgent(wanted, &ctx.run_id, confirms, &ctx.stop, looks);
                let others = reopening.await?;
                if is_second {
                    looks.extend(others.into_iter().map(urgent::of_others));
                } else {
                    // Another process has changed their gates, and may have opened them again.
                    again.extend(others);
                    let left_closed: BTreeSet<CouponId> = looks[before..]
                        .iter()
                        .filter(|look| urgent::pause_after(look).is_some())
                        .map(|look| look.coupon)
                        .collect();
                    let opened = ids.iter().filter(|id| !left_closed.contains(id));
                    again.extend(opened.filter(|_| is_awaited));
                }
            }
            let young: BTreeSet<CouponId> = looks[before..]
                .iter()
                .filter(|look| is_awaited && look.in_flight > 0)
                .map(|look| look.coupon)
                .collect();
            let has_young = !young.is_empty();
            again.extend(young);
            if is_second || again.is_empty() {
                return Ok(ctx);
            }
            is_second = true;
            which = Some(again.into_iter().collect());
            if has_young {
                ctx.sleep(millis(ctx.publish_ms) + MARGIN).await?;
            }
        }
    }

    /// Reopens coupons under the lock of the urgent lane: for a run, which may be confirmed, or for
    /// the watch. Adds what was found and done to `looks`, also if an error stops it. Returns the
    /// coupons whose gates another process has changed.
    pub(crate) async fn urgent(
        &self,
        wanted: Wanted,
        run_id: &str,
        confirms: Confirmation,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<Vec<CouponId>> {
        let db = &self.stores.db_settings;
        let Some(lock) = PassLock::take(db, Work::Reopening, PATIENCE, stop).await? else {
            return Ok(wanted.into_keys().collect());
        };
        let request = PassRequest {
            confirms,
            ..PassRequest::new(Trigger::Watch)
        };
        // Nothing is judged before the gate is closed and the consumer has read the topic.
        let ctx = self.context_without_topic(&request, run_id, lock.working());
        let ended = match ctx.await {
            Ok(ctx) => urgent::reopen(&ctx, wanted, looks).await,
            Err(error) => Err(error),
        };
        lock.release().await;
        ended.map_err(|error| error.or_lock_lost(stop))
    }

    /// Gives the slots that are left in these drops to users who wait.
    pub(crate) async fn promote(
        &self,
        drops: Vec<DropWithSlots>,
        run_id: &str,
        stop: &CancellationToken,
        looks: &mut Vec<CouponLook>,
    ) -> Step<()> {
        let request = PassRequest::new(Trigger::Watch);
        let ctx = self.context_without_topic(&request, run_id, stop).await?;
        promote::promote(&ctx, drops, looks).await
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
        let ctx = self.context_without_topic(request, run_id, stop).await?;
        let state = match barrier::wait(&ctx.stores, patience, stop).await {
            Ok(state) => Ok(state),
            Err(BarrierError::Mysql(error)) => return Err(error.into()),
            Err(why @ BarrierError::Kafka(_)) => Err(why.to_string()),
        };
        let deadlines = barrier::deadlines(&ctx.stores.db, self.settings.deadlines).await?;
        Ok(PassContext {
            is_read: state.as_ref().is_ok_and(|state| state.is_reached),
            is_unattended: state.as_ref().map_or(true, ReadState::is_unattended),
            topic_error: state.err(),
            publish_ms: deadlines.publish_ms,
            in_flight_ms: deadlines.in_flight_ms,
            ..ctx
        })
    }

    /// Reads the servers and Redis's clock. Claims may be in flight, and have unread messages.
    async fn context_without_topic(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
    ) -> Step<PassContext> {
        let stores = self.stores.pinned().await?;
        let servers = stores.redis.servers().await?;
        let clocks = stores.redis.clocks().await?;
        Ok(PassContext {
            stores,
            settings: self.settings.clone(),
            run_id: run_id.to_owned(),
            dry_run: request.dry_run,
            deep: request.deep,
            confirms: request.confirms.clone(),
            servers,
            clocks,
            is_read: false,
            is_unattended: false,
            rows_left: RowsLeft::default(),
            judged_gates: self.judged_gates.clone(),
            topic_error: None,
            publish_ms: 0,
            in_flight_ms: 0,
            stop: stop.clone(),
        })
    }
}
