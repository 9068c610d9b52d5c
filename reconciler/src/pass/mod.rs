//! One pass of the reconciler.
//!
//! The reconciler is *level-triggered*: a pass compares the actual state of every drop that is not
//! sealed with the desired state (each promise has its row, and Redis and MySQL agree slot by
//! slot). The comparison does not depend on the trigger or on earlier passes. A pass that did not
//! run or died half-way only costs time, because the next one finds the same differences.
//!
//! A pass has these steps, in this order:
//!
//! 1. Lock: one pass at a time in the whole system ([`PassLock`], MySQL's `GET_LOCK`). Losing the
//!    lock stops the pass. Correctness does not depend on the lock, since repairs are idempotent.
//! 2. Read which Redis servers hold data, and each coupon's *era*. Together they are a *fencing
//!    token*. If a coupon's gate names another server or era, its data may be lost. The pass then
//!    begins a new era, which closes the coupon. Every repair in Redis carries the token, so that a
//!    pass that planned before a loss cannot write afterwards. If the servers change, the pass
//!    ends.
//! 3. Collect the actual state, in an order that is safe under live traffic ([`crate::collect`]).
//! 4. Plan: a pure function of the collected state ([`crate::plan`]). A plan above the *repair
//!    limit* is not carried out until an operator confirms it, because many repairs of one drop may
//!    also result from wrong input.
//! 5. Execute ([`crate::execute`], the only module that writes). Each repair is *idempotent* and
//!    checks its precondition, so it may run twice, at any time, in two processes.
//! 6. Compare the repaired drops again, up to `ROUNDS` times. A repair counts as applied once a
//!    comparison no longer finds its difference. A closed drop that is exact is sealed, and later
//!    passes skip it. A coupon that was closed is opened once admission is safe.
//! 7. Record the run with its findings ([`crate::record`]). The notifier then sends mails about it.
//!
//! A *reopening* does the same for coupons that Redis may have lost. It has a separate lock, so
//! that it begins at once even while a long pass is running. It compares a few coupons at a time
//! through all rounds, so that the time until the first one opens does not depend on their number.
//! A pass over a coupon that an operator has changed has a third lock, so that users who wait for a
//! raised quantity do not wait for a long pass.
//!
//! This module determines the order of the steps and writes nothing itself. An unresolved dead
//! letter (a claim that could not become a row) is part of the actual state, and is planned like
//! any other difference.

mod allow_lists;
mod claimants;
mod findings;
mod gate;
pub mod memory;
mod order;
mod rebuild;
mod recovered;
mod repeated;
mod reports;
mod request;
mod rounds;
mod sealed;
mod steps;

use chrono::Utc;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::processes::{PassLock, Work};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::execute::ExecuteError;
use crate::record::{self, How};
use crate::report::{ActionKind, FailureCause, Finding, FindingCase, Kind, Run, Status, Trigger};
use crate::stores::Stores;
use memory::Memory;
use request::Aborted;
pub use request::{Due, PassError, PassSettings, Request};
#[cfg(test)]
pub(crate) use rounds::ROUNDS;
use steps::Pass;

/// Runs passes one after the other, and owns the state that one pass leaves for the next.
pub struct Reconciler {
    pub stores: Stores,
    settings: PassSettings,
    pub memory: Memory,
}

/// Returns a new ID for a run. IDs sort by time.
pub fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Rejects a request for a coupon or drop that does not exist, so that a typing error is not
/// recorded as a failed pass. If MySQL is unavailable, accepts the request, and the pass reports
/// the failure.
pub(crate) async fn must_exist(stores: &Stores, request: &Request) -> Result<(), PassError> {
    let missing = match (request.coupon, request.drop) {
        (None, None) => None,
        (Some(coupon), drop) => match stores.db.coupon(coupon).await {
            Ok(None) => Some(format!("there is no coupon {coupon}")),
            Ok(Some((_, own))) => drop
                .filter(|id| own.iter().all(|d| d.id != *id))
                .map(|id| format!("coupon {coupon} has no drop {id}")),
            Err(_) => None,
        },
        (None, Some(drop)) => matches!(stores.db.has_drop(drop).await, Ok(false))
            .then(|| format!("there is no drop {drop}")),
    };
    missing.map_or(Ok(()), |what| Err(PassError::NotFound(what)))
}

