//! `firstcome-reconciler daemon`: runs the schedules, the HTTP API, the watch over Redis and the
//! mails, and one pass at a time.

mod lifecycle;
mod moments;
pub mod schedule;
pub(crate) mod start;
mod watch;

use firstcome_shared::http::probe::reachable;
use firstcome_shared::mysql::processes::announce;
use firstcome_shared::process_state::StoreState;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::lifecycle::Lifecycle;
use crate::args::DaemonArgs;
use crate::context::Stores;
use crate::http::Front;
use crate::jobs;
use crate::notify::{Notifier, ScheduledRun};
use crate::passes::Worker;
use crate::run::Reconciler;
use crate::start_check;

/// Runs until stopped.
pub async fn run(args: DaemonArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let stores = args.reconcile.stores()?;
    let mut notify = args.notify.clone();
    let notifier = |address| {
        // The default works at least on this host. `PUBLIC_URL` makes the commands in mails work
        // elsewhere.
        let here = || format!("http://{}", reachable(address));
        notify.public_url.get_or_insert_with(here);
        Notifier::new(stores.db.clone(), &notify, &args.webhooks)
    };
    let life = Lifecycle::begin(args.http.listen_addr, notifier, stop).await?;
    let daemon = Daemon { args, stores, life };
    let ended = Box::pin(daemon.run()).await;
    daemon.life.end().await;
    ended
}

struct Daemon {
    args: DaemonArgs,
    stores: Stores,
    life: Lifecycle,
}

impl Daemon {
    /// Waits for the stores, then runs passes until stopped.
    async fn run(&self) -> anyhow::Result<()> {
        let Self { args, stores, life } = self;
        let Lifecycle {
            notifier,
            tasks,
            seen,
            ..
        } = life;
        let stop = || life.stop.clone();
        let sender = tasks.spawn(notifier.clone().run_sender(stop()));
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
        let reads = notifier.has_readers();
        let announced = announce(
            stores.db.clone(),
            stores.process(),
            seen.clone(),
            reads,
            stop(),
        );
        tasks.spawn(announced);
        let check = async || start_check::check(stores, start::ATTEMPT, &life.stop).await;
        let ready = life.until_ready(&stores.db, &crons, check);
        let Some(schedules) = ready.await? else {
            return Ok(());
        };
        seen.note(|state| {
            state.redis = Some(StoreState::Fine);
            state.kafka = Some(StoreState::Fine);
            state.mysql = Some(StoreState::Fine);
        });
        let reconciler = Reconciler::new(stores.clone(), args.reconcile.settings());
        let passes = life.passes(Worker::Own(Box::new(reconciler.clone())));
        let api = args.notify.api_url.clone().filter(|url| !url.is_empty());
        let front = Front {
            stores: stores.clone(),
            passes: passes.clone(),
            notifier: notifier.clone(),
            token,
            public_url: args.notify.public_url.clone(),
            api: api.map(|url| (url, args.notify.authorities.clone())),
            metrics: life.metrics.clone(),
        };
        let router = crate::http::router(front)?;
        let mut beside = self.beside_passes(reconciler);
        beside.push(sender);
        life.run(&stores.db, passes, router, schedules, beside)
            .await
    }

    /// Starts the tasks that run concurrently with passes: the watch, which reopens coupons, and the
    /// jobs.
    fn beside_passes(&self, reconciler: Reconciler) -> Vec<JoinHandle<()>> {
        let Lifecycle {
            notifier,
            tasks,
            seen,
            ..
        } = &self.life;
        let stop = || self.life.stop.clone();
        let settings = self.args.reconcile.settings();
        let notes = reconciler.notes.clone();
        let jobs = jobs::run(self.stores.clone(), settings, notes, seen.clone(), stop());
        let moments = moments::watch(self.stores.clone(), notifier.clone(), stop());
        let watch = watch::watch(reconciler, notifier.clone(), seen.clone(), stop());
        vec![tasks.spawn(jobs), tasks.spawn(moments), tasks.spawn(watch)]
    }
}
