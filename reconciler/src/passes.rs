//! Runs the passes of a process one at a time: the lock, the record, and the result of each.

use std::future::{Future, ready};
use std::sync::Arc;

use chrono::Utc;
use firstcome_attach::Engine;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::processes::{PassLock, Work};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attach;
use crate::context::{PassError, PassRequest};
use crate::notify::Notifier;
use crate::queries;
use crate::record::{self, blank, fail, new_run_id};
use crate::report::Run;
use crate::run::Reconciler;

/// The pass that this process runs, and the one that waits for it.
#[derive(Debug)]
pub struct Current {
    runs: Mutex<CurrentRuns>,
    /// The right to run a pass. The pass that waits for it gets it before any that comes later.
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct CurrentRuns {
    running: Option<String>,
    waiting: Option<String>,
}

impl Default for Current {
    fn default() -> Self {
        let runs = Mutex::default();
        let turn = Arc::new(Semaphore::new(1));
        Self { runs, turn }
    }
}

impl Current {
    /// Whether this pass is running, or waits for the one that is.
    pub fn has(&self, run_id: &str) -> bool {
        let runs = self.runs.lock();
        let both = [&runs.running, &runs.waiting];
        both.into_iter().flatten().any(|id| id == run_id)
    }
}

/// A pass that runs, or waits for another one of this process.
pub struct StartedPass {
    pub run_id: String,
    /// Whether it waits for another pass of this process.
    pub waits: bool,
    /// Resolves once the pass has the lock and is recorded, or with an error if it ends before.
    pub begun: oneshot::Receiver<()>,
    pub ended: oneshot::Receiver<PassResult>,
}

/// The run of a pass, or why there is none.
pub type PassResult = Result<Run, PassError>;

/// Why a pass was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStarted {
    /// Another pass of this process is running or waits for the lock or, in [`Passes::queue`],
    /// already waits for the running one.
    Running,
    /// The process is shutting down.
    Stopping,
}

/// The reconciler that makes the passes.
#[derive(Clone)]
pub enum Worker {
    /// For our own coupons.
    Own(Box<Reconciler>),
    /// For another team's coupon system.
    Attached(Box<Engine>),
}

impl Worker {
    /// Runs one pass under the lock of the sweep lane, and records it. A failed pass also returns a
    /// [`Run`], with the status `failed`. Returns [`PassError::Busy`] if another pass holds the
    /// lock for longer than the request waits, or if another process has already made the scheduled
    /// run.
    pub async fn pass(
        &self,
        request: &PassRequest,
        run_id: &str,
        begun: oneshot::Sender<()>,
        notifier: Option<&Notifier>,
        stop: &CancellationToken,
    ) -> PassResult {
        let mut run = blank(request, run_id);
        let (db, settings) = match self {
            Self::Own(own) => (&own.stores.db, &own.stores.db_settings),
            Self::Attached(engine) => {
                let Some(ours) = &engine.ours else {
                    // `attach --once` without `DATABASE_URL`: no lock, and nothing is recorded.
                    attach::pass(engine, request, &mut run, stop).await?;
                    run.end();
                    return Ok(run);
                };
                (&ours.db, &ours.settings)
            }
        };
        let lock = match PassLock::take(settings, Work::Pass, request.patience, stop).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(PassError::Busy),
            Err(error) => {
                fail(&mut run, &error.into());
                return Ok(run);
            }
        };
        // Another process may have made this run before the lock was taken. A time in the future
        // comes from a wrong clock.
        if let (Some(due), [key, ..]) = (request.due, request.counts_for)
            && let Some(ended) = record::recall(db, key).await.ok().flatten()
            && (due..=Utc::now()).contains(&ended)
        {
            lock.release().await;
            return Err(PassError::Busy);
        }
        let ended = match record::begin(db, &run, request).await {
            Ok(()) => {
                // An error only means that nobody waits for the beginning.
                begun.send(()).ok();
                crash_point(Point::RunBegun);
                let working = lock.working();
                match self {
                    Self::Own(own) => Box::pin(own.sweep(request, &mut run, working)).await,
                    Self::Attached(engine) => {
                        Box::pin(attach::pass(engine, request, &mut run, working)).await
                    }
                }
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            fail(&mut run, &error.or_lock_lost(stop));
        }
        run.end();
        crash_point(Point::RunDone);
        record::end(db, &run, request, notifier).await;
        lock.release().await;
        Ok(run)
    }

    /// Runs one pass outside a daemon.
    pub async fn once(
        &self,
        request: &PassRequest,
        notifier: Option<&Notifier>,
        stop: &CancellationToken,
    ) -> PassResult {
        let (begun, _) = oneshot::channel();
        self.pass(request, &new_run_id(), begun, notifier, stop)
            .await
    }
}

#[derive(Clone)]
pub struct Passes {
    pub current: Arc<Current>,
    worker: Worker,
    notifier: Notifier,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Passes {
    /// Creates the runner of passes, which spawns them among `tasks`. After `stop`, a pass in
    /// progress ends between two repairs, and no other begins.
    pub fn new(
        worker: Worker,
        notifier: Notifier,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            current: Arc::default(),
            worker,
            notifier,
            tasks,
            stop,
        }
    }

    /// Starts a pass, unless one is running.
    pub fn start(&self, request: PassRequest) -> Result<StartedPass, NotStarted> {
        let turn = self.turn()?.ok_or(NotStarted::Running)?;
        let run_id = new_run_id();
        let running = Running::begin(&self.current, turn, &run_id);
        Ok(self.spawn(request, run_id, false, ready(Some(running))))
    }

