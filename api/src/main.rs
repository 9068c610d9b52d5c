//! `firstcome-api`: admits people, turns admissions into rows, and prepares the stores.

use std::process::ExitCode;

use clap::Parser as _;
use firstcome_api::cli::Cli;

/// Fewer cycles a claim than the system's own, and memory that stays where it is (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.logs.init();
    // Pages of 2 MB for a few kB in use: a third of this process's memory would be air (docs/PERFORMANCE.md).
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "transparent huge pages stay as they are");
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
