//! The program, as an ordinary function.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use tokio::runtime::Runtime;

use crate::cli::{Cli, Command};
use crate::{ceiling, sections};

/// Runs what the command line asks for. An ordinary function: an async body would be compiled a second time by whoever awaits it.
pub fn main() -> ExitCode {
    let done =
        Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(Cli::parse().command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[bench] {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::All(options) => sections::run(&sections::Part::ALL, &options).await,
        Command::Designs(options) => sections::run(&[sections::Part::Designs], &options).await,
        Command::Ceilings(options) => sections::run(&[sections::Part::Ceilings], &options).await,
        Command::Claims(options) => sections::run(&[sections::Part::Claims], &options).await,
        Command::Winners(options) => sections::run(&[sections::Part::Winners], &options).await,
        Command::Memory(options) => sections::run(&[sections::Part::Memory], &options).await,
        Command::Exact(options) => sections::run(&[sections::Part::Exact], &options).await,
        Command::Consumer(options) => sections::run(&[sections::Part::Consumer], &options).await,
        Command::Passes(options) => sections::run(&[sections::Part::Passes], &options).await,
        Command::Start(options) => sections::run(&[sections::Part::Start], &options).await,
        Command::Slow(options) => sections::run(&[sections::Part::Slow], &options).await,
        Command::Bare(args) => ceiling::bare(args).await,
    }
}
