//! `firstcome-api consume`: claims from the topic become rows.
//!
//! ```text
//! Kafka ─▶ source ─▶ decode ─▶ batch ─▶ write ─▶ commit ─▶ Kafka
//!          poll      map       gather   one tx   offsets
//!                                        │ refused: classify ─▶ rows, or failed_claims in the same transaction
//!                                        └ MySQL away: the same batch again, paused, with backoff
//! ```
//!
//! The invariant: an offset is committed only after every message before it is a row, was one before, or is kept in
//! `failed_claims`. Everything may stop between the two; what is read again changes nothing.
//!
//! One thread (`worker`) owns the Kafka consumer, since its calls block; MySQL is spoken to on the runtime.

mod args;
mod metrics;
mod read;
mod watch;
mod worker;
mod write;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use firstcome_shared::http::health::routes_of_loop;
use firstcome_shared::http::problem::{no_such_method, no_such_route};
use firstcome_shared::http::{Limits, serve};
use firstcome_shared::mysql::Db;
use firstcome_shared::telemetry;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub use args::{ConsumeArgs, TuningArgs};
use watch::health::Health;
use worker::Setup;

use crate::stores::{StoreWait, unless_stopped};

/// Reads claims and writes rows until `shutdown`; then finishes the batch in hand and leaves the group.
pub async fn run(args: ConsumeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let prometheus = telemetry::init_metrics()?;
    metrics::describe();
    let address = args.tuning.consume_listen_addr;
    let listener = TcpListener::bind(address).await.with_context(|| format!("{address} could not be listened on"))?;
    let address = listener.local_addr()?;
    let db = Db::new(&args.mysql.settings())?;
    let wait = StoreWait::new(&args.start, &shutdown);
    let (mysql, kafka) = (args.mysql.settings(), args.kafka.settings());
    let checked = tokio::try_join!(wait.tables(&mysql), wait.topic(&kafka));
    if unless_stopped(checked)?.is_none() {
        return Ok(());
    }

    let health = Health::new();
    let router: Router = routes_of_loop(health.alive(), health.ready(&db), prometheus)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method);
    let worker = start_worker(&args, db, Arc::clone(&health), shutdown)?;
    say(&format!("listening on http://{address}"));
    let done = CancellationToken::new();
    let limits = Limits { connections: 100, drain: Duration::from_secs(1), ..Limits::default() };
    let front = tokio::spawn(serve(listener, router, limits, done.clone()));
    let ended = worker.await;
    done.cancel();
    front.await?;
    ended.context("the consumer's thread failed")?
}

/// Starts the loop on its thread; the receiver hears how it ended, or nothing after a panic.
fn start_worker(
    args: &ConsumeArgs,
    db: Db,
    health: Arc<Health>,
    stop: CancellationToken,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let setup = Setup {
        db,
        kafka: args.kafka.settings(),
        limits: args.tuning.limits(),
        max_rows_per_second: args.tuning.consume_max_rows_per_second,
        patience: args.tuning.patience(),
        health,
        runtime: Handle::current(),
        stop,
    };
    let (topic, group, first) = (setup.kafka.topic.clone(), setup.kafka.group.clone(), Once::new());
    let joined = move || first.call_once(|| say(&format!("consuming {topic} as {group}")));
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("consume".into()).spawn(move || {
        // The receiver is gone only when the whole process ends.
        let _ = tell.send(worker::run(setup, joined));
    })?;
    Ok(ended)
}

/// One line on standard output. Whoever started this process may have stopped reading; `println!` would panic.
fn say(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::debug!(%error, line, "nobody reads standard output");
    }
}
