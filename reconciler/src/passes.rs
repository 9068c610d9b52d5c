//! Runs the passes of a process one at a time, each in a separate task.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use chrono::Utc;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attach::Attached;
use crate::context::{PassError, PassRequest};
use crate::notify::Notifier;
use crate::report::Run;
use crate::run::{Reconciler, new_run_id};
use crate::stores::Stores;

/// The progress of a pass, for the terminal and the API.
#[derive(Debug, Default)]
pub struct Progress {
    pub drops: AtomicU64,
    pub drops_done: AtomicU64,
    /// Number of users and rows compared.
    pub compared: AtomicU64,
    /// The pass that this daemon runs, and whether it has the lock and is recorded.
    pub current: watch::Sender<Option<(String, bool)>>,
}

impl Progress {
    /// Begins with a run that has the lock and is recorded.
    pub fn begin(&self, run_id: &str) {
        for number in [&self.drops, &self.drops_done, &self.compared] {
            number.store(0, Relaxed);
        }
        let own = |current: &&mut (String, bool)| current.0 == run_id;
        self.current.send_modify(|current| {
            if let Some(current) = current.as_mut().filter(own) {
                current.1 = true;
            }
        });
    }
}

/// The outcome of a requested pass.
pub type PassResult = Result<Run, PassError>;

/// Why a pass was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStarted {
    /// This pass of the same process is running, or waits for its lock, which it may never get.
    Running(String),
    /// The process is shutting down.
    Stopping,
}

/// What makes the passes.
#[derive(Clone)]
pub enum Worker {
    /// The reconciler of our own coupons.
    Own(Reconciler),
    /// That of a coupon system of somebody else.
    Attached(Attached),
}

#[derive(Clone)]
pub struct Passes {
    pub progress: Arc<Progress>,
    worker: Worker,
    notifier: Notifier,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Passes {
    /// Starts passes among `tasks`. After `stop`, a pass in progress ends between two repairs, and
    /// no other begins.
    pub fn new(
        worker: Worker,
        notifier: Notifier,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            progress: Arc::clone(match &worker {
                Worker::Own(reconciler) => &reconciler.progress,
                Worker::Attached(attached) => &attached.progress,
            }),
            worker,
            notifier,
            tasks,
            stop,
        }
    }

    /// Starts a pass. Returns its ID and the receiver of its result.
    pub fn start(
        &self,
        request: PassRequest,
    ) -> Result<(String, oneshot::Receiver<PassResult>), NotStarted> {
        if self.stop.is_cancelled() {
            return Err(NotStarted::Stopping);
        }
        let run_id = new_run_id();
        let running = Running::begin(&self.progress, &run_id).map_err(NotStarted::Running)?;
        let (answer, receiver) = oneshot::channel();
        let (passes, id) = (self.clone(), run_id.clone());
        self.tasks.spawn(async move {
            let result = passes.one(&request, &id).await;
            drop(running);
            if answer.send(result).is_err() {
                tracing::trace!("nobody waits for this pass's answer");
            }
        });
        Ok((run_id, receiver))
    }

    async fn one(&self, request: &PassRequest, run_id: &str) -> PassResult {
        let started = Instant::now();
        let run = match &self.worker {
            Worker::Own(reconciler) => reconciler.pass(request, run_id, &self.stop).await?,
            Worker::Attached(attached) => attached.pass(request, run_id, &self.stop).await?,
        };
        ended(&run, started, &self.notifier).await;
        Ok(run)
    }

    /// Waits until this pass of the same process is recorded as begun, or has ended. Returns
    /// whether it was seen recorded.
    pub async fn is_recorded(&self, run_id: &str) -> bool {
        let mut current = self.progress.current.subscribe();
        let seen = current.wait_for(|current| match current {
            Some((id, is_recorded)) => *is_recorded || id != run_id,
            None => true,
        });
        let seen = seen.await;
        seen.is_ok_and(|current| current.as_ref().is_some_and(|(id, _)| id == run_id))
    }

    /// The ID of the running pass.
    pub fn current(&self) -> Option<String> {
        let current = self.progress.current.borrow();
        current.as_ref().map(|(id, _)| id.clone())
    }
}

/// The right to run a pass in this process: passes do not queue behind a long one. It ends when
/// dropped, also if the pass panics.
struct Running(Arc<Progress>);

impl Running {
    /// Takes the right, or returns the ID of the pass that has it.
    fn begin(progress: &Arc<Progress>, run_id: &str) -> Result<Self, String> {
        let mut running = None;
        progress.current.send_if_modified(|current| {
            running = current.as_ref().map(|(id, _)| id.clone());
            current.get_or_insert_with(|| (run_id.to_owned(), false));
            running.is_none()
        });
        if let Some(running) = running {
            return Err(running);
        }
        crate::metrics::pass_under_way(Some(Utc::now()));
        Ok(Self(progress.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        crate::metrics::pass_under_way(None);
        self.0.current.send_replace(None);
    }
}

/// Rejects a request for a coupon or drop that does not exist, so that a typing error is not
/// recorded as a failed pass. If MySQL is unavailable, accepts the request, and the pass reports
/// the failure.
pub async fn must_exist(stores: &Stores, request: &PassRequest) -> Result<(), PassError> {
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

/// Records metrics, logs and mails a pass that ended in a daemon.
pub(crate) async fn ended(run: &Run, started: Instant, notifier: &Notifier) {
    crate::metrics::pass(run, started.elapsed());
    log(run);
    mail(notifier, run).await;
}

/// Passes a run to the notifier. Failures of the notifier never affect the pass.
pub async fn mail(notifier: &Notifier, run: &Run) {
    if let Err(error) = notifier.after_pass(run, Utc::now()).await {
        tracing::error!(
            run_id = run.run_id,
            error = format!("{error:#}"),
            "the mails about this pass could not be prepared"
        );
    }
}

fn log(run: &Run) {
    let (drops, examined) = run.examined();
    let findings = run.all_findings().count();
    tracing::info!(
        run_id = run.run_id,
        trigger = run.trigger.as_str(),
        status = run.status.as_str(),
        dry_run = run.dry_run,
        drops,
        users = examined.users,
        rows = examined.rows,
        findings,
        "pass ended"
    );
}
