//! `firstcome-reconciler daemon`: runs the schedules, the HTTP API, the watch over Redis and the
//! mails, with one serial loop of passes.

pub mod schedule;
mod start;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::http::starting;
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::processes::announce;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch as watched};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::schedule::{CronSchedule, Missed, RunAttempt, ScheduledJob};
use crate::args::DaemonArgs;
use crate::context::{Due, PassError, PassRequest};
use crate::http::{Front, Pages};
use crate::jobs;
use crate::notify::{MissedRun, Notifier};
use crate::passes::{NotStarted, PassResult, Passes};
use crate::report::{Status, Trigger};
use crate::run::{Reconciler, UrgentLane};
use crate::stores::Stores;

/// Maximum wait for a pass, a mail and open requests at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Jobs of the urgent lane that wait: one of a sweep, and some of the watch.
const URGENT_JOBS: usize = 4;

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
    let notifier = notifier.of_managed_redis(stores.redis.is_managed());
    notifier.announce();
    tracing::info!(%address, "starting");
    let tasks = TaskTracker::new();
    tasks.spawn(notifier.clone().run_sender(stop.clone()));
    let gate = watched::Sender::new(None);
    tasks.spawn(watch::admission(
        gate.subscribe(),
        notifier.clone(),
        stop.clone(),
    ));
    let begun = Begun {
        stores,
        socket,
        notifier,
        metrics,
        pages,
        gate,
    };
    let ended = started(&args, begun, &tasks, &stop).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(
            "something was still under way after {GRACE:?} and is cut; the next pass mends what it left"
        );
    }
    ended
}

/// The parts that are started before the stores are available.
struct Begun {
    stores: Stores,
    socket: std::net::TcpListener,
    notifier: Notifier,
    metrics: PrometheusHandle,
    pages: Option<Pages>,
    /// What the watch sees of admission.
    gate: watched::Sender<watch::SeenAdmission>,
}

