//! Attach: the comparison and repair of a coupon system that a team already has. Their API stays as
//! it is; a file says which of their keys and tables belong together (docs/ATTACH.md). The
//! reconciler's program runs it (`firstcome-reconciler attach FILE`), with schedules, page and
//! mails. In this crate, *their* stores are those of that team, and *our* database is Firstcome's.
//!
//! `pass` holds the order: `check` compares the file with their tables and keys, `read` looks at
//! both stores, and `judge` decides what differs (pure). If something differs, `queue` waits,
//! `read` looks again, `judge` decides again, and `repair` writes. `pass` reports the result. In
//! our tables a campaign is a coupon ([`firstcome_shared::subject`],
//! docs/decisions/0041-attach.md).

pub mod check;
pub mod condition;
pub mod config;
pub mod counter;
pub mod days;
pub mod facts;
pub mod first;
pub mod forms;
pub mod held;
pub mod judge;
pub mod keys;
pub mod pass;
pub mod queue;
pub mod read;
pub mod repair;
pub mod sample;
pub mod schema;
pub mod shape;
pub mod sql;
pub mod trust;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use firstcome_shared::config::{MysqlArgs, RedisArgs, TlsArgs};
use firstcome_shared::mysql::{Db, DbError, DbSettings, migrations};
use firstcome_shared::redis::Redis;
use firstcome_shared::report::{Cause, FailureCause};
use firstcome_shared::sql;
use rdkafka::error::KafkaError;
use secrecy::SecretString;

use crate::config::AttachFile;
use crate::queue::Queues;

/// Why a target could not be compared or repaired.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("their MySQL: {0}")]
    Mysql(String),
    /// The connection to their MySQL broke, or a statement got no answer in time: MySQL is away, or
    /// only that statement is slow or waits for a lock.
    #[error("their MySQL: {0}")]
    Lost(String),
    #[error("their Redis: {0}")]
    Redis(String),
    #[error("their Kafka: {0}")]
    Kafka(String),
    /// Their MySQL answered with an error.
    #[error("their MySQL refused a statement: {}", repair::refusal(*.code, .why))]
    Refused { code: u16, why: String },
    /// The file does not fit their stores, such as an unknown table or a replica, or their Redis
    /// refused a command.
    #[error("{0}")]
    Misfit(String),
    /// A stage of a queue has not passed in time: a user without a row may still wait in the queue.
    #[error("{0}")]
    Stands(String),
    #[error(transparent)]
    Ours(#[from] DbError),
    #[error("the process was told to stop")]
    Stopped,
}

/// The result of a query of their stores, or of our database.
pub type Answer<T> = Result<T, AttachError>;

impl AttachError {
    fn kafka(error: &KafkaError) -> Self {
        Self::Kafka(error.to_string())
    }

    /// Adds the name of the campaign to an error that concerns only this campaign.
    fn in_campaign(self, campaign: &str) -> Self {
        match self {
            Self::Misfit(why) => Self::Misfit(format!("campaign {campaign:?}: {why}")),
            Self::Lost(_) | Self::Refused { .. } => {
                Self::Misfit(format!("campaign {campaign:?}: {self}"))
            }
            Self::Stands(why) => Self::Stands(format!("campaign {campaign:?}: {why}")),
            Self::Mysql(_) | Self::Redis(_) | Self::Kafka(_) | Self::Ours(_) | Self::Stopped => {
                self
            }
        }
    }

    /// Returns the cause of the error's finding: a store is away, a queue does not advance, or
    /// neither.
    fn cause(&self) -> Cause {
        match self {
            Self::Mysql(_) => Cause::Away(FailureCause::Mysql),
            Self::Redis(_) => Cause::Away(FailureCause::Redis),
            Self::Kafka(_) => Cause::Away(FailureCause::Kafka),
            Self::Stands(_) => Cause::ConsumerStands,
            Self::Refused { code, .. } => Cause::StatementRefused(*code),
            Self::Lost(_) | Self::Misfit(_) | Self::Ours(_) | Self::Stopped => Cause::NotCompared,
        }
    }

