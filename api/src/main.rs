//! `firstcome-api`: admits people, turns admissions into rows, and prepares the stores.

use std::process::ExitCode;

/// Fewer cycles a claim than the system's own, and memory that stays where it is
/// (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    firstcome_api::cli::main()
}
