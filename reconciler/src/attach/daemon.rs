//! The daemon of `attach`: the schedules, lock, record, alerts and mails of the reconciler, around
//! the passes of a file.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use firstcome_attach::Ours;
use firstcome_shared::config::wait_for;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::{health, serve};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::tuning::Tuning;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::args::AttachArgs;
use super::http::{self, RouteState};
use crate::args::limits;
use crate::daemon::schedule::{ScheduledJob, Schedules};
use crate::daemon::{end, start};
use crate::http::{CONNECTIONS, guarded};
use crate::jobs::EVERY_SECONDS;
use crate::passes::{Passes, Worker};
use crate::retention::delete_old_records;

/// Maximum wait for our MySQL. Then the process ends, and is started again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until stopped.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let attached = super::attached(&args)?;
    let ours = attached.ours.clone().context("DATABASE_URL is not set")?;
    let days = args.retention_days.0;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::metrics::describe();
    let listener = TcpListener::bind(args.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen_addr))?;
    let notifier = super::notifier(&attached, &ours, &args)?;
    notifier.announce();
    prepare(&ours, &stop).await?;
    match attached.check().await {
        Ok(told) => told.iter().for_each(|it| tracing::warn!("{it}")),
        // Each pass tries again and reports it; the other campaigns are compared.
        Err(error) => tracing::warn!(%error, "the file could not be checked, or does not fit"),
    }
    let times = &args.schedules;
    let crons = [
        (
            ScheduledJob::Reconcile,
            times.in_zone(&times.reconcile_cron),
        ),
        (ScheduledJob::Digest, times.in_zone(&times.digest_cron)),
    ];
    let schedules = start::schedules(&ours.db, &crons).await?;
    let tasks = TaskTracker::new();
    tasks.spawn(notifier.clone().run_sender(stop.clone()));
    let campaigns = attached.file.clone();
    let worker = Worker::Attached(Box::new(attached));
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
    firstcome_shared::say!("listening on http://{}", listener.local_addr()?);
    tasks.spawn(serve(listener, routes, limits(), stop.clone()));
    tasks.spawn(retain(ours.db.clone(), days, stop.clone()));
    let schedules = Schedules::new(ours.db, passes, notifier, schedules);
    let ended = schedules.run(stop.clone()).await;
    end(&stop, &tasks).await;
    ended
}

/// Waits for our MySQL, and creates its tables.
async fn prepare(ours: &Ours, stop: &CancellationToken) -> anyhow::Result<()> {
    wait_for(
        "MySQL",
        PATIENCE,
        stop,
        |error: &DbError| !matches!(error, DbError::Refused(_)),
        async || ours.db.ping().await,
    )
    .await?;
    ours.migrate().await
}

/// The health of the process, which needs our MySQL only: a store of theirs that is away is an
/// alert.
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

/// Deletes old runs, alerts and mails until stopped.
async fn retain(db: Db, days: Option<u32>, stop: CancellationToken) {
    let every = Duration::from_secs(Tuning::JobsSeconds.or(EVERY_SECONDS));
    loop {
        if let Err(error) = delete_old_records(&db, days).await {
            tracing::warn!(%error, "old records were not deleted; it is repeated soon");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}
