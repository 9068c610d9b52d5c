//! Worlds of these tests, and passes over them.

#[path = "../base/mod.rs"]
mod base;

use chrono::Utc;
use firstcome_attach::{AttachError, Attached};
use firstcome_shared::domain::CouponId;
use firstcome_shared::mysql::DbSettings;
use firstcome_shared::mysql::held_back::Asked;
use firstcome_shared::report::{Finding, Run, Trigger};
use tokio_util::sync::CancellationToken;

pub(crate) use base::{World, redis_at, trust};

impl World {
    /// Inserts a coupon for each of these users.
    pub(crate) async fn add_rows(&self, users: impl IntoIterator<Item = String>) {
        let values = users.into_iter().map(|user| format!("('{user}')"));
        for some in values.collect::<Vec<_>>().chunks(5_000) {
            let insert = format!("INSERT INTO coupon (user_id) VALUES {}", some.join(", "));
            self.sql(&insert).await;
        }
    }

    pub(crate) async fn row_count(&self) -> i64 {
        self.number("SELECT COUNT(*) FROM coupon").await
    }

    /// Runs a Redis command whose key and arguments are bytes.
    pub(crate) async fn bytes<T: redis::FromRedisValue>(
        &self,
        command: &str,
        key: &[u8],
        values: &[Vec<u8>],
    ) -> T {
        let mut asked = redis::cmd(command);
        asked.arg(key).arg(values);
        let answer = asked.query_async(&mut self.redis.clone()).await;
        answer.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Deletes its keys, in whatever form their names are.
    pub(crate) async fn wipe(&self) {
        let pattern = format!("*{}*", self.prefix).into_bytes();
        let keys: Vec<Vec<u8>> = self.bytes("KEYS", &pattern, &[]).await;
        for key in keys {
            let () = self.bytes("DEL", &key, &[]).await;
        }
    }

    /// The name of a key.
    pub(crate) fn key(&self, name: &str) -> String {
        name.replace('@', &self.prefix)
    }

    /// Creates a login without rights.
    pub(crate) async fn login(&self, name: &str) -> String {
        let name = format!("{name}_{}", self.prefix.trim_end_matches(':'));
        self.sql(&format!("CREATE USER {name}")).await;
        name
    }

    pub(crate) fn database_name(&self) -> &str {
        let name = self.database.rsplit_once('/');
        name.unwrap().1
    }

    /// Their MySQL with another login.
    pub(crate) fn mysql_as(&self, login: &str) -> DbSettings {
        base::mysql_at(&self.database.replace("root@", &format!("{login}@")))
    }
}

/// A campaign that may repair. `rest` has its quantity and its stores.
pub(crate) fn campaign(name: &str, rest: &str) -> String {
    format!("[[campaign]]\nname = {name:?}\nmode = 'repair'\nin_flight = '0.01s'\n{rest}")
}

pub(crate) fn users(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

/// Returns why the check refuses the file; empty if it accepts it.
pub(crate) async fn refusal(attached: &Attached) -> String {
    match attached.check().await {
        Ok(_) => String::new(),
        Err(AttachError::Misfit(why)) => why,
        Err(error) => panic!("{error}"),
    }
}

/// Runs one pass over all campaigns, and returns its findings.
pub(crate) async fn pass(attached: &Attached) -> Vec<Finding> {
    pass_over(attached, None, Asked::default()).await
}

/// Runs one pass over a campaign, or over all, and returns its findings.
pub(crate) async fn pass_over(
    attached: &Attached,
    campaign: Option<CouponId>,
    asked: Asked,
) -> Vec<Finding> {
    let mut run = Run::begun("run", Trigger::Cli, Utc::now());
    let stop = CancellationToken::new();
    let compared = attached.compare(campaign, asked, &mut run, &stop).await;
    compared.unwrap();
    run.all_findings().cloned().collect()
}

/// Runs a pass that confirms what is held back of the first campaign.
pub(crate) async fn confirm(attached: &Attached) -> Vec<Finding> {
    let first = attached.file.campaigns[0].coupon_id();
    let confirmed = Asked {
        confirm: true,
        ..Asked::default()
    };
    pass_over(attached, Some(first), confirmed).await
}

/// Counts the findings by kind and result.
pub(crate) fn told(findings: &[Finding]) -> Vec<String> {
    let mut all: Vec<String> = findings
        .iter()
        .map(|it| format!("{} {}", it.kind.as_str(), it.result.as_str()))
        .collect();
    all.sort();
    let mut told = Vec::new();
    for same in all.chunk_by(|a, b| a == b) {
        told.push(format!("{} {}", same.len(), same[0]));
    }
    told
}