impl Reconciler {
    pub fn new(stores: Stores, settings: PassSettings) -> Self {
        Self {
            stores,
            settings,
            memory: Memory::default(),
        }
    }

    /// Runs one pass and records it. A failed pass also returns a [`Run`], with the status
    /// `failed`.
    pub async fn pass(
        &mut self,
        request: &Request,
        run_id: &str,
        stop: &CancellationToken,
    ) -> Result<Run, PassError> {
        must_exist(&self.stores, request).await?;
        let run = blank(request, run_id);
        let lock =
            match PassLock::take(&self.stores.db_settings, request.work, request.patience).await {
                Ok(Some(lock)) => lock,
                Ok(None) => return Err(PassError::Busy),
                Err(error) => return Ok(self.fail(run, request, &error.into()).await),
            };
        let ended = if self.was_made(request).await {
            Err(PassError::Made)
        } else {
            Ok(self.recorded(&lock, request, run, stop).await)
        };
        lock.release().await;
        ended
    }

    /// Whether another process has completed the due run while this one waited for the lock.
    async fn was_made(&self, request: &Request) -> bool {
        let Some(Due {
            last: Some(last),
            counts_for: [own, ..],
        }) = request.due
        else {
            return false;
        };
        let made = record::recall(&self.stores.db, own).await.ok().flatten();
        // A time in the future comes from a wrong clock.
        made.is_some_and(|at| at > last && at <= Utc::now())
    }

    async fn recorded(
        &mut self,
        lock: &PassLock,
        request: &Request,
        mut run: Run,
        stop: &CancellationToken,
    ) -> Run {
        self.record_leftovers().await;
        let began = Instant::now();
        let run = match self.under_lock(lock, request, &mut run, stop).await {
            Ok(()) => self.finish(run, request).await,
            Err(error) => self.fail(run, request, &error).await,
        };
        crate::traces::export(&run, began.elapsed());
        // Do this before releasing the lock, because another process checks it once it has the
        // lock.
        let made = request
            .due
            .as_ref()
            .filter(|_| run.status != Status::Failed);
        for name in made.into_iter().flat_map(|due| due.counts_for) {
            if let Err(error) = record::remember(&self.stores.db, name, Utc::now()).await {
                tracing::warn!(%error, name, "that it ran could not be noted");
            }
        }
        run
    }

    /// Runs the pass, and stops it if the lock is lost, but never in the middle of a repair.
    async fn under_lock(
        &mut self,
        lock: &PassLock,
        request: &Request,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), Aborted> {
        // Only a pass with the pass lock gets a row while it runs. Other runs are recorded when
        // they end.
        if request.work == Work::Pass {
            record::begin(&self.stores.db, run, how(request), asked(request)).await?;
            self.memory.progress.begins(&run.run_id);
        }
        crash_point(Point::RunBegun);
        let working = stop.child_token();
        let watch = tokio::spawn({
            let lost = lock.lost().clone();
            let working = working.clone();
            async move {
                lost.cancelled().await;
                working.cancel();
            }
        });
        let ended = self.compare(request, run, &working).await;
        watch.abort();
        match ended {
            Err(Aborted::Stopped | Aborted::Execute(ExecuteError::Stopped))
                if lock.lost().is_cancelled() =>
            {
                Err(Aborted::LockLost)
            }
            Err(Aborted::Execute(ExecuteError::Stopped)) => Err(Aborted::Stopped),
            other => other,
        }
    }

    async fn compare(
        &mut self,
        request: &Request,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), Aborted> {
        let stores = self.stores.pinned().await?;
        let settings = self
            .settings
            .with_deadlines(stores.db.longest_deadlines().await?);
        Pass::new(&stores, &settings, &mut self.memory, request, run, stop)
            .go()
            .await
    }

    async fn finish(&mut self, mut run: Run, request: &Request) -> Run {
        run.finished_at = Some(Utc::now());
        run.status = if run.error.is_some() {
            Status::Failed
        } else {
            findings::status(&run)
        };
        self.record(&mut run, request).await;
        run
    }

