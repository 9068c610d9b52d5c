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
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::args::AttachArgs;
use super::http::{self, RouteState};
use super::watched::Watched;
use crate::args::limits;
use crate::daemon::schedule::{CronSchedule, Schedules};
use crate::daemon::{end, start};
use crate::http::{CONNECTIONS, guarded};
use crate::jobs::EVERY_SECONDS;
use crate::notify::ScheduledRun;
use crate::passes::{Passes, Worker};
use crate::report::FailureCause;
use crate::retention::delete_old_records;
use crate::start_check::mysql_is_away;
use crate::times::Times;

/// Runs until stopped. Listens from the beginning. Passes start once our MySQL is available.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let engine = super::engine(&args)?;
    let ours = engine.ours.clone().context("DATABASE_URL is not set")?;
    let days = args.retention_days.0;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::metrics::describe();
    let socket = listen(args.listen_addr).await?.into_std()?;
    let notifier = super::notifier(&engine.file, &ours, &args)?;
    notifier.announce();
    let times = &args.schedules;
    let crons = [
        (
            ScheduledRun::Reconcile,
            times.in_zone(&times.reconcile_cron),
        ),
        (ScheduledRun::Digest, times.in_zone(&times.digest_cron)),
    ];
    let seen = SeenState::default();
    let reads = notifier.has_readers();
    let tasks = TaskTracker::new();
    let starting = stop.child_token();
    tasks.spawn(
        notifier
            .clone()
            .watch(seen.clone(), Vec::new(), starting.clone()),
    );
    let waiting = prepare(&ours, &seen, &crons, &stop);
    let waiting = starting::answer_during(&socket, limits(), waiting);
    let Some(schedules) = Box::pin(waiting).await?? else {
        return Ok(());
    };
    starting.cancel();
    let row = ProcessRow::of_attach();
    announce(ours.db.clone(), row, seen.clone(), reads, stop.clone()).await;
    let campaigns = engine.file.clone();
    let watched = Watched::begin(&ours.db, &campaigns).await?;
    // Each pass reports what it cannot compare; the other campaigns are compared.
    for note in engine.check().await {
        tracing::warn!("{note}");
    }
    tasks.spawn(notifier.clone().run_sender(stop.clone()));
    tasks.spawn(follow_queues(engine.clone(), stop.clone()));
    let worker = Worker::Attached(Box::new(engine));
    let passes = Passes::new(worker, notifier.clone(), tasks.clone(), stop.clone());
    let mut routes = health(&ours.db).merge(health::metrics_route(metrics));
    if let Some(token) = token(&args)? {
        // Use separate connections, so that many requests cannot take those of passes.
        let mut settings = ours.settings.clone();
        settings.pool_size = CONNECTIONS;
        let state = RouteState {
            db: Db::new(&settings)?,
            passes: passes.clone(),
            file: campaigns,
        };
        routes = routes.merge(http::routes(state, token, args.notify.public_url.clone())?);
    } else {
        tracing::info!("no OPS_TOKEN is set, so there is no page and no POST /v1/reconcile");
    }
    let routes = guarded(routes);
    let listener = TcpListener::from_std(socket)?;
    firstcome_shared::say!("listening on http://{}", listener.local_addr()?);
    tasks.spawn(serve(listener, routes, limits(), stop.clone()));
    tasks.spawn(keep_records(
        ours.db.clone(),
        days,
        watched.clone(),
        stop.clone(),
    ));
    let late = schedules.iter().map(CronSchedule::watched).collect();
    tasks.spawn(notifier.clone().watch(seen, late, stop.clone()));
    let runner = Schedules {
        db: ours.db.clone(),
        passes,
        notifier,
    };
    let ended = runner.run(schedules, stop.clone()).await;
    end(&stop, &tasks).await;
    watched.end(&ours.db).await;
    ended
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
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => engine.advance(None).await,
        }
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
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}
