//! The daemon of `attach`: the schedules, lock, record, alerts and mails of the reconciler, around
//! the passes of a file.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use firstcome_shared::config::wait_for;
use firstcome_shared::http::{Limits, health, serve};
use firstcome_shared::mysql::{DbError, migrations};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::args::AttachArgs;
use super::{AttachError, Attached};
use crate::daemon::schedule::{ScheduledJob, Schedules};
use crate::daemon::{end, start};
use crate::notify::Notifier;
use crate::passes::{Passes, Worker};

/// Maximum wait for our MySQL. Then the process ends, and is started again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until stopped.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let attached = Attached::new(&args)?;
    let ours = attached.ours.clone().context("DATABASE_URL is not set")?;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::metrics::describe();
    let listener = TcpListener::bind(args.listen_addr).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", args.listen_addr))?;
    let notifier = Notifier::new(ours.db.clone(), &args.notify, &args.webhooks)?;
    let notifier = notifier.for_attached(args.file.display().to_string());
    notifier.announce();
    let is_away = |error: &DbError| !matches!(error, DbError::Refused(_));
    wait_for("MySQL", PATIENCE, &stop, is_away, async || {
        ours.db.ping().await
    })
    .await?;
    migrations::migrate(&ours.settings)
        .await
        .context("DATABASE_URL")?;
    let has_coupons = !ours.db.catalogue().await?.is_empty();
    ensure!(
        !has_coupons,
        "DATABASE_URL: Firstcome's own coupons are there; use another database"
    );
    match attached.check().await {
        Ok(told) => told.iter().for_each(|it| tracing::warn!("{it}")),
        Err(error @ AttachError::Misfit(_)) => return Err(error.into()),
        // Each pass tries again and reports it.
        Err(error) => tracing::warn!(%error, "the file is not checked yet"),
    }
    let crons = [
        (ScheduledJob::Reconcile, &args.schedules.reconcile_cron),
        (ScheduledJob::Digest, &args.schedules.digest_cron),
    ];
    let schedules = start::schedules(&ours.db, &crons).await?;
    let tasks = TaskTracker::new();
    tasks.spawn(notifier.clone().run_sender(stop.clone()));
    let db = ours.db.clone();
    let mysql = move || {
        let db = db.clone();
        async move { db.ping().await.map_err(|error| error.to_string()) }
    };
    let checks = vec![("mysql", health::check(mysql))];
    let routes = health::routes_without_metrics(checks, Vec::new());
    let routes = routes.merge(health::metrics_route(metrics));
    println!("listening on http://{}", listener.local_addr()?);
    tasks.spawn(serve(listener, routes, Limits::FOR_MACHINES, stop.clone()));
    let worker = Worker::Attached(Box::new(attached));
    let passes = Passes::new(worker, notifier.clone(), tasks.clone(), stop.clone());
    let schedules = Schedules::new(ours.db, passes, notifier, schedules);
    let ended = schedules.run(stop.clone()).await;
    end(&stop, &tasks).await;
    ended
}
