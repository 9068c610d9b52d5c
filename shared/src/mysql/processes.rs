//! The table of processes: how each is set, so that programs that work on the same data agree.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel_async::RunQueryDsl;
use tokio_util::sync::CancellationToken;

use super::{Db, DbError};

/// How often a process says that it runs.
const EVERY: Duration = Duration::from_secs(10);

/// A process that has not said so for longer is no part of what runs now.
const RUNNING_SECONDS: i64 = 60;

/// How one process is set.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct ProcessRow {
    #[diesel(sql_type = Text)]
    pub role: String,
    /// Host and process id.
    #[diesel(sql_type = Text)]
    pub owner: String,
    /// `None` for a consumer, which has no Redis.
    #[diesel(sql_type = Nullable<Text>)]
    pub redis_prefix: Option<String>,
    #[diesel(sql_type = Text)]
    pub topic: String,
    #[diesel(sql_type = Text)]
    pub consumer_group: String,
    #[diesel(sql_type = BigInt)]
    pub publish_deadline_ms: i64,
    #[diesel(sql_type = BigInt)]
    pub fallback_deadline_ms: i64,
}

/// The longest deadlines of any process within a day, in milliseconds: a claim of one that died may
/// still be in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Deadlines {
    #[diesel(sql_type = BigInt)]
    pub publish_ms: i64,
    /// To a second store in all.
    #[diesel(sql_type = BigInt)]
    pub in_flight_ms: i64,
}

/// This process: host and process id.
pub fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

impl ProcessRow {
    /// What `other` has set differently so that the two can't work on the same data; `None` where
    /// they agree.
    pub fn disagreement(&self, other: &Self) -> Option<String> {
        let prefix = |row: &Self| row.redis_prefix.clone();
        let both_prefixes = prefix(self).zip(prefix(other));
        // The API has no use for the group.
        let group = [&self.role, &other.role].iter().all(|role| *role != "serve");
        let group = group.then_some(("KAFKA_GROUP", &self.consumer_group, &other.consumer_group));
        let differing = std::iter::once(("KAFKA_TOPIC", &self.topic, &other.topic)).chain(group);
        let prefixes = both_prefixes.as_ref().map(|(own, theirs)| ("REDIS_KEY_PREFIX", own, theirs));
        let (setting, own, theirs) = differing.chain(prefixes).find(|(_, own, theirs)| own != theirs)?;
        Some(format!(
            "{setting} is {own} here and {theirs} in {} ({}), which works on the same database: give all programs the \
             same, and start this one again a minute after the other has stopped",
            other.role, other.owner
        ))
    }
}

impl Db {
    async fn announce(&self, id: &str, row: &ProcessRow) -> Result<(), DbError> {
        let (id, row) = (id.to_owned(), row.clone());
        self.run("announce process", async move |conn| {
            diesel::sql_query(
                "REPLACE INTO processes (id, role, owner, redis_prefix, topic, consumer_group, publish_deadline_ms, \
                 fallback_deadline_ms, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(3))",
            )
            .bind::<Text, _>(&id)
            .bind::<Text, _>(&row.role)
            .bind::<Text, _>(&row.owner)
            .bind::<Nullable<Text>, _>(&row.redis_prefix)
            .bind::<Text, _>(&row.topic)
            .bind::<Text, _>(&row.consumer_group)
            .bind::<BigInt, _>(row.publish_deadline_ms)
            .bind::<BigInt, _>(row.fallback_deadline_ms)
            .execute(conn)
            .await?;
            diesel::sql_query("DELETE FROM processes WHERE seen_at < UTC_TIMESTAMP(3) - INTERVAL 1 DAY LIMIT 100")
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }

    /// The processes that run now.
    pub async fn processes(&self) -> Result<Vec<ProcessRow>, DbError> {
        self.run("list processes", async move |conn| {
            diesel::sql_query(
                "SELECT * FROM processes WHERE seen_at > UTC_TIMESTAMP(3) - INTERVAL ? SECOND LIMIT 10000",
            )
            .bind::<BigInt, _>(RUNNING_SECONDS)
            .load(conn)
            .await
        })
        .await
    }

    /// The longest deadlines of the API's processes.
    pub async fn longest_deadlines(&self) -> Result<Deadlines, DbError> {
        self.run("read deadlines", async move |conn| {
            diesel::sql_query(
                "SELECT COALESCE(MAX(publish_deadline_ms), 0) AS publish_ms, \
                 COALESCE(MAX(publish_deadline_ms + fallback_deadline_ms), 0) AS in_flight_ms FROM processes \
                 WHERE seen_at > UTC_TIMESTAMP(3) - INTERVAL 1 DAY",
            )
            .get_result(conn)
            .await
        })
        .await
    }
}

/// Says that this process runs, and goes on saying so until `shutdown`. What disagrees with it is
/// logged: the reconciler refuses to work then.
pub async fn announce(db: Db, own: ProcessRow, shutdown: CancellationToken) {
    let id = format!("{:032x}", rand::random::<u128>());
    say(&db, &id, &own).await;
    match db.processes().await {
        Ok(others) => {
            for sentence in others.iter().filter_map(|other| own.disagreement(other)) {
                tracing::error!("{sentence}");
            }
        }
        Err(error) => tracing::warn!(%error, "the settings of other processes are not known"),
    }
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => say(&db, &id, &own).await,
            }
        }
    });
}

async fn say(db: &Db, id: &str, own: &ProcessRow) {
    if let Err(error) = db.announce(id, own).await {
        tracing::warn!(%error, "that this process runs could not be noted");
    }
}
