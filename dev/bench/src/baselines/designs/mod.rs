//! The designs that write-ups of first-come coupons end with, each as good as its kind can be,
//! behind the same HTTP front as Firstcome and on the same servers. What they share is here; what
//! makes each one is in a file of its own.

mod consumer;
mod counter_row;
mod front;
mod insert;
mod lock;
mod micro_batch;
mod queue;
mod row_lock;
mod sql;
mod units;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use firstcome_shared::domain::UserId;
use firstcome_shared::kafka::{KafkaSettings, Security, Signing};
use serde::{Deserialize, Serialize};

pub use consumer::consume;
pub use front::listen;
pub use sql::{failed_table, prepare};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// Count the rows, then insert.
    A,
    /// The same under a lock in the process.
    B,
    /// The same under a lock in Redis.
    C,
    /// The same, but a request that finds it sold out without the lock never asks for the lock.
    CLook,
    /// `SELECT … FOR UPDATE` on the stock row.
    D,
    /// The same, but a request that finds it sold out without the lock never asks for the lock.
    DLook,
    /// Redis `INCR`, then insert in the request.
    E,
    /// The same, but MySQL is asked only after the counter has let a request through.
    EFirst,
    /// `SADD`, `INCR`, Kafka, one insert a message, failures to a table that is never read.
    F,
    /// `SCARD` and `SADD` in `MULTI`/`EXEC` with `WATCH`, then as F.
    G,
    /// A row a unit, `SELECT … FOR UPDATE SKIP LOCKED`, many claims in a transaction.
    I,
    /// Many claims in a transaction that locks one counter row.
    J,
    /// Firstcome.
    H,
}

impl Design {
    /// All, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::A,
        Self::B,
        Self::C,
        Self::CLook,
        Self::D,
        Self::DLook,
        Self::E,
        Self::EFirst,
        Self::F,
        Self::G,
        Self::I,
        Self::J,
        Self::H,
    ];

    /// The word for tables, keys and topics.
    pub fn word(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::CLook => "c-look",
            Self::D => "d",
            Self::DLook => "d-look",
            Self::E => "e",
            Self::EFirst => "e-first",
            Self::F => "f",
            Self::G => "g",
            Self::I => "i",
            Self::J => "j",
            Self::H => "h",
        }
    }

    /// What it is, for the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::A => "count rows, then insert",
            Self::B => "count rows under a lock in the process",
            Self::C => "count rows under a lock in Redis",
            Self::D => "SELECT … FOR UPDATE on the stock row",
            Self::CLook => "look, then a lock in Redis, then insert",
            Self::DLook => "look, then SELECT … FOR UPDATE",
            Self::E => "Redis INCR, then insert in the request",
            Self::EFirst => "INCR first, holders not looked up",
            Self::F => "SADD, INCR, Kafka, insert by insert",
            Self::G => "WATCH, SCARD, MULTI SADD, Kafka",
            Self::I => "MySQL: a row a unit, SKIP LOCKED",
            Self::J => "MySQL: micro-batches on one counter",
            Self::H => "Firstcome",
        }
    }

    pub fn has_consumer(self) -> bool {
        matches!(self, Self::F | Self::G | Self::H)
    }

    /// Whether a killed MySQL could cost it promises: it admits many people by one commit, or
    /// before their rows exist.
    pub fn may_lose_by_mysql(self) -> bool {
        self.has_consumer() || matches!(self, Self::I | Self::J)
    }

    pub fn table(self) -> String {
        format!("rows_{}", self.word().replace('-', "_"))
    }

    /// Its key of this name in Redis.
    pub fn key(self, name: &str) -> String {
        format!("bench:{{{}}}:{name}", self.word())
    }
}

/// Which design, and where its processes find their servers.
#[derive(Debug, Clone, Args)]
pub struct DesignArgs {
    /// Which design.
    #[arg(long, value_enum)]
    pub design: Design,
    /// MySQL with the database of all designs.
    #[arg(long)]
    pub database: String,
    /// Redis.
    #[arg(long)]
    pub redis: String,
    /// Kafka.
    #[arg(long)]
    pub brokers: String,
    /// Its topic, new for each rush: what a killed consumer left unread of the last one is no part
    /// of this one.
    #[arg(long)]
    pub topic: String,
    /// How many there are.
    #[arg(long)]
    pub quantity: u32,
}

impl DesignArgs {
    pub fn kafka(&self) -> KafkaSettings {
        let topic = self.topic.clone();
        KafkaSettings {
            brokers: self.brokers.clone(),
            group: format!("{topic}-issuer"),
            topic,
            security: Security::default(),
            signing: Signing::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DesignReply {
    /// Yes, with a number.
    Accepted(u32),
    /// Yes, as before. These designs do not keep who has which number.
    Already,
    SoldOut,
}

trait Issuer: Send + Sync + 'static {
    fn claim(&self, user: &UserId) -> impl Future<Output = Result<DesignReply>> + Send;
}

/// Serves a design until the process is ended.
pub async fn serve(args: &DesignArgs) -> Result<()> {
    let design = args.design;
    match design {
        Design::A => front::serve(insert::CountThenInsert::new(args).await?).await,
        Design::B => front::serve(lock::InProcess::new(args).await?).await,
        Design::C | Design::CLook => {
            front::serve(lock::InRedis::new(args, design == Design::CLook).await?).await
        }
        Design::D | Design::DLook => {
            front::serve(row_lock::RowLock::new(args, design == Design::DLook).await?).await
        }
        Design::E | Design::EFirst => {
            front::serve(insert::CounterThenInsert::new(args, design == Design::E).await?).await
        }
        Design::F => front::serve(queue::SetAndCounter::new(args).await?).await,
        Design::G => front::serve(queue::WatchedSet::new(args).await?).await,
        Design::I => {
            front::serve(micro_batch::MysqlBatches::start(args, units::Units::new(args)).await?)
                .await
        }
        Design::J => {
            front::serve(
                micro_batch::MysqlBatches::start(args, counter_row::CounterRow::new(args)).await?,
            )
            .await
        }
        Design::H => bail!("Firstcome has programs of its own"),
    }
}
