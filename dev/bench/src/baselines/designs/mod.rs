//! The designs that articles about first-come coupons recommend. Each is implemented as well as its
//! kind allows, behind the same HTTP front as Firstcome and on the same servers.

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
    /// Count, then insert, under a lock in the process.
    B,
    /// Count, then insert, under a lock in Redis.
    C,
    /// As `C`, but a request that finds the drop sold out never takes the lock.
    CLook,
    /// `SELECT … FOR UPDATE` on the stock row.
    D,
    /// As `D`, but a request that finds the drop sold out never takes the lock.
    DLook,
    /// Redis `INCR`, then insert in the request.
    E,
    /// As `E`, but looks for the user's row only after the counter has admitted the request.
    EFirst,
    /// `SADD`, `INCR`, Kafka, one insert per message, failures to a table that nobody reads.
    F,
    /// `SCARD` and `SADD` in `MULTI`/`EXEC` with `WATCH`, then as F.
    G,
    /// One row per unit, `SELECT … FOR UPDATE SKIP LOCKED`, many claims per transaction.
    I,
    /// Many claims per transaction, which locks one counter row.
    J,
    /// Firstcome.
    H,
}

impl Design {
    /// All designs, in the order of the table.
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

    /// Returns the name that is used in tables, keys and topics.
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

    /// Returns the description in the report.
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
            Self::I => "MySQL: one row per unit, SKIP LOCKED",
            Self::J => "MySQL: micro-batches on one counter",
            Self::H => "Firstcome",
        }
    }

    pub fn has_consumer(self) -> bool {
        matches!(self, Self::F | Self::G | Self::H)
    }

    /// Whether killing MySQL may break promises of this design, because it admits many users with
    /// one commit, or before their rows exist.
    pub fn may_lose_by_mysql(self) -> bool {
        self.has_consumer() || matches!(self, Self::I | Self::J)
    }

    pub fn table(self) -> String {
        format!("rows_{}", self.word().replace('-', "_"))
    }

    /// Returns the Redis key of the design with this name.
    pub fn key(self, name: &str) -> String {
        format!("bench:{{{}}}:{name}", self.word())
    }
}

/// The design, and the addresses of its servers.
#[derive(Debug, Clone, Args)]
pub struct DesignArgs {
    /// Design to run
    #[arg(long, value_enum)]
    pub design: Design,
    /// URL of MySQL, with the database of all designs
    #[arg(long)]
    pub database: String,
    /// URL of Redis
    #[arg(long)]
    pub redis: String,
    /// Kafka brokers
    #[arg(long)]
    pub brokers: String,
    /// Topic of the design; new for each rush, so that the next rush does not read messages that a
    /// killed consumer left unread
    #[arg(long)]
    pub topic: String,
    /// Number of coupons
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
            signing: Signing::random(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DesignReply {
    /// The claim is accepted, with a number.
    Accepted(u32),
    /// The claim was accepted before. These designs do not record the user's number.
    Already,
    SoldOut,
}

impl DesignReply {
    /// Returns the reply to a user who has a row.
    fn if_held(has_row: bool) -> Option<Self> {
        has_row.then_some(Self::Already)
    }

    /// Returns the reply to other users once every coupon is given out.
    fn if_over(is_over: bool) -> Option<Self> {
        is_over.then_some(Self::SoldOut)
    }
}

trait Issuer: Send + Sync + 'static {
    fn claim(&self, user: &UserId) -> impl Future<Output = Result<DesignReply>> + Send;
}

/// Serves a design until the process ends.
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
        Design::H => bail!("Firstcome has its own programs"),
    }
}