    /// Whether no other campaign can be compared either: a store that all need is away, or the
    /// process stops.
    fn is_away(&self) -> bool {
        match self {
            Self::Mysql(_) | Self::Redis(_) | Self::Ours(_) | Self::Stopped => true,
            // Only campaigns with a topic need Kafka.
            Self::Kafka(_)
            | Self::Stands(_)
            | Self::Refused { .. }
            | Self::Lost(_)
            | Self::Misfit(_) => false,
        }
    }
}

/// A file, their stores, and ours.
#[derive(Clone)]
pub struct Attached {
    pub file: Arc<AttachFile>,
    pub theirs: DbSettings,
    pub redis: Redis,
    pub queues: Queues,
    /// Where runs, alerts and mails are recorded. Without it nothing is recorded or repaired.
    pub ours: Option<Ours>,
}

#[derive(Clone)]
pub struct Ours {
    pub db: Db,
    pub settings: DbSettings,
}

impl Ours {
    /// Creates our tables. Refuses a database with other tables, which may be the shop's own, and
    /// the database of a Firstcome that hands out coupons itself.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let tables = "SELECT COUNT(*), CAST(COALESCE(SUM(TABLE_NAME = \
            '__diesel_schema_migrations'), 0) AS SIGNED) FROM information_schema.TABLES \
            WHERE TABLE_SCHEMA = DATABASE()";
        let tables = self.db.first::<(i64, i64)>("look for tables", sql!(tables));
        let (all, of_diesel) = tables.await.context("DATABASE_URL")?.unwrap_or_default();
        let mut is_ours = all == 0;
        if of_diesel > 0 {
            // A shop that uses diesel has this table, too, with other migrations.
            let others = self.db.first::<i64>(
                "look for migrations",
                sql!("SELECT COUNT(*) FROM __diesel_schema_migrations WHERE version NOT IN ('0001', '0002')"),
            );
            is_ours = others.await.context("DATABASE_URL")? == Some(0);
        }
        anyhow::ensure!(
            is_ours,
            "DATABASE_URL: that database has tables of others: write one of its own (CREATE \
            DATABASE reconciler)"
        );
        let migrated = migrations::migrate(&self.settings, migrations::Tables::All).await;
        migrated.context("DATABASE_URL")?;
        anyhow::ensure!(
            self.db.catalogue().await?.is_empty(),
            "DATABASE_URL: Firstcome's own coupons are there; use another database"
        );
        Ok(())
    }
}

impl Attached {
    /// Reads a file, and connects to nothing yet.
    pub fn new(
        file: &Path,
        database_url: Option<&SecretString>,
        tls: &TlsArgs,
        timeout_ms: u64,
    ) -> anyhow::Result<Self> {
        let file = AttachFile::read(file)?;
        let theirs = MysqlArgs::at(file.database.clone().into(), tls, timeout_ms);
        let redis = RedisArgs::at(
            file.redis.clone().into(),
            file.redis_cluster,
            tls,
            timeout_ms,
        );
        let queues = Queues::new(&file, tls)?;
        let ours = database_url.map(|url| {
            let settings = MysqlArgs::at(url.clone(), tls, timeout_ms)?;
            let db = Db::new(&settings)?;
            anyhow::Ok(Ours { db, settings })
        });
        anyhow::ensure!(
            ours.is_some() || !file.repairs(),
            "mode = \"repair\" needs DATABASE_URL: a database of ours for runs, the lock of \
            passes, and confirmations"
        );
        Ok(Self {
            theirs: theirs.context("database")?,
            redis: Redis::new(&redis.context("redis")?)?,
            queues,
            file: Arc::new(file),
            ours: ours.transpose()?,
        })
    }
}
