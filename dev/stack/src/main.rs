//! `firstcome-stack` starts private real servers from the command line.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use firstcome_stack::{MailOptions, Stack, StackOptions};
use tokio::signal::unix::{SignalKind, signal};

/// Private, throw-away, real servers: Redis, MySQL, Kafka and a mail sink.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch everything that is missing (Debian packages too, if root); do nothing the second time
    Setup,
    /// Start all servers, print their addresses, wait for Ctrl-C, then delete everything
    Run {
        /// Also write the addresses to this file while the servers run
        #[arg(long, value_name = "PATH")]
        env_file: Option<PathBuf>,
        /// Also write each mail into this folder, as .eml
        #[arg(long, value_name = "DIR")]
        mail_dir: Option<PathBuf>,
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
    let done = match Cli::parse().command {
        Command::Setup => firstcome_stack::setup().await,
        Command::Run { env_file, mail_dir } => run(env_file, mail_dir).await,
        Command::Mysql { database_url, sql } => mysql(&database_url, sql.as_deref()),
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

async fn run(env_file: Option<PathBuf>, mail_dir: Option<PathBuf>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };
    tokio::select! {
        // Dropping the future drops all servers that it started.
        ended = serve(env_file.as_deref(), mail_dir) => ended,
        () = stopped => {
            eprintln!("[stack] stopping; the data is deleted");
            if let Some(file) = env_file {
                let _ = fs::remove_file(file);
            }
            Ok(())
        }
    }
}

async fn serve(env_file: Option<&Path>, mail_dir: Option<PathBuf>) -> Result<()> {
    let begun = Instant::now();
    let mail = MailOptions {
        folder: mail_dir,
        ..MailOptions::default()
    };
    eprintln!("[stack] starting Redis, MySQL, Kafka and a mail sink");
    let stack = Stack::start(StackOptions {
        mail,
        ..StackOptions::default()
    })
    .await?;
    tell(env_file, &stack.env(), begun)?;
    std::future::pending().await
}

/// Prints the addresses and writes them to the file once all servers run.
fn tell(env_file: Option<&Path>, env: &[(&'static str, String)], begun: Instant) -> Result<()> {
    let lines = env
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect::<Vec<_>>()
        .concat();
    if let Some(path) = env_file {
        write_whole(path, &lines).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{lines}");
    eprintln!(
        "[stack] ready after {:.1} s; Ctrl-C ends it",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Writes the file and then renames it, so that a program that waits for the file never reads a
/// part of it.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text)?;
    Ok(fs::rename(part, path)?)
}
