//! `firstcome-reconciler daemon`: runs the schedules, the HTTP API, the watch over Redis and the
//! mails, and one pass at a time.

mod moments;
pub mod schedule;
pub(crate) mod start;
mod watch;

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::http::probe::reachable;
use firstcome_shared::http::{listen, starting};
use firstcome_shared::mysql::processes::announce;
use firstcome_shared::process_state::{SeenState, StoreState};
use futures_util::future::select_all;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::schedule::{CronSchedule, Schedules};
use crate::args::{DaemonArgs, limits};
use crate::context::Stores;
use crate::http::Front;
use crate::jobs;
use crate::notify::{Notifier, ScheduledRun};
use crate::passes::{Passes, Worker};
use crate::run::Reconciler;

/// Maximum wait for a pass, a mail and open requests at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until stopped. Listens and sends mails from the beginning. Passes start once the stores are
/// available.
pub async fn run(args: DaemonArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let stores = args.reconcile.stores()?;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::metrics::describe();
    let socket = listen(args.http.listen_addr).await?.into_std()?;
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
    let ended = Box::pin(daemon.run(socket, metrics)).await;
    end(&daemon.stop, &daemon.tasks).await;
    ended
}

/// Stops the tasks, and waits until they have ended, but not longer than [`GRACE`].
pub(crate) async fn end(stop: &CancellationToken, tasks: &TaskTracker) {
    stop.cancel();
    tasks.close();
    let all_ended = tokio::time::timeout(GRACE, tasks.wait()).await;
    if all_ended.is_err() {
        let what = "something was still under way and is cut; the next pass mends what it left";
        tracing::warn!(after = ?GRACE, what);
    }
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
    ) -> anyhow::Result<()> {
        let args = &self.args;
        let stores = &self.stores;
        let notifier = &self.notifier;
        let stop = || self.stop.clone();
        let sender = self.tasks.spawn(notifier.clone().run_sender(stop()));
        let times = &args.schedules;
        let crons = [
            (ScheduledRun::Deep, times.in_zone(&times.deep_cron)),
            (
                ScheduledRun::Reconcile,
                times.in_zone(&times.reconcile_cron),
            ),
            (ScheduledRun::Digest, times.in_zone(&times.digest_cron)),
        ];
        let token = args.http.token()?;
        let limits = limits();
        let seen = SeenState::default();
        let reads = notifier.has_readers();
        let announced = announce(
            stores.db.clone(),
            stores.process(),
            seen.clone(),
            reads,
            stop(),
        );
        self.tasks.spawn(announced);
        // What the schedules miss is not known yet.
        let starting = self.stop.child_token();
        let watch = notifier
            .clone()
            .watch(seen.clone(), Vec::new(), starting.clone());
        self.tasks.spawn(watch);
        let waiting = start::wait_for_stores(stores, &seen, &crons, &self.stop);
        let waiting = starting::answer_during(&socket, limits, waiting);
        let Some(schedules) = Box::pin(waiting).await?? else {
            return Ok(());
        };
        starting.cancel();
        seen.note(|state| {
            state.redis = Some(StoreState::Fine);
            state.kafka = Some(StoreState::Fine);
            state.mysql = Some(StoreState::Fine);
        });
        let reconciler = Reconciler::new(stores.clone(), args.reconcile.settings());
        let worker = Worker::Own(Box::new(reconciler.clone()));
        let passes = Passes::new(worker, notifier.clone(), self.tasks.clone(), stop());
        let api = args.notify.api_url.clone().filter(|url| !url.is_empty());
        let front = Front {
            stores: stores.clone(),
            passes: passes.clone(),
            notifier: notifier.clone(),
            token,
            public_url: args.notify.public_url.clone(),
            api: api.map(|url| (url, args.notify.authorities.clone())),
            metrics,
        };
        let router = crate::http::router(front)?;
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        let serve = firstcome_shared::http::serve(listener, router, limits, stop());
        self.tasks.spawn(serve);
        let mut beside = self.beside_passes(reconciler, &seen);
        let watched = schedules.iter().map(CronSchedule::watched).collect();
        let watch = notifier.clone().watch(seen, watched, stop());
        beside.push(self.tasks.spawn(watch));
        beside.push(sender);
        firstcome_shared::say!("listening on http://{address}");
        let db = stores.db.clone();
        let notifier = notifier.clone();
        let runner = Schedules {
            db,
            passes,
            notifier,
        };
        let schedules = runner.run(schedules, stop());
        tokio::select! {
            biased;
            ended = schedules => ended,
            ended = first_ended(beside) => ended,
        }
    }

    /// Starts the tasks that run concurrently with passes: the watch, which reopens coupons, and the
    /// jobs.
    fn beside_passes(&self, reconciler: Reconciler, seen: &SeenState) -> Vec<JoinHandle<()>> {
        let tasks = &self.tasks;
        let stop = || self.stop.clone();
        let notifier = self.notifier.clone();
        let settings = self.args.reconcile.settings();
        let notes = reconciler.notes.clone();
        let jobs = jobs::run(self.stores.clone(), settings, notes, seen.clone(), stop());
        let moments = moments::watch(self.stores.clone(), notifier.clone(), stop());
        vec![
            tasks.spawn(jobs),
            tasks.spawn(moments),
            tasks.spawn(watch::watch(reconciler, notifier, seen.clone(), stop())),
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
