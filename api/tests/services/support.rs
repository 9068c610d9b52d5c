//! Support for the tests of `serve` and `consume`: real servers, a database and a topic per test,
//! and a program that runs in this process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::{Args, Parser};
use firstcome_shared::kafka::{self, KafkaSettings};
use firstcome_shared::mysql::{Db, DbSettings, migrations};
use firstcome_shared::tuning::{self, Tuning};
use firstcome_stack::{MysqlServer, Stack, Tables, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A time limit that even a busy machine reaches only if something is broken.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn stack() -> &'static Stack {
    if let Ok(filter) = std::env::var("RUST_LOG") {
        firstcome_shared::telemetry::init_logs(&filter);
    }
    Stack::shared().await.unwrap()
}

/// Creates a database with a unique name, the tables and the key of codes. Returns the name.
pub(crate) async fn new_database(mysql: &MysqlServer) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    static TABLES: Tables = Tables::new();
    let name = format!(
        "t{}_{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    mysql
        .query(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();
    let url = mysql.database_url(&name);
    let settings = DbSettings {
        url: url.clone().into(),
        pool_size: 1,
        limit: LIMIT,
    };
    let migrate = async || {
        migrations::migrate(&settings, migrations::Tables::All)
            .await
            .unwrap();
    };
    TABLES.made(&url, migrate).await.unwrap();
    // A copy has no rows, so this draws the key, as a migration does.
    Db::new(&settings).unwrap().code_key().await.unwrap();
    name
}

/// Creates the topic as `firstcome-api migrate` does, and waits until the brokers know it.
pub(crate) async fn create_topic(kafka: &KafkaSettings, partitions: i32) {
    kafka::ensure_topic(kafka, partitions, LIMIT, 1)
        .await
        .unwrap();
    until("the brokers know the topic", async || {
        kafka::check_topic(kafka, LIMIT).await.is_ok()
    })
    .await;
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
