//! A daemon from its start to its end, for our own coupons or for those of another team. It listens
//! and mails from the beginning; passes start once the stores are available.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use firstcome_shared::config::StartError;
use firstcome_shared::http::{listen, serve, starting};
use firstcome_shared::mysql::Db;
use firstcome_shared::process_state::SeenState;
use firstcome_shared::telemetry::init_metrics;
use futures_util::future::select_all;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::schedule::{CronSchedule, Schedules};
use super::start;
use crate::args::limits;
use crate::notify::{Notifier, ScheduledRun};
use crate::passes::{Passes, Worker};
use crate::report::FailureCause;
use crate::times::Times;

/// Maximum wait for a pass, a mail and open requests at shutdown.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) struct Lifecycle {
    pub(crate) notifier: Notifier,
    pub(crate) tasks: TaskTracker,
    pub(crate) seen: SeenState,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) stop: CancellationToken,
    socket: TcpListener,
}

impl Lifecycle {
    /// Listens, and mails by the notifier for this address.
    pub(crate) async fn begin(
        address: SocketAddr,
        notifier: impl FnOnce(SocketAddr) -> anyhow::Result<Notifier>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let metrics = init_metrics()?;
        crate::metrics::describe();
        let socket = listen(address).await?.into_std()?;
        let address = socket.local_addr()?;
        let notifier = notifier(address)?;
        notifier.announce();
        tracing::info!(%address, "starting");
        Ok(Self {
            notifier,
            tasks: TaskTracker::new(),
            seen: SeenState::default(),
            metrics,
            stop,
            socket,
        })
    }

    /// Repeats the check of the stores until it passes, and loads the schedules. Answers requests
    /// meanwhile, and mails if a store is away. Returns `None` if the process is stopped first.
    pub(crate) async fn until_ready(
        &self,
        db: &Db,
        crons: &[(ScheduledRun, Times)],
        check: impl AsyncFn() -> Result<(), (FailureCause, StartError)>,
    ) -> anyhow::Result<Option<Vec<CronSchedule>>> {
        let starting = self.stop.child_token();
        // What the schedules miss is not known yet.
        let notifier = self.notifier.clone();
        let watch = notifier.watch(self.seen.clone(), Vec::new(), starting.clone());
        self.tasks.spawn(watch);
        let attempt = async || {
            check().await?;
            start::schedules(db, crons).await
        };
        let waiting = start::until_ready(&self.seen, &self.stop, attempt);
        let answering = starting::answer_during(&self.socket, limits(), waiting);
        let ready = Box::pin(answering).await??;
        starting.cancel();
        Ok(ready)
    }

    pub(crate) fn passes(&self, worker: Worker) -> Passes {
        let notifier = self.notifier.clone();
        Passes::new(worker, notifier, self.tasks.clone(), self.stop.clone())
    }

    /// Serves requests and runs the schedules, until stopped or until one of the tasks beside them
    /// fails.
    pub(crate) async fn run(
        &self,
        db: &Db,
        passes: Passes,
        router: Router,
        mut schedules: Vec<CronSchedule>,
        mut beside: Vec<JoinHandle<()>>,
    ) -> anyhow::Result<()> {
        schedules.retain(|it| it.is_for(self.notifier.has_recipients()));
        let listener = tokio::net::TcpListener::from_std(self.socket.try_clone()?)?;
        firstcome_shared::say!("listening on http://{}", listener.local_addr()?);
        let serving = serve(listener, router, limits(), self.stop.clone());
        self.tasks.spawn(serving);
        let watched = schedules.iter().map(CronSchedule::watched).collect();
        let notifier = self.notifier.clone();
        let watch = notifier.watch(self.seen.clone(), watched, self.stop.clone());
        beside.push(self.tasks.spawn(watch));
        let runner = Schedules {
            db: db.clone(),
            passes,
            notifier: self.notifier.clone(),
        };
        let schedules = runner.run(schedules, self.stop.clone());
        tokio::select! {
            biased;
            ended = schedules => ended,
            ended = first_ended(beside) => ended,
        }
    }

    /// Stops the tasks, and waits until they have ended, but not longer than [`GRACE`].
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        let all_ended = tokio::time::timeout(GRACE, self.tasks.wait()).await;
        if all_ended.is_err() {
            let what = "something was still under way and is cut; the next pass mends what it left";
            tracing::warn!(after = ?GRACE, what);
        }
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
