//! The life of a run: its lane's lock, its record, and the order of its steps.
//!
//! Two lanes, each with a lock that one process in the whole system holds: *sweep* compares
//! everything at open gates, *urgent* begins eras, projects and opens. A sweep takes the lock of the
//! urgent lane, too, for what it finds closed or dirty, so that a requested run ends exact.
//! Correctness does not depend on the locks: every repair is idempotent, checks its precondition,
//! and is fenced by the coupon's era.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::mysql::{Db, DbError, DbSettings};
use firstcome_shared::redis::gate::Gate;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::PassSettings;
use crate::barrier::{self, BarrierError};
use crate::context::{PassContext, PassError, PassRequest, millis};
use crate::jobs::{self, Notes};
use crate::passes::Current;
use crate::read;
use crate::record;
use crate::report::{FailureCause, Finding, FindingCase, Kind, Run, Status, Trigger};
use crate::stores::Stores;
use crate::sweep::{self, CouponDone};
use crate::{seal, urgent};

/// Returns a new ID for a run. IDs sort by time.
pub fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Coupons for the urgent lane, each with the gate at which it was found dirty, if it is open.
pub type Wanted = HashMap<CouponId, Option<Gate>>;

/// The results of the urgent lane.
pub type Reopened = Result<BTreeMap<CouponId, CouponDone>, PassError>;

/// Runs passes.
#[derive(Clone)]
pub struct Reconciler {
    pub stores: Stores,
    pub current: Arc<Current>,
    settings: Arc<PassSettings>,
    /// What jobs of the scheduler have found, for the next run.
    pub notes: Notes,
}

/// Maximum wait for the urgent lane.
const PATIENCE: Duration = Duration::from_secs(60);

/// Margin in addition to the publishing deadline, before young claims are judged again.
const MARGIN: Duration = Duration::from_millis(250);

impl Reconciler {
    pub fn new(stores: Stores, settings: PassSettings) -> Self {
        Self {
            stores,
            current: Arc::default(),
            settings: Arc::new(settings),
            notes: Notes::default(),
        }
    }

