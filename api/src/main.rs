//! `firstcome-api`: admits people, turns admissions into rows, and prepares the stores.

use std::process::ExitCode;

use clap::Parser as _;
use firstcome_api::allocator;
use firstcome_api::cli::Cli;

/// Fewer cycles a claim than the system's own, and memory that stays where it is (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let settled = allocator::settle();
    let cli = Cli::parse();
    cli.logs.init();
    if let Err(error) = settled {
        tracing::warn!(%error, "the allocator's settings could not be set: this process will need more memory");
    }
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(cli.run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("firstcome-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}
