//! `firstcome-reconciler daemon`: schedules, the endpoint, the watch over Redis, and the mails,
//! around one serial loop of passes.

mod redis_watch;
pub mod runner;
pub mod schedule;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use firstcome_shared::mysql::Db;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::runner::Passes;
use self::schedule::{ClockWatch, Event, Missed};
use crate::args::DaemonArgs;
use crate::notify::Notifier;
use crate::pass::{Reconciler, Request};
use crate::record;
use crate::report::Trigger;

/// Longest wait for a pass, a mail and open requests at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub async fn run(args: DaemonArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let stores = args.reconcile.stores()?;
    let metrics = firstcome_shared::telemetry::init_metrics()?;
    crate::stores::check(&stores, &args.reconcile, &stop).await?;
    let crons = [
        (Event::Reconcile, args.schedules.reconcile_cron.as_str()),
        (Event::Deep, args.schedules.deep_cron.as_str()),
        (Event::Digest, args.schedules.digest_cron.as_str()),
    ];
    let tolerance = TimeDelta::seconds(i64::from(args.schedules.missed_after_seconds));
    // Once it listens, a MySQL that is away does not end it.
    let missed = Missed::load(&stores.db, &crons, tolerance).await?;
    let listener = TcpListener::bind(args.http.listen_addr)
        .await
        .with_context(|| format!("cannot listen on {}", args.http.listen_addr))?;
    let address = listener.local_addr()?;
    let mut notify = args.notify.clone();
    // Links in mails work on this host at least; PUBLIC_URL makes them work elsewhere.
    notify.public_url.get_or_insert_with(|| format!("http://{address}"));
    let notifier = Notifier::new(stores.db.clone(), &notify)?;
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
    println!("listening on http://{address}");
    let scheduled = by_schedule(&stores.db, &passes, &notifier, &crons, missed, stop.clone()).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("something was still under way after {GRACE:?} and is cut; the next pass mends what it left");
    }
    scheduled
}

/// Sets off what the schedules say, catches up what was missed, and remembers what ran.
async fn by_schedule(
    db: &Db,
    passes: &Passes,
    notifier: &Notifier,
    crons: &[(Event, &str); 3],
    mut missed: Missed,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // One place an event: a pass longer than its interval leaves one signal behind, never a pile.
    let (signals, mut due) = mpsc::channel::<Event>(crons.len());
    let signal = move |event: Event| {
        if signals.try_send(event).is_err() {
            tracing::debug!(schedule = event.setting(), "signalled already");
        }
    };
    let mut scheduler = schedule::start(crons, signal.clone()).await?;
    let mut clock = ClockWatch::new(Utc::now(), Instant::now());
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Due and not begun (at the start that is a pass, late or not), and those of them that were
    // mailed as late.
    let (mut pending, mut mailed) = (HashSet::new(), HashSet::new());
    let mut trigger = Trigger::Startup;
    loop {
        let now = Utc::now();
        if clock.went_back(now, Instant::now()) {
            tracing::warn!("the clock was set back; the schedules begin anew");
            scheduler.shutdown().await.context("the scheduler did not stop")?;
            scheduler = schedule::start(crons, signal.clone()).await?;
        }
        for (event, since) in missed.at(now) {
            pending.insert(event);
            if mailed.insert(event) {
                schedule::mail_missed(notifier, event, since, now).await;
            }
        }
        if trigger == Trigger::Startup {
            pending.insert(Event::Reconcile);
        }
        // The deep pass first: it does what the other would have done.
        for event in [Event::Deep, Event::Reconcile, Event::Digest] {
            if pending.contains(&event) && handle(db, passes, notifier, &mut missed, event, trigger).await {
                pending.remove(&event);
                mailed.remove(&event);
            }
        }
        trigger = Trigger::Cron;
        tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = due.recv() => {
                pending.insert(event);
            }
            _ = ticks.tick() => {}
        }
    }
    scheduler.shutdown().await.context("the scheduler did not stop")
}

/// `false` where it could not begin and must be tried again.
async fn handle(
    db: &Db,
    passes: &Passes,
    notifier: &Notifier,
    missed: &mut Missed,
    event: Event,
    trigger: Trigger,
) -> bool {
    let now = Utc::now();
    match event {
        Event::Digest => {
            if let Err(error) = notifier.daily_digest(now).await {
                tracing::error!(error = format!("{error:#}"), "the daily digest could not be prepared");
            }
        }
        Event::Reconcile | Event::Deep => {
            let request = Request { deep: event == Event::Deep, ..Request::new(trigger) };
            match passes.start(request) {
                Ok((run_id, _)) => tracing::debug!(run_id, schedule = event.setting(), "pass begins"),
                // The next one comes in a moment. A deep pass comes once a day, often at the same
                // second as another.
                Err(_) if event == Event::Deep => return false,
                Err(running) => tracing::debug!(running, schedule = event.setting(), "a pass is running already"),
            }
        }
    }
    missed.ran(event, now);
    if let Err(error) = record::remember(db, event.state_name(), now).await {
        tracing::warn!(%error, schedule = event.setting(), "that it ran could not be noted");
    }
    true
}
