//! The daemon of `attach`: the schedules, lock, record, alerts and mails of the reconciler, around
//! the passes of a file.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use firstcome_attach::Engine;
use firstcome_attach::plan::Ours;
use firstcome_shared::config::wait_for;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::{health, listen, serve, starting};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::processes::{ProcessRow, announce};
use firstcome_shared::process_state::SeenState;
use firstcome_shared::tuning::Tuning;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::args::AttachArgs;
use super::http::{self, RouteState};
use super::watched::Watched;
use crate::args::limits;
use crate::context::sleep;
use crate::daemon::schedule::{CronSchedule, Schedules};
use crate::daemon::{end, start};
use crate::http::{CONNECTIONS, guarded};
use crate::jobs::EVERY_SECONDS;
use crate::notify::{Notifier, ScheduledRun};
use crate::passes::{Passes, Worker};
use crate::report::FailureCause;
use crate::retention::delete_old_records;
use crate::start_check::mysql_is_away;
use crate::times::Times;

struct Daemon {
    args: AttachArgs,
    engine: Engine,
    ours: Ours,
    notifier: Notifier,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Runs until stopped. Listens from the beginning. Passes start once our MySQL is available.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let engine = super::engine(&args)?;
    let ours = engine.ours.clone().context("DATABASE_URL is not set")?;
    let notifier = super::notifier(&engine.file, &ours, &args)?;
    notifier.announce();
    let daemon = Daemon {
        args,
        engine,
        ours,
        notifier,
        tasks: TaskTracker::new(),
        stop,
    };
    daemon.run().await
}

impl Daemon {
    async fn run(&self) -> anyhow::Result<()> {
        let metrics = firstcome_shared::telemetry::init_metrics()?;
        crate::metrics::describe();
        let socket = listen(self.args.listen_addr).await?.into_std()?;
        let seen = SeenState::default();
        let Some(schedules) = self.wait(&socket, &seen).await? else {
            return Ok(());
        };
        let watched = Watched::begin(&self.ours.db, &self.engine.file).await?;
        let passes = self.begin(&watched).await;
        self.serve(socket, passes.clone(), metrics)?;
        let late = schedules.iter().map(CronSchedule::watched).collect();
        let watch = self.notifier.clone().watch(seen, late, self.stop.clone());
        self.tasks.spawn(watch);
        let runner = Schedules {
            db: self.ours.db.clone(),
            passes,
            notifier: self.notifier.clone(),
        };
        let ended = runner.run(schedules, self.stop.clone()).await;
        end(&self.stop, &self.tasks).await;
        watched.end(&self.ours.db).await;
        ended
    }

    /// Waits for our MySQL, mails if it is away, and joins the other processes. Returns `None` if it
    /// was stopped first.
    async fn wait(
        &self,
        socket: &std::net::TcpListener,
        seen: &SeenState,
    ) -> anyhow::Result<Option<Vec<CronSchedule>>> {
        let times = &self.args.schedules;
        let crons = [
            (
                ScheduledRun::Reconcile,
                times.in_zone(&times.reconcile_cron),
            ),
            (ScheduledRun::Digest, times.in_zone(&times.digest_cron)),
        ];
        let reads = self.notifier.has_readers();
        let starting = self.stop.child_token();
        let notifier = self.notifier.clone();
        let watch = notifier.watch(seen.clone(), Vec::new(), starting.clone());
        self.tasks.spawn(watch);
        let waiting = prepare(&self.ours, seen, &crons, &self.stop);
        let waiting = starting::answer_during(socket, limits(), waiting);
        let schedules = Box::pin(waiting).await??;
        starting.cancel();
        if schedules.is_some() {
            let row = ProcessRow::of_attach();
            let db = self.ours.db.clone();
            announce(db, row, seen.clone(), reads, self.stop.clone()).await;
        }
        Ok(schedules)
    }

