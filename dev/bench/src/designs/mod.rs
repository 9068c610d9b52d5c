//! The designs of published write-ups, designs that keep everything in MySQL, and a route that does
//! nothing. Each is implemented as well as its kind allows, behind the same HTTP front as Firstcome
//! and on the same servers.

mod counter_and_set;
mod counter_row;
mod front;
mod micro_batch;
mod redis_lock;
mod row_lock;
mod sorted_set;
mod sql;
mod units;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use firstcome_shared::domain::UserId;
use redis::aio::MultiplexedConnection;

use self::micro_batch::MysqlBatches;
pub use self::sql::prepare;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Design {
    /// A lock in Redis, then `SELECT COUNT(*)` and an insert
    A,
    /// A sorted set in Redis, which a scheduler pops
    B,
    /// `SADD`, `INCR` and Kafka, without waiting for its acknowledgement
    C,
    /// `SELECT … FOR UPDATE` on the stock row
    D,
    /// One row per unit, `SELECT … FOR UPDATE SKIP LOCKED`, many claims per transaction
    I,
    /// Many claims per transaction, which locks one counter row
    J,
    /// A route that does nothing and answers `sold_out`
    Nothing,
}

impl Design {
    /// Returns the description in the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::A => "a: a lock in Redis, count and insert",
            Self::B => "b: a sorted set, popped by a scheduler",
            Self::C => "c: SADD, INCR, Kafka, no second store",
            Self::D => "d: SELECT … FOR UPDATE on the stock row",
            Self::I => "i: MySQL, one row per unit, SKIP LOCKED",
            Self::J => "j: MySQL, micro-batches on one counter",
            Self::Nothing => "a route that does nothing",
        }
    }

    /// Returns the name on the command line.
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn table(self) -> String {
        format!("rows_{}", self.word())
    }
}

/// One of the designs with which `firstcome-bench` compares Firstcome.
#[derive(Debug, Parser)]
#[command(name = "firstcome-baselines", version)]
pub struct DesignArgs {
    /// Design to run
    #[arg(value_enum)]
    design: Design,
    /// URL of MySQL, with the database of all designs
    #[arg(long)]
    database: String,
    /// URL of Redis
    #[arg(long)]
    redis: String,
    /// Kafka's brokers
    #[arg(long)]
    brokers: String,
    /// Prefix of keys and name of the topic, new for each rush
    #[arg(long)]
    name: String,
    /// Number of coupons
    #[arg(long)]
    quantity: u32,
}

impl DesignArgs {
    async fn redis(&self) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(self.redis.as_str())?;
        Ok(client.get_multiplexed_async_connection().await?)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DesignReply {
    /// The claim is accepted, with a number.
    Accepted(u32),
    /// An earlier claim of the user was accepted. The designs do not look up its number.
    Already,
    SoldOut,
}

trait Issuer: Send + Sync + 'static {
    fn claim(&self, user: &UserId) -> impl Future<Output = Result<DesignReply>> + Send;
}

/// Serves a design until the process ends.
pub async fn serve(args: &DesignArgs) -> Result<()> {
    match args.design {
        Design::A => front::serve(redis_lock::RedisLock::new(args).await?).await,
        Design::B => front::serve(sorted_set::SortedSet::start(args).await?).await,
        Design::C => front::serve(counter_and_set::CounterAndSet::start(args).await?).await,
        Design::D => front::serve(row_lock::RowLock::new(args).await?).await,
        Design::I => front::serve(MysqlBatches::start(args, units::Units::new(args)).await?).await,
        Design::J => {
            let store = counter_row::CounterRow::new(args);
            front::serve(MysqlBatches::start(args, store).await?).await
        }
        Design::Nothing => front::nothing().await,
    }
}
