//! The command line.

use clap::{Parser, Subcommand};
use firstcome_shared::config::LogArgs;

use crate::consume::{self, ConsumeArgs};
use crate::migrate::{self, MigrateArgs};
use crate::serve::{self, ServeArgs};

/// Gives out a limited number of coupons, first come, first served. Every setting is a flag and an environment variable.
#[derive(Debug, Parser)]
#[command(name = "firstcome-api", version, flatten_help = true)]
pub struct Cli {
    /// What is logged.
    #[command(flatten)]
    pub logs: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer HTTP: admit people, make and change coupons
    Serve(Box<ServeArgs>),
    /// Turn admissions from Kafka into rows in MySQL; any number may run at once
    Consume(Box<ConsumeArgs>),
    /// Make the tables and, where it is missing, the topic; does nothing the second time
    Migrate(Box<MigrateArgs>),
}

impl Cli {
    /// Runs what was asked, until it is done or the process is told to stop.
    ///
    /// # Errors
    /// With one sentence for a person.
    pub async fn run(self) -> anyhow::Result<()> {
        let shutdown = firstcome_shared::shutdown::on_signal()?;
        match self.command {
            Command::Serve(args) => serve::run(*args, shutdown).await,
            Command::Consume(args) => consume::run(*args, shutdown).await,
            Command::Migrate(args) => migrate::run(*args, shutdown).await,
        }
    }
}
