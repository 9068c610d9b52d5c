//! The daemon of `attach`: the schedules, lock, record, alerts and mails of the reconciler, around
//! the passes of a file.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use diesel::prelude::{ExpressionMethods as _, QueryDsl as _};
use firstcome_attach::Engine;
use firstcome_attach::plan::Ours;
use firstcome_shared::config::wait_for;
use firstcome_shared::http::health;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::mysql::processes::{PassLock, ProcessRow, Work, announce, owner};
use firstcome_shared::mysql::{Db, DbResult};
use firstcome_shared::schema::processes;
use firstcome_shared::tuning::Tuning;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use super::args::AttachArgs;
use super::http::{self, RouteState};
use super::watched::must_be_theirs;
use crate::context::sleep;
use crate::daemon::{Lifecycle, start};
use crate::http::{CONNECTIONS, guarded};
use crate::jobs::EVERY_SECONDS;
use crate::notify::ScheduledRun;
use crate::passes::{Passes, Worker};
use crate::report::FailureCause;
use crate::retention::{OLD_RECORDS, delete_old};
use crate::start_check::mysql_is_away;

/// Maximum wait for another daemon that starts.
const STARTS: Duration = Duration::from_secs(10);

/// Runs until stopped.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let engine = super::engine(&args)?;
    let ours = engine.ours.clone().context("DATABASE_URL is not set")?;
    let notifier = |_| super::notifier(&engine.file, &ours, &args);
    let life = Lifecycle::begin(args.listen_addr, notifier, stop).await?;
    let ended = serve(&args, &engine, &ours, &life).await;
    life.end().await;
    if let Err(error) = forget(&ours.db).await {
        tracing::debug!(%error, "another file is refused for half a minute");
    }
    ended
}

/// Waits for our MySQL, joins the other processes, and runs passes until stopped.
async fn serve(
    args: &AttachArgs,
    engine: &Engine,
    ours: &Ours,
    life: &Lifecycle,
) -> anyhow::Result<()> {
    let Lifecycle {
        notifier,
        tasks,
        seen,
        stop,
        ..
    } = life;
    let times = &args.schedules;
    let crons = [
        (
            ScheduledRun::Reconcile,
            times.in_zone(&times.reconcile_cron),
        ),
        (ScheduledRun::Digest, times.in_zone(&times.digest_cron)),
    ];
    let db = &ours.db;
    let check = async || {
        let ready = wait_for("MySQL", start::ATTEMPT, stop, mysql_is_away, async || {
            db.ping().await?;
            ours.migrate().await
        });
        ready.await.map_err(|error| (FailureCause::Mysql, error))
    };
    let Some(schedules) = life.until_ready(db, &crons, check).await? else {
        return Ok(());
    };
    // Of two daemons that start at the same time, one finds the other.
    let lock = PassLock::take(&ours.settings, Work::Start, STARTS, stop)
        .await?
        .context("another daemon starts with this database: try again")?;
    must_be_theirs(db, &engine.file).await?;
    let names = engine.file.names().into_values().collect();
    seen.note(|state| state.campaigns = names);
    let reads = notifier.has_readers();
    let row = ProcessRow::of_attach();
    announce(db.clone(), row, seen.clone(), reads, stop.clone()).await;
    lock.release().await;
    // Each pass reports what it cannot compare; the other campaigns are compared.
    for note in engine.check().await {
        tracing::warn!("{note}");
    }
    let keeps = keep_records(db.clone(), args.retention_days.0, stop.clone());
    let beside = vec![
        tasks.spawn(notifier.clone().run_sender(stop.clone())),
        tasks.spawn(follow_queues(engine.clone(), stop.clone())),
        tasks.spawn(keeps),
    ];
    let passes = life.passes(Worker::Attached(Box::new(engine.clone())));
    let router = router(args, engine, ours, passes.clone(), life.metrics.clone())?;
    life.run(db, passes, router, schedules, beside).await
}

/// Creates the routes: with OPS_TOKEN also the page and the HTTP API.
fn router(
    args: &AttachArgs,
    engine: &Engine,
    ours: &Ours,
    passes: Passes,
    metrics: PrometheusHandle,
) -> anyhow::Result<Router> {
    let routes = health(&ours.db).merge(health::metrics_route(metrics));
    let Some(token) = &args.ops_token else {
        tracing::info!("no OPS_TOKEN is set, so there is no page and no POST /v1/reconcile");
        return Ok(guarded(routes));
    };
    let token = OpsToken::new(token, args.ops_view_token.as_ref()).map_err(anyhow::Error::msg)?;
    // Use separate connections, so that many requests cannot take those of passes.
    let mut settings = ours.settings.clone();
    settings.pool_size = CONNECTIONS;
    let state = RouteState {
        db: Db::new(&settings)?,
        passes,
        file: engine.file.clone(),
    };
    let ops = http::routes(state, token, args.notify.public_url.clone())?;
    Ok(guarded(routes.merge(ops)))
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

/// Moves the rounds of queues between passes, until stopped.
async fn follow_queues(engine: Engine, stop: CancellationToken) {
    while sleep(Duration::from_secs(1), &stop).await.is_ok() {
        engine.advance(None).await;
    }
}

/// Deletes old runs, alerts and mails, until stopped.
async fn keep_records(db: Db, days: Option<u32>, stop: CancellationToken) {
    let every = Duration::from_secs(Tuning::JobsSeconds.or(EVERY_SECONDS));
    loop {
        if let Err(error) = delete_old(&db, &OLD_RECORDS, days).await {
            tracing::warn!(%error, "old records were not deleted; it is repeated soon");
        }
        if sleep(every, &stop).await.is_err() {
            return;
        }
    }
}

/// Frees the database for another file.
async fn forget(db: &Db) -> DbResult<usize> {
    let own = processes::table.filter(processes::owner.eq(owner()));
    db.write("forget this process", diesel::delete(own)).await
}
