//! `firstcome-api consume`: turns messages into rows, at least once and idempotently.
//!
//! ```text
//! Kafka ─▶ group ─▶ record ──▶ batch ─▶ write
//!           recv     decode     gather   one tx: rows, dead letters, then positions
//!                                         │ refused: compared with rows of its slots and users
//!                                         │ still locked: one tx per drop, then the positions
//!                                         └ MySQL unavailable: read again, Kafka is the buffer
//! ```
//!
//! `pace` limits how many rows all consumers together insert, if an operator has set that.
//!
//! The invariant: every claim before a partition's position in MySQL has a row or a dead letter
//! (`failed_claims`), unless a revocation or an erasure voids it. Reading begins at the positions,
//! and reading a message again changes nothing.

mod args;
mod batch;
mod group;
mod health;
mod pace;
mod partitions;
mod record;
mod worker;
mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use firstcome_shared::http::health::{metrics_route, routes_of_loop};
use firstcome_shared::http::{Limits, listen, serve};
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::processes::{ProcessRow, announce};
use firstcome_shared::process_state::SeenState;
use firstcome_shared::telemetry;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use args::ConsumeArgs;
use health::{ConsumerHealth, describe_metrics};
use pace::Pace;
use partitions::Tender;
use worker::{ConsumerWorker, subscribe};

use crate::start_check::{StoreWait, unless_stopped};

/// Reads claims and writes rows until `shutdown`, then finishes the batch in flight and leaves the
/// group.
pub async fn run(args: ConsumeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let prometheus = telemetry::init_metrics()?;
    describe_metrics();
    let listener = listen(args.listen_addr).await?;
    let mysql = args.mysql.settings()?;
    let kafka = args.kafka.settings(&args.mysql.tls)?;
    let db = Db::new(&mysql)?;
    let wait = StoreWait::new(&args.start, &shutdown);
    let checked = tokio::try_join!(wait.tables(&db, &mysql), wait.topic(&kafka));
    let Some(((), partitions)) = unless_stopped(checked)? else {
        return Ok(());
    };

    let process = ProcessRow::new("consume", &kafka);
    let seen = SeenState::default();
    announce(db.clone(), process, seen.clone(), false, shutdown.clone()).await;

    let stuck = Duration::from_secs(args.stuck_seconds);
    let alive = Arc::new(ConsumerHealth::new(stuck, seen));
    let router: Router =
        routes_of_loop(alive.alive(), alive.ready(), Vec::new()).merge(metrics_route(prometheus));
    firstcome_shared::say!("listening on http://{}", listener.local_addr()?);
    firstcome_shared::say!("consuming {} as {}", kafka.topic, kafka.group);
    let pace = Arc::new(Pace::new(args.pace.rows_per_second.0, partitions));
    let done = CancellationToken::new();
    let front = tokio::spawn(serve(listener, router, Limits::FOR_MACHINES, done.clone()));
    let consume = async {
        while !shutdown.is_cancelled() {
            let tender = Tender {
                consumer: subscribe(&kafka, stuck, &alive)?,
                kafka: kafka.clone(),
                db: db.clone(),
                health: Arc::clone(&alive),
                pace: Arc::clone(&pace),
                stuck,
                passed: Mutex::default(),
                refused_at: Mutex::default(),
                client: shutdown.child_token(),
            };
            let worker = ConsumerWorker::new(tender, args.batch_max);
            worker.run().await?;
        }
        Ok(())
    };
    let ended = consume.await;
    done.cancel();
    front.await?;
    ended
}
