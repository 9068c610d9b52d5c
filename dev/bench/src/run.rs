use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Runtime;

use crate::cli::Cli;
use crate::sections;

/// Runs the command line. It is not `async`, because every program that awaits an async body would
/// compile it again.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let run = |runtime: Runtime| runtime.block_on(sections::run(&cli.part.parts(), &cli.options));
    let done = Runtime::new().map_err(anyhow::Error::from).and_then(run);
    firstcome_load::ended("firstcome-bench", done.map(|()| ExitCode::SUCCESS))
}
