//! `firstcome-stack` fetches the servers that tests need, and opens MySQL's client.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// Private, throw-away, real servers: Redis, MySQL, Kafka and a mail sink.
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Fetch everything that is missing (Debian packages too, if root); do nothing the second time
    Setup {
        /// Only the servers of the system: Redis, MySQL and Kafka
        #[arg(long)]
        system: bool,
    },
    /// Open MySQL's client for a database
    Mysql {
        /// Its URL: mysql://USER@HOST:PORT/NAME
        #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
        database_url: String,
        /// Run this statement and exit
        #[arg(long, env = "SQL")]
        sql: Option<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Setup { system: false } => firstcome_stack::setup().await,
        Cli::Setup { system: true } => firstcome_stack::setup_system().await,
        Cli::Mysql { database_url, sql } => mysql(&database_url, sql.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The error has no backtrace, because its cause is outside this program.
            eprintln!("[stack] {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Replaces this process with the client, which keeps the terminal and signals.
fn mysql(url: &str, sql: Option<&str>) -> Result<()> {
    Err(firstcome_stack::mysql_client(url, sql)?.exec()).context("MySQL's client does not start")
}