    /// Starts what runs beside passes.
    async fn begin(&self, watched: &Watched) -> Passes {
        // Each pass reports what it cannot compare; the other campaigns are compared.
        for note in self.engine.check().await {
            tracing::warn!("{note}");
        }
        let Self {
            engine,
            ours,
            notifier,
            tasks,
            ..
        } = self;
        let stop = || self.stop.clone();
        tasks.spawn(notifier.clone().run_sender(stop()));
        tasks.spawn(follow_queues(engine.clone(), stop()));
        let days = self.args.retention_days.0;
        let keeps = keep_records(ours.db.clone(), days, watched.clone(), stop());
        tasks.spawn(keeps);
        let worker = Worker::Attached(Box::new(engine.clone()));
        Passes::new(worker, notifier.clone(), tasks.clone(), stop())
    }

    fn serve(
        &self,
        socket: std::net::TcpListener,
        passes: Passes,
        metrics: PrometheusHandle,
    ) -> anyhow::Result<()> {
        let args = &self.args;
        let mut routes = health(&self.ours.db).merge(health::metrics_route(metrics));
        if let Some(token) = token(args)? {
            // Use separate connections, so that many requests cannot take those of passes.
            let mut settings = self.ours.settings.clone();
            settings.pool_size = CONNECTIONS;
            let state = RouteState {
                db: Db::new(&settings)?,
                passes,
                file: self.engine.file.clone(),
            };
            routes = routes.merge(http::routes(state, token, args.notify.public_url.clone())?);
        } else {
            tracing::info!("no OPS_TOKEN is set, so there is no page and no POST /v1/reconcile");
        }
        let listener = TcpListener::from_std(socket)?;
        firstcome_shared::say!("listening on http://{}", listener.local_addr()?);
        let serving = serve(listener, guarded(routes), limits(), self.stop.clone());
        self.tasks.spawn(serving);
        Ok(())
    }
}

/// Waits for our MySQL, creates its tables, and loads the schedules. Returns `None` if it was
/// stopped first.
async fn prepare(
    ours: &Ours,
    seen: &SeenState,
    crons: &[(ScheduledRun, Times)],
    stop: &CancellationToken,
) -> anyhow::Result<Option<Vec<CronSchedule>>> {
    let attempt = async || {
        let ready = wait_for("MySQL", start::ATTEMPT, stop, mysql_is_away, async || {
            ours.db.ping().await?;
            ours.migrate().await?;
            let loaded = start::schedules(&ours.db, crons).await;
            loaded.map_err(anyhow::Error::from)
        });
        ready.await.map_err(|error| (FailureCause::Mysql, error))
    };
    start::until_ready(seen, stop, attempt).await
}

/// Builds the health routes of the process, which needs only our MySQL. If a store of the attached
/// system is unavailable, that is an alert instead.
fn health(db: &Db) -> Router {
    let db = db.clone();
    let mysql = move || {
        let db = db.clone();
        async move { db.ping().await.map_err(|error| error.to_string()) }
    };
    health::routes(vec![("mysql", health::check(mysql))], Vec::new())
}

fn token(args: &AttachArgs) -> anyhow::Result<Option<OpsToken>> {
    let view = args.ops_view_token.as_ref();
    let token = args
        .ops_token
        .as_ref()
        .map(|token| OpsToken::new(token, view));
    token.transpose().map_err(anyhow::Error::msg)
}

/// Moves the rounds of queues between passes, until stopped.
async fn follow_queues(engine: Engine, stop: CancellationToken) {
    while sleep(Duration::from_secs(1), &stop).await.is_ok() {
        engine.advance(None).await;
    }
}

/// Deletes old runs, alerts and mails, and notes what is watched, until stopped.
async fn keep_records(db: Db, days: Option<u32>, watched: Watched, stop: CancellationToken) {
    let every = Duration::from_secs(Tuning::JobsSeconds.or(EVERY_SECONDS));
    loop {
        watched.renew(&db).await;
        if let Err(error) = delete_old_records(&db, days).await {
            tracing::warn!(%error, "old records were not deleted; it is repeated soon");
        }
        if sleep(every, &stop).await.is_err() {
            return;
        }
    }
}
