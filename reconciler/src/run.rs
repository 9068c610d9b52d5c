//! The life of a run: its lane's lock, its record, and the order of its steps.
//!
//! Two lanes, each with a lock that one process in the whole system holds: *sweep* compares
//! everything at open gates, *urgent* begins eras, projects and opens. A sweep wakes urgent for
//! what it finds closed or dirty, and waits for it, so that a requested run ends exact. Without a
//! daemon, `once` takes both locks in turn. Correctness does not depend on the locks: every repair
//! is idempotent, checks its precondition, and is fenced by the coupon's era.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::processes::{PassLock, Work};
use firstcome_shared::mysql::{Db, DbError, DbSettings};
use firstcome_shared::redis::gate::Gate;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::PassSettings;
use crate::barrier::{self, BarrierError};
use crate::context::{PassContext, PassError, PassRequest};
use crate::jobs::{self, Notes};
use crate::passes::Progress;
use crate::read;
use crate::record;
use crate::report::{
    ActionKind, FailureCause, Finding, FindingCase, Kind, Outcome, Run, Status, Trigger,
};
use crate::stores::Stores;
use crate::sweep::{self, CouponDone};
use crate::{seal, urgent};

/// Returns a new ID for a run. IDs sort by time.
pub fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Coupons for the urgent lane, each with the gate at which it was found dirty, if it is open.
pub type Wanted = HashMap<CouponId, Option<Gate>>;

/// The results of the urgent lane. Coupons that another process works on are left out.
pub type Reopened = Result<HashMap<CouponId, CouponDone>, PassError>;

/// Work for the urgent lane of a daemon.
pub struct UrgentJob {
    pub wanted: Wanted,
    /// The run that asks, and whether an operator confirmed its plan. `None` for the watch.
    pub asked_by: Option<(String, bool)>,
    pub answer: oneshot::Sender<Reopened>,
}

/// Where the urgent lane runs.
#[derive(Clone)]
pub enum UrgentLane {
    /// In this call: the process runs no daemon.
    Here,
    Daemon(mpsc::Sender<UrgentJob>),
}

/// Runs passes.
#[derive(Clone)]
pub struct Reconciler {
    pub stores: Stores,
    pub progress: Arc<Progress>,
    settings: Arc<PassSettings>,
    lane: UrgentLane,
    /// What jobs of the scheduler have found, for the next run.
    pub notes: Notes,
}

/// Maximum wait of `once`, or of a lane's job, for the urgent lane of another process.
const PATIENCE: Duration = Duration::from_secs(30);

/// Margin in addition to the publishing deadline, before young claims are judged again.
const MARGIN: Duration = Duration::from_millis(250);

