//! `firstcome-baselines`: the processes of the designs and routes.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use firstcome_bench::baselines::designs::{self, DesignArgs};
use firstcome_bench::baselines::routes;
use firstcome_load::ended;

/// Other designs of first-come coupons. `firstcome-bench designs` starts and compares them.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// The API of a design
    Serve(DesignArgs),
    /// A route that does nothing and answers `sold_out`
    Nothing,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended(
        "firstcome-baselines",
        run(Command::parse()).await.map(|()| ExitCode::SUCCESS),
    )
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(args) => designs::serve(&args).await,
        Command::Nothing => routes::nothing().await,
    }
}
