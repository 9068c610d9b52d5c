//! `firstcome-api consume`: turns messages into rows, at least once and idempotently.
//!
//! ```text
//! Kafka ─▶ group ─▶ message ─▶ batch ─▶ write
//!          recv     decode     gather   one tx: rows, dead letters, then positions
//!                                        │ refused: compared with the rows of its slots and users, same tx
//!                                        │ locked: one tx per drop, then the positions
//!                                        └ MySQL unavailable: retried after a pause, Kafka is the buffer
//! ```
//!
//! The invariant: every message before a partition's position in MySQL has a row or a dead letter
//! (`failed_claims`). Reading begins at the positions, and reading a message again changes nothing.

mod args;
mod batch;
mod group;
mod message;
mod report;
mod tend;
mod worker;
mod write;

use std::io::Write as _;
use std::sync::Arc;
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
use tokio_util::sync::CancellationToken;

pub(crate) use args::LISTEN_ADDR;
pub use args::{ConsumeArgs, TuningArgs};
use report::{Health, describe_metrics};
use worker::Worker;

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
    let mysql = args.mysql.settings();
    let kafka = args.kafka.settings();
    let db = Db::new(&mysql)?;
    let wait = StoreWait::new(&args.start, &shutdown);
    let checked = tokio::try_join!(wait.tables(&mysql), wait.topic(&kafka));
    if unless_stopped(checked)?.is_none() {
        return Ok(());
    }

    let process = ProcessRow {
        role: "consume".into(),
        owner: owner(),
        redis_prefix: None,
        topic: kafka.topic.clone(),
        consumer_group: kafka.group.clone(),
        publish_deadline_ms: 0,
        fallback_deadline_ms: 0,
    };
    announce(db.clone(), process, shutdown.clone()).await;

    let health = Arc::new(Health::new(args.tuning.consume_stuck_seconds));
    let router: Router = routes_of_loop(health.alive(), health.ready(&db), prometheus)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method);
    let consuming = format!("consuming {} as {}", kafka.topic, kafka.group);
    let joined = CancellationToken::new();
    let has_joined = joined.clone().cancelled_owned();
    let worker = Worker::subscribe(&args.tuning, kafka, db, health, shutdown.clone(), joined)?;
    say(&format!("listening on http://{address}"));
    tokio::spawn(async move {
        has_joined.await;
        say(&consuming);
    });
    let done = CancellationToken::new();
    let front = tokio::spawn(serve(listener, router, Limits::FOR_MACHINES, done.clone()));
    let ended = tokio::select! {
        ended = tokio::spawn(worker.run()) => ended.context("the consumer's loop failed")?,
        () = overdue(&shutdown) => {
            tracing::warn!(after = ?LONGEST_STOP, "the loop does not end: stopping without it; messages without rows are read again");
            Ok(())
        }
    };
    done.cancel();
    front.await?;
    ended
}

/// Returns if shutdown takes too long, as when a call of Kafka's client hangs.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LONGEST_STOP).await;
}

/// Prints one line on standard output. `println!` would panic if the reader has closed the pipe.
fn say(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::debug!(%error, line, "nobody reads standard output");
    }
}
