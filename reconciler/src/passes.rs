//! Runs the passes of a process one at a time: the lock, the record, and the result of each.

use std::sync::Arc;

use chrono::Utc;
use firstcome_attach::Engine;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::processes::{PassLock, Work};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attach;
use crate::context::{Ask, PassError, PassRequest, counts_for};
use crate::notify::Notifier;
use crate::queries::{self, Scope};
use crate::record::{self, blank, fail, new_run_id};
use crate::report::Run;
use crate::run::Reconciler;

/// The pass that this process runs, and perhaps one that waits for it.
#[derive(Debug, Default)]
pub struct Current {
    run_ids: Mutex<Vec<String>>,
    /// The right to run a pass.
    turn: tokio::sync::Mutex<()>,
}

impl Current {
    /// Whether this pass is running, or waits for the one that is.
    pub fn has(&self, run_id: &str) -> bool {
        self.run_ids.lock().iter().any(|id| id == run_id)
    }
}

/// A pass of [`Current`], until this is dropped, also if the pass panics.
struct OwnPass {
    current: Arc<Current>,
    run_id: String,
}

impl OwnPass {
    /// Returns `None` if so many passes run or wait.
    fn add(current: &Arc<Current>, most: usize) -> Option<Self> {
        let run_id = new_run_id();
        let mut run_ids = current.run_ids.lock();
        if run_ids.len() >= most {
            return None;
        }
        run_ids.push(run_id.clone());
        Some(Self {
            current: current.clone(),
            run_id,
        })
    }
}

impl Drop for OwnPass {
    fn drop(&mut self) {
        self.current.run_ids.lock().retain(|id| *id != self.run_id);
    }
}

/// A pass that runs, or waits for another one of this process.
pub struct StartedPass {
    pub run_id: String,
    /// Resolves once the pass has the lock and is recorded, or with an error if it ends before.
    pub begun: oneshot::Receiver<()>,
    pub ended: oneshot::Receiver<PassResult>,
}

/// The run of a pass, or why there is none.
pub type PassResult = Result<Run, PassError>;

/// Why a pass was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStarted {
    /// Another pass of this process is running, or already waits for the running one.
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
        let mut run = Run {
            run_id: run_id.to_owned(),
            dry_run: request.dry_run,
            deep: request.deep,
            ..blank(request.ask.trigger())
        };
        if let Ask::Operator { by, .. } = &request.ask {
            run.asked_by.clone_from(&by.name);
        }
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
        let lock = match PassLock::take(settings, Work::Pass, request.ask.patience(), stop).await {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(PassError::Busy),
            Err(error) => {
                fail(&mut run, &error.into(), &request.confirms);
                return Ok(run);
            }
        };
        // Another process may have made this run before the lock was taken. A time in the future
        // comes from a wrong clock.
        if let Ask::Cron { run, due } = request.ask
            && let Ok(Some(ended)) = record::recall(db, counts_for(run)[0]).await
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
            fail(&mut run, &error.or_lock_lost(stop), &request.confirms);
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

    /// Starts a pass. While another one runs, one that an operator asked for waits, and only one.
    pub fn start(&self, request: PassRequest) -> Result<StartedPass, NotStarted> {
        if self.stop.is_cancelled() {
            return Err(NotStarted::Stopping);
        }
        let most = if request.ask.is_awaited() { 2 } else { 1 };
        let own = OwnPass::add(&self.current, most).ok_or(NotStarted::Running)?;
        let run_id = own.run_id.clone();
        let (answer, ended) = oneshot::channel();
        let (began, begun) = oneshot::channel();
        let Self {
            current,
            worker,
            notifier,
            tasks,
            stop,
        } = self.clone();
        tasks.spawn(async move {
            let turn = timeout(request.ask.patience(), current.turn.lock());
            let result = match stop.run_until_cancelled(turn).await {
                None => return,
                Some(Err(_)) => Err(PassError::Busy),
                Some(Ok(turn)) => {
                    crate::metrics::pass_under_way(Some(Utc::now()));
                    let id = &own.run_id;
                    let passing = worker.pass(&request, id, began, Some(&notifier), &stop);
                    let result = passing.await;
                    crate::metrics::pass_under_way(None);
                    if let Ok(run) = &result {
                        note_end(run);
                    }
                    drop(own);
                    drop(turn);
                    result
                }
            };
            if answer.send(result).is_err() {
                tracing::trace!("nobody waits for this pass's answer");
            }
        });
        Ok(StartedPass {
            run_id,
            begun,
            ended,
        })
    }
}

/// What is said about a request for a coupon or drop that does not exist.
pub const NO_SUCH: &str = "there is no such coupon, or it has no such drop";

/// Whether the coupon or drop of a request exists, so that a typing error is not recorded as a failed
/// pass. If MySQL is unavailable, the pass reports that.
pub async fn exists(db: &Db, scope: Scope) -> bool {
    let found = match (scope.drop, scope.coupon) {
        (Some(drop), coupon) => {
            let found = queries::drops::coupon_of_drop(db, drop).await;
            found.map(|own| own.is_some() && coupon.is_none_or(|id| own == Some(id)))
        }
        (None, Some(coupon)) => db.coupon(coupon).await.map(|found| found.is_some()),
        (None, None) => Ok(true),
    };
    found.unwrap_or(true)
}

/// Exports the metrics of a run that ended in a daemon, and logs it.
pub(crate) fn note_end(run: &Run) {
    crate::metrics::pass(run);
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
    let noted = notifier.note_look(run, stored_as).await;
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
