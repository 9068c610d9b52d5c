//! `firstcome-reconciler daemon`: schedules, the endpoint, the watch over Redis, and the mails,
//! around one serial loop of passes.

mod by_schedule;
mod redis_watch;
pub mod schedule;
mod wake;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::by_schedule::BySchedule;
use self::schedule::{Event, Schedule};
use crate::args::DaemonArgs;
use crate::metrics::Drift;
use crate::notify::Notifier;
use crate::pass::memory::Progress;
use crate::pass::{PassError, Reconciler, Request, new_run_id};
use crate::report::Run;

/// Longest wait for a pass, a mail and open requests at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub async fn run(args: DaemonArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let stores = args.reconcile.stores()?;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::metrics::describe();
    crate::stores::check(&stores, &args.reconcile, &stop).await?;
    // The deep pass first: it does what the other would have done.
    let crons = [
        (Event::Deep, args.schedules.deep_cron.as_str()),
        (Event::Reconcile, args.schedules.reconcile_cron.as_str()),
        (Event::Digest, args.schedules.digest_cron.as_str()),
    ];
    // Once it listens, a MySQL that is away does not end it.
    let tolerance = TimeDelta::seconds(i64::from(args.schedules.missed_after_seconds));
    let mut schedules = Vec::with_capacity(crons.len());
    for (event, text) in crons {
        schedules.push(Schedule::load(&stores.db, event, text, tolerance).await?);
    }
    let listener = TcpListener::bind(args.http.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {}", args.http.listen_addr))?;
    let address = listener.local_addr()?;
    let mut notify = args.notify.clone();
    // Commands in mails work on this host at least; PUBLIC_URL makes them work elsewhere.
    notify.public_url.get_or_insert_with(|| format!("http://{}", reachable(address)));
    let notifier = Notifier::new(stores.db.clone(), &notify)?;
    notifier.announce();
    let reconciler = Reconciler::new(stores.clone(), args.reconcile.settings());
    let mut reopening = Reconciler::new(stores.clone(), args.reconcile.settings());
    reopening.memory.losses = reconciler.memory.losses.clone();
    let (passes, pass_loop) = Passes::new(reconciler, notifier.clone());
    let router = crate::http::router(stores.clone(), passes.clone(), args.http.token()?, metrics);
    let tasks = TaskTracker::new();
    tasks.spawn(pass_loop.run(stop.clone()));
    tasks.spawn(firstcome_shared::http::serve(
        listener,
        router,
        firstcome_shared::http::Limits::default(),
        stop.clone(),
    ));
    tasks.spawn(notifier.clone().run_sender(stop.clone()));
    tasks.spawn(redis_watch::watch(reopening, notifier.clone(), stop.clone()));
    tasks.spawn(redis_watch::watch_admission(stores.redis.clone(), notifier.clone(), stop.clone()));
    tasks.spawn(wake::watch(stores.redis.clone(), passes.clone(), stop.clone()));
    println!("listening on http://{address}");
    let scheduled = BySchedule::new(stores.db, passes, notifier, schedules).run(&crons, stop.clone()).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("something was still under way after {GRACE:?} and is cut; the next pass mends what it left");
    }
    scheduled
}

/// `0.0.0.0` can be listened on, not asked.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

/// How a pass that was asked for ended.
pub type PassResult = Result<Run, PassError>;

struct Job {
    request: Request,
    run_id: String,
    answer: oneshot::Sender<PassResult>,
}

/// The pass that runs now, and since when.
type Current = Arc<Mutex<Option<(String, Instant)>>>;

#[derive(Clone)]
pub struct Passes {
    current: Current,
    pub progress: Arc<Progress>,
    jobs: mpsc::Sender<Job>,
    drift: Arc<Drift>,
}

impl Passes {
    /// A runner, and the loop to drive it with.
    pub fn new(reconciler: Reconciler, notifier: Notifier) -> (Self, PassLoop) {
        let (sender, jobs) = mpsc::channel(1);
        let current = Arc::new(Mutex::new(None));
        let drift = Arc::<Drift>::default();
        let progress = Arc::clone(&reconciler.memory.progress);
        let passes = Self { current: Arc::clone(&current), progress, jobs: sender, drift: Arc::clone(&drift) };
        (passes, PassLoop { reconciler, notifier, jobs, current, drift })
    }

    /// Starts a pass; gives its id and where its answer will come.
    pub fn start(&self, request: Request) -> Result<(String, oneshot::Receiver<PassResult>), String> {
        let mut current = self.current.lock();
        if let Some((running, _)) = current.as_ref() {
            return Err(running.clone());
        }
        let run_id = new_run_id();
        let (answer, receiver) = oneshot::channel();
        match self.jobs.try_send(Job { request, run_id: run_id.clone(), answer }) {
            Ok(()) => {
                *current = Some((run_id.clone(), Instant::now()));
                Ok((run_id, receiver))
            }
            // The loop has stopped: the process is shutting down.
            Err(_) => Err("none: the reconciler is stopping".to_owned()),
        }
    }

    /// What the passes left.
    pub(crate) fn drift(&self) -> Arc<Drift> {
        Arc::clone(&self.drift)
    }

    /// The pass that runs now.
    pub fn current(&self) -> Option<String> {
        self.current.lock().as_ref().map(|(run_id, _)| run_id.clone())
    }

    /// For how long it has been running; zero where none is.
    pub fn age(&self) -> Duration {
        self.current.lock().as_ref().map_or(Duration::ZERO, |(_, began)| began.elapsed())
    }
}

/// The one serial loop in which a process's passes run, each asked for by a signal: nothing queues
/// up behind a long one.
pub struct PassLoop {
    reconciler: Reconciler,
    notifier: Notifier,
    jobs: mpsc::Receiver<Job>,
    current: Current,
    drift: Arc<Drift>,
}

impl PassLoop {
    /// Runs until `stop`; a pass under way ends between two repairs.
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
            *self.current.lock() = None;
            if job.answer.send(answer).is_err() {
                tracing::trace!("nobody waits for this pass's answer");
            }
        }
    }

    async fn one(&mut self, job: &Job, stop: &CancellationToken) -> PassResult {
        let started = tokio::time::Instant::now();
        let run = self.reconciler.pass(&job.request, &job.run_id, stop).await?;
        self.drift.after(&run);
        ended(&run, started, &self.notifier).await;
        Ok(run)
    }
}

/// What comes after every pass of a daemon.
async fn ended(run: &Run, started: tokio::time::Instant, notifier: &Notifier) {
    crate::metrics::pass(run, started.elapsed());
    log(run);
    mail(notifier, run).await;
}

/// Hands a run to the mails. What goes wrong there never touches the pass.
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
