//! `firstcome-bench`: see the library.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use firstcome_bench::cli::{Cli, Command};
use firstcome_bench::{ceiling, designs, load, sections};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
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
        Command::Memory(options) => sections::run(&[sections::Part::Memory], &options).await,
        Command::Exact(options) => sections::run(&[sections::Part::Exact], &options).await,
        Command::Consumer(options) => sections::run(&[sections::Part::Consumer], &options).await,
        Command::Passes(options) => sections::run(&[sections::Part::Passes], &options).await,
        Command::Start(options) => sections::run(&[sections::Part::Start], &options).await,
        Command::Slow(options) => sections::run(&[sections::Part::Slow], &options).await,
        Command::Picture(picture) => firstcome_bench::report::picture(&picture),
        Command::Crowd => crowd().await,
        Command::Serve(place) => designs::serve(&place).await,
        Command::Consume(place) => designs::consume(&place).await,
        Command::Nothing => ceiling::nothing().await,
        Command::Bare(args) => ceiling::bare(args).await,
    }
}

async fn crowd() -> Result<()> {
    let mut plan = Vec::new();
    std::io::stdin().read_to_end(&mut plan)?;
    let seen = load::drive(&serde_json::from_slice(&plan)?).await?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}
