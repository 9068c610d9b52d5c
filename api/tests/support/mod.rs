//! Support for the tests of `serve` and `consume`: real servers, a database and a topic per test,
//! and a program that runs in this process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::{Args, Parser};
use firstcome_api::migrate::{self, MigrateArgs};
use firstcome_shared::tuning::{self, Tuning};
use firstcome_stack::{MysqlServer, Stack, StackOptions, Tables, eventually};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A time limit that even a busy machine reaches only if something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn stack() -> &'static Stack {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    if let Ok(filter) = std::env::var("RUST_LOG") {
        firstcome_shared::telemetry::init_logs(&filter);
    }
    STACK
        .get_or_init(async || {
            Stack::start(StackOptions::without_fsync())
                .await
                .unwrap_or_else(|e| panic!("{e:#}"))
        })
        .await
}

/// Creates an empty database with a unique name, and returns the name.
pub(crate) async fn new_database(mysql: &MysqlServer) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let name = format!(
        "t{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    mysql
        .query(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    name
}

/// Creates the tables and the topic, as `firstcome-api migrate` does.
pub(crate) async fn migrate(
    database_url: String,
    topic: &str,
    kafka_brokers: String,
    partitions: i32,
) {
    static TABLES: Tables = Tables::new();
    let url = database_url.clone();
    let args: MigrateArgs = parse([
        format!("--database-url={database_url}"),
        "--store-timeout-ms=5000".to_owned(),
        format!("--kafka-brokers={kafka_brokers}"),
        format!("--kafka-topic={topic}"),
        format!("--kafka-signing-key={}", "k".repeat(32)),
        format!("--partitions={partitions}"),
    ])
    .unwrap();
    TABLES
        .migrated(&url, async || {
            migrate::run(args, CancellationToken::new()).await.unwrap();
        })
        .await
        .unwrap();
}

/// Parses arguments of the form `--name=value`. The name may also be that of a [`Tuning`].
pub(crate) fn parse<A: Args>(flags: impl IntoIterator<Item = String>) -> Result<A, clap::Error> {
    #[derive(Parser)]
    struct Line<A: Args> {
        #[command(flatten)]
        args: A,
    }
    let mut line = vec!["program".to_owned()];
    let mut shortened = Vec::new();
    for flag in flags {
        let (name, value) = flag.split_once('=').unwrap_or((&flag, ""));
        let name = name.trim_start_matches('-').replace('-', "_");
        match Tuning::named(&name.to_uppercase()) {
            Some(tuning) => shortened.push((tuning, value.to_owned())),
            None => line.push(flag),
        }
    }
    tuning::scope::with(shortened, || {
        Line::try_parse_from(line).map(|line| line.args)
    })
}

/// A program that runs in this process.
pub(crate) struct RunningProgram {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl RunningProgram {
    /// Stops the program as SIGTERM does, and waits for its end.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task)
            .await
            .expect("the program stops in time")
            .unwrap()
            .unwrap();
    }
}

pub(crate) async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    eventually(what, LIMIT, condition).await;
}
