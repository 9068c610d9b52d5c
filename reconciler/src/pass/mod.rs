//! One pass of the reconciler.
//!
//! The reconciler is *level-triggered*: a pass compares the actual state of every drop that is not
//! sealed with the desired state (each promise has its row, and Redis and MySQL agree slot by
//! slot), whatever set it off and whatever it missed. A pass that did not run, or died half-way,
//! costs time and nothing else: the next one sees the same difference.
//!
//! A pass goes through these steps, in this order:
//!
//! 1. Lock: one pass at a time in the whole system ([`PassLock`], MySQL's `GET_LOCK`). Losing the
//!    lock stops the pass. Correctness does not rest on it, since repairs are idempotent.
//! 2. Read which servers of Redis stand, and each coupon's *era*: together a *fencing token*. A
//!    coupon whose gate names another server or era may have lost something: it begins a new era,
//!    which closes it. Every repair in Redis carries the token, so that a pass that planned before
//!    a loss can't write afterwards. A pass that meets other servers ends.
//! 3. Collect the actual state in an order that makes it safe beside live traffic
//!    ([`crate::collect`]).
//! 4. Plan: a pure function of what was collected ([`crate::plan`]). A plan above the *repair
//!    limit* (too many repairs of one drop, which a wrong input would make, too) is not carried out
//!    before a person confirms it.
//! 5. Execute ([`crate::execute`], the only room that writes). Each repair is *idempotent* and
//!    checks what it is based on, so it may run twice, at any moment, in two processes.
//! 6. Compare the repaired drops again, up to `ROUNDS` times. A repair counts as applied when its
//!    difference is gone, not when its write returned. A closed drop that is exact is sealed; later
//!    passes skip it.
//!    A coupon that was closed is opened as soon as nothing is left in it that admission could trip
//!    over.
//! 7. Record the run with its findings ([`crate::record`]). Mails are made from it afterwards.
//!
//! *Reopening* is the same for the coupons that Redis may have lost, with a lock of its own: after
//! a loss it begins at once, whatever pass is running. It goes through a few coupons at a time, all
//! rounds of them, so that what comes before the first opens does not depend on how many there are.
//! A pass over one coupon that an operator's change asks for has a lock of its own, too: who waits
//! for a raised quantity does not wait for a long pass.
//!
//! This room decides the order and writes nothing itself. An unresolved dead letter (a claim that
//! could not become a row) is part of the actual state: it is planned for like any other
//! difference.

mod allow_lists;
mod claimants;
mod findings;
mod gate;
mod known;
mod lost_drops;
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

/// Runs passes, one after the other, and owns the state that one pass leaves for the next.
pub struct Reconciler {
    pub stores: Stores,
    settings: PassSettings,
    pub memory: Memory,
}

/// A fresh id for a run; ids sort by time.
pub fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Refuses a request for a coupon or drop that does not exist: a typing error is not a failed pass.
/// If MySQL is unavailable, it accepts: then the pass fails, and reports it.
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

    /// Runs one pass and records it. A failed pass is a [`Run`], too, with status `failed`.
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

    /// Whether another process has made the due run while this one waited for the lock.
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
        // Before the lock is released: another process checks this once it has the lock.
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

    /// The work also stops if the lock is lost, but never in the middle of a repair.
    async fn under_lock(
        &mut self,
        lock: &PassLock,
        request: &Request,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), Aborted> {
        // The row of a running run belongs to the pass lock: other runs are recorded when they end.
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

    /// Records, as a failed run, that no pass can begin. The same reason again extends that run.
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
        // After any pass: the tables grow most in times of trouble.
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

/// The operator who asked for the pass, and the request.
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

/// A run that begins.
pub(crate) fn blank(request: &Request, run_id: &str) -> Run {
    Run {
        asked_by: request.by.as_ref().and_then(|by| by.name.clone()),
        dry_run: request.dry_run,
        deep: request.deep,
        partial: true,
        ..Run::begun(run_id, request.trigger, Utc::now())
    }
}
