//! `firstcome-reconciler daemon`: runs the schedules, the HTTP API, the watch over Redis and the
//! mails, and one pass at a time.

pub mod schedule;
pub(crate) mod start;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use firstcome_shared::http::starting;
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::processes::announce;
use futures_util::future::select_all;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch as watched};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::schedule::{CronSchedule, RunAttempt, ScheduledJob};
use crate::args::DaemonArgs;
use crate::context::{PassError, PassRequest};
use crate::http::{Front, Pages};
use crate::jobs;
use crate::notify::{MissedRun, Notifier};
use crate::passes::{PassResult, Passes, Worker};
use crate::report::{Status, Trigger};
use crate::run::Reconciler;
use crate::stores::Stores;

/// Maximum wait for a pass, a mail and open requests at shutdown.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Runs until stopped. Listens and sends mails from the beginning. Passes start once the stores are
/// available.
pub async fn run(
    args: DaemonArgs,
    pages: Option<Pages>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let stores = args.reconcile.stores.handles()?;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::metrics::describe();
    let socket = TcpListener::bind(args.http.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {}", args.http.listen_addr))?
        .into_std()?;
    let address = socket.local_addr()?;
    let mut notify = args.notify.clone();
    // The default works at least on this host. `PUBLIC_URL` makes the commands in mails work
    // elsewhere.
    notify
        .public_url
        .get_or_insert_with(|| format!("http://{}", reachable(address)));
    let notifier = Notifier::new(stores.db.clone(), &notify, &args.webhooks)?;
    notifier.announce();
    tracing::info!(%address, "starting");
    let daemon = Daemon {
        args,
        stores,
        notifier,
        tasks: TaskTracker::new(),
        stop,
    };
    let ended = Box::pin(daemon.run(socket, metrics, pages)).await;
    daemon.stop.cancel();
    daemon.tasks.close();
    let all_ended = tokio::time::timeout(GRACE, daemon.tasks.wait()).await;
    if all_ended.is_err() {
        let what = "something was still under way and is cut; the next pass mends what it left";
        tracing::warn!(after = ?GRACE, what);
    }
    ended
}

struct Daemon {
    args: DaemonArgs,
    stores: Stores,
    notifier: Notifier,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Daemon {
    /// Waits for the stores, then runs passes until stopped.
    async fn run(
        &self,
        socket: std::net::TcpListener,
        metrics: PrometheusHandle,
        pages: Option<Pages>,
    ) -> anyhow::Result<()> {
        let (args, stores, stop) = (&self.args, &self.stores, &self.stop);
        let stopped = || self.stop.clone();
        let sender = self.notifier.clone().run_sender(stopped());
        self.tasks.spawn(sender);
        // Put the deep pass first, since it includes the normal one.
        let crons = [
            (ScheduledJob::Deep, &*args.schedules.deep_cron),
            (ScheduledJob::Reconcile, &*args.schedules.reconcile_cron),
            (ScheduledJob::Digest, &*args.schedules.digest_cron),
        ];
        let token = args.http.token()?;
        let limits = args.http.limits();
        let waiting = start::wait_for_stores(stores, &self.notifier, &crons, stop);
        let waiting = starting::answer_during(vec![socket.try_clone()?], limits, waiting);
        let Some(schedules) = Box::pin(waiting).await?? else {
            return Ok(());
        };
        announce(stores.db.clone(), stores.process(), stopped()).await;
        let reconciler = Reconciler::new(stores.clone(), args.reconcile.settings());
        let (notifier, tasks) = (self.notifier.clone(), self.tasks.clone());
        let worker = Worker::Own(Box::new(reconciler.clone()));
        let passes = Passes::new(worker, notifier, tasks, stopped());
        let front = Front {
            stores: stores.clone(),
            passes: passes.clone(),
            notifier: self.notifier.clone(),
            token,
            api: api(args),
            metrics,
        };
        let router = crate::http::router(front, pages)?;
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        let serve = firstcome_shared::http::serve(listener, router, limits, stopped());
        self.tasks.spawn(serve);
        let tasks = self.beside_passes(reconciler);
        println!("listening on http://{address}");
        let (db, notifier) = (stores.db.clone(), self.notifier.clone());
        let by_schedule = BySchedule::new(db, passes, notifier, schedules);
        tokio::select! {
            biased;
            ended = by_schedule.run(&crons, stopped()) => ended,
            ended = first_ended(tasks) => ended,
        }
    }

    /// Starts the watch, which reopens coupons, and the jobs.
    fn beside_passes(&self, reconciler: Reconciler) -> Vec<JoinHandle<()>> {
        let stop = || self.stop.clone();
        let notifier = self.notifier.clone();
        let gate = watched::Sender::new(None);
        let admission = notifier.clone().watch_admission(gate.subscribe(), stop());
        let (settings, notes) = (self.args.reconcile.settings(), reconciler.notes.clone());
        let jobs = jobs::run(self.stores.clone(), settings, notes, stop());
        let watch = watch::watch(reconciler, notifier, gate, stop());
        let tasks = &self.tasks;
        vec![
            tasks.spawn(admission),
            tasks.spawn(jobs),
            tasks.spawn(watch),
        ]
    }
}

/// Waits for the end of the first of these tasks, which run until the token is cancelled. If one
/// panics, the daemon ends and is started again: without its urgent lane, coupons would stay
/// closed.
async fn first_ended(tasks: Vec<JoinHandle<()>>) -> anyhow::Result<()> {
    let (ended, ..) = select_all(tasks).await;
    ended.context("a task of the daemon failed")
}

/// Returns `API_URL` and the file of additional certificate authorities, if they are set.
fn api(args: &DaemonArgs) -> Option<(String, Option<PathBuf>)> {
    let url = args.notify.api_url.clone().filter(|url| !url.is_empty())?;
    Some((url, args.notify.authorities.clone()))
}

/// Replaces `0.0.0.0`, which is only valid for listening, with an address for requests.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

/// Runs passes and digests when they are due, retries each until it succeeds, and reports late runs
/// by mail.
pub(crate) struct BySchedule {
    db: Db,
    passes: Passes,
    notifier: Notifier,
    /// The schedules. The deep one is first, because its pass includes the normal one.
    schedules: Vec<CronSchedule>,
    /// The trigger of the next pass. A pass runs at start-up even if none is due.
    trigger: Trigger,
    under_way: Option<UnderWay>,
}

/// A pass started by a schedule.
struct UnderWay {
    event: ScheduledJob,
    began: DateTime<Utc>,
    answer: oneshot::Receiver<PassResult>,
}

impl BySchedule {
    pub(crate) fn new(
        db: Db,
        passes: Passes,
        notifier: Notifier,
        schedules: Vec<CronSchedule>,
    ) -> Self {
        Self {
            db,
            passes,
            notifier,
            schedules,
            trigger: Trigger::Startup,
            under_way: None,
        }
    }

    pub(crate) async fn run(
        mut self,
        crons: &[(ScheduledJob, &str)],
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let wake = Arc::new(Notify::new());
        let mut scheduler = schedule::start(crons, wake.clone()).await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Utc::now();
            for at in 0..self.schedules.len() {
                self.judge(at, now).await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                result = pass_ended(&mut self.under_way) => {
                    if let Some(pass) = self.under_way.take() {
                        self.note(pass.event, pass.began, result).await;
                    }
                }
                () = wake.notified() => {}
                _ = ticks.tick() => {}
            }
        }
        let stopped = scheduler.shutdown().await;
        stopped.context("the scheduler did not stop")
    }

    /// Reports a late run by mail, and starts a due one.
    async fn judge(&mut self, at: usize, now: DateTime<Utc>) {
        let schedule = &mut self.schedules[at];
        let event = schedule.event;
        schedule.note_clock(now);
        let is_due = schedule.missed_since(now).is_some() || schedule.due_since(now).is_some();
        // Another process may have completed the run, and exports the remaining drift then. While
        // this process runs a pass, no other can.
        if self.under_way.is_none()
            && is_due
            && schedule.recall(&self.db, now).await
            && event != ScheduledJob::Digest
        {
            crate::metrics::drift(None, event == ScheduledJob::Deep);
        }
        self.mail_missed(at, now).await;
        let is_first = self.trigger == Trigger::Startup && event == ScheduledJob::Reconcile;
        match self.schedules[at].due_since(now) {
            Some(due) if event == ScheduledJob::Digest => {
                let attempt = match self.notifier.daily_digest(due, now).await {
                    Ok(()) => RunAttempt::Ran,
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(error, "the daily digest could not be prepared yet");
                        RunAttempt::Failed(error)
                    }
                };
                self.schedules[at].note(attempt, now, now);
            }
            due if due.is_some() || is_first => self.begin(event, now),
            _ => {}
        }
    }

    /// Starts a pass, unless one is running: then it stays due.
    fn begin(&mut self, event: ScheduledJob, began: DateTime<Utc>) {
        if self.under_way.is_some() {
            return;
        }
        let request = PassRequest {
            deep: event == ScheduledJob::Deep,
            counts_for: event.counts_for(),
            ..PassRequest::new(self.trigger)
        };
        if let Ok((run_id, answer)) = self.passes.start(request) {
            tracing::debug!(run_id, schedule = event.setting(), "pass begins");
            self.trigger = Trigger::Cron;
            self.under_way = Some(UnderWay {
                event,
                began,
                answer,
            });
        }
    }

    /// Records the end of a pass. There is no result if the process is stopping or it panicked.
    async fn note(
        &mut self,
        event: ScheduledJob,
        began: DateTime<Utc>,
        result: Option<PassResult>,
    ) {
        let now = Utc::now();
        let attempt = match result {
            Some(Ok(run)) if run.status == Status::Failed => {
                RunAttempt::Failed(run.error.unwrap_or_default())
            }
            Some(Ok(_)) => RunAttempt::Ran,
            Some(Err(PassError::Busy)) | None => RunAttempt::Busy,
            Some(Err(error)) => RunAttempt::Failed(error.to_string()),
        };
        for at in 0..self.schedules.len() {
            let own = self.schedules[at].event;
            let counts = event.counts_for().contains(&own.state_name());
            let has_run = attempt == RunAttempt::Ran && counts;
            if has_run {
                // It may have ended late before anybody noticed: the process was suspended.
                self.mail_missed(at, now).await;
            }
            if own == event || has_run {
                self.schedules[at].note(attempt.clone(), began, now);
            }
        }
    }

    async fn mail_missed(&mut self, at: usize, now: DateTime<Utc>) {
        let Some(due) = self.schedules[at].unmailed(now) else {
            return;
        };
        // The lock was just released, or MySQL is unavailable: the next attempt shows which.
        let holder = self.db.pass_holder().await.ok().flatten();
        let schedule = &mut self.schedules[at];
        let missed = MissedRun {
            schedule: schedule.event.setting().to_owned(),
            expected_at: due,
            noticed_at: now,
            because: holder.or_else(|| schedule.because.clone()),
        };
        tracing::warn!(?missed, "a scheduled run is late");
        match self.notifier.missed_run(missed).await {
            Ok(()) => schedule.is_mailed = true,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::debug!(error, "the mail about a late run is not in the outbox yet");
            }
        }
    }
}

/// Waits for the end of the pass under way. Never completes if there is none.
async fn pass_ended(under_way: &mut Option<UnderWay>) -> Option<PassResult> {
    match under_way {
        Some(pass) => (&mut pass.answer).await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn daemon_ends_when_one_of_its_tasks_panics() {
        let running = tokio::spawn(std::future::pending());
        let told_to_stop = tokio::spawn(async {});
        assert!(first_ended(vec![running, told_to_stop]).await.is_ok());
        let running = tokio::spawn(std::future::pending());
        let failing = tokio::spawn(async { panic!("a bug") });
        assert!(first_ended(vec![running, failing]).await.is_err());
    }
}
