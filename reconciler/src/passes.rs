//! Runs the passes of a process one at a time, each started by a signal.

use std::sync::Arc;

use chrono::Utc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::context::{Memory, PassError, PassRequest};
use crate::metrics::DriftSeries;
use crate::notify::Notifier;
use crate::report::Run;
use crate::run::{Reconciler, new_run_id};

/// The outcome of a requested pass.
pub type PassResult = Result<Run, PassError>;

struct Job {
    request: PassRequest,
    run_id: String,
    answer: oneshot::Sender<PassResult>,
}

/// The ID of the running pass.
type Current = watch::Sender<Option<String>>;

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
    current: Current,
    pub memory: Arc<Memory>,
    jobs: mpsc::Sender<Job>,
    drift: Arc<DriftSeries>,
}

impl Passes {
    /// Creates a handle to start passes, and the loop that runs them.
    pub fn new(reconciler: Reconciler, notifier: Notifier) -> (Self, PassLoop) {
        let (sender, jobs) = mpsc::channel(1);
        let current = Current::default();
        let drift = Arc::<DriftSeries>::default();
        let memory = Arc::clone(&reconciler.memory);
        let passes = Self {
            current: current.clone(),
            memory,
            jobs: sender,
            drift: Arc::clone(&drift),
        };
        (
            passes,
            PassLoop {
                reconciler,
                notifier,
                jobs,
                current,
                drift,
            },
        )
    }

    /// Starts a pass. Returns its ID and the receiver of its result.
    pub fn start(
        &self,
        request: PassRequest,
    ) -> Result<(String, oneshot::Receiver<PassResult>), NotStarted> {
        let run_id = new_run_id();
        let mut running = None;
        self.current.send_if_modified(|current| {
            running.clone_from(current);
            if current.is_none() {
                *current = Some(run_id.clone());
            }
            running.is_none()
        });
        if let Some(running) = running {
            return Err(NotStarted::Running(running));
        }
        let (answer, receiver) = oneshot::channel();
        if self
            .jobs
            .try_send(Job {
                request,
                run_id: run_id.clone(),
                answer,
            })
            .is_err()
        {
            // The loop has stopped.
            self.current.send_replace(None);
            return Err(NotStarted::Stopping);
        }
        crate::metrics::pass_under_way(Some(Utc::now()));
        Ok((run_id, receiver))
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

    /// Returns the drift that the passes left.
    pub(crate) fn drift(&self) -> Arc<DriftSeries> {
        Arc::clone(&self.drift)
    }

    /// The ID of the running pass.
    pub fn current(&self) -> Option<String> {
        self.current.borrow().clone()
    }
}

/// The serial loop that runs the passes of a process, each started by a signal. Passes do not queue
/// behind a long one.
pub struct PassLoop {
    reconciler: Reconciler,
    notifier: Notifier,
    jobs: mpsc::Receiver<Job>,
    current: Current,
    drift: Arc<DriftSeries>,
}

impl PassLoop {
    /// Runs until `stop`. A pass in progress ends between two repairs.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let job = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                job = self.jobs.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
            };
            let answer = self.one(&job, &stop).await;
            crate::metrics::pass_under_way(None);
            self.current.send_replace(None);
            if job.answer.send(answer).is_err() {
                tracing::trace!("nobody waits for this pass's answer");
            }
        }
    }

    async fn one(&mut self, job: &Job, stop: &CancellationToken) -> PassResult {
        let started = tokio::time::Instant::now();
        let run = self
            .reconciler
            .pass(&job.request, &job.run_id, stop)
            .await?;
        self.drift.after(&run);
        ended(&run, started, &self.notifier).await;
        Ok(run)
    }
}

/// Records metrics, logs and mails a pass that ended in a daemon.
pub(crate) async fn ended(run: &Run, started: tokio::time::Instant, notifier: &Notifier) {
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
