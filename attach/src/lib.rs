//! Attach: the comparison and repair of a coupon system that a team already has. Their API stays as
//! it is; a file holds their own statements and the names of their keys (docs/ATTACH.md). Nothing
//! guesses from a schema, Redis is never written, and a repair proves itself in its transaction or is
//! rolled back.
//!
//! In this crate, *their* stores are those of that team, and *our* database is Firstcome's. `pass`
//! goes through the campaigns of the file: `look` reads their stores, `judge` compares (pure),
//! `memory` knows what earlier looks saw and `queue` what has passed, `explain` words what is old
//! enough, `unasked` says which repairs need nobody (pure), and `repair` writes rows. In our tables,
//! a block of the file is a coupon, and a campaign a drop ([`firstcome_shared::subject`],
//! docs/decisions/0041-attach.md).

pub mod clock;
pub mod error;
pub mod explain;
pub mod file;
pub mod forms;
pub mod judge;
pub mod kafka;
pub mod look;
pub mod memory;
mod once;
pub mod pass;
pub mod plan;
pub mod queue;
pub mod repair;
pub mod sql;
mod stages;
pub mod store;
pub mod text;
pub mod theirs;
pub mod unasked;
pub mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use firstcome_shared::config::{KafkaArgs, MysqlArgs, RedisArgs, TlsArgs};
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::Redis;
use firstcome_shared::report::Run;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::AttachError;
use crate::file::{AttachFile, Campaign};
use crate::kafka::Brokers;
pub use crate::pass::{Confirm, PassOptions, Stopped};
use crate::pass::{Pass, State};
use crate::plan::Ours;
use crate::sql::Database;
use crate::store::Store;
use crate::theirs::Theirs;
use crate::users::Hasher;

/// A file, their stores, ours, and what the looks of this process saw. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub file: Arc<AttachFile>,
    /// Ages of differences follow this clock; tests move it.
    pub clock: Clock,
    /// Where runs, alerts and confirmations are recorded. Without it, every repair waits for names.
    pub ours: Option<Ours>,
    database: Database,
    /// Those of checks that have their own.
    databases: BTreeMap<CouponId, Database>,
    redis: Option<Redis>,
    brokers: Option<Brokers>,
    hasher: Hasher,
    state: Arc<Mutex<State>>,
}

impl Engine {
    /// Connects to nothing yet.
    pub fn new(
        file: AttachFile,
        ours: Option<&SecretString>,
        tls: &TlsArgs,
        timeout_ms: u64,
    ) -> anyhow::Result<Self> {
        let mut redis = None;
        if let Some(url) = file.redis.clone() {
            let settings = RedisArgs::at(url.into(), file.redis_cluster, tls, timeout_ms);
            redis = Some(Redis::new(&settings.context("redis")?)?);
        }
        let mut brokers = None;
        if let Some(addresses) = file.kafka.clone() {
            let properties = file.kafka_properties.clone().unwrap_or_default();
            let security = KafkaArgs::at(&addresses, &properties.into(), tls).context("kafka")?;
            brokers = Some(Brokers {
                addresses,
                security,
            });
        }
        let mut databases = BTreeMap::new();
        for block in &file.campaigns {
            if let Some(url) = block.whole.as_ref().and_then(|it| it.database.as_ref()) {
                databases.insert(block.coupon_id(), Database::new(url, tls, timeout_ms)?);
            }
        }
        let ours = ours.map(|url| Ours::new(MysqlArgs::at(url.clone(), tls, timeout_ms)?));
        Ok(Self {
            database: Database::new(&file.database, tls, timeout_ms)?,
            databases,
            redis,
            brokers,
            ours: ours.transpose()?,
            file: Arc::new(file),
            clock: Clock::default(),
            hasher: Hasher::default(),
            state: Arc::default(),
        })
    }

    /// Looks at the campaigns that are due, moves the rounds of their queues, and repairs what may
    /// be repaired. Never sleeps.
    pub async fn pass(
        &self,
        options: &PassOptions,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let mut state = self.state.lock().await;
        let pass = Pass {
            engine: self,
            options,
            stop,
            shown: Vec::new(),
            theirs: self.stores(Some(self.database.clone())),
        };
        pass.run(run, &mut state).await
    }

    /// Returns what the last pass showed to operators.
    pub async fn shown(&self) -> Vec<String> {
        self.state.lock().await.shown.clone()
    }

    /// Moves the rounds of queues between passes: a list must be seen empty, and may be so for a
    /// moment only. A stage in a table needs their `database`; without it, a pass reads the stage.
    /// Errors are those of the next pass.
    pub async fn advance(&self, database: Option<Database>) {
        let Ok(mut state) = self.state.try_lock() else {
            return;
        };
        let mut theirs = self.stores(database);
        for memory in state
            .blocks
            .values_mut()
            .flat_map(|block| block.values_mut())
        {
            if let Err(error) = memory.advance(&mut theirs, self.clock.now()).await {
                tracing::debug!(%error, "a queue could not be read between passes");
                if let AttachError::Away { store, .. } = error {
                    theirs.away.insert(store);
                }
            }
        }
    }

    /// Prepares all statements of the file, and returns what their databases refuse. The first pass
    /// tells what else does not fit.
    pub async fn check(&self) -> BTreeSet<String> {
        let mut refused = BTreeSet::new();
        for block in &self.file.campaigns {
            for query in block.queries() {
                let Err(error) = self.database_of(block).prepare(query).await else {
                    continue;
                };
                refused.insert(format!("campaign {:?}: {error}", block.name));
                if matches!(error, AttachError::Away { .. }) {
                    break;
                }
            }
        }
        refused
    }

    fn database_of(&self, block: &Campaign) -> &Database {
        let own = self.databases.get(&block.coupon_id());
        own.unwrap_or(&self.database)
    }

    fn stores(&self, database: Option<Database>) -> Theirs {
        let redis = self.redis.as_ref();
        Theirs {
            database,
            redis: redis.map(|redis| Store::new(redis, self.file.redis_cluster)),
            brokers: self.brokers.clone(),
            ..Theirs::default()
        }
    }
}