    /// Runs one sweep and records it. A failed pass also returns a [`Run`], with the status
    /// `failed`.
    pub async fn pass(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
    ) -> Result<Run, PassError> {
        let mut run = blank(request, run_id);
        let db = &self.stores.db_settings;
        let lane = match Lane::take(db, Work::Pass, request.patience, stop).await {
            Ok(Some(lane)) => lane,
            Ok(None) => return Err(PassError::Busy),
            Err(error) => {
                fail(&mut run, &error.into());
                return Ok(run);
            }
        };
        let ended = match record::begin(&self.stores.db, &run, request).await {
            Ok(()) => {
                self.current.begin(run_id);
                crash_point(Point::RunBegun);
                Box::pin(self.sweep(request, &mut run, &lane.working)).await
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = lane.checked(ended) {
            fail(&mut run, &error);
        }
        finish(&self.stores.db, &mut run, request).await;
        lane.lock.release().await;
        Ok(run)
    }

    /// Compares everything that the request asks for at open gates, and waits for the urgent lane
    /// to reopen what is closed or dirty. If somebody waits for the result, claims that were too
    /// young are compared again when they are old enough.
    async fn sweep(
        &self,
        request: &PassRequest,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), PassError> {
        let (mut ctx, error) = self.context(request, &run.run_id, stop).await?;
        let unread = error.clone().map(|why| failure(FailureCause::Kafka, why));
        run.findings.extend(unread);
        run.error = error;
        if request.deep {
            let which = (request.coupon, request.drop);
            jobs::count_sealed(&self.stores.db, which, run).await?;
        }
        if request.covers_everything() {
            run.findings.extend(self.notes.all());
        }
        let is_awaited = matches!(request.trigger, Trigger::Endpoint | Trigger::Cli);
        let mut catalogue = self.catalogue(request).await?;
        let mut done = BTreeMap::new();
        for is_last in [!is_awaited, true] {
            let all = read::coupons(&ctx, catalogue, request.drop).await?;
            let mut swept = sweep::coupons(&ctx, all).await?;
            self.reopen(&ctx, &mut swept).await?;
            let young = swept.iter().filter(|(_, it)| it.in_flight > 0);
            let young: Vec<CouponId> = young.map(|(id, _)| *id).collect();
            for (id, now) in swept {
                sweep::add(&mut done, id, now, request.dry_run);
            }
            if is_last || young.is_empty() {
                break;
            }
            ctx.sleep(millis(ctx.publish_ms) + MARGIN).await?;
            (ctx, _) = self.context(request, &run.run_id, stop).await?;
            catalogue = ctx.stores.db.coupons_by_id(young).await?;
        }
        for it in done.into_values() {
            run.findings.extend(it.findings);
            run.drops.extend(it.drops);
        }
        let (letters, found) = seal::judge_letters(&ctx, request.coupon, request.drop).await?;
        run.unlisted.examined.failed_claims += letters;
        run.findings.extend(found);
        run.partial = !request.covers_everything();
        Ok(())
    }

    async fn catalogue(
        &self,
        request: &PassRequest,
    ) -> Result<Vec<(Coupon, Vec<Drop>)>, PassError> {
        let db = self.stores.db.of_primary();
        Ok(match request.coupon {
            Some(coupon) => db.coupons_by_id(vec![coupon]).await?,
            None => db.catalogue().await?,
        })
    }

    /// Has the urgent lane reopen what a sweep found closed or dirty, and adds its results.
    async fn reopen(
        &self,
        ctx: &PassContext,
        swept: &mut BTreeMap<CouponId, CouponDone>,
    ) -> Result<(), PassError> {
        let urgent = swept.iter_mut().map(|(id, it)| (*id, it.urgent.take()));
        let wanted: Wanted = urgent.filter(|(_, gate)| gate.is_some()).collect();
        if ctx.stores.redis.servers().await? != ctx.servers {
            return Err(PassError::Replaced);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let asked_by = Some((ctx.run_id.clone(), ctx.confirm));
        let reopened = self.urgent(wanted, asked_by, &ctx.stop).await?;
        for (id, done) in reopened {
            sweep::add(swept, id, done, false);
        }
        Ok(())
    }

    /// Reopens coupons under the lock of the urgent lane: for a run, which may be confirmed, or for
    /// the watch.
    pub async fn urgent(
        &self,
        wanted: Wanted,
        asked_by: Option<(String, bool)>,
        stop: &CancellationToken,
    ) -> Reopened {
        let db = &self.stores.db_settings;
        let Some(lane) = Lane::take(db, Work::Reopening, PATIENCE, stop).await? else {
            let others = |id| (id, urgent::of_others(id));
            return Ok(wanted.into_keys().map(others).collect());
        };
        let (run_id, confirm) = asked_by.unwrap_or_else(|| (new_run_id(), false));
        let request = PassRequest {
            confirm,
            ..PassRequest::new(Trigger::Startup)
        };
        let ended = match self.context(&request, &run_id, &lane.working).await {
            Ok((ctx, _)) => urgent::reopen(&ctx, wanted).await,
            Err(error) => Err(error),
        };
        let ended = lane.checked(ended);
        lane.lock.release().await;
        ended
    }

    /// Reads the moment of a pass: Redis's clock, then the end offsets, then the positions. Also
    /// returns why the topic cannot be read, if it cannot.
    async fn context(
        &self,
        request: &PassRequest,
        run_id: &str,
        stop: &CancellationToken,
    ) -> Result<(PassContext, Option<String>), PassError> {
        let stores = self.stores.pinned().await?;
        let servers = stores.redis.servers().await?;
        let clock_ms = stores.redis.time_ms().await?;
        let (is_read, error) = match barrier::read_state(&stores, !request.dry_run).await {
            Ok(state) => (state.is_reached, None),
            Err(BarrierError::Mysql(error)) => return Err(error.into()),
            Err(why @ BarrierError::Kafka(_)) => (false, Some(why.to_string())),
        };
        let deadlines = barrier::deadlines(&stores.db, &self.settings).await?;
        let ctx = PassContext {
            stores,
            settings: self.settings.clone(),
            run_id: run_id.to_owned(),
            dry_run: request.dry_run,
            deep: request.deep,
            confirm: request.confirm,
            servers,
            clock_ms,
            is_read,
            publish_ms: deadlines.publish_ms,
            in_flight_ms: deadlines.in_flight_ms,
            stop: stop.clone(),
        };
        Ok((ctx, error))
    }
}

/// Ends a run, and records it.
pub(crate) async fn finish(db: &Db, run: &mut Run, request: &PassRequest) {
    run.finished_at = Some(Utc::now());
    run.status = if run.error.is_some() {
        Status::Failed
    } else {
        run.final_status()
    };
    crash_point(Point::RunDone);
    record::finish(db, run, request.confirm, false).await;
    crash_point(Point::RunRecorded);
    for name in request.counts_for {
        if run.status == Status::Failed {
            break;
        }
        if let Err(error) = record::remember(db, name, Utc::now()).await {
            tracing::warn!(%error, name, "that it ran could not be noted");
        }
    }
}

/// The lock of a lane, and the token by which its work ends between two repairs: the process stops,
/// or the lock is lost.
pub(crate) struct Lane {
    pub(crate) lock: PassLock,
    pub(crate) working: CancellationToken,
    /// Ends the token with the lane.
    _end: DropGuard,
}

impl Lane {
    pub(crate) async fn take(
        db: &DbSettings,
        work: Work,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, DbError> {
        let lock = tokio::select! {
            lock = PassLock::take(db, work, patience) => lock?,
            () = stop.cancelled() => None,
        };
        Ok(lock.map(|lock| {
            let working = stop.child_token();
            let (cancel, lost) = (working.clone(), lock.lost().clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = lost.cancelled() => cancel.cancel(),
                    () = cancel.cancelled() => {}
                }
            });
            Self {
                _end: working.clone().drop_guard(),
                lock,
                working,
            }
        }))
    }

    /// Tells work that was stopped by the loss of the lock from work that the process stopped.
    pub(crate) fn checked<T>(&self, ended: Result<T, PassError>) -> Result<T, PassError> {
        match ended {
            Err(PassError::Stopped) if self.lock.lost().is_cancelled() => Err(PassError::LockLost),
            other => other,
        }
    }
}

/// Creates the run of a pass that begins now.
pub fn blank(request: &PassRequest, run_id: &str) -> Run {
    Run {
        asked_by: request.by.as_ref().and_then(|(by, _)| by.name.clone()),
        dry_run: request.dry_run,
        deep: request.deep,
        partial: true,
        ..Run::begun(run_id, request.trigger, Utc::now())
    }
}

/// Creates the run of an attempt that cannot begin, because a store does not answer.
pub fn cannot_begin(cause: FailureCause, reason: String) -> Run {
    let mut run = blank(&PassRequest::new(Trigger::Startup), &new_run_id());
    end_with(&mut run, cause, reason);
    run
}

/// Creates the run of the urgent lane from its results.
pub fn reopening(done: Reopened) -> Run {
    let mut run = blank(&PassRequest::new(Trigger::Startup), &new_run_id());
    match done {
        Ok(done) => {
            for it in done.into_values() {
                run.findings.extend(it.findings);
                run.drops.extend(it.drops);
            }
            run.finished_at = Some(Utc::now());
            run.status = run.final_status();
        }
        Err(error) => fail(&mut run, &error),
    }
    run
}

/// Adds an error to a run.
pub fn fail(run: &mut Run, error: &PassError) {
    end_with(run, error.cause(), error.to_string());
    // The run that reopens the coupons reports the loss.
    run.stopped = matches!(error, PassError::Stopped | PassError::Replaced);
    tracing::error!(run_id = run.run_id, %error, "the pass failed");
}

fn end_with(run: &mut Run, cause: FailureCause, reason: String) {
    run.findings.push(failure(cause, reason.clone()));
    run.error = Some(reason);
    run.status = Status::Failed;
    run.finished_at = Some(Utc::now());
    run.partial = true;
}

fn failure(cause: FailureCause, error: String) -> Finding {
    Finding {
        case: FindingCase::RunFailed(cause),
        ..Finding::report(Kind::Stalled, error)
    }
}