/// Waits for the stores, then runs passes until stopped.
async fn started(
    args: &DaemonArgs,
    begun: Begun,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let Begun {
        stores,
        socket,
        notifier,
        metrics,
        pages,
        gate,
    } = begun;
    // Put the deep pass first, since it includes the normal one.
    let crons = [
        (ScheduledJob::Deep, args.schedules.deep_cron.as_str()),
        (
            ScheduledJob::Reconcile,
            args.schedules.reconcile_cron.as_str(),
        ),
        (ScheduledJob::Digest, args.schedules.digest_cron.as_str()),
    ];
    let tolerance = TimeDelta::seconds(i64::from(args.schedules.missed_after_seconds));
    let token = args.http.token()?;
    let settings = args.reconcile.settings();
    let waiting = start::wait_for_stores(&stores, &notifier, &crons, tolerance, stop);
    let waiting = starting::answer_during(vec![socket.try_clone()?], args.http.limits(), waiting);
    let Some(schedules) = Box::pin(waiting).await?? else {
        return Ok(());
    };
    announce(stores.db.clone(), stores.process(), stop.clone()).await;
    let (sender, urgent_jobs) = mpsc::channel(URGENT_JOBS);
    let lane = UrgentLane::Daemon(sender.clone());
    let reconciler = Reconciler::new(stores.clone(), settings.clone(), lane);
    let for_urgent = reconciler.clone();
    let notes = reconciler.notes.clone();
    let (passes, pass_loop) = Passes::new(reconciler, notifier.clone());
    let listener = TcpListener::from_std(socket)?;
    let address = listener.local_addr()?;
    let front = Front {
        stores: stores.clone(),
        passes: passes.clone(),
        notifier: notifier.clone(),
        token,
        api: api(args),
        metrics,
        stop: stop.clone(),
    };
    let router = crate::http::router(front, pages)?;
    tasks.spawn(pass_loop.run(stop.clone()));
    tasks.spawn(firstcome_shared::http::serve(
        listener,
        router,
        args.http.limits(),
        stop.clone(),
    ));
    let in_hand = watch::InHand::default();
    tasks.spawn(watch::urgent_lane(
        for_urgent,
        notifier.clone(),
        urgent_jobs,
        in_hand.clone(),
        stop.clone(),
    ));
    tasks.spawn(watch::watch(
        stores.clone(),
        sender,
        in_hand,
        gate,
        stop.clone(),
    ));
    tasks.spawn(jobs::run(stores.clone(), settings, notes, stop.clone()));
    println!("listening on http://{address}");
    BySchedule::new(stores.db, passes, notifier, schedules)
        .run(&crons, stop.clone())
        .await
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
struct BySchedule {
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
    fn new(db: Db, passes: Passes, notifier: Notifier, schedules: Vec<CronSchedule>) -> Self {
        Self {
            db,
            passes,
            notifier,
            schedules,
            trigger: Trigger::Startup,
            under_way: None,
        }
    }

    async fn run(
        mut self,
        crons: &[(ScheduledJob, &str)],
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let wake = Arc::new(Notify::new());
        let mut scheduler = schedule::start(crons, wake.clone()).await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.judge(Utc::now()).await;
            tokio::select! {
                () = stop.cancelled() => break,
                ended = pass_ended(&mut self.under_way) => self.note(ended).await,
                () = wake.notified() => {}
                _ = ticks.tick() => {}
            }
        }
        scheduler
            .shutdown()
            .await
            .context("the scheduler did not stop")
    }

    /// Reports late runs by mail, and starts due ones.
    async fn judge(&mut self, now: DateTime<Utc>) {
        for at in 0..self.schedules.len() {
            self.schedules[at].note_clock(now);
            let is_late = self.schedules[at].missed_since(now).is_some();
            // While this process runs a pass, no other process can run one, and the end of that
            // pass is recorded separately.
            if self.under_way.is_none() && (is_late || self.schedules[at].due_since(now).is_some())
            {
                self.recall(at, now).await;
            }
            self.mail_missed(at, now).await;
            let is_first = self.trigger == Trigger::Startup
                && self.schedules[at].event == ScheduledJob::Reconcile;
            match self.schedules[at].due_since(now) {
                Some(due) if self.schedules[at].event == ScheduledJob::Digest => {
                    self.digest(at, due, now).await;
                }
                due if due.is_some() || is_first => self.begin(at, due.is_some(), now),
                _ => {}
            }
        }
    }

    fn begin(&mut self, at: usize, is_due: bool, began: DateTime<Utc>) {
        if self.under_way.is_some() {
            return;
        }
        let event = self.schedules[at].event;
        let due = Due {
            last: is_due.then_some(self.schedules[at].last),
            counts_for: event.counts_for(),
        };
        let request = PassRequest {
            deep: event == ScheduledJob::Deep,
            due: Some(due),
            ..PassRequest::new(self.trigger)
        };
        match self.passes.start(request) {
            Ok((run_id, answer)) => {
                tracing::debug!(run_id, schedule = event.setting(), "pass begins");
                self.trigger = Trigger::Cron;
                self.under_way = Some(UnderWay {
                    event,
                    began,
                    answer,
                });
            }
            // The run stays due.
            Err(NotStarted::Running(running)) => {
                tracing::trace!(
                    running,
                    schedule = event.setting(),
                    "a pass is running already"
                );
            }
            Err(NotStarted::Stopping) => {}
        }
    }

    async fn note(
        &mut self,
        EndedPass {
            event,
            began,
            result,
        }: EndedPass,
    ) {
        let now = Utc::now();
        let attempt = match result {
            Some(Ok(run)) if run.status == Status::Failed => {
                RunAttempt::Failed(run.error.unwrap_or_default())
            }
            Some(Ok(_)) => RunAttempt::Ran,
            Some(Err(PassError::Made)) => return self.recall_all(event, now).await,
            Some(Err(PassError::Busy)) | None => RunAttempt::Busy,
            Some(Err(error)) => RunAttempt::Failed(error.to_string()),
        };
        if attempt == RunAttempt::Busy {
            self.note_holder(event).await;
        }
        let counted: &[_] = if attempt == RunAttempt::Ran {
            event.counts_for()
        } else {
            &[event.state_name()]
        };
        for schedule in self
            .schedules
            .iter_mut()
            .filter(|schedule| counted.contains(&schedule.event.state_name()))
        {
            schedule.note(attempt.clone(), began, now);
        }
    }

    /// Records that another process has completed the run.
    async fn recall_all(&mut self, event: ScheduledJob, now: DateTime<Utc>) {
        for at in 0..self.schedules.len() {
            if event
                .counts_for()
                .contains(&self.schedules[at].event.state_name())
            {
                self.recall(at, now).await;
            }
        }
    }

    /// Checks whether another process has completed the run. If so, that process exports the
    /// remaining drift.
    async fn recall(&mut self, at: usize, now: DateTime<Utc>) {
        let schedule = &mut self.schedules[at];
        if let Some(ended) = schedule.recall(&self.db, now).await
            && schedule.event != ScheduledJob::Digest
        {
            self.passes
                .drift()
                .made_elsewhere(ended, schedule.event == ScheduledJob::Deep);
        }
    }

    /// Records the holder of the pass lock for the log and, if this persists, for the mail.
    async fn note_holder(&mut self, event: ScheduledJob) {
        let because = match self.db.pass_holder().await {
            Ok(Some(holder)) => holder.to_string(),
            // The lock was just released, or MySQL is unavailable. The next attempt shows which.
            Ok(None) | Err(_) => return,
        };
        let Some(schedule) = self.schedules.iter_mut().find(|s| s.event == event) else {
            return;
        };
        if schedule.because.as_ref() != Some(&because) {
            tracing::info!(schedule = event.setting(), "the pass must wait: {because}");
        }
        schedule.because = Some(because);
    }

    async fn mail_missed(&mut self, at: usize, now: DateTime<Utc>) {
        if self.schedules[at].unmailed(now).is_none() {
            return;
        }
        self.note_holder(self.schedules[at].event).await;
        let schedule = &mut self.schedules[at];
        let Some(Missed { due, because }) = schedule.unmailed(now) else {
            return;
        };
        let setting = schedule.event.setting();
        let missed = MissedRun {
            schedule: setting.to_owned(),
            expected_at: due,
            noticed_at: now,
            because,
        };
        match self.notifier.missed_run(missed.clone()).await {
            Ok(()) => {
                tracing::warn!(schedule = setting, due = %due.to_rfc3339(), because = missed.because, "a scheduled run is late");
                schedule.mailed(now);
            }
            Err(error) => {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the mail about a late run is not in the outbox yet"
                );
            }
        }
    }

    async fn digest(&mut self, at: usize, due: DateTime<Utc>, now: DateTime<Utc>) {
        let attempt = match self.notifier.daily_digest(due, now).await {
            Ok(()) => RunAttempt::Ran,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the daily digest could not be prepared yet"
                );
                RunAttempt::Failed(error.to_string())
            }
        };
        self.schedules[at].note(attempt, now, now);
    }
}

/// The end of a pass.
struct EndedPass {
    event: ScheduledJob,
    began: DateTime<Utc>,
    /// The result, or `None` if the process is stopping.
    result: Option<PassResult>,
}

/// Waits for the end of the pass in progress. Never completes if there is none.
async fn pass_ended(under_way: &mut Option<UnderWay>) -> EndedPass {
    let Some(UnderWay {
        event,
        began,
        answer,
    }) = under_way
    else {
        return std::future::pending().await;
    };
    let ended = EndedPass {
        event: *event,
        began: *began,
        result: answer.await.ok(),
    };
    *under_way = None;
    ended
}
