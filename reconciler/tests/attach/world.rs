//! Another team's coupon system: its tables, its keys, and passes of the reconciler over it.

#[path = "../../../attach/tests/base/mod.rs"]
mod base;

use std::collections::BTreeMap;
use std::path::PathBuf;

use firstcome_attach::Attached;
use firstcome_reconciler::context::PassRequest;
use firstcome_reconciler::passes::Worker;
use firstcome_reconciler::report::{DropReport, Run, Trigger};
use tokio_util::sync::CancellationToken;

pub(crate) use base::{World, mysql_at, redis_at, trust};

/// The tables of all tests; most add a unique key.
const TABLES_OF_ALL: [&str; 3] = [
    "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, event_id INT NOT NULL, user_id VARCHAR(64) NOT NULL, \
     created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), KEY (event_id, user_id))",
    "CREATE TABLE failed_event (id BIGINT AUTO_INCREMENT PRIMARY KEY, event_id INT NOT NULL, user_id VARCHAR(64) NOT NULL)",
    "CREATE TABLE stock (id INT PRIMARY KEY, total INT NOT NULL)",
];

impl World {
    /// Creates a world whose unique key refuses a user's second row.
    pub(crate) async fn new() -> Self {
        let world = Self::without_key().await;
        world
            .sql("ALTER TABLE coupon ADD UNIQUE KEY (event_id, user_id)")
            .await;
        world
    }

    pub(crate) async fn without_key() -> Self {
        let world = Self::empty().await;
        for table in TABLES_OF_ALL {
            world.sql(table).await;
        }
        world
    }

    /// Counts the rows of event 7, the open failed events and the members, and reads the counter.
    pub(crate) async fn numbers(&self) -> [i64; 4] {
        let rows = self
            .number("SELECT COUNT(*) FROM coupon WHERE event_id = 7")
            .await;
        let failed = self.number("SELECT COUNT(*) FROM failed_event").await;
        let count: Option<i64> = self.redis("GET @count").await;
        [
            rows,
            failed,
            self.redis("SCARD @users").await,
            count.unwrap_or(-1),
        ]
    }

    /// Inserts rows of an event for these users.
    pub(crate) async fn rows(&self, event: u32, users: impl IntoIterator<Item = String>) {
        self.insert("coupon", event, users).await;
    }

    pub(crate) async fn failed(&self, event: u32, users: impl IntoIterator<Item = String>) {
        self.insert("failed_event", event, users).await;
    }

    async fn insert(&self, table: &str, event: u32, users: impl IntoIterator<Item = String>) {
        let values = users.into_iter().map(|user| format!("({event}, '{user}')"));
        for some in values.collect::<Vec<_>>().chunks(5_000) {
            let (columns, values) = ("(event_id, user_id)", some.join(", "));
            self.sql(&format!("INSERT INTO {table} {columns} VALUES {values}"))
                .await;
        }
    }

    pub(crate) fn file(&self, campaigns: &str) -> PathBuf {
        let (process, world) = (std::process::id(), self.prefix.trim_end_matches(':'));
        let name = format!("attach-{process}-{world}.toml");
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, self.text(campaigns)).unwrap();
        path
    }

    /// Returns the attached system's rows and keys, for a comparison.
    pub(crate) async fn state(&self) -> String {
        let mut state = Vec::new();
        for table in ["coupon", "failed_event", "stock"] {
            let rows = self.sql(&format!("SELECT * FROM {table}")).await;
            state.push(format!("{rows:?}"));
        }
        for key in ["@users", "@count"] {
            let dump: Option<Vec<u8>> = self.redis(&format!("DUMP {key}")).await;
            state.push(format!("{dump:?}"));
        }
        state.concat()
    }
}

/// Runs one pass with mappings that were confirmed before.
pub(crate) async fn pass(attached: &Attached) -> Run {
    pass_with(attached, PassRequest::new(Trigger::Cli)).await
}

pub(crate) async fn pass_with(attached: &Attached, request: PassRequest) -> Run {
    trust(attached).await;
    pass_untrusted(attached, request).await
}

pub(crate) async fn pass_untrusted(attached: &Attached, request: PassRequest) -> Run {
    let patience = std::time::Duration::from_secs(60);
    let request = PassRequest {
        patience,
        ..request
    };
    let stop = CancellationToken::new();
    let worker = Worker::Attached(Box::new(attached.clone()));
    worker.once(&request, &stop).await.unwrap()
}

/// Runs a dry run, which shows the repairs that [`confirm`] may then confirm.
pub(crate) async fn dry_run(attached: &Attached) -> Run {
    let dry_run = PassRequest {
        dry_run: true,
        ..PassRequest::new(Trigger::Cli)
    };
    pass_with(attached, dry_run).await
}

/// Runs a pass that confirms what is held back of the first campaign.
pub(crate) async fn confirm(attached: &Attached) -> Run {
    let confirmed = PassRequest {
        coupon: Some(attached.file.campaigns[0].coupon_id()),
        confirm: true,
        ..PassRequest::new(Trigger::Cli)
    };
    pass_with(attached, confirmed).await
}

/// Counts the findings of a report, such as "2 unissued applied".
pub(crate) fn found(report: &DropReport) -> Vec<String> {
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for it in &report.findings {
        *found
            .entry(format!("{} {}", it.kind.as_str(), it.result.as_str()))
            .or_default() += 1;
    }
    found
        .iter()
        .map(|(what, n)| format!("{n} {what}"))
        .collect()
}

pub(crate) fn users(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|n| format!("user-{n}"))
}