    /// Records a failed run because no pass can begin. If the last such run has the same reason,
    /// extends that run instead.
    pub(crate) async fn cannot_begin(&mut self, cause: FailureCause, reason: String) -> Run {
        let mut run = blank(&Request::new(Trigger::Startup), &new_run_id());
        failed(&mut run, cause, reason);
        self.record_unless_repeated(
            &mut run,
            How {
                is_beside_passes: true,
                ..How::default()
            },
        )
        .await;
        run
    }

    async fn fail(&mut self, mut run: Run, request: &Request, error: &Aborted) -> Run {
        failed(&mut run, error.cause(), error.to_string());
        // The run that reopens admission reports the loss.
        run.stopped = matches!(error, Aborted::Stopped | Aborted::AnotherLife);
        // Another pass may be recorded at the same time.
        run.partial |= matches!(error, Aborted::LockLost);
        tracing::error!(run_id = run.run_id, %error, "the pass failed");
        self.record(&mut run, request).await;
        run
    }

    async fn record(&mut self, run: &mut Run, request: &Request) {
        crash_point(Point::RunDone);
        self.record_unless_repeated(run, how(request)).await;
        crash_point(Point::RunRecorded);
        // Do this after failed passes as well, because the tables grow fastest while problems
        // persist.
        if !run.dry_run
            && let Err(error) = record::delete_old(&self.stores.db, self.settings.kept).await
        {
            tracing::warn!(%error, "what is old stays in the tables until the next pass");
        }
    }

    /// Inserts the run, or extends the previous run if the result is the same.
    async fn record_unless_repeated(&mut self, run: &mut Run, how: How) {
        if how.is_beside_passes
            && let Some(earlier) = self.memory.repeated.said_by(run, Instant::now())
        {
            let until = run.finished_at.unwrap_or_else(Utc::now);
            match record::prolong(&self.stores.db, &earlier, until).await {
                Ok(false) => {
                    // The earlier run was never recorded, or is deleted.
                    self.memory.repeated.forget(&earlier);
                    self.memory.repeated.said_by(run, Instant::now());
                }
                prolonged => {
                    if let Err(error) = prolonged {
                        tracing::debug!(run_id = earlier, %error, "how long the run lasts is not recorded yet");
                    }
                    run.goes_on_as = Some(earlier);
                    return;
                }
            }
        }
        self.record_or_keep(run, how).await;
    }

    async fn record_or_keep(&mut self, run: &Run, how: How) {
        if let Err(error) = record::finish(&self.stores.db, run, how).await {
            tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded yet");
            self.memory.keep_unrecorded(run.clone(), how);
        }
    }

    /// Records runs that ended while MySQL was unavailable.
    async fn record_leftovers(&mut self) {
        for (run, how) in std::mem::take(&mut self.memory.unrecorded) {
            self.record_or_keep(&run, how).await;
        }
    }
}

fn failed(run: &mut Run, cause: FailureCause, error: String) {
    run.finished_at = Some(Utc::now());
    run.status = Status::Failed;
    run.findings.push(Finding {
        case: FindingCase::RunFailed(cause),
        ..Finding::general(Kind::Stalled, ActionKind::Report, error.clone())
    });
    run.error = Some(error);
}

/// Returns the operator who requested the pass, and the action to record.
fn asked(request: &Request) -> Option<(Operator, OperatorAct)> {
    let operator = request.by.clone()?;
    let detail =
        json!({"dry_run": request.dry_run, "deep": request.deep, "confirm": request.confirm});
    Some((
        operator,
        OperatorAct {
            action: "reconcile",
            coupon: request.coupon,
            drop: request.drop,
            detail,
        },
    ))
}

fn how(request: &Request) -> How {
    How {
        confirmed: request.confirm,
        is_beside_passes: request.work != Work::Pass,
    }
}

/// Creates the run of a pass that begins now.
pub(crate) fn blank(request: &Request, run_id: &str) -> Run {
    Run {
        asked_by: request.by.as_ref().and_then(|by| by.name.clone()),
        dry_run: request.dry_run,
        deep: request.deep,
        partial: true,
        ..Run::begun(run_id, request.trigger, Utc::now())
    }
}
