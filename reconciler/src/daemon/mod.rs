//! `firstcome-reconciler daemon`: schedules, the endpoint, the watch over Redis, and the mails,
//! around one serial loop of passes.

mod admission_watch;
mod by_schedule;
mod redis_watch;
pub mod runner;
pub mod schedule;
mod wake;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::by_schedule::BySchedule;
use self::runner::Passes;
use self::schedule::{Event, Schedule};
use crate::args::DaemonArgs;
use crate::notify::Notifier;
use crate::pass::Reconciler;

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
    let mut schedules = Vec::with_capacity(crons.len());
    for (event, text) in crons {
        schedules.push(Schedule::load(&stores.db, event, text).await?);
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
    tasks.spawn(admission_watch::watch(stores.redis.clone(), notifier.clone(), stop.clone()));
    tasks.spawn(wake::watch(stores.redis.clone(), passes.clone(), stop.clone()));
    println!("listening on http://{address}");
    let tolerance = TimeDelta::seconds(i64::from(args.schedules.missed_after_seconds));
    let scheduled = BySchedule::new(stores.db, passes, notifier, schedules, tolerance).run(&crons, stop.clone()).await;
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
