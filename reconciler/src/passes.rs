//! Runs the passes of a process one at a time, each in a task of its own.

use std::sync::Arc;

use chrono::Utc;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Memory, PassError, PassRequest};
use crate::notify::Notifier;
use crate::report::Run;
use crate::run::{Reconciler, new_run_id};

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

#[derive(Clone)]
pub struct Passes {
    pub memory: Arc<Memory>,
    reconciler: Reconciler,
    notifier: Notifier,
    /// The ID of the running pass. Passes do not queue behind a long one.
    current: watch::Sender<Option<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Passes {
    /// Starts passes among `tasks`. After `stop`, a pass in progress ends between two repairs, and
    /// no other begins.
    pub fn new(
        reconciler: Reconciler,
        notifier: Notifier,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            memory: Arc::clone(&reconciler.memory),
            reconciler,
            notifier,
            current: watch::Sender::default(),
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
        let running = Running::begin(&self.current, &run_id).map_err(NotStarted::Running)?;
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
        let run = self.reconciler.pass(request, run_id, &self.stop).await?;
        ended(&run, started, &self.notifier).await;
        Ok(run)
    }

    /// Waits until this pass of the same process is recorded as begun, or has ended without a
    /// record because another process had the lock. Returns whether it is recorded.
    pub async fn is_recorded(&self, run_id: &str) -> bool {
        let mut current = self.current.subscribe();
        tokio::select! {
            biased;
            () = self.memory.progress.until_begun(run_id) => true,
            () = async { drop(current.wait_for(|current| current.as_deref() != Some(run_id)).await) } => false,
        }
    }

    /// The ID of the running pass.
    pub fn current(&self) -> Option<String> {
        self.current.borrow().clone()
    }
}

/// The right to run a pass in this process. It ends when dropped, also if the pass panics.
struct Running(watch::Sender<Option<String>>);

impl Running {
    /// Takes the right, or returns the ID of the pass that has it.
    fn begin(current: &watch::Sender<Option<String>>, run_id: &str) -> Result<Self, String> {
        let mut running = None;
        current.send_if_modified(|current| {
            running.clone_from(current);
            current.get_or_insert_with(|| run_id.to_owned());
            running.is_none()
        });
        if let Some(running) = running {
            return Err(running);
        }
        crate::metrics::pass_under_way(Some(Utc::now()));
        Ok(Self(current.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        crate::metrics::pass_under_way(None);
        self.0.send_replace(None);
    }
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
