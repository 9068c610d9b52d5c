//! Designs that keep everything in MySQL. Each is implemented as well as its kind allows, behind
//! the same HTTP front as Firstcome and on the same server.

mod counter_row;
mod front;
mod micro_batch;
mod row_lock;
mod sql;
mod units;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use firstcome_shared::domain::UserId;
use serde::{Deserialize, Serialize};

pub use front::listen;
pub use sql::prepare;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// `SELECT … FOR UPDATE` on the stock row.
    D,
    /// One row per unit, `SELECT … FOR UPDATE SKIP LOCKED`, many claims per transaction.
    I,
    /// Many claims per transaction, which locks one counter row.
    J,
    /// Firstcome.
    H,
}

impl Design {
    /// All designs, in the order of the table.
    pub const ALL: [Self; 4] = [Self::D, Self::I, Self::J, Self::H];

    /// Returns the name that is used in tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::D => "d",
            Self::I => "i",
            Self::J => "j",
            Self::H => "h",
        }
    }

    /// Returns the description in the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::D => "SELECT … FOR UPDATE on the stock row",
            Self::I => "MySQL: one row per unit, SKIP LOCKED",
            Self::J => "MySQL: micro-batches on one counter",
            Self::H => "Firstcome",
        }
    }

    /// Whether killing MySQL may break promises of this design, because it admits many users with
    /// one commit, or before their rows exist.
    pub fn may_lose_by_mysql(self) -> bool {
        self != Self::D
    }

    pub fn table(self) -> String {
        format!("rows_{}", self.word())
    }
}

/// The design, and its database.
#[derive(Debug, Clone, Args)]
pub struct DesignArgs {
    /// Design to run
    #[arg(long, value_enum)]
    pub design: Design,
    /// URL of MySQL, with the database of all designs
    #[arg(long)]
    pub database: String,
    /// Number of coupons
    #[arg(long)]
    pub quantity: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DesignReply {
    /// The claim is accepted, with a number.
    Accepted(u32),
    /// The claim was accepted before. These designs do not record the user's number.
    Already,
    SoldOut,
}

trait Issuer: Send + Sync + 'static {
    fn claim(&self, user: &UserId) -> impl Future<Output = Result<DesignReply>> + Send;
}

/// Serves a design until the process ends.
pub async fn serve(args: &DesignArgs) -> Result<()> {
    match args.design {
        Design::D => front::serve(row_lock::RowLock::new(args).await?).await,
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