impl Reconciler {
    pub fn new(stores: Stores, settings: PassSettings, lane: UrgentLane) -> Self {
        Self {
            stores,
            progress: Arc::default(),
            settings: Arc::new(settings),
            lane,
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
                self.progress.begin(run_id);
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

    /// Compares everything that the request asks for, and waits for the urgent lane.
    async fn sweep(
        &self,
        request: &PassRequest,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), PassError> {
        let (ctx, error) = self.context(request, &run.run_id, stop).await?;
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
        let all = read::coupons(&ctx, self.catalogue(request).await?, request.drop).await?;
        let mut done = self.reconcile(&ctx, all).await?;
        let young: Vec<CouponId> = done
            .iter()
            .filter(|(_, it)| it.in_flight > 0)
            .map(|(id, _)| *id)
            .collect();
        let is_awaited = matches!(request.trigger, Trigger::Endpoint | Trigger::Cli);
        if is_awaited && !young.is_empty() {
            // Somebody waits for the result: judge these again when they are old enough.
            let deadline = Duration::from_millis(u64::try_from(ctx.publish_ms).unwrap_or_default());
            ctx.sleep(deadline + MARGIN).await?;
            let (ctx, ..) = self.context(request, &run.run_id, stop).await?;
            let all = self.stores.db.coupons_by_id(young).await?;
            let all = read::coupons(&ctx, all, request.drop).await?;
            for (id, later) in self.reconcile(&ctx, all).await? {
                let known = done.entry(id).or_default();
                // A dry run finds the same again.
                if request.dry_run {
                    *known = later;
                } else {
                    known.extend(later);
                }
            }
        }
        for (_, it) in done {
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

    /// Reconciles coupons at open gates, then those that are closed or dirty in the urgent lane,
    /// and once more those that another process reopened meanwhile.
    async fn reconcile(
        &self,
        ctx: &PassContext,
        all: Vec<read::CouponSeen>,
    ) -> Result<BTreeMap<CouponId, CouponDone>, PassError> {
        let mut results: BTreeMap<CouponId, CouponDone> = BTreeMap::new();
        let mut wanted = Wanted::new();
        for (id, mut done) in sweep::coupons(ctx, all).await? {
            wanted.extend(done.urgent.take().map(|gate| (id, Some(gate))));
            results.insert(id, done);
        }
        if ctx.stores.redis.servers().await? != ctx.servers {
            return Err(PassError::Replaced);
        }
        if wanted.is_empty() {
            return Ok(results);
        }
        let asked: HashSet<CouponId> = wanted.keys().copied().collect();
        let reopened = self.in_urgent_lane(ctx, wanted).await?;
        let left: Vec<CouponId> = asked
            .iter()
            .filter(|id| !reopened.contains_key(id))
            .copied()
            .collect();
        for (id, done) in reopened {
            results.entry(id).or_default().extend(done);
        }
        if !left.is_empty() {
            let all = self.stores.db.coupons_by_id(left).await?;
            let all = read::coupons(ctx, all, None).await?;
            for (id, mut done) in sweep::coupons(ctx, all).await? {
                if done.urgent.take().is_some() {
                    let why = "another process works on this coupon; the next pass looks again";
                    let (action, skipped) = (ActionKind::Open, Outcome::Skipped);
                    let found = urgent::of_coupon(id, action, skipped, why);
                    done.findings.push(found);
                }
                results.entry(id).or_default().extend(done);
            }
        }
        Ok(results)
    }

    async fn in_urgent_lane(&self, ctx: &PassContext, wanted: Wanted) -> Reopened {
        let confirmed = (ctx.run_id.clone(), ctx.confirm);
        match &self.lane {
            UrgentLane::Here => self.urgent(wanted, Some(confirmed), &ctx.stop).await,
            UrgentLane::Daemon(jobs) => {
                let (answer, answered) = oneshot::channel();
                let job = UrgentJob {
                    wanted,
                    asked_by: Some(confirmed),
                    answer,
                };
                if jobs.send(job).await.is_err() {
                    return Err(PassError::Stopped);
                }
                tokio::select! {
                    answer = answered => answer.unwrap_or(Err(PassError::Stopped)),
                    () = ctx.stop.cancelled() => Err(PassError::Stopped),
                }
            }
        }
    }

    /// Reopens coupons under the lock of the urgent lane.
    pub async fn urgent(
        &self,
        wanted: Wanted,
        asked_by: Option<(String, bool)>,
        stop: &CancellationToken,
    ) -> Reopened {
        let db = &self.stores.db_settings;
        let Some(lane) = Lane::take(db, Work::Reopening, PATIENCE, stop).await? else {
            return Ok(HashMap::new());
        };
        let (run_id, confirm) = asked_by.unwrap_or_else(|| (new_run_id(), false));
        let request = PassRequest {
            confirm,
            ..PassRequest::new(Trigger::Startup)
        };
        let ended = match self.context(&request, &run_id, &lane.working).await {
            Ok((ctx, ..)) => urgent::reopen(&ctx, &wanted).await,
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
            progress: self.progress.clone(),
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
        let lock = PassLock::take(db, work, patience).await?;
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
    run.finished_at = Some(Utc::now());
    run.status = Status::Failed;
    run.findings.push(failure(cause, reason.clone()));
    run.error = Some(reason);
    run
}

/// Creates the run of the urgent lane from its results.
pub fn reopening(run_id: &str, done: Vec<CouponDone>) -> Run {
    let mut run = blank(&PassRequest::new(Trigger::Startup), run_id);
    for it in done {
        run.findings.extend(it.findings);
        run.drops.extend(it.drops);
    }
    run.drops
        .sort_by_key(|report| (report.coupon_id, report.drop_id));
    run.finished_at = Some(Utc::now());
    run.status = run.final_status();
    run
}

/// Adds an error to a run.
pub fn fail(run: &mut Run, error: &PassError) {
    run.findings.push(failure(error.cause(), error.to_string()));
    run.error = Some(error.to_string());
    run.status = Status::Failed;
    run.finished_at = Some(Utc::now());
    // The run that reopens the coupons reports the loss.
    run.stopped = matches!(error, PassError::Stopped | PassError::Replaced);
    run.partial = true;
    tracing::error!(run_id = run.run_id, %error, "the pass failed");
}

fn failure(cause: FailureCause, error: String) -> Finding {
    Finding {
        case: FindingCase::RunFailed(cause),
        ..Finding::report(Kind::Stalled, error)
    }
}