    /// Starts a pass, or lets it wait for the one that is running. Only one can wait.
    pub fn queue(&self, request: PassRequest) -> Result<StartedPass, NotStarted> {
        let run_id = new_run_id();
        if let Some(turn) = self.turn()? {
            let running = Running::begin(&self.current, turn, &run_id);
            return Ok(self.spawn(request, run_id, false, ready(Some(running))));
        }
        let waiting = Waiting::begin(&self.current, &run_id).ok_or(NotStarted::Running)?;
        let stop = self.stop.clone();
        let id = run_id.clone();
        let running = async move {
            let current = waiting.0.clone();
            let turn = tokio::select! {
                turn = current.turn.clone().acquire_owned() => turn.ok(),
                () = stop.cancelled() => None,
            };
            // In this order, so that `Current::has` finds the pass at any time.
            let running = turn.map(|turn| Running::begin(&current, turn, &id));
            drop(waiting);
            running
        };
        Ok(self.spawn(request, run_id, true, running))
    }

    /// Takes the right to run a pass, if nobody has it.
    fn turn(&self) -> Result<Option<OwnedSemaphorePermit>, NotStarted> {
        if self.stop.is_cancelled() {
            return Err(NotStarted::Stopping);
        }
        Ok(self.current.turn.clone().try_acquire_owned().ok())
    }

    /// Runs a pass once `running` gives it the right to. If it gives `None`, because the process
    /// stops, the pass never runs.
    fn spawn(
        &self,
        request: PassRequest,
        run_id: String,
        waits: bool,
        running: impl Future<Output = Option<Running>> + Send + 'static,
    ) -> StartedPass {
        let (answer, ended) = oneshot::channel();
        let (began, begun) = oneshot::channel();
        let passes = self.clone();
        let id = run_id.clone();
        self.tasks.spawn(async move {
            let Some(running) = running.await else {
                return;
            };
            let started = Instant::now();
            let Self {
                worker,
                notifier,
                stop,
                ..
            } = &passes;
            let result = worker
                .pass(&request, &id, began, Some(notifier), stop)
                .await;
            if let Ok(run) = &result {
                note_end(run, started);
            }
            drop(running);
            if answer.send(result).is_err() {
                tracing::trace!("nobody waits for this pass's answer");
            }
        });
        StartedPass {
            run_id,
            waits,
            begun,
            ended,
        }
    }

    /// Rejects a request for a coupon or drop that does not exist.
    pub async fn must_exist(&self, request: &PassRequest) -> Result<(), PassError> {
        match &self.worker {
            Worker::Own(reconciler) => must_exist(&reconciler.stores.db, request).await,
            Worker::Attached(_) => Ok(()),
        }
    }
}

/// The pass that runs in this process, until this is dropped, also if the pass panics.
struct Running {
    current: Arc<Current>,
    /// Given back after the pass is noted as ended.
    _turn: OwnedSemaphorePermit,
}

impl Running {
    fn begin(current: &Arc<Current>, turn: OwnedSemaphorePermit, run_id: &str) -> Self {
        current.runs.lock().running = Some(run_id.to_owned());
        crate::metrics::pass_under_way(Some(Utc::now()));
        Self {
            current: current.clone(),
            _turn: turn,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        crate::metrics::pass_under_way(None);
        self.current.runs.lock().running = None;
    }
}

/// The one pass that waits for another to end.
struct Waiting(Arc<Current>);

impl Waiting {
    /// Returns `None` if another one waits.
    fn begin(current: &Arc<Current>, run_id: &str) -> Option<Self> {
        let waiting = &mut current.runs.lock().waiting;
        if waiting.is_some() {
            return None;
        }
        *waiting = Some(run_id.to_owned());
        Some(Self(current.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.runs.lock().waiting = None;
    }
}

/// Rejects a request for a coupon or drop that does not exist, so that a typing error is not
/// recorded as a failed pass. If MySQL is unavailable, accepts the request, and the pass reports
/// the failure.
pub async fn must_exist(db: &Db, request: &PassRequest) -> Result<(), PassError> {
    let missing = match (request.coupon, request.drop) {
        (Some(coupon), drop) => match (db.coupon(coupon).await, drop) {
            (Ok(None), _) => format!("there is no coupon {coupon}"),
            (Ok(Some((_, own))), Some(id)) if own.iter().all(|it| it.id != id) => {
                format!("coupon {coupon} has no drop {id}")
            }
            _ => return Ok(()),
        },
        (None, Some(drop)) if matches!(queries::drops::has_drop(db, drop).await, Ok(false)) => {
            format!("there is no drop {drop}")
        }
        (None, _) => return Ok(()),
    };
    Err(PassError::NotFound(missing))
}

/// Exports the metrics of a run that ended in a daemon, and logs it.
pub(crate) fn note_end(run: &Run, started: Instant) {
    crate::metrics::pass(run, started.elapsed());
    let (drops, examined) = run.examined();
    tracing::info!(
        run_id = run.run_id,
        trigger = run.trigger.as_str(),
        status = run.status.as_str(),
        dry_run = run.dry_run,
        drops,
        users = examined.users,
        rows = examined.rows,
        findings = run.all_findings().count(),
        "pass ended"
    );
}

/// Notes what a run saw, for alerts. Returns whether that is done: a failure never affects the pass,
/// but it repeats the run.
pub(crate) async fn note_look(notifier: &Notifier, run: &Run, stored_as: Option<&str>) -> bool {
    let noted = notifier.note_look(run, stored_as, None).await;
    if let Err(error) = &noted {
        let run_id = &run.run_id;
        let error = format!("{error:#}");
        tracing::error!(
            run_id,
            error,
            "what this pass saw could not be noted for alerts"
        );
    }
    noted.is_ok()
}
