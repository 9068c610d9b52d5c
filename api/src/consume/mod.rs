//! `firstcome-api consume`: turns messages into rows, at least once and idempotently.
//!
//! ```text
//! Kafka ─▶ source ─▶ decode ─▶ batch ─▶ write
//!          poll      map       gather   one tx: rows, then positions
//!                                        │ refused: classify ─▶ rows or dead letters, same tx
//!                                        └ MySQL unavailable: retry the batch after a pause
//! ```
//!
//! The invariant: every message before a partition's position in MySQL has a row or a dead letter
//! (`failed_claims`). Reading begins at the positions, and reading a message again changes nothing.
//!
//! One thread (`worker`) owns the Kafka consumer, whose calls block. MySQL runs on the async
//! runtime.

mod args;
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
use firstcome_shared::mysql::processes::{ProcessRow, announce, owner};
use firstcome_shared::telemetry;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) use args::LISTEN_ADDR;
pub use args::{ConsumeArgs, TuningArgs};
use watch::report::{Health, describe_metrics};
use worker::Setup;

use crate::stores::{StoreWait, unless_stopped};

/// Time to finish the last batch (5 s) and to leave the group (5 s), plus a margin.
const LONGEST_STOP: Duration = Duration::from_secs(15);

/// Reads claims and writes rows until `shutdown`, then finishes the batch in flight and leaves the
/// group.
pub async fn run(args: ConsumeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let prometheus = telemetry::init_metrics()?;
    describe_metrics();
    let address = args.tuning.listen_addr;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{address} could not be listened on"))?;
    let address = listener.local_addr()?;
    let db = Db::new(&args.mysql.settings())?;
    let wait = StoreWait::new(&args.start, &shutdown);
    let mysql = args.mysql.settings();
    let kafka = args.kafka.settings();
    let checked = tokio::try_join!(wait.tables(&mysql), wait.topic(&kafka));
    if unless_stopped(checked)?.is_none() {
        return Ok(());
    }

    let process = ProcessRow {
        role: "consume".into(),
        owner: owner(),
        redis_prefix: None,
        topic: kafka.topic,
        consumer_group: kafka.group,
        publish_deadline_ms: 0,
        fallback_deadline_ms: 0,
    };
    announce(db.clone(), process, shutdown.clone()).await;

    let health = Health::new();
    let router: Router = routes_of_loop(health.alive(), health.ready(&db), prometheus)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method);
    let worker = start_worker(&args, db, Arc::clone(&health), shutdown.clone())?;
    say(&format!("listening on http://{address}"));
    let done = CancellationToken::new();
    let front = tokio::spawn(serve(listener, router, Limits::FOR_MACHINES, done.clone()));
    let ended = tokio::select! {
        ended = worker => ended.context("the consumer's thread failed")?,
        () = overdue(&shutdown) => {
            tracing::warn!(after = ?LONGEST_STOP, "the loop does not end, most likely because Kafka does not answer: stopping without it; messages that were not committed are read again");
            Ok(())
        }
    };
    done.cancel();
    front.await?;
    ended
}

/// Returns if shutdown takes too long. librdkafka's commit has no time limit: if a broker does not
/// answer, it retries forever and blocks the loop's thread.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LONGEST_STOP).await;
}

/// Starts the loop on a separate thread. The receiver gets the loop's result, or an error if the
/// thread panics.
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
        liveness: args.liveness(),
        health,
        runtime: Handle::current(),
        stop,
    };
    let topic = setup.kafka.topic.clone();
    let group = setup.kafka.group.clone();
    let first = Once::new();
    let joined = move || first.call_once(|| say(&format!("consuming {topic} as {group}")));
    let (result, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("consume".into())
        .spawn(move || {
            // Sending fails only if the whole process is ending.
            let _ = result.send(worker::run(setup, joined));
        })?;
    Ok(ended)
}

/// Prints one line on standard output. `println!` would panic if the reader has closed the pipe.
fn say(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::debug!(%error, line, "nobody reads standard output");
    }
}
